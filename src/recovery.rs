//! Recovery.
use crate::contract::{Action, Cause, Connection, Evidence, Policy, Verdict};
use crate::host::Host;

/// Verdict.
pub fn classify(host: &dyn Host, _evidence: &Evidence, _policy: &Policy) -> Verdict {
    let _ = host.agent_status();
    Verdict {
        action: Action::Propagate,
        cause: Cause::Interrupted,
        counts_as_timeout: false,
        tools: vec![],
        message: String::new(),
    }
}

/// Connection.
pub fn check_connection(host: &dyn Host, _cached: &str) -> Connection {
    match host.agent_status() {
        _ => Connection::Reuse,
    }
}
