//! The unended calls of a host, in memory.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::journal::record::CallId;
use crate::store::Turn;

/// Where the unended calls of this host are. Each is in one place.
#[derive(Default)]
pub(super) struct OwnedCalls {
    /// They run, or are about to.
    pub(super) running: BTreeMap<CallId, CancellationToken>,
    /// They sleep in the parking table.
    pub(super) parked: BTreeSet<CallId>,
    /// They wait for their turn.
    pub(super) queued: BTreeMap<CallId, QueuedCall>,
    /// This host had trouble with them; they are tried again then.
    pub(super) resting: BTreeMap<CallId, Instant>,
}

/// A call that waits for its turn.
pub(super) struct QueuedCall {
    /// At most until then.
    pub(super) until: Instant,
    /// What listeners were told last of where it stands.
    pub(super) last_announced: Option<Turn>,
}

impl OwnedCalls {
    pub(super) fn knows(&self, call: CallId) -> bool {
        self.running.contains_key(&call)
            || self.parked.contains(&call)
            || self.queued.contains_key(&call)
            || self.resting.contains_key(&call)
    }

    pub(super) fn forget(&mut self, call: CallId) {
        self.running.remove(&call);
        self.parked.remove(&call);
        self.queued.remove(&call);
        self.resting.remove(&call);
    }

    /// Notes that a call runs from now on, unless it does already or sleeps: whoever gets `true` has to send its job.
    pub(super) fn claim(&mut self, call: CallId) -> bool {
        let free = !self.running.contains_key(&call) && !self.parked.contains(&call);
        if free {
            self.run(call);
        }
        free
    }

    /// Notes that a call runs from now on.
    pub(super) fn run(&mut self, call: CallId) -> CancellationToken {
        let token = self.running.remove(&call).unwrap_or_default();
        self.forget(call);
        self.running.insert(call, token.clone());
        token
    }
}
