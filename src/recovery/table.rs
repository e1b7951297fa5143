//! The decision table. First match wins; rows from 3 on are for a dial that timed out.
//!
//! | # | condition | verdict |
//! |---|---|---|
//! | 1 | interrupted | propagate |
//! | 2 | failed fast | propagate |
//! | 3 | control plane away in, or shortly before, the window | retry, not counted; the third time ask the user |
//! | 4 | status unreadable, or of a kind that is not known | retry once, then ask the user |
//! | 5 | chat unbound, or bound elsewhere | propagate |
//! | 6 | workspace deleted, or a delete is active or has succeeded | propagate |
//! | 7 | delete failed or canceled | ask the user |
//! | 8 | start in progress | start (it waits) |
//! | 9 | stop in progress, issued by a call of ours | start (it waits) |
//! | 10 | stop in progress, somebody else's | ask the user |
//! | 11 | stop succeeded | start |
//! | 12 | stop failed or canceled | retry once, then ask the user |
//! | 13 | start canceled, no root agents | retry once, then ask the user |
//! | 14 | start failed, no root agents | start |
//! | 15 | start succeeded, no root agents | ask the user |
//! | 16 | several agents claim the chat suffix | retry once, then ask the user |
//! | 17 | external agent, not connected | the user must reconnect it |
//! | 18 | external agent, connected | retry once, then ask the user |
//! | 19 | the dialled agent is not this agent | retry, not counted |
//! | 20 | connected or connecting | retry once, then ask the user |
//! | 21 | never connected | retry once, then ask the user; by policy: restart |
//! | 22 | disconnected, age unknown or below the threshold | retry once, then ask the user |
//! | 23 | disconnected for long enough, but `disconnected` changed during the window | retry once, then ask the user |
//! | 24 | disconnected for long enough, inferred | retry; on a repeated timeout restart |
//! | 25 | disconnected for long enough, recorded | restart |
//!
//! A workspace that had its number of restarts within the hour: ask the user in place of a restart.

use crate::agent_select::{NoSelection, select};
use crate::build;
use crate::contract::{
    Action, Agent, AgentState, Agents, Build, Cause, Dial, Evidence, JobStatus, NeverConnected, Policy,
    TimeMs, Transition,
};
use crate::recovery::View;
use crate::recovery::gone::{gone_for_ms, is_inferred};

/// How often in a row an absence of the control plane is a reason to retry.
const AWAY_RETRIES: u32 = 2;

/// A row that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The verdict.
    pub action: Action,
    /// Names the row.
    pub cause: Cause,
    /// Whether this timeout counts towards "once".
    pub counts_as_timeout: bool,
}

/// Whether rows 1 to 3 decide, which need no read.
pub fn evidence_decides(evidence: &Evidence) -> bool {
    !matches!(evidence.dial, Dial::TimedOut(_)) || evidence.control_plane_away
}

/// The verdict: the [`row`] that matches, and no more restarts than the policy has for one hour.
pub fn decide(evidence: &Evidence, policy: &Policy, view: &View) -> Row {
    let row = row(evidence, policy, view);
    if row.action == Action::Restart && evidence.recent_restarts >= policy.max_restarts {
        return Row { action: Action::AskUser, ..row };
    }
    row
}

/// The row that matches, however often the workspace was restarted before.
pub fn row(evidence: &Evidence, policy: &Policy, view: &View) -> Row {
    match evidence.dial {
        Dial::Interrupted => return uncounted(Action::Propagate, Cause::Interrupted),
        Dial::FailedFast(_) => return uncounted(Action::Propagate, Cause::FailedFast),
        Dial::TimedOut(_) if evidence.control_plane_away => {
            let again = evidence.earlier_away < AWAY_RETRIES;
            let action = if again { Action::Retry } else { Action::AskUser };
            return uncounted(action, Cause::ControlPlaneAway);
        }
        Dial::TimedOut(_) => {}
    }
    match view {
        View::NotTaken | View::Unreadable => counted(once(evidence), Cause::StatusUnreadable),
        View::Elsewhere => uncounted(Action::Propagate, Cause::ChatRebound),
        View::Deleted => uncounted(Action::Propagate, Cause::WorkspaceDeleted),
        View::Read(agents) => {
            of_build(evidence, &agents.build).unwrap_or_else(|| of_agents(evidence, policy, agents))
        }
    }
}

