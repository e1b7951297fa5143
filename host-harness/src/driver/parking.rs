//! `wait-for-build` and `wait-for-agent`: where calls sleep.
//!
//! A call that waits is an entry in a table, and nothing else: no task, no future, no timer. One task reads the
//! workspaces that are waited for, each once however many calls wait for it, and tells the calls whose waits ended.

use std::sync::Arc;

use tokio::time::Instant;

use crate::bindings::{ReadError, WaitEnd};

mod parked;
mod poll_schedule;
mod poller;
mod probes;
mod reading;
mod wait;
mod waits;
mod watches;

#[cfg(test)]
mod tests;

use parked::Parked;
use poller::Shared;
pub(super) use reading::Reader;
pub(super) use wait::{EndedWait, ReplyTo, Wait, WaitFor};

/// All waits of a driver. Dropping it drops them, and ends the task that looks after them.
pub(super) struct Parking {
    reader: Arc<Reader>,
    shared: Arc<Shared>,
}

impl Parking {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader: Arc::new(reader), shared: Arc::default() }
    }

    /// Parks a wait and returns at once. Must be called within a runtime, in which the waits are then looked after.
    pub(super) fn park(&self, wait: Wait, done: ReplyTo) {
        let now = Instant::now();
        let (workspace, parked) = Parked::new(wait, done, now);
        if workspace.is_none() && parked.is_for_agent() {
            return parked.end(Err(ReadError::NotFound), None, now);
        }
        let mut table = self.shared.lock();
        table.park(workspace, parked, self.reader.timings.poll, now);
        poller::ensure(&mut table, &self.shared, &self.reader);
        drop(table);
        self.shared.changed.notify_one();
    }

    /// Ends a call's wait, if it has one, as interrupted and with the last thing known.
    pub(super) fn interrupt(&self, call: u64) {
        let removed = self.remove(call);
        if let Some(parked) = removed {
            parked.end(Ok(WaitEnd::Interrupted), None, Instant::now());
        }
    }

    /// Drops a call's wait, if it has one, without an answer.
    pub(super) fn forget(&self, call: u64) {
        drop(self.remove(call));
    }

    /// Drops all waits without answers. Nothing is read any more.
    pub(super) fn clear(&self) {
        let old = self.shared.lock().clear();
        self.shared.changed.notify_one();
        drop(old);
    }

    /// How many calls wait.
    pub(super) fn len(&self) -> usize {
        self.shared.lock().len()
    }

    fn remove(&self, call: u64) -> Option<Parked> {
        let mut table = self.shared.lock();
        let removed = table.remove(call);
        drop(table);
        if removed.is_some() {
            self.shared.changed.notify_one();
        }
        removed
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.clear();
    }
}
