//! A host's lease, and everything that only its holder may write.
//!
//! A host has *one* lease for all its calls. Each of its writes is one transaction that first looks whether the lease
//! is still current: a host that was suspended for longer, or whose calls another host has taken over, writes nothing
//! any more. Ids of hosts are never used again, so an old one cannot be mistaken for a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Store;
use super::error::StoreError;
use super::presence::{self, Presence};
use super::rules::{self, Admission, BeginOutcome, NewCall, SelfEnding};
use super::transaction::{CallRow, CallState, HostId, HostRow, Transaction};
use crate::clock::Clock;
use crate::clock::millis;
use crate::journal::Entry;
use crate::journal::record::{CallId, Intent, Open, Outcome};

/// A host that may write to its calls.
pub struct Lease {
    store: Store,
    host: HostId,
    clock: Arc<dyn Clock>,
    length: Duration,
    /// The clock that counts suspension, when the lease was last renewed.
    renewed: AtomicU64,
    /// Until it is dropped or this process ends, others see that it is there.
    _presence: Option<Presence>,
}

impl Store {
    /// Leaves a call for any host that stands by.
    pub async fn submit(&self, new: NewCall) -> Result<BeginOutcome, StoreError> {
        self.write(move |tx| rules::begin(tx, None, &new, new.record.created_ms)).await
    }

    /// Enters a host. The lease has to be renewed well before `length` has passed.
    pub async fn enter(
        &self,
        deployment: &str,
        user: Option<&str>,
        clock: Arc<dyn Clock>,
        length: Duration,
    ) -> Result<Lease, StoreError> {
        let renewed = clock.monotonic_ms();
        let mut row = HostRow {
            id: 0,
            deployment: deployment.to_owned(),
            user: user.map(str::to_owned),
            lease_until_ms: 0,
        };
        let now = clock.clone();
        let host = self
            .write(move |tx| {
                row.lease_until_ms = now.now_ms().saturating_add(millis(length).into());
                tx.add_host(&row)
            })
            .await?;
        let presence = self.0.file().and_then(|file| Presence::show(file, host));
        let renewed = AtomicU64::new(renewed);
        Ok(Lease { store: self.clone(), host, clock, length, renewed, _presence: presence })
    }
}

impl Lease {
    /// The host's id.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the lease is current by this host's own reckoning: a look that costs no transaction, for directly before
    /// something is sent. The clock counts time in which the machine or the process was suspended.
    pub fn is_current(&self) -> bool {
        let since = self.clock.monotonic_ms().saturating_sub(self.renewed.load(Ordering::SeqCst));
        since < u64::from(millis(self.length))
    }

    /// Renews the lease, and says whom the host acts for. A lease that has run out is not renewed.
    pub async fn renew(&self, user: Option<&str>) -> Result<(), StoreError> {
        let renewed = self.clock.monotonic_ms();
        let (length, user) = (u64::from(millis(self.length)), user.map(str::to_owned));
        self.fenced(move |tx, mut host, now| {
            host.lease_until_ms = now.saturating_add(length);
            host.user = user.or(host.user);
            tx.put_host(&host)
        })
        .await?;
        self.renewed.store(renewed, Ordering::SeqCst);
        Ok(())
    }

