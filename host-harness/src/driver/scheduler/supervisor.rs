//! One task per host: it enters the store, lets calls run, and looks after the lease until that is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::owned::{OwnedCalls, QueuedCall};
use super::{Inbox, LeaseState, REST, RunJob, Scheduler, lock};
use crate::clock::millis;
use crate::control_plane::ControlPlane;
use crate::driver::activation::ResumePoint;
use crate::driver::events::EventKind;
use crate::driver::parking::EndedWait;
use crate::journal::record::{CallId, Failure, Outcome};
use crate::store::lease::Lease;
use crate::store::{CallRow, CallState, KEEP_ENDED, SelfEnding, StoreError, Turn};

/// Calls that run at the same time; more wait for one of them to end or to sleep. Running takes a journal in memory.
const RUNNING: usize = 256;
/// How often old calls are removed.
const CLEAN_UP: Duration = Duration::from_secs(60 * 60);

/// When what is due, and which state of the store was seen last.
struct Agenda {
    renew: Instant,
    clean_up: Instant,
    generation: Option<u64>,
}

impl Scheduler {
    /// Enters the store, carries calls for as long as the lease lasts, and begins anew.
    pub(super) async fn supervise(self, mut inbox: Inbox) {
        loop {
            let entered = tokio::select! {
                biased;
                // The control plane may be silent, and until this host has entered it has no call.
                () = self.0.leaving.cancelled() => return,
                entered = self.enter() => entered,
            };
            match entered {
                Ok(lease) => {
                    self.set_lease_state(LeaseState::Held(lease.clone()));
                    let Some(error) = self.carry(&lease, &mut inbox).await else { return };
                    tracing::warn!(host = lease.host(), %error, "this host begins anew");
                    self.set_lease_state(LeaseState::Entering);
                }
                Err(error) => {
                    tracing::warn!(%error, "this host cannot enter the store");
                    self.set_lease_state(LeaseState::Failed(error));
                    tokio::time::sleep(REST).await;
                }
            }
            self.0.host_calls.parking().clear();
            *lock(&self.0.owned) = OwnedCalls::default();
            while inbox.0.try_recv().is_ok() || inbox.1.try_recv().is_ok() {}
        }
    }

    async fn enter(&self) -> Result<Arc<Lease>, StoreError> {
        let host_calls = &self.0.host_calls;
        let plugin = &self.0.plugin;
        host_calls.store().bring_component(&plugin.report().sha256, plugin.component().clone()).await?;
        let (user, deployment) = (self.ask_for_whom().await, host_calls.plane().deployment());
        let clock = host_calls.shared_clock();
        let lease = host_calls.timings().lease;
        Ok(Arc::new(host_calls.store().enter(&deployment, user.as_deref(), clock, lease).await?))
    }

