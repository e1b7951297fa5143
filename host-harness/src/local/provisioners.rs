//! The provisioners: how many there are, and the builds that they carry out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::db::new_id;

/// The provisioners and what they do.
#[derive(Debug)]
pub(super) struct Provisioners {
    count: AtomicUsize,
    /// The builds that run, with what cancels them.
    running: Mutex<HashMap<String, CancellationToken>>,
    pub(super) wake: Notify,
    pub(super) worker_id: String,
}

impl Provisioners {
    pub fn new(count: usize) -> Self {
        Self {
            count: AtomicUsize::new(count),
            running: Mutex::default(),
            wake: Notify::new(),
            worker_id: new_id(),
        }
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn set_count(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A build was queued.
    pub fn queued(&self) {
        self.wake.notify_one();
    }

    /// Tells a build that runs of its cancel.
    pub fn cancel(&self, build: &str) {
        if let Some(cancel) = self.running().get(build) {
            cancel.cancel();
        }
    }

    pub(super) fn running(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
