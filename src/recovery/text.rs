//! The words of a verdict. No text names a tool that the chat does not have, and that of a retry names none.

use crate::agent_select::{CHAT_SUFFIX, select};
use crate::build;
use crate::contract::{
    Action, Agent, AgentState, Agents, Cause, Dial, Evidence, JobStatus, Policy, Transition,
};
use crate::recovery::gone::gone_for_ms;
use crate::recovery::table::Row;
use crate::recovery::{View, claimants};
use crate::tools::names::{RESTART, START, STOP, has};

/// The control plane's words for a stop that sets a task's workspace aside.
const PAUSES: [&str; 2] = ["task_auto_pause", "task_manual_pause"];

/// The tools that the text names, in the order in which they are to be called, and the text.
pub fn of(row: &Row, evidence: &Evidence, policy: &Policy, view: &View) -> (Vec<String>, String) {
    let tools = tools(row, policy);
    let why = why(row, evidence, view);
    let what = match row.action {
        Action::Propagate => after_propagation(&tools),
        Action::Retry => retry(row),
        Action::AskUser => ask(&tools),
        Action::Start => start(&tools),
        Action::Restart => restart(&tools),
        Action::ReconnectAgent => reconnect(view),
    };
    let message = [why, what].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    (tools, message)
}

fn tools(row: &Row, policy: &Policy) -> Vec<String> {
    let one = |name: &str| if has(policy, name) { vec![name.to_owned()] } else { vec![] };
    let optional = |name: &Option<String>| name.as_deref().map(one).unwrap_or_default();
    match row.action {
        Action::Propagate if row.cause == Cause::WorkspaceDeleted => optional(&policy.create_tool),
        Action::Propagate | Action::Retry | Action::ReconnectAgent => vec![],
        Action::AskUser => optional(&policy.ask_user_tool),
        Action::Start => one(START),
        Action::Restart if has(policy, RESTART) => one(RESTART),
        Action::Restart if has(policy, STOP) && has(policy, START) => vec![STOP.into(), START.into()],
        Action::Restart => vec![],
    }
}

/// What is known of the cause. A failure that is passed on is told as it came.
fn why(row: &Row, evidence: &Evidence, view: &View) -> String {
    match row.cause {
        Cause::Interrupted => "The call was interrupted.".into(),
        Cause::FailedFast => failed_fast(evidence),
        Cause::ControlPlaneAway => {
            "The control plane was away for a while, or may still be, so nothing is known of the agent yet."
                .into()
        }
        Cause::StatusUnreadable => {
            let why = match view {
                View::Read(agents) => not_known(agents),
                _ => "its status could not be read".into(),
            };
            format!("The agent did not answer in time, and {why}.")
        }
        Cause::ChatRebound => "This chat is not bound to that workspace any more.".into(),
        Cause::WorkspaceDeleted => "The workspace was deleted, or is being deleted.".into(),
        Cause::DeleteUnfinished => {
            "Deleting the workspace was begun and not finished; some of it may be gone already.".into()
        }
        Cause::StartInProgress => "The workspace is still being started.".into(),
        Cause::OwnStopInProgress => "The workspace is being stopped by an earlier call of this host.".into(),
        Cause::ForeignStopInProgress => "Somebody else is stopping the workspace right now.".into(),
        Cause::Stopped if is_paused(view) => {
            "The workspace is paused: its task was set aside, and the workspace stopped, on purpose.".into()
        }
        Cause::Stopped => "The workspace is stopped.".into(),
        Cause::StopUnfinished => "The workspace was being stopped, and that was not finished.".into(),
        Cause::StartCanceled => "Starting the workspace was canceled, and it has no agent.".into(),
        Cause::StartFailed => "Starting the workspace failed, and it has no agent.".into(),
        Cause::NoAgent => "The workspace is started, but its template has no agent to connect to.".into(),
        Cause::AmbiguousAgent => ambiguous(view),
        Cause::ExternalAgentOffline => "The agent runs on a computer that the deployment does not manage.".into(),
        Cause::ExternalAgentOnline => {
            "The agent did not answer in time, although it is connected; it runs on a computer that the deployment \
             does not manage."
                .into()
        }
        Cause::AgentReplaced => "The workspace has a new agent since it was last reached.".into(),
        Cause::AgentAlive => "The agent did not answer in time, although it is connected or connecting.".into(),
        Cause::AgentNeverConnected => "The agent has not connected since the workspace was started.".into(),
        Cause::RecentlyDisconnected => recently(view),
        Cause::ChangedDuringDial if evidence.disconnected_at_start.is_none() => {
            "The agent did not answer in time: it was there when the call began, and has gone since.".into()
        }
        Cause::ChangedDuringDial => {
            "The agent did not answer in time: it had come back, and has gone again since.".into()
        }
        Cause::InferredDisconnect if row.action == Action::Retry => {
            "The agent did not answer in time; it has shown no sign of life for a while.".into()
        }
        Cause::InferredDisconnect | Cause::Disconnected => gone(row, evidence, view),
    }
}

