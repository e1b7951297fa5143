//! How often workspaces are polled, and how long waits stay for a poll.

use std::time::Duration;

use tokio::time::Instant;

use super::parked::Parked;
use super::wait::WorkspaceKey;
use crate::driver::jitter::jittered;

/// How long a wait whose time is over stays for the read that it is still owed, while others are read first.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How many times as long the polling interval is while a stream of changes lives: that is the first means then, and
/// polling the safety net, because not every change is announced. Far below the silence after which reads do not count
/// as having worked without a gap.
const STRETCH: u32 = 5;
/// The least time between the begin of a read and one made for an announced change: announcements come in heaps.
pub(super) const HEAP: Duration = Duration::from_millis(100);

/// A poll that is being made.
#[derive(Clone, Copy)]
pub(super) struct PollInFlight {
    pub(super) number: u64,
    pub(super) begun: Instant,
}

/// When a wait ends although the poll at its workspace has not. A look is given one polling interval; beyond that, one
/// that hangs does not outlast the deadline.
pub(super) fn overdue(parked: &Parked, in_flight: Option<PollInFlight>, poll: Duration) -> Instant {
    match in_flight {
        Some(in_flight) if parked.since < in_flight.number => parked.deadline.max(in_flight.begun + poll),
        // The look was begun before the wait, and seems to hang.
        Some(_) => parked.deadline + poll,
        None => parked.deadline + PATIENCE,
    }
}

/// The time to the next poll; `announced`: changes are, too. Always the same for the same workspace and count.
pub(super) fn interval(poll: Duration, announced: bool, workspace: &WorkspaceKey, count: u32) -> Duration {
    jittered(poll * if announced { STRETCH } else { 1 }, workspace.as_deref().unwrap_or_default(), count)
}
