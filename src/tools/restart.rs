//! `restart_workspace`: stop, then start, as one call.

use crate::build;
use crate::contract::{FieldProblem, Parameter, Policy, Refusal, Snapshot, Transition};
use crate::host::Host;
use crate::tools::arguments::Arguments;
use crate::tools::call::{Call, Hope, Issued};
use crate::tools::condition::{self, Condition};
use crate::tools::names::{START, has};
use crate::tools::outcome::Outcome;
use crate::tools::start::{bring_up, report, superseded};
use crate::tools::stop::not_stopped;

/// Stops and starts the workspace, and waits until its agent can be used.
pub fn run(host: &dyn Host, policy: &Policy, arguments: &Arguments) -> Outcome {
    let mut call = Call::new(host, policy);
    call.check_start = true;
    restart(&mut call, arguments).unwrap_or_else(|outcome| outcome)
}

fn restart(call: &mut Call, arguments: &Arguments) -> Result<Outcome, Outcome> {
    let conditional = arguments.only_if_unreachable;
    let mut snapshot = call.read()?;
    if !conditional {
        snapshot = call.settle(snapshot).map_err(not_restarted)?;
    }
    let name = snapshot.workspace_name.clone();
    if let Some(refusal) = start_refusal(&snapshot, &arguments.parameters) {
        let outcome = Outcome::failed_request(&refusal, snapshot.template.as_deref());
        return Err(not_restarted(outcome.adding("Nothing was stopped.")));
    }
    let mut rests_on = snapshot.latest.id.clone();
    if conditional {
        match condition::look(call).map_err(not_restarted)? {
            Condition::Holds(build) => rests_on = build,
            Condition::Fails(reason) => return Ok(not_stopped(&snapshot, &reason).with("restarted", false)),
        }
    }
    let stop = match !conditional && build::is_stopped(&snapshot.latest) {
        true => Stop::NotNeeded { snapshot, since: rests_on },
        false => stop(call, snapshot, rests_on, conditional)?,
    };
    match stop {
        Stop::NotMade(outcome) => Ok(outcome),
        Stop::NotNeeded { snapshot, since } => {
            let started =
                bring_up(call, snapshot, &arguments.parameters, Some(&since)).map_err(not_restarted)?;
            Ok(restarted(report(call, &name, started)))
        }
        Stop::Done(id) => {
            call.check_start = false;
            let snapshot = call.read().map_err(|outcome| down(call, outcome, &id))?;
            let started = bring_up(call, snapshot, &arguments.parameters, Some(&id));
            let started = started.map_err(|outcome| down(call, outcome, &id))?;
            let outcome = restarted(report(call, &name, started)).with("stop_build_id", id);
            // Whoever works here besides this chat is not asked, so at least it is told.
            Ok(outcome
                .adding("The stop has ended what ran in the workspace, commands of other clients included."))
        }
    }
}

/// The end of a restart whose start succeeded. If another build has come after it, nobody knows that the workspace is
/// up.
fn restarted(outcome: Outcome) -> Outcome {
    let is_up = outcome.says("started");
    outcome.with("restarted", is_up)
}

/// How the first half ended.
enum Stop {
    /// This call's stop, of that id, succeeded.
    Done(String),
    /// The workspace is stopped already, or somebody else has started it after the build `since`.
    NotNeeded { snapshot: Snapshot, since: String },
    /// Nothing was stopped, and nothing is to be started.
    NotMade(Outcome),
}

