//! What was progress last of each call that this host carries: for tasks, and for clients that wait while nothing
//! happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;

use crate::describe::describe_event;
use crate::driver::{Driver, Event};
use crate::journal::record::CallId;

/// The newest words about each call. Cheap to clone.
#[derive(Clone)]
pub(super) struct LastProgress(Arc<Shared>);

struct Shared {
    driver: Driver,
    words: Mutex<BTreeMap<CallId, String>>,
}

impl LastProgress {
    /// Listens for as long as somebody may ask.
    pub(super) fn listen(driver: &Driver) -> Self {
        let progress = Self(Arc::new(Shared { driver: driver.clone(), words: Mutex::default() }));
        let (shared, mut events) = (Arc::downgrade(&progress.0), driver.subscribe());
        tokio::spawn(async move {
            loop {
                let event = events.recv().await;
                let Some(shared) = shared.upgrade() else { return };
                match event {
                    Ok(event) => shared.hear(&event),
                    // What was missed may be what was last.
                    Err(RecvError::Lagged(_)) => shared.words().clear(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        progress
    }

    /// None: it has ended, or another host carries it, or nothing has happened yet.
    pub(super) fn last(&self, call: CallId) -> Option<String> {
        self.0.driver.carries(call).then(|| self.0.words().get(&call).cloned()).flatten()
    }
}

impl Shared {
    fn words(&self) -> MutexGuard<'_, BTreeMap<CallId, String>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: &Event) {
        let Some((call, text)) = event.call.zip(describe_event(&event.kind)) else { return };
        let mut words = self.words();
        if words.insert(call, text).is_none() {
            // Calls leave a host in several ways: they end, or it loses its lease and others take them over.
            words.retain(|call, _| self.driver.carries(*call));
        }
    }
}
