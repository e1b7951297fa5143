//! Calls that somebody waits for.

use tokio_util::sync::CancellationToken;

use super::scheduler::{EndSubscription, Scheduler};
use crate::driver::error::DriveError;
use crate::journal::record::{CallId, CallRecord};

/// A call that was begun or joined for an asker who waits for it. Dropped, as the asker goes away, it interrupts the
/// call if that has sent nothing, nobody has said that it is to go on by itself, and nobody else on this host waits for
/// it. A call that another host carries is left to that one's askers; if that host is gone, to those of the one that
/// takes over.
#[must_use = "a call that nobody waits for is interrupted"]
pub struct CallHandle {
    scheduler: Scheduler,
    call: CallId,
    /// Shows that it is waited for, since the transaction that began or joined it.
    subscription: Option<EndSubscription>,
    abandons_on_drop: bool,
}

impl Scheduler {
    /// As [`begin`](Self::begin), for somebody who waits for it.
    pub(super) async fn begin_with_handle(&self, record: CallRecord) -> Result<CallHandle, DriveError> {
        self.begin_unless(record, &CancellationToken::new()).await
    }

    /// As [`begin_with_handle`](Self::begin_with_handle). If it is interrupted before it has begun, it sends nothing.
    pub(super) async fn begin_unless(
        &self,
        record: CallRecord,
        interrupt: &CancellationToken,
    ) -> Result<CallHandle, DriveError> {
        self.begin_as(record, false, interrupt, CallHandle::new).await
    }
}

impl CallHandle {
    pub(super) fn new(scheduler: Scheduler, call: CallId, subscription: EndSubscription) -> Self {
        Self { scheduler, call, subscription: Some(subscription), abandons_on_drop: true }
    }

    /// Its number.
    pub fn id(&self) -> CallId {
        self.call
    }

    /// Lets go of the call without abandoning it: it has ended, or is to go on as far as this asker is concerned.
    pub fn release(mut self) -> CallId {
        self.abandons_on_drop = false;
        self.call
    }

    /// It goes on by itself from now on, whichever hosts carry it and whoever else goes away.
    pub async fn detach(self) -> CallId {
        self.scheduler.detach(self.call).await;
        self.release()
    }

    /// As dropping it, and waits until that is done.
    pub async fn abandon(mut self) {
        self.subscription = None;
        self.scheduler.abandon(self.call).await;
        self.abandons_on_drop = false;
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        if !self.abandons_on_drop {
            return;
        }
        self.subscription = None;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (scheduler, call) = (self.scheduler.clone(), self.call);
        runtime.spawn(async move { scheduler.abandon(call).await });
    }
}