fn stop(
    call: &mut Call,
    mut snapshot: Snapshot,
    rests_on: String,
    conditional: bool,
) -> Result<Stop, Outcome> {
    loop {
        let issued = call.issue(Transition::Stop, &rests_on, &[], snapshot.template.as_deref());
        let other = match issued.map_err(not_restarted)? {
            Issued::Accepted(own) => {
                return match call.finish(&own, call.policy.restart_stop_limit_ms) {
                    Ok(_) => Ok(Stop::Done(own.id)),
                    Err(outcome) => Err(unfinished_stop(call, outcome, own.id)),
                };
            }
            Issued::Other(other) if conditional => {
                return Ok(Stop::NotMade(not_stopped(&snapshot, &other.reason()).with("restarted", false)));
            }
            Issued::Other(other) => other,
        };
        if let Some(other) = other.build().filter(|other| other.transition != Transition::Start) {
            return Err(not_restarted(superseded(other)));
        }
        snapshot = call.give_way(other).map_err(not_restarted)?;
        // Somebody else's build: the second half tells a start that is the restart from what ends it.
        if snapshot.latest.id != rests_on {
            return Ok(Stop::NotNeeded { snapshot, since: rests_on });
        }
    }
}

/// What would refuse the start, given these parameters.
fn start_refusal(snapshot: &Snapshot, parameters: &[Parameter]) -> Option<Refusal> {
    if snapshot.dormant {
        let message =
            "The workspace is dormant, and cannot be started: activate it first, in the browser.".into();
        return Some(Refusal { message, detail: None, validations: Vec::new(), template: None });
    }
    let refusal = snapshot.start_refusal.as_ref()?;
    let is_given =
        |problem: &&FieldProblem| parameters.iter().any(|parameter| parameter.name == problem.field);
    let open: Vec<FieldProblem> =
        refusal.validations.iter().filter(|problem| !is_given(problem)).cloned().collect();
    let all_given = open.is_empty() && !refusal.validations.is_empty();
    (!all_given).then(|| Refusal { validations: open, ..refusal.clone() })
}

/// The call ended before its stop was done. An error response stays what it is: nothing has happened at all.
fn not_restarted(outcome: Outcome) -> Outcome {
    match outcome.is_error() {
        true => outcome,
        false => outcome.with("restarted", false).with("stopped", false),
    }
}

/// The call ended with its own stop still going on, or failed.
fn unfinished_stop(call: &Call, outcome: Outcome, stop_build: String) -> Outcome {
    let text = match call.hope {
        Hope::GoesOn => "No start was asked for: the workspace is down if the stop still succeeds.",
        Hope::Failed | Hope::Over => {
            "No start was asked for: what of the workspace is still up is not known."
        }
    };
    // Not in a chat that has left: what is advised is for the workspace where it is bound now.
    let left = outcome.says("rebound");
    let outcome =
        not_restarted(outcome).with("started", false).with("stop_build_id", stop_build).adding(text);
    match call.hope {
        Hope::GoesOn if !left => with_way_on(call, outcome),
        // As the verdict on a workspace in this state: row 12 of the decision table.
        Hope::Failed if !left => outcome.adding(
            "Try once whether a command runs in the workspace; if none does, ask the user what to do.",
        ),
        _ => outcome,
    }
}

/// The call ended after its stop and before it had seen its start through: the workspace is down, unless a start was
/// seen to have succeeded, somebody else's for instance.
fn down(call: &Call, outcome: Outcome, stop_build: &str) -> Outcome {
    let text = match call.is_up {
        true => "The workspace was stopped by this call and has been started again.",
        false => "The workspace was stopped by this call and is not up.",
    };
    let outcome = outcome
        .structured()
        .with("restarted", false)
        .with("stopped", !call.is_up)
        .with("started", call.is_up)
        .with("stop_build_id", stop_build)
        .adding(text);
    // An interrupt is nobody's failure; everything else says itself what is in the way.
    if outcome.says("interrupted") && !call.is_up { with_way_on(call, outcome) } else { outcome }
}

/// Says what finishes the restart after all, if the chat has that tool.
fn with_way_on(call: &Call, outcome: Outcome) -> Outcome {
    match has(call.policy, START) {
        true => outcome.adding(&format!("To have the workspace up again, call {START}.")),
        false => outcome,
    }
}
