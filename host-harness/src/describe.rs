//! What is told of workspaces, builds, agents, verdicts and events: as data, and in words.

use serde_json::{Value, json};

use crate::bindings::{
    Action, Agent, AgentState, Build, CallError, JobStatus, Lifecycle, Provisioner, Transition, Verdict,
};
use crate::chat::Executed;
use crate::control_plane::{LogLine, Workspace};
use crate::driver::EventKind;
use crate::evidence::gone_for_ms;

/// Why the plugin has refused a call, as a sentence.
pub fn refused(tool: &str, refusal: &CallError) -> String {
    match refusal {
        CallError::UnknownTool => format!("the plugin has no tool \"{tool}\""),
        CallError::InvalidArguments(sentence) => format!("{tool}: {sentence}"),
    }
}

/// Of a command that did not end within its time: what became of it.
pub fn too_long(executed: &Executed) -> &'static str {
    if executed.left_running {
        "the command took too long, and something of it could not be ended, even with SIGKILL: it still runs"
    } else {
        "the command took too long, and was ended, with all that it had left in its process group"
    }
}

/// One line about what happens in a call, if it means something to whoever waits for it.
pub fn describe_event(kind: &EventKind) -> Option<String> {
    match kind {
        EventKind::WaitingForTurn(turn) => Some(format!("waiting for {turn}")),
        EventKind::Build(build) => Some(describe_build(build)),
        EventKind::BuildLog { line, .. } => Some(describe_log(line)),
        EventKind::Agent(agent) => Some(format!(
            "agent {}: {}, {}",
            agent.name,
            state_word(&agent.state),
            lifecycle_word(&agent.lifecycle)
        )),
        EventKind::Dialing { attempts, elapsed, .. } if *attempts > 0 => {
            Some(format!("the agent does not answer; trying for {} s so far", elapsed.as_secs()))
        }
        EventKind::Started { .. }
        | EventKind::Resumed
        | EventKind::Ended
        | EventKind::Requested(_)
        | EventKind::Answered(_)
        | EventKind::BindingPublished { .. }
        | EventKind::Dialing { .. } => None,
    }
}

/// A line of a build's log: `Planning infrastructure: 3 to add`. Where a stage begins there is nothing but its name.
pub fn describe_log(line: &LogLine) -> String {
    match line.text.trim() {
        "" => line.stage.clone(),
        _ => format!("{}: {}", line.stage, line.text),
    }
}

/// A workspace with its newest build and its agents as data.
pub fn workspace_json(workspace: &Workspace) -> Value {
    let agents: Vec<_> = workspace
        .agents
        .iter()
        .map(|agent| {
            json!({
                "id": agent.id,
                "name": agent.name,
                "status": state_word(&agent.state),
                "lifecycle_state": lifecycle_word(&agent.lifecycle),
                "disconnected_for_ms": gone_for(workspace, agent),
            })
        })
        .collect();
    json!({
        "id": workspace.id,
        "name": workspace.name,
        "owner": workspace.owner,
        "dormant": workspace.dormant,
        "latest_build": build_json(&workspace.latest.build),
        "agents": agents,
    })
}

/// A build as data.
pub fn build_json(build: &Build) -> Value {
    json!({
        "id": build.id,
        "number": build.number,
        "transition": transition_word(&build.transition),
        "status": status_word(&build.status),
        "error": build.error,
    })
}

/// A workspace with its newest build and its agents as text, a line each.
pub fn describe_workspace(workspace: &Workspace) -> String {
    let mut text =
        format!("{}/{}\n  {}\n", workspace.owner, workspace.name, describe_build(&workspace.latest.build));
    for agent in &workspace.agents {
        text += &format!(
            "  agent {}: {}, {}",
            agent.name,
            state_word(&agent.state),
            lifecycle_word(&agent.lifecycle)
        );
        if let Some(gone) = gone_for(workspace, agent) {
            text += &format!(", gone for {} s", gone / 1000);
        }
        text.push('\n');
    }
    text
}

