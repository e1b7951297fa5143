//! A host's lease, and everything that only its holder may write.
//!
//! A host has *one* lease for all its calls. Each of its writes is one transaction that first looks whether the lease is
//! still current: a host that was suspended for longer, or whose calls another host has taken over, writes nothing any
//! more. Ids of hosts are never used again, so an old one cannot be mistaken for a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::presence::{self, Presence};
use super::transaction::{CallRow, CallState, HostId, HostRow, Transaction, Turn};
use super::{Store, StoreError};
use crate::bindings::{Build, Transition};
use crate::clock::Clock;
use crate::control_plane::millis;
use crate::journal::record::{CallId, CallRecord, Failure, Holder, Intent, Open, Outcome};
use crate::journal::{Answer, Entry};
use crate::policy::MAX_WAITING_CALLS;
#[cfg(all(test, feature = "simulate"))]
use crate::sabotage::{self, Sabotage};

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

/// A call that is to be begun.
pub struct NewCall {
    /// What it is.
    pub record: CallRecord,
    /// The component that it runs on.
    pub component: Arc<[u8]>,
    /// It goes on whether or not anybody waits for it.
    pub detached: bool,
    /// The deliberate interrupt of whoever asks for it: one that is there when the call begins is noted with it.
    pub interrupt: CancellationToken,
}

/// Calls that a host takes over from no other: they would end its own process half way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfEnding {
    /// The id of the workspace in which it runs.
    pub workspace: String,
    /// The tools that stop it.
    pub tools: Vec<String>,
}

impl SelfEnding {
    /// Whether a call, of the host's own deployment, is one of them.
    pub fn matches(&self, row: &CallRow) -> bool {
        row.pinned.workspace.as_ref() == Some(&self.workspace) && self.tools.contains(&row.tool)
    }
}

/// What became of a request to begin a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeginOutcome {
    /// It was begun, and has its turn.
    Active(CallId),
    /// It was begun, and waits for its turn.
    Queued(CallId, Turn),
    /// It is this call, which was begun before: by its key, or because it is an identical one that has not ended.
    Same(CallId),
    /// There is a call with the same key that does something else.
    KeyTaken(CallId),
    /// Too many wait already.
    Busy(Holder),
}

impl BeginOutcome {
    /// The call that does what was asked for, if one does.
    pub fn call(&self) -> Option<CallId> {
        match self {
            Self::Active(id) | Self::Queued(id, _) | Self::Same(id) => Some(*id),
            Self::KeyTaken(_) | Self::Busy(_) => None,
        }
    }
}

/// Whether a request that was to be written down may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was written down.
    Granted,
    /// The call was interrupted: nothing was written.
    Interrupted,
    /// The chat is not bound to the workspace any more: nothing was written.
    Rebound,
}

