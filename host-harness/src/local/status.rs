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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::model::AgentSpec;

    const SECOND: Micros = 1_000_000;
    const NOW: Micros = 1_000 * SECOND;

    /// The status now of an agent made 120 s ago, which was seen first, last and gone at these times.
    fn at(
        limit: u32,
        first: Option<Micros>,
        last: Option<Micros>,
        gone: Option<Micros>,
    ) -> (Connection, Option<Micros>) {
        let agent = Agent {
            spec: AgentSpec { connection_timeout_seconds: limit, ..AgentSpec::default() },
            created_at: NOW - 120 * SECOND,
            first_connected_at: first,
            last_connected_at: last,
            disconnected_at: gone,
            id: String::new(),
            build_id: String::new(),
            workspace_id: String::new(),
            token: String::new(),
            updated_at: NOW,
            lifecycle: Lifecycle::Ready,
            started_at: None,
            ready_at: None,
            log_source_id: String::new(),
            retired: false,
        };
        let AgentStatus { connection, disconnected_at } =
            AgentStatus::at(&agent, NOW, Duration::from_secs(30));
        (connection, disconnected_at)
    }

    #[test]
    fn an_agent_that_never_connected_is_late_only_after_its_limit_and_never_without_one() {
        assert_eq!(at(120, None, None, None).0, Connection::Connecting, "the limit is exclusive");
        assert_eq!(at(119, None, None, None).0, Connection::Timeout);
        assert_eq!(at(0, None, None, None).0, Connection::Connecting);
    }

    #[test]
    fn a_silent_agent_is_disconnected_since_its_last_sign_of_life_and_only_after_the_limit() {
        let first = Some(NOW - 100 * SECOND);
        let (just, late) = (NOW - 30 * SECOND, NOW - 30 * SECOND - 1);
        assert_eq!(at(0, first, Some(just), None), (Connection::Connected, None), "the limit is exclusive");
        assert_eq!(at(0, first, Some(late), None), (Connection::Disconnected, Some(late)));
        let before = Some(late - SECOND);
        assert_eq!(
            at(0, first, Some(late), before),
            (Connection::Disconnected, Some(late)),
            "whatever was recorded"
        );
    }

    #[test]
    fn a_recorded_disconnect_counts_unless_the_agent_was_seen_later() {
        let first = Some(NOW - 100 * SECOND);
        let last = NOW - 10 * SECOND;
        assert_eq!(at(0, first, Some(last), Some(last)), (Connection::Disconnected, Some(last)));
        let earlier = Some(last - 1);
        assert_eq!(at(0, first, Some(last), earlier), (Connection::Connected, earlier), "the old time stays");
        assert_eq!(at(0, first, None, None), (Connection::Disconnected, None), "since nobody knows when");
    }
}