/// How long an agent has been gone on the control plane's clock, in milliseconds; see [`gone_for_ms`]. A connected
/// agent may still carry the time of a past disconnect.
pub fn gone_for(workspace: &Workspace, agent: &Agent) -> Option<u64> {
    if agent.state != AgentState::Disconnected {
        return None;
    }
    gone_for_ms(agent, workspace.observed)
}

/// A verdict as data.
pub fn verdict_json(verdict: &Verdict) -> Value {
    let mut json = json!({
        "action": action_word(verdict.action),
        "cause": cause_word(verdict),
        "tools": verdict.tools,
        "message": verdict.message,
    });
    if let Some(wait) = verdict.retry_after_ms {
        json["retry_after_ms"] = wait.into();
    }
    json
}

/// The contract's word for the row of the decision table: `AgentAlive` is `agent-alive`.
pub fn cause_word(verdict: &Verdict) -> String {
    let name = format!("{:?}", verdict.cause);
    let mut word = String::new();
    for letter in name.rsplit("::").next().unwrap_or_default().chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

/// The contract's word for an action.
pub fn action_word(action: Action) -> &'static str {
    match action {
        Action::Propagate => "propagate",
        Action::Retry => "retry",
        Action::AskUser => "ask-user",
        Action::Start => "start",
        Action::Restart => "restart",
        Action::ReconnectAgent => "reconnect-agent",
    }
}

/// One line about a build: `stop build 3: pending, place 2 in the queue`.
pub fn describe_build(build: &Build) -> String {
    let mut text = format!(
        "{} build {}: {}",
        transition_word(&build.transition),
        build.number,
        status_word(&build.status)
    );
    if build.status == JobStatus::Pending {
        if let Some(position) = build.queue_position.filter(|position| *position > 0) {
            text += &format!(", place {position} in the queue");
        }
        if build.provisioner == Provisioner::Missing {
            text += ", but no provisioner can take it";
        }
    }
    if let Some(error) = &build.error {
        text += &format!(" ({error})");
    }
    text
}

/// The control plane's word for a transition.
pub fn transition_word(transition: &Transition) -> &str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Delete => "delete",
        Transition::Unknown(word) => word,
    }
}

/// The control plane's word for a job's status.
pub fn status_word(status: &JobStatus) -> &str {
    match status {
        JobStatus::Pending => "pending",
        JobStatus::Running => "running",
        JobStatus::Canceling => "canceling",
        JobStatus::Succeeded => "succeeded",
        JobStatus::Failed => "failed",
        JobStatus::Canceled => "canceled",
        JobStatus::Unknown(word) => word,
    }
}

/// The control plane's word for an agent's state.
pub fn state_word(state: &AgentState) -> &str {
    match state {
        AgentState::Connecting => "connecting",
        AgentState::Connected => "connected",
        AgentState::Disconnected => "disconnected",
        AgentState::TimedOut => "timeout",
        AgentState::Unknown(word) => word,
    }
}

/// The control plane's word for an agent's lifecycle.
pub fn lifecycle_word(lifecycle: &Lifecycle) -> &str {
    match lifecycle {
        Lifecycle::Created => "created",
        Lifecycle::Starting => "starting",
        Lifecycle::StartTimeout => "start_timeout",
        Lifecycle::StartError => "start_error",
        Lifecycle::Ready => "ready",
        Lifecycle::ShuttingDown => "shutting_down",
        Lifecycle::ShutdownTimeout => "shutdown_timeout",
        Lifecycle::ShutdownError => "shutdown_error",
        Lifecycle::Off => "off",
        Lifecycle::Unknown(word) => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_that_only_names_its_stage_is_told_as_that() {
        for (text, told) in [("", "Setting up"), (" ", "Setting up"), ("done", "Setting up: done")] {
            let line = LogLine { id: 1, stage: "Setting up".into(), text: text.into() };
            let kind = EventKind::BuildLog { build: "b1".into(), line };
            assert_eq!(describe_event(&kind).unwrap(), told);
        }
    }
}
