//! What was heard last of each call that this host carries: for tasks, and for clients that wait while nothing happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::error::RecvError;

use crate::driver::{Driver, Event, EventKind};
use crate::journal::record::CallId;
use crate::words::describe_event;

/// The newest words about each call. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<BTreeMap<CallId, String>>>);

impl Heard {
    /// Listens for as long as the driver lives.
    pub(super) fn listen(driver: &Driver) -> Self {
        let (heard, mut events) = (Self::default(), driver.subscribe());
        let hears = heard.clone();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => hears.hear(&event),
                    // A later event has the newest state.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        heard
    }

    /// None: it has ended, or another host carries it, or nothing has happened yet.
    pub(super) fn last(&self, call: CallId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&call).cloned()
    }

    fn hear(&self, event: &Event) {
        let Some(call) = event.call else { return };
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let EventKind::Ended = event.kind {
            heard.remove(&call);
        } else if let Some(text) = describe_event(&event.kind) {
            heard.insert(call, text);
        }
    }
}