    /// Runs calls and looks after the lease until it is lost; calls that run then are dropped where they are. Or until
    /// this host leaves: `None`, when no call runs any more.
    async fn carry(&self, lease: &Arc<Lease>, (jobs, ended_waits): &mut Inbox) -> Option<StoreError> {
        let timings = self.0.host_calls.timings();
        let mut running = JoinSet::new();
        let mut news = tokio::time::interval(timings.news);
        news.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut agenda = Agenda { renew: Instant::now(), clean_up: Instant::now(), generation: None };
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
                    // It was about an earlier lease.
                    _ => continue,
                },
                _ = running.join_next(), if !running.is_empty() => continue,
                Some(job) = jobs.recv(), if room => job,
                Some(EndedWait { call, answer, observed }) = ended_waits.recv(), if room => {
                    RunJob { call, from: ResumePoint::Wait(answer, observed), recording: None }
                }
                _ = news.tick() => {
                    match self.look_around(lease, &mut agenda).await {
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
    async fn look_around(&self, lease: &Arc<Lease>, agenda: &mut Agenda) -> Result<(), StoreError> {
        let now = Instant::now();
        if !lease.is_current() {
            return Err(StoreError::LeaseLost);
        }
        let first = agenda.generation.is_none();
        if now >= agenda.renew {
            // Asking may take longer than the lease lasts: it is done beside this, and told at the next round.
            let user = self.for_whom();
            if user.is_none() {
                let scheduler = self.clone();
                tokio::spawn(async move { scheduler.ask_for_whom().await });
            }
            lease.renew(user.as_deref()).await?;
            agenda.renew = now + self.0.host_calls.timings().lease / 3;
            let now_ms = self.0.host_calls.clock().now_ms();
            self.0.host_calls.store().end_leases_of_the_gone(now_ms).await?;
            if lease.take_over(self.known_self_ending().cloned()).await? > 0 || first {
                self.adopt(lease).await?;
            }
        }
        if now >= agenda.clean_up {
            agenda.clean_up = now + CLEAN_UP;
            let now_ms = self.0.host_calls.clock().now_ms();
            self.0.host_calls.store().prune(now_ms.saturating_sub(millis(KEEP_ENDED).into())).await?;
            self.0.host_calls.store().abandon_old(now_ms).await?;
            self.look_at_left().await;
        }
        let generation = self.0.host_calls.store().generation()?;
        if agenda.generation.replace(generation) != Some(generation) {
            let self_ending = self.known_self_ending();
            if lease.has_unowned(self_ending)? && lease.take_over(self_ending.cloned()).await? > 0 {
                self.adopt(lease).await?;
            }
            self.hear_news(lease).await?;
        }
        self.time_out(lease, now).await
    }

    /// For whom this host acts, as far as it may for hosts that are gone: only when it is known, too, which of their
    /// calls would end it.
    fn for_whom(&self) -> Option<String> {
        let knows = self.0.inside.is_none() || self.0.self_ending.get().is_some();
        self.0.host_calls.known_user().filter(|_| knows)
    }

    async fn ask_for_whom(&self) -> Option<String> {
        let (user, self_ending) = tokio::join!(self.0.host_calls.user(), self.self_ending());
        user.ok().filter(|_| self_ending.is_ok())
    }

    fn known_self_ending(&self) -> Option<&SelfEnding> {
        self.0.self_ending.get().and_then(Option::as_ref)
    }

    /// Takes in calls of this host that it does not know yet: they were another host's.
    async fn adopt(&self, lease: &Lease) -> Result<(), StoreError> {
        self.look_at_left().await;
        for (row, open) in lease.waiting()? {
            // One that was stranded is run instead, to see whether it can go on here.
            if row.note.is_none() && !lock(&self.0.owned).knows(row.id) && self.is_carried(lease, row.id)? {
                let context = self.0.host_calls.context(&row, CancellationToken::new());
                self.park(open, &context, row.id, row.interrupted);
            }
        }
        for row in lease.calls()? {
            let mut owned = lock(&self.0.owned);
            if owned.knows(row.id) || !self.is_carried(lease, row.id)? {
                continue;
            }
            match row.state {
                CallState::Queued => {
                    let until = self.end_of_queue(row.created_ms);
                    owned.queued.insert(row.id, QueuedCall { until, last_announced: None });
                }
                CallState::Active | CallState::Ended => {
                    owned.run(row.id);
                    self.send(RunJob { call: row.id, from: ResumePoint::Crash, recording: None });
                }
            }
        }
        Ok(())
    }

    /// Abandons what was left to other hosts: those may be gone. What has ended meanwhile is forgotten.
    async fn look_at_left(&self) {
        let left = std::mem::take(&mut *lock(&self.0.left));
        for call in left {
            self.abandon(call).await;
        }
    }

    /// Whether a call is this host's now and has not ended. A call that has ended is forgotten after that was written.
    pub(super) fn is_carried(&self, lease: &Lease, call: CallId) -> Result<bool, StoreError> {
        let row = self.0.host_calls.store().call(call)?;
        Ok(row.is_some_and(|row| row.owner == Some(lease.host()) && row.state != CallState::Ended))
    }

    /// Looks at what may have been written: interrupts, turns that have become free, and who is ahead of those that
    /// wait.
    async fn hear_news(&self, lease: &Lease) -> Result<(), StoreError> {
        for row in lease.needing_attention()? {
            if row.interrupted {
                self.interrupt(row.id).await;
            } else if let Some(turn) = self.0.host_calls.store().turn(&row)? {
                self.announce_turn(&row, turn);
            } else {
                match lease.take_turn(row.id).await {
                    Ok(true) => self.start(row.id, row.chat, row.tool),
                    Ok(false) => {}
                    // It was ended since it was read.
                    Err(StoreError::NotHeld { call }) => self.drop_call(call),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Until when a call that was begun then waits for its turn, whichever hosts carried it.
    pub(super) fn end_of_queue(&self, created_ms: u64) -> Instant {
        let waited = self.0.host_calls.clock().now_ms().saturating_sub(created_ms);
        let limit = self.0.host_calls.timings().turn_limit;
        Instant::now() + limit.saturating_sub(Duration::from_millis(waited))
    }

    /// Tells where a call stands that waits for its turn, if that is news.
    fn announce_turn(&self, row: &CallRow, turn: Turn) {
        let mut owned = lock(&self.0.owned);
        if let Some(queued) =
            owned.queued.get_mut(&row.id).filter(|queued| queued.last_announced.as_ref() != Some(&turn))
        {
            queued.last_announced = Some(turn.clone());
            // While nobody else can start it or end it here.
            self.0.host_calls.announce(row.id, &row.chat, EventKind::WaitingForTurn(turn));
        }
    }

    async fn time_out(&self, lease: &Lease, now: Instant) -> Result<(), StoreError> {
        let (late, rested) = {
            let owned = lock(&self.0.owned);
            let late = owned.queued.iter().filter(|(_, queued)| queued.until <= now).map(|(call, _)| *call);
            let rested = owned.resting.iter().filter(|(_, at)| **at <= now).map(|(call, _)| *call);
            (late.collect::<Vec<_>>(), rested.collect::<Vec<_>>())
        };
        for call in rested {
            if !self.is_carried(lease, call)? {
                lock(&self.0.owned).forget(call);
                continue;
            }
            lock(&self.0.owned).run(call);
            self.send(RunJob { call, from: ResumePoint::Crash, recording: None });
        }
        for call in late {
            let store = self.0.host_calls.store();
            // One that is ahead of all others has its turn soon.
            if let Some(row) = store.call(call)?
                && let Some(Turn { holder, .. }) = store.turn(&row)?
            {
                self.end_queued(call, Failure::Busy { holder }).await;
            }
        }
        Ok(())
    }

    pub(super) async fn end_queued(&self, call: CallId, failure: Failure) {
        let Some(lease) = self.current() else { return };
        let outcome = Outcome::Failed(failure);
        match lease.give_up(call, outcome.clone()).await {
            Ok(true) => {
                if let Ok(Some(row)) = self.0.host_calls.store().call(call) {
                    self.0.host_calls.announce(call, &row.chat, EventKind::Ended);
                }
                self.ended(call, Ok(outcome), None);
            }
            // It has got its turn meanwhile.
            Ok(false) => {}
            Err(StoreError::NotHeld { .. }) => self.drop_call(call),
            Err(error) => self.note_store_error(&error),
        }
    }
}
