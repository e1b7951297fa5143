//! `wait-for-build` and `wait-for-agent` of a call that is carried out at once.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::DriveError;
use super::host_calls::{CallContext, HostCalls};
use super::parking::{Parking, ReplyTo, Wait, WaitFor};
use crate::journal::Answer;

impl HostCalls {
    /// Carries out a request to wait, which begins now. An interrupt of the call ends it at once; dropping the future
    /// drops the wait.
    pub(super) async fn wait(&self, call: &CallContext, what: WaitFor) -> Result<Answer, DriveError> {
        let wait = Wait {
            call: call.number(),
            chat: call.chat().into(),
            workspace: call.workspace().map(Arc::from),
            what,
            begun: Instant::now(),
        };
        let (done, mut answer) = oneshot::channel();
        self.parking.park(wait, ReplyTo::Caller(done));
        let _forget = Forget { parking: &self.parking, call: call.number() };
        let ended = tokio::select! {
            biased;
            ended = &mut answer => ended,
            () = call.interrupt().cancelled() => {
                self.parking.interrupt(call.number());
                answer.await
            }
        };
        ended.map_err(|_| DriveError::Halted)
    }
}

/// Drops a wait that nobody waits for any more.
struct Forget<'a> {
    parking: &'a Parking,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.parking.forget(self.call);
    }
}
