//! Calls that somebody waits for.

use super::carry::{Attends, Carrier};
use crate::journal::record::CallId;

/// A call that was begun or joined for an asker who waits for it. Dropped, as the asker goes away, it interrupts the call
/// if that has sent nothing, nobody has said that it is to go on by itself, and nobody else on this host waits for it. A
/// call that another host carries is left to that one's askers; if that host is gone, to those of the one that takes over.
#[must_use = "a call that nobody waits for is interrupted"]
pub struct Wanted {
    carrier: Carrier,
    call: CallId,
    /// Shows that it is waited for, since the transaction that began or joined it.
    attends: Option<Attends>,
    wanted: bool,
}

impl Wanted {
    pub(super) fn new(carrier: Carrier, call: CallId, attends: Attends) -> Self {
        Self { carrier, call, attends: Some(attends), wanted: true }
    }

    /// Its number.
    pub fn id(&self) -> CallId {
        self.call
    }

    /// It has ended, or goes on as far as this asker is concerned.
    pub fn goes_on(mut self) -> CallId {
        self.wanted = false;
        self.call
    }

    /// It goes on by itself from now on, whichever hosts carry it and whoever else goes away.
    pub async fn detach(self) -> CallId {
        self.carrier.detach(self.call).await;
        self.goes_on()
    }

    /// As dropping it, and waits until that is done.
    pub async fn abandon(mut self) {
        self.attends = None;
        self.carrier.abandon(self.call).await;
        self.wanted = false;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if !self.wanted {
            return;
        }
        self.attends = None;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (carrier, call) = (self.carrier.clone(), self.call);
        runtime.spawn(async move { carrier.abandon(call).await });
    }
}
