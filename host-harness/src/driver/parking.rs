//! `wait-for-build` and `wait-for-agent`: where calls sleep.
//!
//! A call that waits is an entry in a table, and nothing else: no task, no future, no timer. One task reads the
//! workspaces that are waited for, each once however many calls wait for it, and tells the calls whose waits ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::bindings::{ReadError, WaitEnd};
use crate::driver::DriveError;
use crate::driver::host_calls::{Call, HostCalls};
use crate::journal::Answer;

mod parked;
mod poll_schedule;
mod poller;
mod probes;
mod reading;
mod waits;
mod watches;

#[cfg(test)]
mod tests;

use parked::Parked;
pub(super) use reading::Reader;
use waits::WaitTable;

/// All waits of a driver. Dropping it drops them, and ends the task that looks after them.
pub(super) struct Parking {
    reader: Arc<Reader>,
    shared: Arc<Shared>,
}

/// A wait, as it is parked. Texts that many waits have in common may be shared.
pub(super) struct Wait {
    /// The call that waits. A call has one wait at a time: parking another drops the one before.
    pub(super) call: u64,
    /// Its chat, for listeners.
    pub(super) chat: Arc<str>,
    /// The workspace that the call is pinned to.
    pub(super) workspace: Option<Arc<str>>,
    /// What it waits for.
    pub(super) what: WaitFor,
    /// Since when it waits; may lie before this process began.
    pub(super) begun: Instant,
}

/// What is waited for. A deadline may have passed: one read is made all the same.
pub(super) enum WaitFor {
    /// That the build's job is terminal.
    Build {
        /// The build.
        build: Arc<str>,
        /// How long.
        deadline: Instant,
    },
    /// That the agent is connected, then that its startup scripts have ended, then that a command can run on it.
    Agent {
        /// The build that the agent is of. It must stay the newest one.
        build: Arc<str>,
        /// The agent.
        agent: Arc<str>,
        /// How long it may take to connect.
        connect_deadline: Instant,
        /// How long it may take until a probe is answered, from when its scripts were seen to have ended.
        probe_limit: Duration,
        /// How long its scripts may take from when it was seen connected. Zero: they are not waited for.
        scripts_limit: Duration,
        /// When the wait ends whatever was seen.
        last_deadline: Instant,
    },
}

/// What becomes of the answer.
pub(super) enum ReplyTo {
    /// It goes to whoever wakes calls.
    Scheduler(mpsc::UnboundedSender<EndedWait>),
    /// It goes to one that waits for it. Dropped if the wait is dropped.
    Caller(oneshot::Sender<Answer>),
}

/// A call whose wait has ended.
#[derive(Debug)]
pub(super) struct EndedWait {
    /// The call.
    pub(super) call: u64,
    /// What the wait's request is answered with.
    pub(super) answer: Answer,
    /// The control plane's time of the read that ended the wait, if one did and it has one.
    pub(super) observed: Option<u64>,
}

/// What callers and the poller share.
#[derive(Default)]
struct Shared {
    table: Mutex<WaitTable>,
    /// Something was parked, or nothing is any more.
    changed: Notify,
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, WaitTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostCalls {
    /// Carries out a request to wait, which begins now. An interrupt of the call ends it at once; dropping the future
    /// drops the wait.
    pub(super) async fn wait(&self, call: &Call, what: WaitFor) -> Result<Answer, DriveError> {
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

impl WaitFor {
    /// A build, from now on for so long.
    pub(super) fn build(build: &str, limit_ms: u32) -> Self {
        Self::Build { build: build.into(), deadline: Instant::now() + Duration::from_millis(limit_ms.into()) }
    }

    /// An agent, from now on for so long, and for its scripts as long as allowed at most.
    pub(super) fn agent(build: &str, agent: &str, connect_limit_ms: u32, scripts_limit_ms: u32) -> Self {
        let connect_limit = Duration::from_millis(connect_limit_ms.into());
        let connect_deadline = Instant::now() + connect_limit;
        let scripts_limit = Duration::from_millis(scripts_limit_ms.into());
        Self::Agent {
            build: build.into(),
            agent: agent.into(),
            connect_deadline,
            probe_limit: connect_limit,
            scripts_limit,
            last_deadline: connect_deadline + scripts_limit,
        }
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
