//! Calls that somebody waits for.

use super::carry::Carrier;
use crate::journal::record::CallId;

/// A call that was begun for an asker who waits for it. Dropped, as the asker goes away, it interrupts the call if that
/// has sent nothing and nobody else on this host waits for it.
#[must_use = "a call that nobody waits for is interrupted"]
pub struct Wanted {
    carrier: Carrier,
    call: CallId,
    wanted: bool,
}

impl Wanted {
    pub(super) fn new(carrier: Carrier, call: CallId) -> Self {
        Self { carrier, call, wanted: true }
    }

    /// Its number.
    pub fn id(&self) -> CallId {
        self.call
    }

    /// It has ended, or goes on by itself from now on.
    pub fn goes_on(mut self) -> CallId {
        self.wanted = false;
        self.call
    }

    /// As dropping it, and waits until that is done.
    pub async fn abandon(mut self) {
        self.carrier.abandon(self.call).await;
        self.wanted = false;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if !self.wanted {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (carrier, call) = (self.carrier.clone(), self.call);
        runtime.spawn(async move { carrier.abandon(call).await });
    }
}
