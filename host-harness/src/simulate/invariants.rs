//! What must hold in every world, whatever happens in it. Each rule is one small check, made where it can be broken.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::plane::{BEGIN, Plane, RestState};
use super::schedule::At;
use crate::bindings::{
    Action, AgentState, Binding, Build, Dial, Evidence, JobStatus, ToolResult, Transition,
};
use crate::journal::record::Outcome;
use crate::journal::{Answer, Entry, Export, Output, Request};
use crate::store::{CallRow, CallState, HostRow};

/// For how long an agent must have been gone, in milliseconds.
const GONE: u64 = 90_000;
/// How long a dial takes, in milliseconds.
const DIAL: u64 = 30_000;
/// For how long an agent must have been gone to be known to be dead, in milliseconds.
const DEAD: u64 = 120_000;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// A restart is advised only if the agent was in truth unreachable for 90 s when its status was last read, and was
    /// read as such, after a dial of 30 s; for 120 s after a shorter one, or where a conditional stop is asked for.
    /// Where the control plane was away and only infers the time, that it was away proves nothing: the agent was not
    /// there for 90 s since it is back, or for a dial of 30 s where a restart is only advised; a shorter dial is not
    /// enough there.
    TwoSignals,
    /// No request for a build is written down after the call's interrupt.
    NothingAfterInterrupt,
    /// Every request for a build that is sent was written down before.
    IntentFirst,
    /// One intent is sent at most once, and is not forgotten while a build was, or may be, made for it.
    OneEffectPerIntent,
    /// Directly before a request is sent, a read showed the very build that it rests on, at rest.
    RestsOnWhatIs,
    /// `stopped`, `started` and `restarted` are said only of what was so at the last read, and of builds that did
    /// succeed.
    ResultsAreTrue,
    /// A restart gives way to somebody's stop or delete, and a start that somebody cancelled is not asked for again.
    NobodyIsOverruled,
    /// At most one call at a time is active at a workspace.
    TurnsDoNotOverlap,
    /// In the calm every call comes to its end.
    CallsEnd,
    /// Stepped over its recording, a call makes the same requests and ends with the same bytes.
    RecordingsReplay,
    /// A restart that leaves the workspace down says so.
    DownIsTold,
    /// A host without a current lease writes nothing, sends nothing, and takes no calls over; one with a lease writes
    /// to calls of its own user only.
    FencedHostsAreSilent,
    /// A command begins at most once, and what is said of it is true: one that gave a result has begun, one that is
    /// said not to have begun has not, and never does.
    CommandsBeginOnce,
    /// Time goes on: no host does something over and over without a pause.
    TimeMoves,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::TwoSignals,
        Self::NothingAfterInterrupt,
        Self::IntentFirst,
        Self::OneEffectPerIntent,
        Self::RestsOnWhatIs,
        Self::ResultsAreTrue,
        Self::NobodyIsOverruled,
        Self::TurnsDoNotOverlap,
        Self::CallsEnd,
        Self::RecordingsReplay,
        Self::DownIsTold,
        Self::FencedHostsAreSilent,
        Self::CommandsBeginOnce,
        Self::TimeMoves,
    ];

    /// Its name, as in `docs/simulation.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoSignals => "two-signals",
            Self::NothingAfterInterrupt => "nothing-after-interrupt",
            Self::IntentFirst => "intent-first",
            Self::OneEffectPerIntent => "one-effect-per-intent",
            Self::RestsOnWhatIs => "rests-on-what-is",
            Self::ResultsAreTrue => "results-are-true",
            Self::NobodyIsOverruled => "nobody-is-overruled",
            Self::TurnsDoNotOverlap => "turns-do-not-overlap",
            Self::CallsEnd => "calls-end",
            Self::RecordingsReplay => "recordings-replay",
            Self::DownIsTold => "down-is-told",
            Self::FencedHostsAreSilent => "fenced-hosts-are-silent",
            Self::CommandsBeginOnce => "commands-begin-once",
            Self::TimeMoves => "time-moves",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub invariant: Invariant,
    /// When.
    pub at: At,
    /// How.
    pub what: String,
}

/// What a check finds wrong.
pub type Check = Result<(), String>;

/// Whether a call stops only what is unreachable.
pub fn is_conditional(row: &CallRow) -> bool {
    row.arguments.contains("\"only_if_unreachable\":true")
}

/// What an agent has to be gone for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A restart is advised. Whoever follows that looks again.
    Advice {
        /// How long the agent was dialled, in milliseconds.
        dial: u64,
    },
    /// A conditional call is going to ask for a stop.
    Stop,
}

