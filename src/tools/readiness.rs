//! The agent of a workspace that has been started: is it there, connected, through with its scripts, and can a command
//! run on it?
//!
//! An agent that is missing or late does not make a start fail: the keys say so. A clean result has none of them.

use crate::agent_select::{NoSelection, select};
use crate::build;
use crate::contract::{Agent, AgentState, AgentWait, Build, Lifecycle, Probe, WaitEnd};
use crate::recovery::external_guidance;
use crate::tools::call::Call;
use crate::tools::outcome::Outcome;

/// The text of the original tools for agents that were all made by agents, which their clients look for.
const NO_ELIGIBLE: &str = "no eligible workspace agents found";

/// Adds what there is to say of the agent of the build `started` to a result.
pub fn of_agent(call: &Call, started: &Build, outcome: Outcome) -> Outcome {
    let agents = match call.host.agent_status() {
        Ok(agents) => agents,
        Err(error) => return unreadable(outcome, &build::read_failure(&error)),
    };
    if agents.build.id != started.id {
        return Outcome::overtaken(started, &agents.build);
    }
    let agent = match select(&agents.agents) {
        Ok(agent) => agent,
        Err(NoSelection::NoRootAgent) if agents.agents.is_empty() => {
            return outcome.with("agent_status", "no_agent");
        }
        Err(NoSelection::NoRootAgent) => {
            return outcome.with("agent_status", "selection_error").with("agent_error", NO_ELIGIBLE);
        }
        Err(NoSelection::Ambiguous(names)) => {
            let text = format!("Several agents claim to be the chat's: {}.", names.join(", "));
            return outcome.with("agent_status", "selection_error").with("agent_error", text);
        }
    };
    let policy = call.policy;
    let wait =
        call.host.wait_for_agent(&started.id, &agent.id, policy.connect_limit_ms, policy.scripts_limit_ms);
    match wait {
        Err(error) => unreadable(outcome, &build::read_failure(&error)),
        Ok(wait) if wait.end == WaitEnd::Gone => gone(call, started, outcome),
        Ok(wait) => of_wait(outcome, wait),
    }
}

fn of_wait(outcome: Outcome, wait: AgentWait) -> Outcome {
    let interrupted = wait.end == WaitEnd::Interrupted;
    let outcome = if interrupted { outcome.with("interrupted", true) } else { outcome };
    let Some(agent) = wait.agent else {
        return unreadable(outcome, "not one read of it worked.");
    };
    if agent.state != AgentState::Connected {
        return outcome.with("agent_status", "not_ready").with("agent_error", not_connected(&agent));
    }
    let outcome = match wait.probe {
        Some(Probe::Answered) | None => outcome,
        Some(Probe::Unanswered(why)) => {
            let text = format!("The agent reads as connected, but no command can run on it: {why}");
            outcome.with("agent_status", "not_ready").with("agent_error", build::full_stop(&text))
        }
        Some(Probe::Untried(why)) => {
            let text = format!("Whether a command can run on the agent was not tried: {why}");
            outcome.adding(&build::full_stop(&text))
        }
    };
    match agent.lifecycle {
        Lifecycle::Ready => outcome,
        Lifecycle::Created | Lifecycle::Starting if interrupted => {
            outcome.with("startup_scripts", "startup_scripts_unknown")
        }
        Lifecycle::Created | Lifecycle::Starting => {
            outcome.with("startup_scripts", "startup_scripts_timeout")
        }
        other => outcome
            .with("startup_scripts", "startup_scripts_failed")
            .with("lifecycle_state", lifecycle_name(&other)),
    }
}

/// The wait found that the build is not the newest any more, or that the agent is not there. A look tells which.
fn gone(call: &Call, started: &Build, outcome: Outcome) -> Outcome {
    match call.host.agent_status() {
        Err(error) => unreadable(outcome, &build::read_failure(&error)),
        Ok(agents) if agents.build.id != started.id => Outcome::overtaken(started, &agents.build),
        Ok(_) => outcome.with("agent_status", "no_agent"),
    }
}

fn unreadable(outcome: Outcome, why: &str) -> Outcome {
    outcome
        .with("agent_status", "unreadable")
        .with("agent_error", format!("The agent's status could not be read: {why}"))
}

fn not_connected(agent: &Agent) -> String {
    if agent.external {
        return external_guidance(agent).into();
    }
    match agent.state {
        AgentState::Disconnected => "The agent has lost its connection.".into(),
        AgentState::TimedOut => {
            "The agent has not connected within the time that its template allows.".into()
        }
        _ => "The agent has not connected yet.".into(),
    }
}

fn lifecycle_name(lifecycle: &Lifecycle) -> &str {
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
        Lifecycle::Unknown(other) => other,
    }
}