    /// Gives the lease up; other hosts may carry its calls on at once.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let id = self.host;
        if let Some(file) = self.store.0.file() {
            presence::forget(file, id);
        }
        self.store.write(move |tx| tx.remove_host(id)).await
    }

    /// Takes over the calls of hosts whose lease has run out and of those that have left, if they act for the same user
    /// of the same control plane, but for those that would end its own process. Ends those of which nobody knows for
    /// whom they act. Answers how many calls they were.
    pub async fn take_over(&self, self_ending: Option<SelfEnding>) -> Result<usize, StoreError> {
        self.fenced(move |tx, me, now| {
            let mut taken = 0;
            let mut left = match &self_ending {
                Some(self_ending) => tx.queue(&me.deployment, &self_ending.workspace)?,
                None => Vec::new(),
            };
            left.retain(|row| {
                row.owner != Some(me.id)
                    && self_ending.as_ref().is_some_and(|self_ending| self_ending.matches(row))
            });
            for other in tx.hosts()? {
                let same =
                    other.deployment == me.deployment && (other.user == me.user || other.user.is_none());
                if other.lease_until_ms <= now && same {
                    taken += tx.reassign_calls(Some(other.id), &me)?;
                    tx.remove_host(other.id)?;
                }
            }
            taken += tx.reassign_calls(None, &me)?;
            for row in left {
                let taken_now = tx.call(row.id)?.filter(|row| row.owner == Some(me.id));
                if let Some(row) = taken_now {
                    tx.put_call(&CallRow { owner: None, ..row })?;
                    taken -= 1;
                }
            }
            rules::end_unidentified(tx, &me, now)?;
            Ok(taken)
        })
        .await
    }

    /// Whether there are calls to take over of hosts that have left, or that were left to any host: others than these.
    pub fn has_unowned(&self, self_ending: Option<&SelfEnding>) -> Result<bool, StoreError> {
        let to_take = |row: &CallRow| self_ending.is_none_or(|self_ending| !self_ending.matches(row));
        self.store.read(|tx| Ok(tx.owned_by(None)?.iter().any(to_take)))
    }

    /// The calls of this host that sleep, each with the wait that was written down.
    pub fn waiting(&self) -> Result<Vec<(CallRow, Open)>, StoreError> {
        self.store.read(|tx| tx.waiting(self.host))
    }

    /// The calls of this host that have not ended, in order of arrival.
    pub fn calls(&self) -> Result<Vec<CallRow>, StoreError> {
        self.store.read(|tx| tx.owned_by(Some(self.host)))
    }

    /// Those of them that somebody wants to end, or that wait for their turn.
    pub fn needing_attention(&self) -> Result<Vec<CallRow>, StoreError> {
        self.store.read(|tx| tx.needing_attention(self.host))
    }

    /// Begins a call, before its first step.
    pub async fn begin(&self, new: NewCall) -> Result<BeginOutcome, StoreError> {
        Ok(self.begin_and(new, drop).await?.0)
    }

    /// As [`begin`](Self::begin), and notes in the same transaction that somebody waits for the call:
    /// [`abandon`](Store::abandon) looks for that in one, too, and comes before or after.
    pub async fn begin_and<T: Send + 'static>(
        &self,
        new: NewCall,
        note: impl FnOnce(CallId) -> T + Send + 'static,
    ) -> Result<(BeginOutcome, Option<T>), StoreError> {
        self.fenced(move |tx, host, now| {
            let begun = rules::begin(tx, Some(host.id), &new, now)?;
            let noted = begun.call().map(note);
            Ok((begun, noted))
        })
        .await
    }

    /// Gives a call its turn, if it is first in line.
    pub async fn take_turn(&self, call: CallId) -> Result<bool, StoreError> {
        self.owned(call, move |tx, row, now| {
            if row.state == CallState::Active {
                return Ok(true);
            }
            let first = rules::queue(tx, row)?.first().is_some_and(|first| first.id == row.id);
            if first {
                rules::put(tx, row, now, |row| row.state = CallState::Active)?;
            }
            Ok(first)
        })
        .await
    }

    /// Writes down a request that is going to be carried out, after the entries from `from` on that are not written
    /// yet. The one transaction decides between an effect and an interrupt.
    pub async fn open(
        &self,
        call: CallId,
        from: usize,
        entries: Vec<Entry>,
        open: Open,
    ) -> Result<Admission, StoreError> {
        self.owned(call, move |tx, row, now| {
            if row.interrupted {
                return Ok(Admission::Interrupted);
            }
            let mut changed = row.clone();
            if let Intent::Build(intent) = &open.intent {
                let chat = tx.chat(&row.chat)?;
                if chat.and_then(|chat| chat.workspace) != row.pinned.workspace {
                    return Ok(Admission::Rebound);
                }
                changed.sent = true;
                changed.pinned.user = Some(intent.user.clone());
            }
            let index = rules::put_entries(tx, call, from, &entries, now)?;
            tx.put_open(call, index, &open)?;
            changed.touched_ms = now;
            tx.put_progress(&changed)?;
            Ok(Admission::Granted)
        })
        .await
    }

    /// Writes entries from `from` on. The first one may be the answer of the open request.
    pub async fn write(&self, call: CallId, from: usize, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.owned(call, move |tx, _, now| rules::put_entries(tx, call, from, &entries, now).map(drop)).await
    }

    /// Points the call's chat at a build, and clears its agent, if it is still bound to the call's workspace. Writes
    /// the entries from `from` on with that.
    pub async fn publish(
        &self,
        call: CallId,
        from: usize,
        entries: Vec<Entry>,
        build: String,
    ) -> Result<bool, StoreError> {
        self.owned(call, move |tx, row, now| {
            rules::put_entries(tx, call, from, &entries, now)?;
            rules::publish(tx, &row.chat, row.pinned.workspace.as_deref(), build)
        })
        .await
    }

    /// Forgets the entries from `keep` on: nothing rests on them. `sent` says whether what is left may have sent
    /// something.
    pub async fn rewind(&self, call: CallId, keep: usize, sent: bool) -> Result<(), StoreError> {
        self.owned(call, move |tx, row, now| {
            tx.truncate(call, keep)?;
            rules::put(tx, row, now, |row| row.sent = sent)
        })
        .await
    }

    /// Ends a call, and gives the turn to the next one in line if that is this host's too.
    pub async fn end(
        &self,
        call: CallId,
        from: usize,
        entries: Vec<Entry>,
        outcome: Outcome,
    ) -> Result<Option<CallId>, StoreError> {
        let host = self.host;
        self.owned(call, move |tx, row, now| {
            rules::put_entries(tx, call, from, &entries, now)?;
            tx.end_call(call, &outcome, now)?;
            let Some(next) = rules::queue(tx, row)?.into_iter().next() else { return Ok(None) };
            if next.owner != Some(host) || next.state != CallState::Queued {
                return Ok(None);
            }
            rules::put(tx, &next, now, |row| row.state = CallState::Active)?;
            Ok(Some(next.id))
        })
        .await
    }

    /// Ends a call that waits for its turn. Answers whether it did: one that has its turn goes on.
    pub async fn give_up(&self, call: CallId, outcome: Outcome) -> Result<bool, StoreError> {
        self.owned(call, move |tx, row, now| {
            let waits = row.state == CallState::Queued;
            if waits {
                tx.end_call(call, &outcome, now)?;
            }
            Ok(waits)
        })
        .await
    }

    /// Says why a call cannot go on here, or that nothing is in its way any more. Answers the call. What was said
    /// before is not said again, so that it shows since when.
    pub async fn note(&self, call: CallId, note: Option<String>) -> Result<CallRow, StoreError> {
        self.owned(call, move |tx, row, now| {
            let mut row = row.clone();
            if row.note != note {
                (row.note, row.touched_ms) = (note, now);
                tx.put_call(&row)?;
            }
            Ok(row)
        })
        .await
    }

    /// One transaction of this host on a call of its own that has not ended.
    async fn owned<T: Send + 'static>(
        &self,
        call: CallId,
        work: impl FnOnce(&mut dyn Transaction, &CallRow, u64) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.fenced(move |tx, host, now| match tx.call(call)? {
            Some(row) if row.owner == Some(host.id) && row.state != CallState::Ended => work(tx, &row, now),
            _ => Err(StoreError::NotHeld { call }),
        })
        .await
    }

    /// One transaction of this host, if its lease is current. The time is that of the transaction, not of the request
    /// for it.
    async fn fenced<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Transaction, HostRow, u64) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (id, clock) = (self.host, self.clock.clone());
        self.store
            .write(move |tx| {
                let now = clock.now_ms();
                match tx.host(id)? {
                    Some(host) if host.lease_until_ms > now => work(tx, host, now),
                    _ => Err(StoreError::LeaseLost),
                }
            })
            .await
    }
}