/// [`Invariant::TwoSignals`].
pub fn two_signals(step: Step, entries: &[Entry], plane: &Plane) -> Check {
    let status = entries.iter().rev().find_map(|entry| match &entry.answer {
        Answer::AgentStatus(Ok(agents)) => Some(agents),
        _ => None,
    });
    let Some(status) = status else { return Err("the agent's status was not read".to_owned()) };
    let Some(observed) = status.observed else {
        return Err("the time of the status is not known".to_owned());
    };
    match status.agents.as_slice() {
        [agent] if agent.state == AgentState::Disconnected => {
            let since = agent.disconnected.ok_or("nobody knows since when the agent is gone")?;
            let inferred = agent.disconnected == agent.last_connected;
            // For how long it must have been read as gone, and have been gone in truth.
            let (read, least) = match step {
                Step::Advice { dial } if dial < DIAL && inferred => {
                    return Err(format!("nobody saw the agent go, and it was dialled for only {dial} ms"));
                }
                Step::Advice { dial } if dial < DIAL => (DEAD, DEAD),
                Step::Advice { .. } if inferred => (GONE, DIAL),
                Step::Stop if !inferred => (DEAD, DEAD),
                Step::Advice { .. } | Step::Stop => (GONE, GONE),
            };
            if observed.saturating_sub(since) < read {
                return Err(format!(
                    "the agent was read as gone for only {} ms",
                    observed.saturating_sub(since)
                ));
            }
            gone(plane, &status.build.id, observed, inferred, least)
        }
        _ => Err(format!("the agent was not read as disconnected: {:?}", status.agents)),
    }
}

/// Whether the agent of a build was in truth gone for long enough at a time of the control plane's.
fn gone(plane: &Plane, build: &str, observed: u64, inferred: bool, least: u64) -> Check {
    let at = observed.saturating_sub(BEGIN);
    let life = plane.job(build).and_then(|job| job.agent());
    let since = life
        .and_then(|life| if inferred { life.missed_since(at, &plane.outages) } else { life.gone_since(at) });
    match since {
        Some(since) if at.saturating_sub(since) >= least => Ok(()),
        Some(since) => Err(format!("the agent was in truth gone for only {} ms", at.saturating_sub(since))),
        None => Err("the agent was in truth alive".to_owned()),
    }
}

/// What a verdict that has ended advises, if it names a restart: [`Invariant::TwoSignals`] applies to it, too.
pub fn restart_advice(export: Option<&Export>, outcome: &Outcome) -> Option<Step> {
    let Outcome::Done { result: Output::ClassifyFailure(verdict) } = outcome else { return None };
    let dial = match export {
        Some(Export::ClassifyFailure { evidence: Evidence { dial: Dial::TimedOut(dial), .. }, .. }) => *dial,
        _ => 0,
    };
    (verdict.action == Action::Restart).then_some(Step::Advice { dial: dial.into() })
}

/// [`Invariant::NobodyIsOverruled`] for a start that is going to be asked for. `known` is the newest build that the
/// host can know of.
pub fn nobody_is_overruled(
    entries: &[Entry],
    rests_on: &str,
    known: u32,
    workspace: &str,
    plane: &Plane,
) -> Check {
    let own_stop = entries.iter().rev().find_map(|entry| match &entry.answer {
        Answer::IssueTransition(Ok(build)) if build.transition == Transition::Stop => Some(build),
        _ => None,
    });
    let foreign = |number: u32| {
        plane.jobs(workspace).iter().find(|job| {
            let ends = matches!(job.transition, Transition::Stop | Transition::Delete);
            job.number > number && job.number <= known && job.made_for.is_none() && ends
        })
    };
    if let Some(job) = own_stop.and_then(|stop| foreign(stop.number)) {
        return Err(format!("a restart starts what somebody stopped by build {}", job.id));
    }
    for entry in entries {
        let Request::WaitForBuild { build, .. } = &entry.request else { continue };
        let Some(job) = plane.job(build).filter(|_| build == rests_on) else { continue };
        if job.transition == Transition::Start && job.cancel_requested().is_some() {
            return Err(format!("start {build} was cancelled while it was awaited, and is asked for again"));
        }
    }
    Ok(())
}

/// [`Invariant::TurnsDoNotOverlap`] among the calls at a workspace.
pub fn turns_do_not_overlap(queue: &[CallRow]) -> Check {
    let mut active = queue.iter().filter(|row| row.state == CallState::Active);
    match (active.next(), active.next()) {
        (Some(one), Some(other)) => Err(format!("calls {} and {} have their turn at once", one.id, other.id)),
        _ => Ok(()),
    }
}

/// [`Invariant::FencedHostsAreSilent`]: this host may act now.
pub fn is_current(host: Option<&HostRow>, now_ms: u64) -> Check {
    match host {
        Some(host) if host.lease_until_ms > now_ms => Ok(()),
        Some(host) => Err(format!("the lease ran out {} ms ago", now_ms - host.lease_until_ms)),
        None => Err("its calls were taken over".to_owned()),
    }
}

