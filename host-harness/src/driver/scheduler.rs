//! Carries the calls of this host: gives them their turns, lets them run, parks those that wait, and takes over those
//! of hosts that are gone.
//!
//! A call that runs is a task; one that waits, for the control plane or for its turn, is an entry in a map. All calls
//! of a host stand under one lease. When that is lost, everything of this host stops at once, and it begins anew as
//! another host.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::activation::ResumePoint;
use super::host_calls::HostCalls;
use super::inside::Inside;
use super::parking::EndedWait;
use crate::control_plane::ApiError;
use crate::driver::error::DriveError;
use crate::driver::events::EventKind;
use crate::engine::Plugin;
use crate::journal::record::{CallId, CallRecord, Failure, Outcome, Recording};
use crate::store::lease::Lease;
use crate::store::{Abandoned, BeginOutcome, NewCall, SelfEnding, StoreError};

/// How long a call that met trouble of this host rests before it is tried again, and how long a host rests that cannot
/// enter the store.
const REST: Duration = Duration::from_secs(5);
/// How long calls may take to come to their next wait when their host leaves: a request or two.
const LEAVING: Duration = Duration::from_secs(10);

mod owned;
mod supervisor;
mod tasks;
#[cfg(test)]
#[cfg(feature = "simulate")]
mod tests;

use owned::{OwnedCalls, QueuedCall};

/// How a call ended, or the trouble that it met.
pub(super) type CallEnd = Result<Outcome, DriveError>;

/// Schedules the calls of a host: which of them runs, waits, rests or is taken over. Cheap to clone.
#[derive(Clone)]
pub(super) struct Scheduler(Arc<Inner>);

struct Inner {
    host_calls: HostCalls,
    /// The plugin that new calls run on.
    plugin: Plugin,
    inside: Option<Inside>,
    /// See [`self_ending`](Scheduler::self_ending).
    self_ending: OnceLock<Option<SelfEnding>>,
    /// Plugins that calls in the store began on, by hash.
    others: Mutex<BTreeMap<String, Plugin>>,
    owned: Mutex<OwnedCalls>,
    /// Those who wait for the end of calls: at least one for each call that is here.
    subscribers: Mutex<BTreeMap<CallId, Vec<oneshot::Sender<CallEnd>>>>,
    /// Calls of other hosts that nobody here waits for any more: to be looked at again when this host takes calls over,
    /// and now and then.
    left: Mutex<BTreeSet<CallId>>,
    jobs: mpsc::UnboundedSender<RunJob>,
    ended_waits: mpsc::UnboundedSender<EndedWait>,
    /// Taken by the supervisor when it begins.
    inbox: Mutex<Option<Inbox>>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    lease_state: Mutex<LeaseState>,
    /// `lease_state` has changed. Wakes in order of arrival, always the same: a `watch` channel does so by chance.
    lease_state_changed: Notify,
    /// This host is about to leave: it begins nothing more.
    leaving: CancellationToken,
    /// Somebody was told that the lease is lost.
    lost: Notify,
}

type Inbox = (mpsc::UnboundedReceiver<RunJob>, mpsc::UnboundedReceiver<EndedWait>);

/// How this host stands with the store.
#[derive(Clone)]
enum LeaseState {
    Entering,
    Held(Arc<Lease>),
    Failed(StoreError),
}

/// A subscription to the end of a call: somebody waits for it, for as long as this lives.
pub(super) struct EndSubscription {
    scheduler: Scheduler,
    call: CallId,
    ended: oneshot::Receiver<CallEnd>,
}

/// A call that is to run.
struct RunJob {
    call: CallId,
    from: ResumePoint,
    /// What is kept of it, where that is known already.
    recording: Option<Box<Recording>>,
}

impl Scheduler {
    pub(super) fn new(host_calls: HostCalls, plugin: Plugin, inside: Option<Inside>) -> Self {
        let ((jobs, next_job), (ended_waits, next_ended_wait)) =
            (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        Self(Arc::new(Inner {
            host_calls,
            plugin,
            inside,
            self_ending: OnceLock::new(),
            others: Mutex::default(),
            owned: Mutex::default(),
            subscribers: Mutex::default(),
            left: Mutex::default(),
            jobs,
            ended_waits,
            inbox: Mutex::new(Some((next_job, next_ended_wait))),
            supervisor: Mutex::default(),
            lease_state: Mutex::new(LeaseState::Entering),
            lease_state_changed: Notify::new(),
            leaving: CancellationToken::new(),
            lost: Notify::new(),
        }))
    }

    /// Begins a call, or finds the one that it is the same as. It goes on whether or not anybody waits for it.
    pub(super) async fn begin(&self, record: CallRecord) -> Result<CallId, DriveError> {
        self.begin_as(record, true, &CancellationToken::new(), |_, call, _| call).await
    }

    /// Dropping the future does not stop half-way: what the store has, this host has to know. What nobody is there to
    /// take is dropped as well.
    pub(super) async fn begin_as<T: Send + 'static>(
        &self,
        record: CallRecord,
        detached: bool,
        interrupt: &CancellationToken,
        begun_as: fn(Self, CallId, EndSubscription) -> T,
    ) -> Result<T, DriveError> {
        let (scheduler, (tell, told)) = (self.clone(), oneshot::channel());
        let component = self.0.plugin.component().clone();
        let new = NewCall { record, component, detached, interrupt: interrupt.clone() };
        tokio::spawn(async move {
            let begun = scheduler.begin_here(new).await;
            let begun = begun.map(|(call, subscription)| begun_as(scheduler, call, subscription));
            let _ = tell.send(begun);
        });
        told.await.unwrap_or(Err(DriveError::Halted))
    }

