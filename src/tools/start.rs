//! `start_workspace`, and the second half of `restart_workspace`.

use crate::build;
use crate::contract::{Build, Parameter, Policy, Snapshot, Transition};
use crate::host::Host;
use crate::tools::arguments::Arguments;
use crate::tools::call::{Call, Finished, InTheWay, Issued};
use crate::tools::outcome::{Outcome, sentence};
use crate::tools::readiness;

/// The word of the original tools for it, which their clients look for.
const UPDATE_REASON: &str = "template requires active versions";

/// A workspace that is started.
pub struct Started {
    /// The start build that succeeded.
    pub build: Build,
    /// It was there before the call, which made and awaited nothing.
    pub was_there: bool,
    /// The build before it was of another template version.
    pub updated: bool,
    /// What else the model should know.
    pub notice: Option<String>,
    /// Why it is not started any more, if it is not.
    pub overtaken: Option<Outcome>,
}

/// Starts the workspace and waits until its agent can be used. A workspace that is started already stays as it is.
pub fn run(host: &dyn Host, policy: &Policy, arguments: &Arguments) -> Outcome {
    let mut call = Call::new(host, policy);
    let result = call.read().and_then(|snapshot| {
        let name = snapshot.workspace_name.clone();
        let started = bring_up(&mut call, snapshot, &arguments.parameters, None)?;
        Ok(report(&call, &name, started))
    });
    result.unwrap_or_else(|outcome| outcome)
}

/// Brings the workspace to a start that succeeded: somebody else's, or one that it asks for.
///
/// `since` is the build that a restart has made or found last: a newer one appeared while it went on. People are not
/// overruled: a start that was seen to be canceled is not asked for again, and somebody else's stop or delete ends a
/// restart.
pub fn bring_up(
    call: &mut Call,
    mut snapshot: Snapshot,
    parameters: &[Parameter],
    since: Option<&str>,
) -> Result<Started, Outcome> {
    let first = since.unwrap_or(&snapshot.latest.id).to_owned();
    loop {
        let latest = &snapshot.latest;
        let appeared = first != latest.id;
        if since.is_some() && appeared && latest.transition != Transition::Start {
            return Err(superseded(latest));
        }
        if build::in_progress(latest) {
            snapshot = call.wait_for_other(&snapshot.latest)?;
            continue;
        }
        let seen_ending = appeared || call.awaited.as_ref() == Some(&latest.id);
        if build::is_started(latest) {
            let build = snapshot.latest;
            let was_there = !seen_ending;
            return Ok(Started { build, was_there, updated: false, notice: None, overtaken: None });
        }
        if seen_ending && latest.transition == Transition::Start {
            return Err(Outcome::failed_start(latest));
        }
        match call.issue(Transition::Start, &latest.id, parameters, snapshot.template.as_deref())? {
            Issued::Accepted(own) => {
                let finished = call.finish(&own, call.policy.build_limit_ms)?;
                let Finished { notice, overtaken, another } = finished;
                if let Some(another) = another {
                    snapshot = another;
                    continue;
                }
                let updated = is_update(&snapshot.latest, &own);
                return Ok(Started { build: own, was_there: false, updated, notice, overtaken });
            }
            Issued::Other(InTheWay::Build(other))
                if since.is_some() && other.transition != Transition::Start =>
            {
                return Err(superseded(&other));
            }
            Issued::Other(other) => snapshot = call.give_way(other)?,
        }
    }
}

/// The result for a workspace that is started, with what there is to say of its agent.
pub fn report(call: &Call, workspace_name: &str, started: Started) -> Outcome {
    if let Some(overtaken) = started.overtaken {
        return overtaken;
    }
    let mut outcome = Outcome::new().with("started", true).with("workspace_name", workspace_name);
    outcome = match started.was_there {
        true => outcome.with("no_build", true),
        false => outcome.with("build_id", started.build.id.as_str()),
    };
    if started.updated {
        outcome = outcome
            .with("updated_to_active_version", true)
            .with("update_reason", UPDATE_REASON)
            .adding("The workspace was started on the active version of its template, which is a newer one.");
    }
    match started.notice {
        // The chat has gone elsewhere: the agent of this workspace does not concern it.
        Some(notice) => outcome.adding(&notice),
        None => readiness::of_agent(call, &started.build, outcome),
    }
}

/// The end of a restart that somebody else's build has overtaken.
pub fn superseded(other: &Build) -> Outcome {
    let text = format!("{} came first, so the restart was given up.", build::name(other));
    Outcome::failed(sentence(&text)).with("superseded", true).with("build_id", other.id.as_str())
}

fn is_update(before: &Build, after: &Build) -> bool {
    match (&before.template_version, &after.template_version) {
        (Some(before), Some(after)) => before != after,
        _ => false,
    }
}
