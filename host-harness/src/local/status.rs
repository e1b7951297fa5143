//! An agent's status and health, derived from what is recorded of its connection.

use std::time::Duration;

use super::db::Micros;
use super::db::agents::Agent;
use super::model::Lifecycle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Connecting,
    Timeout,
    Connected,
    Disconnected,
}

/// The status at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AgentStatus {
    pub connection: Connection,
    /// As reported: a copy of the last sign of life where nobody saw the agent go.
    pub disconnected_at: Option<Micros>,
}

impl Connection {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Timeout => "timeout",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

impl AgentStatus {
    /// The first rule that matches decides. Both limits are exclusive.
    pub fn at(agent: &Agent, now: Micros, inactive: Duration) -> Self {
        let as_recorded = |connection| Self { connection, disconnected_at: agent.disconnected_at };
        if agent.first_connected_at.is_none() {
            let limit = Duration::from_secs(agent.spec.connection_timeout_seconds.into());
            let late = !limit.is_zero() && longer(now - agent.created_at, limit);
            return as_recorded(if late { Connection::Timeout } else { Connection::Connecting });
        }
        if agent.disconnected_at >= agent.last_connected_at {
            return as_recorded(Connection::Disconnected);
        }
        match agent.last_connected_at {
            Some(last) if longer(now - last, inactive) => {
                Self { connection: Connection::Disconnected, disconnected_at: Some(last) }
            }
            Some(_) => as_recorded(Connection::Connected),
            None => as_recorded(Connection::Disconnected),
        }
    }

    /// None: healthy. A startup script that takes too long is no illness, and an agent that still connects is none.
    pub fn illness(self, lifecycle: Lifecycle) -> Option<&'static str> {
        match (self.connection, lifecycle) {
            (Connection::Connecting, _) => None,
            (Connection::Timeout, _) => Some("the agent has not connected in time"),
            (Connection::Disconnected, Lifecycle::Off) => Some("the agent is not running"),
            (Connection::Disconnected, _) => Some("the connection to the agent is lost"),
            (Connection::Connected, Lifecycle::StartError) => Some("the startup script failed"),
            (Connection::Connected, Lifecycle::ShuttingDown | Lifecycle::Off) => {
                Some("the agent is shutting down")
            }
            (Connection::Connected, _) => None,
        }
    }
}

fn longer(micros: Micros, limit: Duration) -> bool {
    u64::try_from(micros).is_ok_and(|micros| Duration::from_micros(micros) > limit)
}