    /// Somebody does not wait for a call any more. It is interrupted if it has sent nothing, and goes on for nobody
    /// else who is known here.
    pub(super) async fn abandon(&self, call: CallId) {
        let (host_calls, here) = (&self.0.host_calls, self.clone());
        let by = self.current().map(|lease| lease.host());
        let is_unwanted = move || !here.has_subscribers(call);
        // Before it is known whose the judgement is: that host may go away, and this one take over, in between.
        lock(&self.0.left).insert(call);
        let abandoned = host_calls.store().abandon(call, by, host_calls.clock().now_ms(), is_unwanted).await;
        if abandoned != Ok(Abandoned::Elsewhere) {
            lock(&self.0.left).remove(&call);
        }
        match abandoned {
            Ok(Abandoned::Interrupted) => self.interrupt(call).await,
            Ok(Abandoned::Elsewhere | Abandoned::GoesOn) => {}
            Err(error) => tracing::warn!(call, %error, "a call that nobody waits for goes on"),
        }
    }

    /// Lets a call go on whether or not anybody waits for it.
    pub(super) async fn detach(&self, call: CallId) {
        if let Err(error) = self.0.host_calls.store().detach(call).await {
            tracing::warn!(call, %error, "a call may end when those who joined it go away");
        }
    }

    async fn begin_here(&self, new: NewCall) -> Result<(CallId, EndSubscription), DriveError> {
        let lease = self.lease().await?;
        let here = self.clone();
        let (record, interrupt) = (new.record.clone(), new.interrupt.clone());
        let begun = lease.begin_and(new, move |call| here.subscribe_to_end(call)).await;
        let (begun, subscription) = begun.inspect_err(|error| self.note_store_error(error))?;
        let (chat, tool) = (&record.chat, record.call.name().to_owned());
        match &begun {
            BeginOutcome::Active(id) => {
                self.0.host_calls.announce(*id, chat, EventKind::Started { tool });
                // Since it is in the store it may have been adopted: it runs, sleeps or rests then.
                let mut owned = lock(&self.0.owned);
                if !owned.knows(*id) {
                    let token = owned.run(*id);
                    // Noted in the store if it was there in time; seen here before the call's first step either way.
                    if interrupt.is_cancelled() {
                        token.cancel();
                    }
                    let call = record.clone();
                    let recording = Recording { call, entries: Vec::new(), open: None, outcome: None };
                    self.send(RunJob {
                        call: *id,
                        from: ResumePoint::Beginning,
                        recording: Some(Box::new(recording)),
                    });
                }
            }
            BeginOutcome::Queued(id, turn) => {
                let until = self.end_of_queue(record.created_ms);
                let mut owned = lock(&self.0.owned);
                // Since it is in the store it may have got its turn, and have ended. One that cannot be read waits.
                if !owned.knows(*id) && self.is_carried(&lease, *id).unwrap_or(true) {
                    owned.queued.insert(*id, QueuedCall { until, last_announced: Some(turn.clone()) });
                    // Before somebody else finds it here, and can end it.
                    self.0.host_calls.announce(*id, chat, EventKind::WaitingForTurn(turn.clone()));
                }
            }
            BeginOutcome::Same(_) | BeginOutcome::KeyTaken(_) | BeginOutcome::Busy(_) => {}
        }
        let call = number(begun, record)?;
        Ok((call, subscription.unwrap_or_else(|| self.subscribe_to_end(call))))
    }

    /// Leaves a call to a host that stands by, or finds the one that it is the same as.
    pub(super) async fn submit(&self, record: CallRecord) -> Result<CallId, DriveError> {
        let component = self.0.plugin.component().clone();
        let new = NewCall {
            record: record.clone(),
            component,
            detached: true,
            interrupt: CancellationToken::new(),
        };
        let begun = self.0.host_calls.store().submit(new).await?;
        number(begun, record)
    }

    /// Subscribes to the end of a call, from now on.
    pub(super) fn subscribe_to_end(&self, call: CallId) -> EndSubscription {
        let (sender, ended) = oneshot::channel();
        lock(&self.0.subscribers).entry(call).or_default().push(sender);
        EndSubscription { scheduler: self.clone(), call, ended }
    }

    /// Whether somebody on this host waits for the end of a call.
    fn has_subscribers(&self, call: CallId) -> bool {
        lock(&self.0.subscribers).contains_key(&call)
    }