/// In the words of whoever saw it fail: nothing is added.
fn failed_fast(evidence: &Evidence) -> String {
    match &evidence.dial {
        Dial::FailedFast(error) if !error.is_empty() => error.clone(),
        _ => "The connection failed.".into(),
    }
}

/// Whether the newest build set a task's workspace aside, by itself or because somebody asked for it.
fn is_paused(view: &View) -> bool {
    let View::Read(agents) = view else { return false };
    agents.build.reason.as_deref().is_some_and(|reason| PAUSES.contains(&reason))
}

fn recently(view: &View) -> String {
    let age = agent(view).and_then(|(agent, observed)| gone_for_ms(agent, observed));
    match age.map(|age| age / 1000) {
        Some(gone) => format!(
            "The agent did not answer in time: it has been gone for {}, and may come back by itself.",
            seconds(gone)
        ),
        None => "The agent did not answer in time: it is gone, and since when is not known.".into(),
    }
}

fn gone(row: &Row, evidence: &Evidence, view: &View) -> String {
    let seconds =
        agent(view).and_then(|(agent, observed)| gone_for_ms(agent, observed)).unwrap_or_default() / 1000;
    let gone = format!("The agent cannot be reached and has been gone for at least {seconds} seconds.");
    if row.action == Action::AskUser {
        let times = evidence.recent_restarts;
        return format!("{gone} The workspace was restarted {times} times within the last hour already.");
    }
    gone
}

/// What of a build or its agent is of a kind that is not known, so that nothing can rest on it. Without its full stop.
pub fn not_known(agents: &Agents) -> String {
    let newest = build::name(&agents.build);
    match (&agents.build.transition, &agents.build.status, select(&agents.agents).map(|agent| &agent.state)) {
        (Transition::Unknown(_), ..) => format!("the {newest} is of a kind that is not known here"),
        (_, JobStatus::Unknown(word), _) => format!("the {newest} {}", build::unknown_status(word)),
        (.., Ok(AgentState::Unknown(word))) => {
            format!("the agent's status is \"{word}\", which is not known here")
        }
        _ => "the agent's status is of a kind that is not known here".into(),
    }
}

fn ambiguous(view: &View) -> String {
    let names = match view {
        View::Read(agents) => claimants(agents).join(", "),
        _ => String::new(),
    };
    format!("Only one agent's name may end in {CHAT_SUFFIX}, but several do: {names}.")
}

/// Seconds are rounded up: who waits that long has waited long enough.
fn retry(row: &Row) -> String {
    match row.retry_after_ms {
        Some(wait) => format!("Wait {}, then make the same call again.", seconds(wait.div_ceil(1000))),
        None => "Make the same call once more.".into(),
    }
}

fn seconds(count: u64) -> String {
    match count {
        1 => "1 second".into(),
        _ => format!("{count} seconds"),
    }
}

fn after_propagation(tools: &[String]) -> String {
    tools.first().map(|create| format!("A new one is made with {create}.")).unwrap_or_default()
}

fn ask(tools: &[String]) -> String {
    match tools.first() {
        Some(tool) => format!("Ask the user with {tool} what to do."),
        None => "Tell the user what happened and ask what to do.".into(),
    }
}

fn start(tools: &[String]) -> String {
    match tools.first() {
        Some(tool) => {
            format!("Call {tool}, which waits until the workspace is up, and then make the same call again.")
        }
        None => "The workspace has to be started before it can be used; tell the user so.".into(),
    }
}

fn restart(tools: &[String]) -> String {
    let condition = "`only_if_unreachable: true`";
    let loss = "Processes, those of other clients too, and unsaved memory in the workspace are lost; files on its volumes stay.";
    match tools {
        [restart] => format!("Call {restart} with {condition}, and then make the same call again. {loss}"),
        [stop, start] => {
            format!("Call {stop} with {condition}, then {start}, and then make the same call again. {loss}")
        }
        _ => "The workspace has to be stopped and started again; tell the user so.".into(),
    }
}

fn reconnect(view: &View) -> String {
    agent(view).map(|(agent, _)| external_guidance(agent)).unwrap_or_default().into()
}

/// What the user of an external agent that is offline has to do.
pub fn external_guidance(agent: &Agent) -> &'static str {
    if agent.first_connected.is_some() {
        "Restarting the workspace cannot help: ask the user to reconnect the agent on the computer where it runs."
    } else {
        "The agent has never connected: ask the user to start the agent on its computer and to attach it to the workspace."
    }
}

fn agent(view: &View) -> Option<(&Agent, Option<u64>)> {
    let View::Read(agents) = view else { return None };
    select(&agents.agents).ok().map(|agent| (agent, agents.observed))
}
