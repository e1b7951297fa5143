//! Carries the calls of this host: gives them their turns, lets them run, parks those that wait, and takes over those of
//! hosts that are gone.
//!
//! A call that runs is a task; one that waits, for the control plane or for its turn, is an entry in a map. All calls
//! of a host stand under one lease. When that is lost, everything of this host stops at once, and it begins anew as
//! another host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::call::{Call, Performer};
use super::parking::{Done, Wait, WaitFor, Woken};
use super::run::{Came, From, Run};
use super::{DriveError, EventKind};
use crate::control_plane::{ControlPlane, millis};
use crate::engine::Plugin;
use crate::journal::Request;
use crate::journal::record::{CallId, CallRecord, Failure, Holder, Intent, Open, Outcome, Recording};
use crate::store::{Begun, CallRow, CallState, KEEP_ENDED, Lease, NewCall, StoreError};

/// Calls that run at the same time; more wait for one of them to end or to sleep. Running takes a journal in memory.
const RUNNING: usize = 256;
/// How long a call that met trouble of this host rests before it is tried again, and how long a host rests that cannot
/// enter the store.
const REST: Duration = Duration::from_secs(5);
/// How long calls may take to come to their next wait when their host leaves: a request or two.
const LEAVING: Duration = Duration::from_secs(10);
/// How often old calls are removed.
const CLEAN_UP: Duration = Duration::from_secs(60 * 60);

type Ended = Result<Outcome, DriveError>;

/// The calls of a host. Cheap to clone.
#[derive(Clone)]
pub(super) struct Carrier(Arc<Inner>);

struct Inner {
    performer: Performer,
    /// The plugin that new calls run on.
    plugin: Plugin,
    /// Plugins that calls in the store began on, by hash.
    others: Mutex<BTreeMap<String, Plugin>>,
    mine: Mutex<Mine>,
    /// Those who wait for the end of calls.
    attending: Mutex<BTreeMap<CallId, Vec<oneshot::Sender<Ended>>>>,
    jobs: mpsc::UnboundedSender<Job>,
    woken: mpsc::UnboundedSender<Woken>,
    /// Taken by the supervisor when it begins.
    queues: Mutex<Option<Queues>>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    holding: watch::Sender<Holding>,
    /// This host is about to leave: it begins nothing more.
    leaving: CancellationToken,
    /// Somebody was told that the lease is lost.
    lost: Notify,
}

type Queues = (mpsc::UnboundedReceiver<Job>, mpsc::UnboundedReceiver<Woken>);

/// Where the unended calls of this host are. Each is in one place.
#[derive(Default)]
struct Mine {
    /// They run, or are about to.
    running: BTreeMap<CallId, CancellationToken>,
    /// They sleep in the parking lot.
    parked: BTreeSet<CallId>,
    /// They wait for their turn, at most until then.
    queued: BTreeMap<CallId, Instant>,
    /// This host had trouble with them; they are tried again then.
    resting: BTreeMap<CallId, Instant>,
}

/// How this host stands with the store.
#[derive(Clone)]
enum Holding {
    Entering,
    Lease(Arc<Lease>),
    Failed(StoreError),
}

/// A call that is to run.
struct Job {
    call: CallId,
    from: From,
    /// What is kept of it, where that is known already.
    recording: Option<Box<Recording>>,
}

impl Mine {
    fn knows(&self, call: CallId) -> bool {
        self.running.contains_key(&call)
            || self.parked.contains(&call)
            || self.queued.contains_key(&call)
            || self.resting.contains_key(&call)
    }

    fn forget(&mut self, call: CallId) {
        self.running.remove(&call);
        self.parked.remove(&call);
        self.queued.remove(&call);
        self.resting.remove(&call);
    }

    /// Notes that a call runs from now on, unless it does already or sleeps: whoever gets `true` has to send its job.
    fn claim(&mut self, call: CallId) -> bool {
        let free = !self.running.contains_key(&call) && !self.parked.contains(&call);
        if free {
            self.run(call);
        }
        free
    }

