//! Tool calls that run as tasks of their own, and those who wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::driver::DriveError;
use crate::driver::call::{Call, Sent};
use crate::journal::Output;

/// What makes two calls the same call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) chat: String,
    pub(super) tool: String,
    pub(super) arguments: String,
}

type Outcome = Option<Result<Output, DriveError>>;

/// The calls that run now. Of equal calls the latest is remembered.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<Key, Attended>>);

/// A running call, as seen by somebody who waits for it.
#[derive(Clone)]
pub(super) struct Attended {
    call: u64,
    sent: Arc<Sent>,
    interrupt: CancellationToken,
    outcome: watch::Receiver<Outcome>,
}

/// The other end: ends the call.
pub(super) struct Finish {
    running: Arc<Running>,
    key: Key,
    call: u64,
    outcome: watch::Sender<Outcome>,
}

impl Running {
    /// The same call, if it runs and has sent something: it is joined instead of being made again.
    pub(super) fn sent(&self, key: &Key) -> Option<Attended> {
        self.lock().get(key).filter(|attended| attended.sent.is_sent()).cloned()
    }

    pub(super) fn enter(self: &Arc<Self>, key: Key, call: &Call) -> (Attended, Finish) {
        let (sender, outcome) = watch::channel(None);
        let attended = Attended {
            call: call.id(),
            sent: call.sent().clone(),
            interrupt: call.interrupt().clone(),
            outcome,
        };
        self.lock().insert(key.clone(), attended.clone());
        (attended, Finish { running: self.clone(), key, call: call.id(), outcome: sender })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Attended>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attended {
    /// Waits for the call's end. An interrupt is passed on to it, and its end is still waited for: it knows what was
    /// done. If this future is dropped, a call that has sent nothing is interrupted.
    pub(super) async fn output(mut self, interrupt: &CancellationToken) -> Result<Output, DriveError> {
        let mut abandon = Abandon(Some((self.sent.clone(), self.interrupt.clone())));
        let ended = tokio::select! {
            biased;
            outcome = self.outcome.wait_for(Option::is_some) => Some(outcome.map(|outcome| outcome.clone())),
            () = interrupt.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                self.interrupt.cancel();
                self.outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone())
            }
        };
        abandon.0 = None;
        ended.ok().flatten().unwrap_or(Err(DriveError::Aborted))
    }
}

impl Finish {
    pub(super) fn with(self, outcome: Result<Output, DriveError>) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if running.get(&self.key).is_some_and(|attended| attended.call == self.call) {
            running.remove(&self.key);
        }
    }
}

/// Interrupts an unattended call, if it has sent nothing.
struct Abandon(Option<(Arc<Sent>, CancellationToken)>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some((sent, interrupt)) = self.0.take()
            && sent.abandon()
        {
            interrupt.cancel();
        }
    }
}