    /// Passes an interrupt on that the store has noted, if the call is this host's.
    pub(super) async fn interrupt(&self, call: CallId) {
        let queued = {
            let owned = lock(&self.0.owned);
            if let Some(token) = owned.running.get(&call) {
                token.cancel();
            }
            owned.queued.contains_key(&call)
        };
        // Ends with the answer that it was interrupted, and wakes the call.
        self.0.host_calls.parking().interrupt(call);
        if queued {
            self.end_queued(call, Failure::Interrupted).await;
        }
    }

    /// The calls that this host leaves to others, because they would end its own process; `None` if there are none.
    /// Asked for until they are known, side by side, as is the [user](HostCalls::user).
    pub(super) async fn self_ending(&self) -> Result<Option<SelfEnding>, ApiError> {
        let (Some(inside), None) = (&self.0.inside, self.0.self_ending.get()) else {
            return Ok(self.0.self_ending.get().cloned().flatten());
        };
        let self_ending = match inside.workspace_id(self.0.host_calls.plane()).await? {
            None => None,
            Some(workspace) => {
                // With a plugin that cannot list its tools no call goes on.
                let tools = self.0.plugin.list_tools().await.unwrap_or_default().into_iter();
                let tools = tools.filter(|tool| tool.destructive).map(|tool| tool.name).collect();
                Some(SelfEnding { workspace, tools })
            }
        };
        Ok(self.0.self_ending.get_or_init(|| self_ending).clone())
    }

    /// Carries calls of hosts that are gone, from now on.
    pub(super) async fn stand_by(&self) -> Result<(), DriveError> {
        self.lease().await.map(drop)
    }

    /// Whether a call is this host's and has not ended.
    pub(super) fn carries(&self, call: CallId) -> bool {
        lock(&self.0.owned).knows(call)
    }

    /// How many calls of this host have not ended.
    pub(super) fn unended(&self) -> usize {
        let owned = lock(&self.0.owned);
        owned.running.len() + owned.parked.len() + owned.queued.len() + owned.resting.len()
    }

    /// Stops everything at once, as a crash would: the calls stay as they are in the store.
    pub(super) fn halt(&self) {
        if let Some(supervisor) = lock(&self.0.supervisor).take() {
            supervisor.abort();
        }
        self.0.host_calls.parking().clear();
    }

    /// Lets calls come to their next wait, stops, and leaves them to other hosts.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        self.0.leaving.cancel();
        let supervisor = lock(&self.0.supervisor).take();
        if let Some(mut supervisor) = supervisor
            && tokio::time::timeout(LEAVING, &mut supervisor).await.is_err()
        {
            supervisor.abort();
        }
        self.halt();
        match self.current() {
            Some(lease) => lease.leave().await,
            None => Ok(()),
        }
    }

    fn current(&self) -> Option<Arc<Lease>> {
        match &*lock(&self.0.lease_state) {
            LeaseState::Held(lease) => Some(lease.clone()),
            LeaseState::Entering | LeaseState::Failed(_) => None,
        }
    }

    /// This host's lease; the host enters the store if it has not yet.
    async fn lease(&self) -> Result<Arc<Lease>, DriveError> {
        if let Some(inbox) = lock(&self.0.inbox).take() {
            let supervisor = tokio::spawn(self.clone().supervise(inbox));
            *lock(&self.0.supervisor) = Some(supervisor);
        }
        loop {
            let mut changed = std::pin::pin!(self.0.lease_state_changed.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            match lock(&self.0.lease_state).clone() {
                LeaseState::Held(lease) => return Ok(lease),
                LeaseState::Failed(error) => return Err(error.into()),
                LeaseState::Entering => {}
            }
            changed.await;
        }
    }

    fn set_lease_state(&self, lease_state: LeaseState) {
        *lock(&self.0.lease_state) = lease_state;
        self.0.lease_state_changed.notify_waiters();
    }
}

impl EndSubscription {
    /// Waits until a call that this host carries ends, or meets trouble. None: it has ended otherwise, or is not this
    /// host's any more.
    pub(super) async fn ended(&mut self) -> Option<CallEnd> {
        (&mut self.ended).await.ok()
    }
}

impl Drop for EndSubscription {
    /// A call that another host carries, or that had ended before, is never told to have ended here.
    fn drop(&mut self) {
        self.ended.close();
        let mut subscribers = lock(&self.scheduler.0.subscribers);
        if let Entry::Occupied(mut all) = subscribers.entry(self.call) {
            all.get_mut().retain(|one| !one.is_closed());
            if all.get().is_empty() {
                all.remove();
            }
        }
    }
}

/// The number of a call that was begun.
fn number(begun: BeginOutcome, record: CallRecord) -> Result<CallId, DriveError> {
    match begun {
        BeginOutcome::Active(id) | BeginOutcome::Queued(id, _) | BeginOutcome::Same(id) => Ok(id),
        BeginOutcome::KeyTaken(call) => {
            Err(DriveError::KeyTaken { key: record.key.unwrap_or_default(), call })
        }
        BeginOutcome::Busy(holder) => Err(Failure::Busy { holder }.into()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