/// [`Invariant::ResultsAreTrue`] for a call that ends.
pub fn results_are_true(
    row: &CallRow,
    entries: &[Entry],
    outcome: &Outcome,
    plane: &Plane,
    now: At,
) -> Check {
    let Some(result) = result(outcome) else { return Ok(()) };
    let says = |key: &str| result.get(key) == Some(&Value::Bool(true));
    let last = last_seen(entries);
    if says("started") || says("restarted") {
        expect(last, &Transition::Start, plane, now).map_err(|why| format!("it says started, but {why}"))?;
    }
    if says("stopped") {
        if row.tool == "stop_workspace" {
            return expect(last, &Transition::Stop, plane, now)
                .map_err(|why| format!("it says stopped, but {why}"));
        }
        if expect(last, &Transition::Start, plane, now).is_ok() {
            return Err("it says stopped, but at the last read the workspace was started".to_owned());
        }
    }
    Ok(())
}

/// [`Invariant::ResultsAreTrue`] for what a call that ends says of the agent: if it has nothing to say against it, a
/// shell has greeted there.
pub fn ready_is_true(entries: &[Entry], outcome: &Outcome, greeted: &BTreeSet<String>) -> Check {
    let Some(result) = result(outcome) else { return Ok(()) };
    // Keys with which the agent is not called ready; a message says why it was not looked at.
    let reserved = ["agent_status", "startup_scripts", "interrupted", "message"];
    let is_clean = result.get("started") == Some(&Value::Bool(true))
        && !reserved.iter().any(|key| result.get(key).is_some());
    let waited = entries.iter().rev().find_map(|entry| match &entry.request {
        Request::WaitForAgent { agent, .. } => Some(agent),
        _ => None,
    });
    match waited {
        _ if !is_clean => Ok(()),
        Some(agent) if greeted.contains(agent) => Ok(()),
        Some(agent) => Err(format!("it says nothing against agent {agent}, on which no shell has greeted")),
        None => Err("it says nothing against the agent, which was not waited for".to_owned()),
    }
}

/// What the last read that told anything showed.
#[derive(Clone, Copy)]
enum LastSeen<'a> {
    Nothing,
    Deleted,
    Newest(&'a Build),
}

fn last_seen(entries: &[Entry]) -> LastSeen<'_> {
    let seen = entries.iter().rev().find_map(|entry| match &entry.answer {
        Answer::LatestBuild(Ok(Binding::Bound(snapshot))) => Some(LastSeen::Newest(&snapshot.latest)),
        Answer::LatestBuild(Ok(Binding::Deleted)) => Some(LastSeen::Deleted),
        Answer::AgentStatus(Ok(agents)) => Some(LastSeen::Newest(&agents.build)),
        Answer::WaitForBuild(Ok(wait)) => wait.build.as_ref().map(LastSeen::Newest),
        Answer::IssueTransition(Ok(build)) => Some(LastSeen::Newest(build)),
        _ => None,
    });
    seen.unwrap_or(LastSeen::Nothing)
}

fn expect(last: LastSeen<'_>, transition: &Transition, plane: &Plane, now: At) -> Check {
    let build = match last {
        LastSeen::Newest(build) => build,
        // What is gone is not running either.
        LastSeen::Deleted if *transition == Transition::Stop => return Ok(()),
        LastSeen::Deleted => return Err("at the last read the workspace was deleted".to_owned()),
        LastSeen::Nothing => return Err("nothing was read".to_owned()),
    };
    if build.transition != *transition || build.status != JobStatus::Succeeded {
        let (was, status) = (&build.transition, &build.status);
        return Err(format!(
            "at the last read the newest build, {}, was a {was:?} that is {status:?}",
            build.id
        ));
    }
    match plane.job(&build.id) {
        Some(job) if job.transition == *transition && job.status(now) == JobStatus::Succeeded => Ok(()),
        _ => Err(format!("build {} did not succeed in truth", build.id)),
    }
}

/// [`Invariant::DownIsTold`] for a call that ends.
pub fn down_is_told(
    row: &CallRow,
    entries: &[Entry],
    outcome: &Outcome,
    workspace: &str,
    plane: &Plane,
    now: At,
) -> Check {
    let stopped = entries.iter().any(|entry| {
        matches!(&entry.answer, Answer::IssueTransition(Ok(build)) if build.transition == Transition::Stop)
    });
    if row.tool != "restart_workspace" || !stopped || plane.rest_state(workspace, now) != RestState::Down {
        return Ok(());
    }
    let newest = plane.jobs(workspace).last();
    if newest.is_some_and(|job| job.made_for.is_none()) {
        // Somebody else has it down.
        return Ok(());
    }
    let Some(result) = result(outcome) else { return Ok(()) };
    let told = result.get("started") != Some(&Value::Bool(true)) && result.get("error").is_some();
    if told {
        Ok(())
    } else {
        Err(format!("the workspace is down, and the result does not say so: {result}"))
    }
}

/// The JSON of a tool's result.
fn result(outcome: &Outcome) -> Option<Value> {
    match outcome {
        Outcome::Done { result: Output::CallTool(Ok(ToolResult { json, .. })) } => {
            serde_json::from_str(json).ok()
        }
        _ => None,
    }
}