    /// Notes that a call runs from now on.
    fn run(&mut self, call: CallId) -> CancellationToken {
        let token = self.running.remove(&call).unwrap_or_default();
        self.forget(call);
        self.running.insert(call, token.clone());
        token
    }
}

impl Carrier {
    pub(super) fn new(performer: Performer, plugin: Plugin) -> Self {
        let ((jobs, next_job), (woken, next_woken)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        Self(Arc::new(Inner {
            performer,
            plugin,
            others: Mutex::default(),
            mine: Mutex::default(),
            attending: Mutex::default(),
            jobs,
            woken,
            queues: Mutex::new(Some((next_job, next_woken))),
            supervisor: Mutex::default(),
            holding: watch::Sender::new(Holding::Entering),
            leaving: CancellationToken::new(),
            lost: Notify::new(),
        }))
    }

    /// Begins a call, or finds the one that it is the same as. It goes on whether or not anybody waits for it.
    pub(super) async fn begin(&self, record: CallRecord) -> Result<CallId, DriveError> {
        let lease = self.lease().await?;
        let component = self.0.plugin.component().clone();
        let begun = lease.begin(NewCall { record: record.clone(), component }).await;
        let begun = begun.inspect_err(|error| self.heard(error))?;
        let (chat, tool) = (&record.chat, record.call.name().to_owned());
        match &begun {
            Begun::Active(id) => {
                self.0.performer.announce(*id, chat, EventKind::Started { tool });
                // Since it is in the store it may have been adopted.
                if lock(&self.0.mine).claim(*id) {
                    let call = record.clone();
                    let recording = Recording { call, entries: Vec::new(), open: None, outcome: None };
                    self.send(Job { call: *id, from: From::Beginning, recording: Some(Box::new(recording)) });
                }
            }
            Begun::Queued(id, holder) => {
                let until = self.end_of_queue(record.created_ms);
                let mut mine = lock(&self.0.mine);
                if !mine.knows(*id) {
                    mine.queued.insert(*id, until);
                }
                drop(mine);
                self.0.performer.announce(*id, chat, EventKind::WaitingForTurn { holder: holder.clone() });
            }
            Begun::Same(_) | Begun::KeyTaken(_) | Begun::Busy(_) => {}
        }
        number(begun, record)
    }

    /// Leaves a call to a host that stands by, or finds the one that it is the same as.
    pub(super) async fn submit(&self, record: CallRecord) -> Result<CallId, DriveError> {
        let component = self.0.plugin.component().clone();
        let begun = self.0.performer.store().submit(NewCall { record: record.clone(), component }).await?;
        number(begun, record)
    }

    /// Tells when a call that this host carries ends, or meets trouble.
    pub(super) fn attend(&self, call: CallId) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.0.attending).entry(call).or_default().push(sender);
        receiver
    }

    /// Passes an interrupt on that the store has noted, if the call is this host's.
    pub(super) async fn interrupt(&self, call: CallId) {
        let queued = {
            let mine = lock(&self.0.mine);
            if let Some(token) = mine.running.get(&call) {
                token.cancel();
            }
            mine.queued.contains_key(&call)
        };
        // Ends with the answer that it was interrupted, and wakes the call.
        self.0.performer.parking().interrupt(call);
        if queued {
            self.end_queued(call, Failure::Interrupted).await;
        }
    }

    /// Carries calls of hosts that are gone, from now on.
    pub(super) async fn stand_by(&self) -> Result<(), DriveError> {
        self.lease().await.map(drop)
    }

    /// How many calls of this host have not ended.
    pub(super) fn unended(&self) -> usize {
        let mine = lock(&self.0.mine);
        mine.running.len() + mine.parked.len() + mine.queued.len() + mine.resting.len()
    }

    /// Stops everything at once, as a crash would: the calls stay as they are in the store.
    pub(super) fn halt(&self) {
        if let Some(supervisor) = lock(&self.0.supervisor).take() {
            supervisor.abort();
        }
        self.0.performer.parking().clear();
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
        match &*self.0.holding.borrow() {
            Holding::Lease(lease) => Some(lease.clone()),
            Holding::Entering | Holding::Failed(_) => None,
        }
    }

    /// This host's lease; the host enters the store if it has not yet.
    async fn lease(&self) -> Result<Arc<Lease>, DriveError> {
        if let Some(queues) = lock(&self.0.queues).take() {
            let supervisor = tokio::spawn(self.clone().supervise(queues));
            *lock(&self.0.supervisor) = Some(supervisor);
        }
        let mut holding = self.0.holding.subscribe();
        let holding = holding.wait_for(|holding| !matches!(holding, Holding::Entering)).await;
        match holding.map(|holding| holding.clone()) {
            Ok(Holding::Lease(lease)) => Ok(lease),
            Ok(Holding::Failed(error)) => Err(error.into()),
            Ok(Holding::Entering) | Err(_) => Err(DriveError::Halted),
        }
    }

    /// Enters the store, carries calls for as long as the lease lasts, and begins anew.
    async fn supervise(self, mut queues: Queues) {
        loop {
            match self.enter().await {
                Ok(lease) => {
                    self.0.holding.send_replace(Holding::Lease(lease.clone()));
                    let Some(error) = self.carry(&lease, &mut queues).await else { return };
                    tracing::warn!(host = lease.host(), %error, "this host begins anew");
                    self.0.holding.send_replace(Holding::Entering);
                }
                Err(error) => {
                    tracing::warn!(%error, "this host cannot enter the store");
                    self.0.holding.send_replace(Holding::Failed(error));
                    tokio::time::sleep(REST).await;
                }
            }
            self.0.performer.parking().clear();
            *lock(&self.0.mine) = Mine::default();
            while queues.0.try_recv().is_ok() || queues.1.try_recv().is_ok() {}
        }
    }

    async fn enter(&self) -> Result<Arc<Lease>, StoreError> {
        let performer = &self.0.performer;
        let (user, deployment) = (performer.user().await.ok(), performer.plane().deployment());
        let clock = performer.shared_clock();
        let lease = performer.timings().lease;
        Ok(Arc::new(performer.store().enter(&deployment, user.as_deref(), clock, lease).await?))
    }

    /// Runs calls and looks after the lease until it is lost; calls that run then are dropped where they are. Or until this
    /// host leaves: `None`, when no call runs any more.
    async fn carry(&self, lease: &Arc<Lease>, (jobs, woken): &mut Queues) -> Option<StoreError> {
        let timings = self.0.performer.timings();
        let mut running = JoinSet::new();
        let mut news = tokio::time::interval(timings.news);
        news.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = Rounds { renew: Instant::now(), clean_up: Instant::now(), generation: None };
        loop {
            let leaving = self.0.leaving.is_cancelled();
            if leaving && running.is_empty() {
                return None;
            }
            let room = running.len() < RUNNING && !leaving;
            let job = tokio::select! {
                biased;
                () = self.0.leaving.cancelled(), if !leaving => continue,
                () = self.0.lost.notified() => match lease.renew(None).await {
                    Err(StoreError::LeaseLost) => return Some(StoreError::LeaseLost),
                    // It was about an earlier lease, or a single call.
                    _ => continue,
                },
                _ = running.join_next(), if !running.is_empty() => continue,
                Some(job) = jobs.recv(), if room => job,
                Some(Woken { call, answer, observed }) = woken.recv(), if room => {
                    Job { call, from: From::Wait(answer, observed), recording: None }
                }
                _ = news.tick() => {
                    match self.look_around(lease, &mut rounds).await {
                        Err(StoreError::LeaseLost) => return Some(StoreError::LeaseLost),
                        Err(error) => tracing::warn!(%error, "the store cannot be read"),
                        Ok(()) => {}
                    }
                    continue;
                }
            };
            running.spawn(self.clone().run(lease.clone(), job));
        }
    }

    /// What is due now: renewing the lease, other hosts' calls, news from other hosts, time-outs.
    async fn look_around(&self, lease: &Arc<Lease>, rounds: &mut Rounds) -> Result<(), StoreError> {
        let now = Instant::now();
        if !lease.is_current() {
            return Err(StoreError::LeaseLost);
        }
        let first = rounds.generation.is_none();
        if now >= rounds.renew {
            // Asking may take longer than the lease lasts: it is done beside this, and told at the next round.
            let user = self.0.performer.known_user();
            if user.is_none() {
                let performer = self.0.performer.clone();
                tokio::spawn(async move { performer.user().await });
            }
            lease.renew(user.as_deref()).await?;
            rounds.renew = now + self.0.performer.timings().lease / 3;
            if lease.take_over().await? > 0 || first {
                self.adopt(lease)?;
            }
        }
        if now >= rounds.clean_up {
            rounds.clean_up = now + CLEAN_UP;
            let now_ms = self.0.performer.clock().now_ms();
            self.0.performer.store().prune(now_ms.saturating_sub(millis(KEEP_ENDED).into())).await?;
            self.0.performer.store().abandon_old(now_ms).await?;
        }
        let generation = self.0.performer.store().generation()?;
        if rounds.generation.replace(generation) != Some(generation) {
            if self.0.performer.store().has_unowned()? && lease.take_over().await? > 0 {
                self.adopt(lease)?;
            }
            self.hear_news(lease).await?;
        }
        self.time_out(lease, now).await
    }

    /// Takes in calls of this host that it does not know yet: they were another host's.
    fn adopt(&self, lease: &Lease) -> Result<(), StoreError> {
        for (row, open) in lease.waiting()? {
            if !lock(&self.0.mine).knows(row.id) && self.is_carried(lease, row.id)? {
                let context = self.0.performer.context(&row, CancellationToken::new());
                self.park(open, &context, row.id, row.interrupted);
            }
        }
        for row in lease.calls()? {
            let mut mine = lock(&self.0.mine);
            if mine.knows(row.id) || !self.is_carried(lease, row.id)? {
                continue;
            }
            match row.state {
                CallState::Queued => {
                    mine.queued.insert(row.id, self.end_of_queue(row.created_ms));
                }
                CallState::Active | CallState::Ended => {
                    mine.run(row.id);
                    self.send(Job { call: row.id, from: From::Crash, recording: None });
                }
            }
        }
        Ok(())
    }

    /// Whether a call is this host's now and has not ended. A call that has ended is forgotten after that was written.
    fn is_carried(&self, lease: &Lease, call: CallId) -> Result<bool, StoreError> {
        let row = self.0.performer.store().call(call)?;
        Ok(row.is_some_and(|row| row.owner == Some(lease.host()) && row.state != CallState::Ended))
    }

    /// Looks at what other hosts may have written: interrupts, and turns that have become free.
    async fn hear_news(&self, lease: &Lease) -> Result<(), StoreError> {
        for row in lease.with_news()? {
            if row.interrupted {
                self.interrupt(row.id).await;
            } else if self.is_first_in_line(&row)? && lease.take_turn(row.id).await? {
                self.start(row.id, row.chat, row.tool);
            }
        }
        Ok(())
    }

    /// Until when a call that was begun then waits for its turn, whichever hosts carried it.
    fn end_of_queue(&self, created_ms: u64) -> Instant {
        let waited = self.0.performer.clock().now_ms().saturating_sub(created_ms);
        let limit = self.0.performer.timings().turn_limit;
        Instant::now() + limit.saturating_sub(Duration::from_millis(waited))
    }

    fn is_first_in_line(&self, row: &CallRow) -> Result<bool, StoreError> {
        let Some(workspace) = &row.pinned.workspace else { return Ok(true) };
        let lane = self.0.performer.store().lane(&row.pinned.deployment, workspace)?;
        Ok(lane.first().is_some_and(|first| first.id == row.id))
    }

    async fn time_out(&self, lease: &Lease, now: Instant) -> Result<(), StoreError> {
        let (late, rested) = {
            let mine = lock(&self.0.mine);
            let due = |map: &BTreeMap<CallId, Instant>| {
                map.iter().filter(|(_, at)| **at <= now).map(|(call, _)| *call).collect::<Vec<_>>()
            };
            (due(&mine.queued), due(&mine.resting))
        };
        for call in rested {
            if !self.is_carried(lease, call)? {
                lock(&self.0.mine).forget(call);
                continue;
            }
            lock(&self.0.mine).run(call);
            self.send(Job { call, from: From::Crash, recording: None });
        }
        for call in late {
            if let Some(holder) = self.holder(call) {
                self.end_queued(call, Failure::Busy { holder }).await;
            }
        }
        Ok(())
    }

    /// The call that is first in line where this one waits.
    fn holder(&self, call: CallId) -> Option<Holder> {
        let store = self.0.performer.store();
        let row = store.call(call).ok()??;
        let first = store.lane(&row.pinned.deployment, &row.pinned.workspace?).ok()?.into_iter().next()?;
        Some(Holder { call: first.id, chat: first.chat, tool: first.tool })
    }

    async fn end_queued(&self, call: CallId, failure: Failure) {
        let Some(lease) = self.current() else { return };
        let outcome = Outcome::Failed(failure);
        match lease.give_up(call, outcome.clone()).await {
            Ok(true) => self.ended(call, Ok(outcome), None),
            // It has got its turn meanwhile.
            Ok(false) => {}
            Err(error) => self.heard(&error),
        }
    }

    /// Lets a call run to its next wait or its end.
    async fn run(self, lease: Arc<Lease>, job: Job) {
        let call = job.call;
        let token = lock(&self.0.mine).run(call);
        match self.try_run(&lease, job, token.clone()).await {
            Ok(Came::ToWait(open, context)) => self.park(open, &context, call, token.is_cancelled()),
            Ok(Came::ToEnd(outcome, next)) => self.ended(call, Ok(outcome), next),
            // The lease may last after all: it is looked at more strictly before something is sent.
            Err(DriveError::Store(StoreError::LeaseLost)) => {
                self.rest(call);
                self.heard(&StoreError::LeaseLost);
            }
            Err(error) => {
                tracing::warn!(call, %error, "a call rests");
                self.rest(call);
                self.tell(call, &Err(error));
            }
        }
    }

    fn rest(&self, call: CallId) {
        let mut mine = lock(&self.0.mine);
        mine.forget(call);
        mine.resting.insert(call, Instant::now() + REST);
    }

    async fn try_run(
        &self,
        lease: &Arc<Lease>,
        job: Job,
        token: CancellationToken,
    ) -> Result<Came, DriveError> {
        let performer = self.0.performer.clone();
        let recording = match job.recording {
            Some(recording) => *recording,
            None => match performer.store().recording(job.call)? {
                Some(recording) => recording,
                None => return Err(DriveError::UnknownCall { call: job.call }),
            },
        };
        let plugin = match self.plugin_of(&recording.call).await? {
            Ok(plugin) => plugin,
            Err(why) => {
                lease.note(job.call, why.clone()).await?;
                return Err(DriveError::Stranded { why });
            }
        };
        let run = Run::new(performer, lease.clone(), plugin, job.call, &recording, token);
        run.carry_on(recording.open, job.from).await
    }

    /// The plugin that a call began on: this host's own, or the one that is kept with the call.
    async fn plugin_of(&self, record: &CallRecord) -> Result<Result<Plugin, String>, StoreError> {
        let hash = &record.component;
        if *hash == self.0.plugin.report().sha256 {
            return Ok(Ok(self.0.plugin.clone()));
        }
        if let Some(known) = lock(&self.0.others).get(hash) {
            return Ok(Ok(known.clone()));
        }
        let Some(bytes) = self.0.performer.store().component(hash)? else {
            return Ok(Err(format!("the component that it began on ({hash}) is not in the store any more")));
        };
        let engine = self.0.plugin.engine().clone();
        // Compiling takes a while.
        let loaded = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
        Ok(match loaded {
            Ok(Ok(plugin)) => {
                lock(&self.0.others).insert(hash.clone(), plugin.clone());
                Ok(plugin)
            }
            Ok(Err(error)) => {
                Err(format!("the component that it began on cannot be used by this host: {error}"))
            }
            Err(error) => Err(format!("the component that it began on could not be loaded: {error}")),
        })
    }

    /// Lays a call to sleep until its wait ends.
    fn park(&self, open: Open, context: &Call, call: CallId, interrupted: bool) {
        let mut mine = lock(&self.0.mine);
        mine.forget(call);
        mine.parked.insert(call);
        drop(mine);
        let parking = self.0.performer.parking();
        parking.park(self.wait(open, context, call), Done::Wake(self.0.woken.clone()));
        if interrupted || context.interrupt().is_cancelled() {
            parking.interrupt(call);
        }
    }

    /// A wait as it was written down, on this process's clock.
    fn wait(&self, open: Open, context: &Call, call: CallId) -> Wait {
        let (now, now_ms) = (Instant::now(), self.0.performer.clock().now_ms());
        let at = |ms: u64| now + Duration::from_millis(ms.saturating_sub(now_ms));
        let waited = Duration::from_millis(now_ms.saturating_sub(open.asked_ms));
        let (deadline, last_deadline) = match open.intent {
            Intent::Wait { deadline_ms, last_ms } => (at(deadline_ms), at(last_ms)),
            Intent::Build(_) => (now, now),
        };
        let what = match open.request {
            Request::WaitForAgent { build, agent, scripts_limit_ms, .. } => WaitFor::Agent {
                build: build.into(),
                agent: agent.into(),
                connect_deadline: deadline,
                scripts_limit: Duration::from_millis(scripts_limit_ms.into()),
                last_deadline,
            },
            Request::WaitForBuild { build, .. } => WaitFor::Build { build: build.into(), deadline },
            other => unreachable!("{} is no wait", other.function()),
        };
        let workspace = context.workspace().map(Into::into);
        Wait {
            call,
            chat: context.chat().into(),
            workspace,
            what,
            begun: now.checked_sub(waited).unwrap_or(now),
        }
    }

    /// A call has ended, and another one may have its turn.
    fn ended(&self, call: CallId, outcome: Ended, next: Option<CallId>) {
        lock(&self.0.mine).forget(call);
        self.tell(call, &outcome);
        if let Some(next) = next
            && let Ok(Some(row)) = self.0.performer.store().call(next)
        {
            self.start(next, row.chat, row.tool);
        }
    }

    /// A call has its turn.
    fn start(&self, call: CallId, chat: String, tool: String) {
        // It may have been seen twice: by the call before it, and in the store.
        if !lock(&self.0.mine).claim(call) {
            return;
        }
        self.0.performer.announce(call, &chat, EventKind::Started { tool });
        self.send(Job { call, from: From::Beginning, recording: None });
    }

    fn tell(&self, call: CallId, outcome: &Ended) {
        for attending in lock(&self.0.attending).remove(&call).unwrap_or_default() {
            // Whoever does not wait any more does not want to know.
            let _ = attending.send(outcome.clone());
        }
    }

    fn send(&self, job: Job) {
        // The other end lives as long as this does, or everything has been stopped.
        let _ = self.0.jobs.send(job);
    }

    /// Sees to it that a lost lease is noticed.
    fn heard(&self, error: &StoreError) {
        if *error == StoreError::LeaseLost {
            self.0.lost.notify_one();
        }
    }
}

/// The number of a call that was begun.
fn number(begun: Begun, record: CallRecord) -> Result<CallId, DriveError> {
    match begun {
        Begun::Active(id) | Begun::Queued(id, _) | Begun::Same(id) => Ok(id),
        Begun::KeyTaken(call) => Err(DriveError::KeyTaken { key: record.key.unwrap_or_default(), call }),
        Begun::Busy(holder) => Err(Failure::Busy { holder }.into()),
    }
}

/// When what is due.
struct Rounds {
    renew: Instant,
    clean_up: Instant,
    generation: Option<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
