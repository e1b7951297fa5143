//! Values of the contract as the tests begin with them: ordinary ones, of which a test changes what it is about.
//!
//! Compiled several times, with the plugin's types and with the host's. Whoever includes this file has a module `types`
//! beside it.

#![allow(dead_code, reason = "whoever includes it uses a part of it")]

use super::types::{
    Agent, AgentState, Agents, Build, Dial, Evidence, JobStatus, KnownDead, Lifecycle, NeverConnected,
    Policy, Provisioner, Refusal, Snapshot, Transition,
};

/// The control plane's time of every read, Unix milliseconds.
pub const NOW: u64 = 1_800_000_000_000;

/// The build `b<number>`.
pub fn build(number: u32, transition: Transition, status: JobStatus) -> Build {
    Build {
        id: format!("b{number}"),
        number,
        transition,
        status,
        cancel_requested: false,
        ours: false,
        queue_position: None,
        provisioner: Provisioner::Unknown,
        error: None,
        error_code: None,
        quota: None,
        template_version: Some("v1".into()),
        reason: None,
    }
}

pub fn start(number: u32, status: JobStatus) -> Build {
    build(number, Transition::Start, status)
}

pub fn stop(number: u32, status: JobStatus) -> Build {
    build(number, Transition::Stop, status)
}

/// The workspace `dev`, which has this newest build.
pub fn snapshot(latest: Build) -> Snapshot {
    Snapshot {
        workspace_name: "dev".into(),
        template: Some("t1".into()),
        dormant: false,
        latest,
        start_refusal: None,
    }
}

/// A root agent that is connected and ready.
pub fn agent(id: &str) -> Agent {
    Agent {
        id: id.into(),
        parent: None,
        name: "main".into(),
        order: 0,
        external: false,
        state: AgentState::Connected,
        lifecycle: Lifecycle::Ready,
        created: NOW - 7_200_000,
        first_connected: Some(NOW - 7_190_000),
        last_connected: Some(NOW),
        disconnected: None,
        process: None,
    }
}

/// A root agent that was seen to go so long before [`NOW`].
pub fn gone_agent(id: &str, for_ms: u64) -> Agent {
    Agent {
        state: AgentState::Disconnected,
        last_connected: Some(NOW - for_ms - 5_000),
        disconnected: Some(NOW - for_ms),
        ..agent(id)
    }
}

pub fn agents_of(build: Build, agents: Vec<Agent>) -> Agents {
    Agents { build, observed: Some(NOW), readable_for_ms: 600_000, agents }
}

/// A dial to the agent `a1` that timed out for the first time.
pub fn evidence() -> Evidence {
    Evidence {
        dial: Dial::TimedOut(30_000),
        dialed: Some("a1".into()),
        dialed_process: None,
        disconnected_at_start: None,
        earlier_timeouts: 0,
        control_plane_away: false,
        trusted_in_ms: None,
        earlier_away: 0,
        recent_restarts: 0,
    }
}

/// The policy of an ordinary deployment and a chat with all tools.
pub fn policy() -> Policy {
    Policy {
        recover_after_ms: 90_000,
        dial_timeout_ms: 30_000,
        never_connected: NeverConnected::AskUser,
        known_dead: Some(KnownDead { after_ms: 120_000, dial_ms: 5_000 }),
        max_restarts: 2,
        build_limit_ms: 600_000,
        restart_stop_limit_ms: 3_600_000,
        connect_limit_ms: 120_000,
        scripts_limit_ms: 600_000,
        conflict_rounds: 3,
        tools: ["stop_workspace", "start_workspace", "restart_workspace", "ask_user", "create_workspace"]
            .map(String::from)
            .to_vec(),
        ask_user_tool: Some("ask_user".into()),
        create_tool: Some("create_workspace".into()),
    }
}

/// A refusal that is only a sentence.
pub fn refusal(message: &str) -> Refusal {
    Refusal { message: message.into(), detail: None, validations: Vec::new(), template: None }
}