impl Store {
    /// Leaves a call for any host that stands by.
    pub async fn submit(&self, new: NewCall) -> Result<BeginOutcome, StoreError> {
        self.write(move |tx| begin(tx, None, &new, new.record.created_ms)).await
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

    /// Takes over the calls of hosts whose lease has run out and of those that have left, if they act for the same user of
    /// the same control plane, but for the `self_ending` ones. Ends those of which nobody knows for whom they act.
    /// Answers how many calls they were.
    pub async fn take_over(&self, self_ending: Option<SelfEnding>) -> Result<usize, StoreError> {
        self.fenced(move |tx, me, now| {
            #[cfg(all(test, feature = "simulate"))]
            if sabotage::is(Sabotage::LeavesOrphans) {
                return Ok(0);
            }
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
            end_unidentified(tx, &me, now)?;
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
            let begun = begin(tx, Some(host.id), &new, now)?;
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
            let first = queue(tx, row)?.first().is_some_and(|first| first.id == row.id);
            if first {
                put(tx, row, now, |row| row.state = CallState::Active)?;
            }
            Ok(first)
        })
        .await
    }

    /// Writes down a request that is going to be carried out, after the entries from `from` on that are not written yet. The
    /// one transaction decides between an effect and an interrupt.
    pub async fn open(
        &self,
        call: CallId,
        from: usize,
        entries: Vec<Entry>,
        open: Open,
    ) -> Result<Admission, StoreError> {
        self.owned(call, move |tx, row, now| {
            let interrupted = row.interrupted;
            #[cfg(all(test, feature = "simulate"))]
            let interrupted = interrupted && !sabotage::is(Sabotage::IgnoresInterrupts);
            if interrupted {
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
            let index = put_entries(tx, call, from, &entries, now)?;
            tx.put_open(call, index, &open)?;
            changed.touched_ms = now;
            tx.put_progress(&changed)?;
            Ok(Admission::Granted)
        })
        .await
    }

    /// Writes entries from `from` on. The first one may be the answer of the open request.
    pub async fn write(&self, call: CallId, from: usize, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.owned(call, move |tx, _, now| put_entries(tx, call, from, &entries, now).map(drop)).await
    }

    /// Points the call's chat at a build, and clears its agent, if it is still bound to the call's workspace. Writes the
    /// entries from `from` on with that.
    pub async fn publish(
        &self,
        call: CallId,
        from: usize,
        entries: Vec<Entry>,
        build: String,
    ) -> Result<bool, StoreError> {
        self.owned(call, move |tx, row, now| {
            put_entries(tx, call, from, &entries, now)?;
            publish(tx, &row.chat, row.pinned.workspace.as_deref(), build)
        })
        .await
    }

    /// Forgets the entries from `keep` on: nothing rests on them. `sent` says whether what is left may have sent
    /// something.
    pub async fn rewind(&self, call: CallId, keep: usize, sent: bool) -> Result<(), StoreError> {
        self.owned(call, move |tx, row, now| {
            tx.truncate(call, keep)?;
            put(tx, row, now, |row| row.sent = sent)
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
            put_entries(tx, call, from, &entries, now)?;
            tx.end_call(call, &outcome, now)?;
            let Some(next) = queue(tx, row)?.into_iter().next() else { return Ok(None) };
            if next.owner != Some(host) || next.state != CallState::Queued {
                return Ok(None);
            }
            put(tx, &next, now, |row| row.state = CallState::Active)?;
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
                let is_current = |host: &HostRow| host.lease_until_ms > now;
                #[cfg(all(test, feature = "simulate"))]
                let is_current = |host: &HostRow| is_current(host) || sabotage::is(Sabotage::IgnoresLeases);
                match tx.host(id)? {
                    Some(host) if is_current(&host) => work(tx, host, now),
                    _ => Err(StoreError::LeaseLost),
                }
            })
            .await
    }
}

/// Points a chat at a build, if it is still bound to this workspace.
pub(super) fn publish(
    tx: &mut dyn Transaction,
    chat: &str,
    workspace: Option<&str>,
    build: String,
) -> Result<bool, StoreError> {
    match tx.chat(chat)? {
        Some(mut chat) if workspace.is_some() && chat.workspace.as_deref() == workspace => {
            (chat.build, chat.agent) = (Some(build), None);
            tx.put_chat(&chat)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn begin(
    tx: &mut dyn Transaction,
    host: Option<HostId>,
    new: &NewCall,
    now: u64,
) -> Result<BeginOutcome, StoreError> {
    let record = &new.record;
    let (tool, arguments) = (record.call.name(), record.call.arguments());
    if let Some(key) = &record.key
        && let Some(id) = tx.call_by_key(&record.chat, key)?
    {
        let same = tx.call(id)?.is_some_and(|row| row.tool == tool && row.arguments == arguments);
        return Ok(if same { BeginOutcome::Same(id) } else { BeginOutcome::KeyTaken(id) });
    }
    let Some(workspace) = &record.pinned.workspace else {
        return Ok(BeginOutcome::Active(add(tx, host, new, CallState::Active, now)?));
    };
    let queue = tx.queue(&record.pinned.deployment, workspace)?;
    // One that is interrupted is ended by somebody's wish, which is not that of who asks after it.
    let same = |row: &&CallRow| {
        row.chat == record.chat && row.tool == tool && row.arguments == arguments && !row.interrupted
    };
    // One that has sent nothing is joined only if that is as good as the turn behind it: nothing else was asked for since,
    // and whoever acts for this user may carry it. Of whom nothing is known is taken for the same: else what is asked
    // for again while the control plane is away would be done twice.
    let as_good = |row: &&CallRow| {
        let (its, mine) = (&row.pinned.user, &record.pinned.user);
        same(row) && (its.is_none() || mine.is_none() || its == mine)
    };
    if record.key.is_none()
        && let Some(row) =
            queue.iter().find(|row| row.sent && same(row)).or_else(|| queue.last().filter(as_good))
    {
        if new.detached && !row.detached {
            tx.put_call(&CallRow { detached: true, ..row.clone() })?;
        }
        return Ok(BeginOutcome::Same(row.id));
    }
    let turn = Turn::behind(queue.iter());
    #[cfg(all(test, feature = "simulate"))]
    let turn = turn.filter(|_| !sabotage::is(Sabotage::IgnoresTurns));
    let Some(turn) = turn else {
        return Ok(BeginOutcome::Active(add(tx, host, new, CallState::Active, now)?));
    };
    let waiting = queue.iter().filter(|row| row.state == CallState::Queued).count();
    if waiting >= MAX_WAITING_CALLS {
        return Ok(BeginOutcome::Busy(turn.holder));
    }
    Ok(BeginOutcome::Queued(add(tx, host, new, CallState::Queued, now)?, turn))
}

/// Adds a call that has ended already.
pub(super) fn keep(
    tx: &mut dyn Transaction,
    new: &NewCall,
    entries: &[Entry],
    outcome: &Outcome,
    now: u64,
) -> Result<CallId, StoreError> {
    let id = add(tx, None, new, CallState::Active, now)?;
    put_entries(tx, id, 0, entries, now)?;
    tx.end_call(id, outcome, now)?;
    Ok(id)
}

fn add(
    tx: &mut dyn Transaction,
    host: Option<HostId>,
    new: &NewCall,
    state: CallState,
    now: u64,
) -> Result<CallId, StoreError> {
    let record = &new.record;
    if !tx.has_component(&record.component)? {
        tx.put_component(&record.component, &new.component)?;
    }
    let row = CallRow {
        id: 0,
        tool: record.call.name().to_owned(),
        arguments: record.call.arguments().to_owned(),
        chat: record.chat.clone(),
        pinned: record.pinned.clone(),
        component: record.component.clone(),
        state,
        owner: host,
        interrupted: new.interrupt.is_cancelled(),
        sent: false,
        detached: new.detached,
        created_ms: record.created_ms,
        touched_ms: now,
        note: None,
    };
    tx.add_call(record, &row)
}

/// The unended calls at a call's workspace.
fn queue(tx: &dyn Transaction, row: &CallRow) -> Result<Vec<CallRow>, StoreError> {
    match &row.pinned.workspace {
        Some(workspace) => tx.queue(&row.pinned.deployment, workspace),
        None => Ok(Vec::new()),
    }
}

fn put(
    tx: &mut dyn Transaction,
    row: &CallRow,
    now: u64,
    change: impl FnOnce(&mut CallRow),
) -> Result<(), StoreError> {
    let mut row = CallRow { touched_ms: now, ..row.clone() };
    change(&mut row);
    tx.put_call(&row)
}

/// Writes entries from an index on; answers the index after the last one. A build that was made is one of ours from then
/// on.
fn put_entries(
    tx: &mut dyn Transaction,
    call: CallId,
    from: usize,
    entries: &[Entry],
    now: u64,
) -> Result<usize, StoreError> {
    for (index, entry) in (from..).zip(entries) {
        #[cfg(all(test, feature = "simulate"))]
        if sabotage::is(Sabotage::LosesTheLastEntry) && index + 1 == from + entries.len() {
            continue;
        }
        if let Answer::IssueTransition(Ok(build)) = &entry.answer {
            note_build(tx, build, entry.asked.intent.as_ref(), now)?;
        }
        tx.put_entry(call, index, entry)?;
    }
    Ok(from + entries.len())
}

/// Remembers a build as made here, and a restart if it is a start that follows a stop made here, by whichever tools.
fn note_build(
    tx: &mut dyn Transaction,
    build: &Build,
    intent: Option<&Intent>,
    now: u64,
) -> Result<(), StoreError> {
    if let Some(Intent::Build(intent)) = intent
        && intent.transition == Transition::Start
        && intent.after_stop
        && tx.is_own_build(&intent.rests_on)?
        && !tx.is_own_build(&build.id)?
    {
        tx.add_restart(&intent.workspace, now)?;
    }
    tx.add_own_build(&build.id, now)
}

/// Ends the calls without a host that nobody may carry on, because it is not known for whom they act. They have sent
/// nothing: a request for a build says for whom. Left alone they would hold up their workspaces for a day.
fn end_unidentified(tx: &mut dyn Transaction, host: &HostRow, now: u64) -> Result<(), StoreError> {
    for row in tx.owned_by(None)? {
        if row.pinned.deployment == host.deployment && row.pinned.user.is_none() {
            tx.end_call(row.id, &Outcome::Failed(Failure::Unidentified), now)?;
        }
    }
    Ok(())
}

/// Ends calls that no host could carry on for so long.
pub(super) fn abandon_old(tx: &mut dyn Transaction, now: u64, after: Duration) -> Result<usize, StoreError> {
    let before = now.saturating_sub(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    for host in tx.hosts()?.into_iter().filter(|host| host.lease_until_ms <= before) {
        tx.remove_host(host.id)?;
    }
    let left: Vec<_> = tx.owned_by(None)?.into_iter().filter(|row| row.touched_ms <= before).collect();
    let outcome = Outcome::Failed(Failure::Abandoned { hours: after.as_secs() / 3600 });
    for row in &left {
        tx.end_call(row.id, &outcome, now)?;
    }
    Ok(left.len())
}