/// Rows 6 to 12, where the newest build decides by itself.
fn of_build(evidence: &Evidence, newest: &Build) -> Option<Row> {
    let in_progress = build::in_progress(newest);
    let row = match newest.transition {
        Transition::Unknown(_) => counted(once(evidence), Cause::StatusUnreadable),
        _ if matches!(newest.status, JobStatus::Unknown(_)) => {
            counted(once(evidence), Cause::StatusUnreadable)
        }
        Transition::Delete if in_progress || build::succeeded(newest) => {
            uncounted(Action::Propagate, Cause::WorkspaceDeleted)
        }
        Transition::Delete => counted(Action::AskUser, Cause::DeleteUnfinished),
        Transition::Start if in_progress => counted(Action::Start, Cause::StartInProgress),
        Transition::Stop if in_progress && newest.ours => counted(Action::Start, Cause::OwnStopInProgress),
        Transition::Stop if in_progress => counted(Action::AskUser, Cause::ForeignStopInProgress),
        Transition::Stop if build::succeeded(newest) => counted(Action::Start, Cause::Stopped),
        Transition::Stop => counted(once(evidence), Cause::StopUnfinished),
        Transition::Start => return None,
    };
    Some(row)
}

/// Rows 13 to 25, where a start has ended and its agents decide.
fn of_agents(evidence: &Evidence, policy: &Policy, agents: &Agents) -> Row {
    let agent = match select(&agents.agents) {
        Err(NoSelection::NoRootAgent) if build::was_canceled(&agents.build) => {
            return counted(once(evidence), Cause::StartCanceled);
        }
        Err(NoSelection::NoRootAgent) if build::succeeded(&agents.build) => {
            return counted(Action::AskUser, Cause::NoAgent);
        }
        Err(NoSelection::NoRootAgent) => return counted(Action::Start, Cause::StartFailed),
        Err(NoSelection::Ambiguous(_)) => return counted(once(evidence), Cause::AmbiguousAgent),
        Ok(agent) => agent,
    };
    let connected = agent.state == AgentState::Connected;
    if agent.external && !connected {
        return counted(Action::ReconnectAgent, Cause::ExternalAgentOffline);
    }
    if agent.external {
        return counted(once(evidence), Cause::ExternalAgentOnline);
    }
    if evidence.dialed.as_ref() != Some(&agent.id) {
        return uncounted(Action::Retry, Cause::AgentReplaced);
    }
    match agent.state {
        AgentState::Connected | AgentState::Connecting => counted(once(evidence), Cause::AgentAlive),
        AgentState::Unknown(_) => counted(once(evidence), Cause::StatusUnreadable),
        AgentState::TimedOut => match policy.never_connected {
            NeverConnected::Restart => counted(Action::Restart, Cause::AgentNeverConnected),
            NeverConnected::AskUser => counted(once(evidence), Cause::AgentNeverConnected),
        },
        AgentState::Disconnected => of_disconnect(evidence, policy, agents.observed, agent),
    }
}

/// Rows 22 to 25.
fn of_disconnect(evidence: &Evidence, policy: &Policy, observed: Option<TimeMs>, agent: &Agent) -> Row {
    let threshold = u64::from(policy.recover_after_ms);
    if gone_for_ms(agent, observed).is_none_or(|age| age < threshold) {
        counted(once(evidence), Cause::RecentlyDisconnected)
    } else if evidence.disconnected_at_start != agent.disconnected {
        counted(once(evidence), Cause::ChangedDuringDial)
    } else if is_inferred(agent) && evidence.earlier_timeouts == 0 {
        counted(Action::Retry, Cause::InferredDisconnect)
    } else if is_inferred(agent) {
        counted(Action::Restart, Cause::InferredDisconnect)
    } else {
        counted(Action::Restart, Cause::Disconnected)
    }
}

/// Retry once, then ask the user.
fn once(evidence: &Evidence) -> Action {
    if evidence.earlier_timeouts == 0 { Action::Retry } else { Action::AskUser }
}

fn counted(action: Action, cause: Cause) -> Row {
    Row { action, cause, counts_as_timeout: true }
}

fn uncounted(action: Action, cause: Cause) -> Row {
    Row { action, cause, counts_as_timeout: false }
}
