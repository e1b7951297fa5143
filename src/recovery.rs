//! What to do when the agent of a workspace cannot be reached.

pub mod gone;
pub mod table;
mod text;

pub use text::{external_guidance, not_known};

use crate::agent_select;
use crate::build;
use crate::contract::{Agent, AgentState, Agents, Binding, Connection, Evidence, Policy, ReadError, Verdict};
use crate::host::Host;

/// What a fresh look at the chat's workspace gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Not looked at: the evidence alone decides.
    NotTaken,
    /// It could not be read.
    Unreadable,
    /// The chat is bound to no workspace, or to another one.
    Elsewhere,
    /// The workspace was deleted.
    Deleted,
    /// The newest build and its agents.
    Read(Agents),
}

/// The verdict on a connection failure: a row of the decision [`table`], and a text.
pub fn classify(host: &dyn Host, evidence: &Evidence, policy: &Policy) -> Verdict {
    let view = if table::evidence_decides(evidence) { View::NotTaken } else { look(host) };
    let row = table::decide(evidence, policy, &view);
    let (tools, message) = text::of(&row, evidence, policy, &view);
    Verdict {
        action: row.action,
        cause: row.cause,
        counts_as_timeout: row.counts_as_timeout,
        retry_after_ms: row.retry_after_ms.map(|wait| u32::try_from(wait).unwrap_or(u32::MAX)),
        tools,
        message,
    }
}

/// Whether a cached connection to the agent `cached` may be used again.
///
/// It may not if the agent is disconnected, for however short a time, or if the newest build has succeeded and does
/// not have that agent. Everything else keeps it, a read that failed included.
pub fn check_connection(host: &dyn Host, cached: &str) -> Connection {
    let Ok(agents) = host.agent_status() else { return Connection::Reuse };
    let redial = match agents.agents.iter().find(|agent| agent.id == cached) {
        Some(agent) => agent.state == AgentState::Disconnected,
        None => build::succeeded(&agents.build),
    };
    if redial { Connection::Redial } else { Connection::Reuse }
}

/// One consistent read. Only where it finds nothing a second one asks why.
fn look(host: &dyn Host) -> View {
    match host.agent_status() {
        Ok(agents) => View::Read(agents),
        Err(ReadError::NotFound) => match host.latest_build(false) {
            Ok(Binding::Unbound | Binding::Rebound) => View::Elsewhere,
            Ok(Binding::Deleted) => View::Deleted,
            Ok(Binding::Bound(_)) | Err(_) => View::Unreadable,
        },
        Err(_) => View::Unreadable,
    }
}

/// The agents that claim to be the chat's, where there are several.
fn claimants(agents: &Agents) -> Vec<String> {
    match agent_select::select(&agents.agents) {
        Err(agent_select::NoSelection::Ambiguous(names)) => names,
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "recovery/tests.rs"]
mod tests;
