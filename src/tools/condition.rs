//! The condition of a stop that recovery advises: only if the agent is *still* unreachable.

use crate::agent_select::select;
use crate::build;
use crate::contract::{Action, Agent, Agents, Cause, Dial, Evidence, Policy, WaitEnd};
use crate::recovery::gone::gone_for_ms;
use crate::recovery::{View, not_known, table};
use crate::tools::call::Call;
use crate::tools::names::{START, has};
use crate::tools::outcome::{Outcome, sentence};

/// How often the status is read, at most, for the control plane to show that it was there for long enough.
const READS: u32 = 3;

/// What a fresh look says of the condition.
pub enum Condition {
    /// It holds; the build that this rests on.
    Holds(String),
    /// It does not: nothing is to be stopped, for this reason.
    Fails(String),
}

/// Looks whether the agent is unreachable enough for a restart row of the decision table.
///
/// A control plane that was away itself calls healthy agents disconnected. So its reads must have worked without a gap
/// for as long as a dial takes, or as the threshold where the disconnect is inferred, or for the few seconds that do
/// for an agent that is known to be dead. What is missing is waited for, and an agent that comes back in that time is
/// back: one whose own watchdog ends it after a minute and a half is back some seconds later, and is not overtaken.
pub fn look(call: &Call) -> Result<Condition, Outcome> {
    for _ in 0..READS {
        let agents = match call.host.agent_status() {
            Ok(agents) => agents,
            Err(error) => {
                let why = build::read_failure(&error);
                return Ok(Condition::Fails(format!("The agent's status could not be read: {why}")));
            }
        };
        let (row, agent) = judge(call.policy, &agents);
        let Some(agent) = agent.filter(|_| row.action == Action::Restart) else {
            return Ok(Condition::Fails(reason(row.cause, &agents, call.policy)));
        };
        let missing = missing_ms(call.policy, row.cause, &agents, agent);
        if missing == 0 {
            return Ok(Condition::Holds(agents.build.id));
        }
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        match call.host.wait_for_agent(&agents.build.id, &agent.id, missing, 0) {
            Ok(wait) if wait.end == WaitEnd::Reached => {
                return Ok(Condition::Fails("The agent came back.".into()));
            }
            Ok(wait) if wait.end == WaitEnd::Interrupted => {
                let text = "The call was interrupted before anything was stopped.";
                return Err(Outcome::failed(text)
                    .with("interrupted", true)
                    .with("build_id", agents.build.id.as_str())
                    .with("stopped", false));
            }
            // Whatever else became of the wait, the next look decides.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(Condition::Fails(
        "The control plane has not been there without a gap for long enough to trust it.".into(),
    ))
}

/// The row for a dial to this very agent that timed out again, whatever the number of restarts.
fn judge<'a>(policy: &Policy, agents: &'a Agents) -> (table::Row, Option<&'a Agent>) {
    let agent = select(&agents.agents).ok();
    let evidence = Evidence {
        dial: Dial::TimedOut(policy.dial_timeout_ms),
        dialed: agent.map(|agent| agent.id.clone()),
        dialed_process: agent.and_then(|agent| agent.process.clone()),
        disconnected_at_start: agent.and_then(|agent| agent.disconnected),
        earlier_timeouts: 1,
        control_plane_away: false,
        trusted_in_ms: None,
        earlier_away: 0,
        recent_restarts: 0,
    };
    (table::row(&evidence, policy, &View::Read(agents.clone())), agent)
}

/// For how long to wait until the control plane has been there for long enough, and the agent gone, in milliseconds.
fn missing_ms(policy: &Policy, cause: Cause, agents: &Agents, agent: &Agent) -> u64 {
    let dial = u64::from(policy.dial_timeout_ms);
    let readable = |required: u64| required.saturating_sub(agents.readable_for_ms);
    match (cause, policy.known_dead) {
        (Cause::InferredDisconnect, _) => readable(dial.max(policy.recover_after_ms.into())),
        (Cause::Disconnected, Some(known)) => {
            let gone = gone_for_ms(agent, agents.observed).unwrap_or_default();
            match u64::from(known.after_ms).saturating_sub(gone) {
                0 => readable(known.dial_ms.into()),
                young => readable(dial).max(young),
            }
        }
        _ => readable(dial),
    }
}

fn reason(cause: Cause, agents: &Agents, policy: &Policy) -> String {
    let newest = build::name(&agents.build);
    match cause {
        Cause::AgentAlive => "The agent is connected or connecting.".into(),
        Cause::RecentlyDisconnected => {
            "The agent has not been gone for long enough, or nobody knows for how long.".into()
        }
        Cause::AgentNeverConnected => {
            "The agent has never connected, which is for the user to decide on.".into()
        }
        Cause::ExternalAgentOffline | Cause::ExternalAgentOnline => {
            "The agent runs on a computer that the deployment does not manage.".into()
        }
        Cause::AmbiguousAgent => "Several agents claim to be the chat's.".into(),
        Cause::NoAgent | Cause::StartCanceled | Cause::StartFailed => {
            format!("The {newest} has no agent to be reached.")
        }
        Cause::StartInProgress | Cause::OwnStopInProgress | Cause::ForeignStopInProgress => {
            format!("The {newest} is in progress.")
        }
        Cause::Stopped if has(policy, START) => {
            format!("The workspace is stopped already; {START} starts it.")
        }
        Cause::Stopped => "The workspace is stopped already.".into(),
        Cause::StopUnfinished | Cause::DeleteUnfinished => format!("The {newest} was not finished."),
        Cause::WorkspaceDeleted => "The workspace is being deleted, or was.".into(),
        _ => format!("{}.", sentence(&not_known(agents))),
    }
}
