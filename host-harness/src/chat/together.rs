//! Agents of many workspaces that go within seconds of each other: it is the control plane that was away then, and not
//! they. A server that is stopped in an orderly way records all its agents as gone, and shows them so until they had
//! the time to come back.

use crate::bindings::AgentState;
use crate::clock::millis;
use crate::control_plane::{ControlPlane, Workspace};
use crate::driver::HostCalls;
use crate::policy::{MANY_TOGETHER, Timings};

/// Whether the agent of a workspace, which went at `at`, went together with those of many others. They are read for
/// this; if they cannot be, nothing is known of them.
pub(super) async fn went_together(host_calls: &HostCalls, workspace: &str, at: u64) -> bool {
    let timings = host_calls.timings();
    let read = tokio::time::timeout(timings.last_read, host_calls.plane().workspaces()).await;
    matches!(read, Ok(Ok(all)) if are_many(&all, workspace, at, timings))
}

fn are_many(all: &[Workspace], workspace: &str, at: u64, timings: &Timings) -> bool {
    let (within, lasts) = (millis(timings.together_within).into(), u64::from(millis(timings.together_for)));
    let went = |other: &&Workspace| {
        let gone = other.agents.iter().filter(|agent| agent.state == AgentState::Disconnected);
        gone.filter_map(|agent| agent.disconnected).any(|gone| gone.abs_diff(at) <= within)
    };
    let is_recent = |other: &&Workspace| other.observed.is_some_and(|now| now.saturating_sub(at) < lasts);
    let others = all.iter().filter(|other| other.id != workspace).filter(went).filter(is_recent);
    others.count() + 1 >= MANY_TOGETHER
}
