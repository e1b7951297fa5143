//! `stop_workspace`.

use crate::build;
use crate::contract::{Policy, Snapshot, Transition};
use crate::host::Host;
use crate::tools::arguments::Arguments;
use crate::tools::call::{Call, Finished, Issued};
use crate::tools::condition::{self, Condition};
use crate::tools::outcome::Outcome;

/// Stops the workspace and waits until it is stopped. A workspace that is stopped already stays as it is.
pub fn run(host: &dyn Host, policy: &Policy, arguments: &Arguments) -> Outcome {
    let mut call = Call::new(host, policy);
    let result = call.read().and_then(|snapshot| match arguments.only_if_unreachable {
        true => stop_if_unreachable(&mut call, &snapshot),
        false => stop(&mut call, snapshot),
    });
    result.unwrap_or_else(|outcome| outcome)
}

/// What a conditional stop or restart answers when it stops nothing.
pub fn not_stopped(snapshot: &Snapshot, reason: &str) -> Outcome {
    Outcome::new()
        .with("stopped", false)
        .with("workspace_name", snapshot.workspace_name.as_str())
        .with("reason", reason)
}

fn stop(call: &mut Call, mut snapshot: Snapshot) -> Result<Outcome, Outcome> {
    loop {
        snapshot = call.settle(snapshot)?;
        if build::is_stopped(&snapshot.latest) {
            return Ok(stopped(&snapshot).with("no_build", true));
        }
        let rests_on = snapshot.latest.id.clone();
        match call.issue(Transition::Stop, &rests_on, &[], snapshot.template.as_deref())? {
            Issued::Accepted(own) => {
                let finished = call.finish(&own, call.policy.build_limit_ms)?;
                return Ok(finished_stop(&snapshot, own.id, finished));
            }
            Issued::Other(other) => snapshot = call.give_way(other)?,
        }
    }
}

fn stop_if_unreachable(call: &mut Call, snapshot: &Snapshot) -> Result<Outcome, Outcome> {
    let rests_on = match condition::look(call)? {
        Condition::Holds(build) => build,
        Condition::Fails(reason) => return Ok(not_stopped(snapshot, &reason)),
    };
    match call.issue(Transition::Stop, &rests_on, &[], snapshot.template.as_deref())? {
        Issued::Accepted(own) => {
            let finished = call.finish(&own, call.policy.build_limit_ms)?;
            Ok(finished_stop(snapshot, own.id, finished))
        }
        Issued::Other(other) => Ok(not_stopped(snapshot, &other.reason())),
    }
}

fn stopped(snapshot: &Snapshot) -> Outcome {
    Outcome::new().with("stopped", true).with("workspace_name", snapshot.workspace_name.as_str())
}

/// The result of a stop of this call's.
fn finished_stop(snapshot: &Snapshot, build: String, finished: Finished) -> Outcome {
    if let Some(overtaken) = finished.overtaken {
        return overtaken;
    }
    let outcome = stopped(snapshot).with("build_id", build);
    match finished.notice {
        Some(notice) => outcome.adding(&notice),
        None => outcome,
    }
}
