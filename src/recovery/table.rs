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
//! | 22 | disconnected, recorded, age below the threshold | retry, not counted: time ends it |
//! | 22 | the same, but it had come back and gone again during the window | retry once, then ask the user |
//! | 22 | disconnected, age unknown, or inferred and below the threshold | retry once, then ask the user |
//! | 23 | disconnected for long enough, but `disconnected` or the process changed during the window | retry once, then ask the user |
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
    /// After how many milliseconds another try may end otherwise, where that is known.
    pub retry_after_ms: Option<u64>,
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
            let row = uncounted(if again { Action::Retry } else { Action::AskUser }, Cause::ControlPlaneAway);
            let wait = evidence.trusted_in_ms.filter(|_| again).map(u64::from);
            return Row { retry_after_ms: wait, ..row };
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
    let changed = evidence.disconnected_at_start != agent.disconnected || is_another_process(evidence, agent);
    let was_back = changed && evidence.disconnected_at_start.is_some();
    match gone_for_ms(agent, observed) {
        // Not counted, and still no loop without an end for whoever tries again at once: each try takes a dial, so that
        // the threshold ends this after two of them while the agent stays away. To be below it again, the agent must
        // have been back. A dial then reaches it, or ends while it is connected, or sees it go a second time, and both
        // of these count.
        Some(age) if age < threshold && !is_inferred(agent) && !was_back => Row {
            retry_after_ms: Some(threshold - age),
            ..uncounted(Action::Retry, Cause::RecentlyDisconnected)
        },
        None => counted(once(evidence), Cause::RecentlyDisconnected),
        Some(age) if age < threshold => counted(once(evidence), Cause::RecentlyDisconnected),
        Some(_) if changed => counted(once(evidence), Cause::ChangedDuringDial),
        Some(_) if is_inferred(agent) && evidence.earlier_timeouts == 0 => {
            counted(Action::Retry, Cause::InferredDisconnect)
        }
        Some(_) if is_inferred(agent) => counted(Action::Restart, Cause::InferredDisconnect),
        Some(_) => counted(Action::Restart, Cause::Disconnected),
    }
}

/// Whether the control plane tells that another process of the agent has taken the place of the one that was dialled.
fn is_another_process(evidence: &Evidence, agent: &Agent) -> bool {
    let (dialed, now) = (&evidence.dialed_process, &agent.process);
    dialed.is_some() && now.is_some() && dialed != now
}

/// Retry once, then ask the user.
fn once(evidence: &Evidence) -> Action {
    if evidence.earlier_timeouts == 0 { Action::Retry } else { Action::AskUser }
}

fn counted(action: Action, cause: Cause) -> Row {
    Row { action, cause, counts_as_timeout: true, retry_after_ms: None }
}

fn uncounted(action: Action, cause: Cause) -> Row {
    Row { action, cause, counts_as_timeout: false, retry_after_ms: None }
}
