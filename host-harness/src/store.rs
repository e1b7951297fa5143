//! What the host remembers: chats and their bindings, calls with their journals, and which host carries which call.
//!
//! A [`Store`] is in memory or (feature `store`) in one SQLite file, which several processes may share. The rules are
//! the same for both: see `rules.rs` for them, `lease.rs` for who may write to a call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod chat_record;
mod error;
pub mod lease;
mod memory;
mod names;
mod presence;
mod rules;
#[cfg(feature = "store")]
mod sqlite;
mod transaction;

pub use chat_record::{ChatRecord, Failures};
pub use error::StoreError;
pub use names::{NameError, check_name};
pub use rules::{Admission, BeginOutcome, NewCall, SelfEnding};
pub use transaction::{CallRow, CallState, HostId, Listing, Turn};

use crate::journal::Entry;
use crate::journal::record::{BuildIntent, CallId, Intent, Open, Outcome, Recording};
pub(crate) use transaction::{Backend, HostRow, ReadTransaction, Transaction};
#[cfg(feature = "simulate")]
pub(crate) use transaction::{Committed, Work};

/// For how long ended calls are kept: long enough to look into what happened last week.
pub const KEEP_ENDED: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// A call that no host could carry on for so long is ended: by then nobody waits for it.
pub const ABANDON_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Calls removed in one transaction, so that others get their turn in between.
const PRUNE_BATCH: usize = 500;

/// Chats, calls and hosts. Cheap to clone; clones are one store.
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

/// What became of a call that somebody does not wait for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It is interrupted: it had sent nothing.
    Interrupted,
    /// It goes on, or has ended.
    GoesOn,
    /// It is another host's, and so is the judgement: somebody may wait for it there.
    Elsewhere,
}

/// What became of a deliberate interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It is noted; whoever carries the call will see it.
    Noted,
    /// The call had ended before.
    Ended,
    /// There is no such call.
    Unknown,
}

impl Store {
    /// A store that lives as long as the value.
    pub fn in_memory() -> Self {
        Self(Arc::new(memory::Memory::default()))
    }

    /// The store in this file, which is made if it is missing. Its folder must exist.
    #[cfg(feature = "store")]
    pub fn open(path: &std::path::Path) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(sqlite::Sqlite::open(path)?)))
    }

    /// The store in this backend.
    #[cfg(feature = "simulate")]
    pub(crate) fn at(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Where it is.
    #[cfg(feature = "simulate")]
    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.0
    }

    /// The chat of that name, if it is known.
    pub fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError> {
        self.read(|tx| tx.chat(name))
    }

    /// All chats, by name.
    pub fn chats(&self) -> Result<Vec<ChatRecord>, StoreError> {
        self.read(|tx| tx.chats())
    }

    /// Changes a chat in one transaction, making it first if it is not known. Answers what it is then.
    pub async fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut ChatRecord) + Send + 'static,
    ) -> Result<ChatRecord, StoreError> {
        let name = name.to_owned();
        self.write(move |tx| {
            let mut chat = tx.chat(&name)?.unwrap_or_default();
            chat.name = name;
            change(&mut chat);
            tx.put_chat(&chat)?;
            Ok(chat)
        })
        .await
    }

    /// Points a chat at a build and clears its agent, if it is still bound to this workspace. Answers whether it is.
    pub async fn publish(&self, chat: &str, workspace: &str, build: &str) -> Result<bool, StoreError> {
        let (chat, workspace, build) = (chat.to_owned(), workspace.to_owned(), build.to_owned());
        self.write(move |tx| rules::publish(tx, &chat, Some(&workspace), build)).await
    }

    /// How many restarts of the workspace were made by calls of this store, at or after this time (host's Unix
    /// milliseconds): starts that followed a stop of theirs.
    pub fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError> {
        self.read(|tx| tx.restarts_since(workspace, since_ms))
    }

    /// Whether a call made the build.
    pub fn is_own_build(&self, build: &str) -> Result<bool, StoreError> {
        self.read(|tx| tx.is_own_build(build))
    }

    /// A call's state.
    pub fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
        self.read(|tx| tx.call(id))
    }

    /// How a call ended, and when (host's Unix milliseconds). `None`: it has not, or is not known.
    pub fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError> {
        self.read(|tx| tx.outcome(id))
    }

    /// Whether a call has ended, and how. `None`: it is not known.
    pub fn ended(&self, id: CallId) -> Result<Option<Option<Outcome>>, StoreError> {
        self.read(|tx| {
            let Some(row) = tx.call(id)? else { return Ok(None) };
            if row.state != CallState::Ended {
                return Ok(Some(None));
            }
            Ok(Some(tx.outcome(id)?.map(|(outcome, _)| outcome)))
        })
    }

    /// Everything that is kept of a call.
    pub fn recording(&self, id: CallId) -> Result<Option<Recording>, StoreError> {
        self.read(|tx| {
            let Some(call) = tx.record(id)? else { return Ok(None) };
            let (entries, open) = tx.journal(id)?;
            let outcome = tx.outcome(id)?.map(|(outcome, _)| outcome);
            Ok(Some(Recording { call, entries, open, outcome }))
        })
    }

    /// Calls, newest first, at most `limit`.
    pub fn calls(&self, listing: Listing, limit: usize) -> Result<Vec<CallRow>, StoreError> {
        self.read(|tx| tx.calls(listing, limit))
    }

    /// The unended calls at a workspace, in order of arrival.
    pub fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError> {
        self.read(|tx| tx.queue(deployment, workspace))
    }

    /// The builds at a workspace that calls have asked for, or are about to, without an answer until now.
    pub fn asked(&self, deployment: &str, workspace: &str) -> Result<Vec<BuildIntent>, StoreError> {
        self.read(|tx| {
            let mut asked = Vec::new();
            for row in tx.queue(deployment, workspace)? {
                if let Some(Open { intent: Intent::Build(intent), .. }) = tx.journal(row.id)?.1 {
                    asked.push(intent);
                }
            }
            Ok(asked)
        })
    }

    /// Where a call stands in line that has not ended. None: no other call is ahead of it.
    pub fn turn(&self, row: &CallRow) -> Result<Option<Turn>, StoreError> {
        let Some(workspace) = &row.pinned.workspace else { return Ok(None) };
        let queue = self.queue(&row.pinned.deployment, workspace)?;
        Ok(Turn::behind(queue.iter().take_while(|ahead| ahead.id < row.id)))
    }

    /// What keeps a call from going on, for people. None: nothing does, or it waits for the control plane.
    pub fn waits_for(&self, row: &CallRow) -> Result<Option<String>, StoreError> {
        if row.note.is_some() || row.state != CallState::Queued {
            return Ok(row.note.clone());
        }
        let turn = "it waits for its turn at the workspace";
        Ok(Some(self.turn(row)?.map_or(turn.to_owned(), |ahead| format!("{turn}, after {ahead}"))))
    }

    /// Ends the leases of hosts whose process is gone from this machine, so that their calls need not wait for that.
    pub async fn end_leases_of_the_gone(&self, now_ms: u64) -> Result<(), StoreError> {
        let Some(file) = self.0.file() else { return Ok(()) };
        let mut hosts = self.read(|tx| tx.hosts())?;
        hosts.retain(|host| presence::is_gone(file, host.id));
        if hosts.is_empty() {
            return Ok(());
        }
        let gone: Vec<_> = hosts.into_iter().map(|host| host.id).collect();
        let dead = gone.clone();
        self.write(move |tx| {
            let current = |host: &HostRow| dead.contains(&host.id) && host.lease_until_ms > now_ms;
            for host in tx.hosts()?.into_iter().filter(current) {
                tx.put_host(&HostRow { lease_until_ms: now_ms, ..host })?;
            }
            Ok(())
        })
        .await?;
        gone.iter().for_each(|host| presence::forget(file, *host));
        Ok(())
    }

    /// The calls that wait for a host to carry them on: theirs has left, or its lease has run out.
    pub fn orphans(&self, now_ms: u64) -> Result<Vec<CallRow>, StoreError> {
        self.read(|tx| {
            let mut orphans = tx.owned_by(None)?;
            for host in tx.hosts()?.into_iter().filter(|host| host.lease_until_ms <= now_ms) {
                orphans.extend(tx.owned_by(Some(host.id))?);
            }
            Ok(orphans)
        })
    }

    /// A component that a kept call names.
    pub fn component(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|tx| tx.component(hash))
    }

    /// Brings a component that unended calls may have begun on: it takes the place of one that is missing or damaged.
    pub(crate) async fn bring_component(&self, hash: &str, bytes: Arc<[u8]>) -> Result<(), StoreError> {
        let hash = hash.to_owned();
        let needed = self.read(|tx| {
            if tx.component(&hash)?.as_deref() == Some(&*bytes) {
                return Ok(false);
            }
            let unended = tx.calls(Listing::Unended, usize::MAX)?;
            Ok(unended.iter().any(|row| row.component == hash))
        })?;
        if needed {
            self.write(move |tx| tx.put_component(&hash, &bytes)).await?;
        }
        Ok(())
    }

    /// Keeps a call that needed no turn and changed nothing, in one piece: a verdict.
    pub async fn keep(
        &self,
        new: NewCall,
        entries: Vec<Entry>,
        outcome: Outcome,
        at_ms: u64,
    ) -> Result<CallId, StoreError> {
        self.write(move |tx| rules::keep(tx, &new, &entries, &outcome, at_ms)).await
    }

    /// Interrupts a call, whichever host carries it.
    pub async fn interrupt(&self, id: CallId) -> Result<Interrupted, StoreError> {
        self.write(move |tx| {
            let Some(row) = tx.call(id)? else { return Ok(Interrupted::Unknown) };
            if row.state == CallState::Ended {
                return Ok(Interrupted::Ended);
            }
            if !row.interrupted {
                tx.put_call(&CallRow { interrupted: true, ..row })?;
            }
            Ok(Interrupted::Noted)
        })
        .await
    }

    /// Interrupts a call that has sent nothing, if it goes on only for those who wait for it and `is_unwanted` (asked
    /// in the transaction) says that nobody does. Whether somebody does is known to the host that carries it; if that
    /// is gone, to the one that asks, `by`.
    pub async fn abandon(
        &self,
        id: CallId,
        by: Option<HostId>,
        now_ms: u64,
        is_unwanted: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Abandoned, StoreError> {
        self.write(move |tx| {
            let unended = tx.call(id)?.filter(|row| row.state != CallState::Ended);
            let Some(row) = unended.filter(|row| !row.sent && !row.detached) else {
                return Ok(Abandoned::GoesOn);
            };
            let host = row.owner.filter(|owner| Some(*owner) != by);
            let host = host.map(|owner| tx.host(owner)).transpose()?.flatten();
            if !is_unwanted() {
                return Ok(Abandoned::GoesOn);
            }
            if host.is_some_and(|host| host.lease_until_ms > now_ms) {
                return Ok(Abandoned::Elsewhere);
            }
            if !row.interrupted {
                tx.put_call(&CallRow { interrupted: true, ..row })?;
            }
            Ok(Abandoned::Interrupted)
        })
        .await
    }

    /// Lets a call go on whether or not anybody waits for it.
    pub async fn detach(&self, id: CallId) -> Result<(), StoreError> {
        self.write(move |tx| match tx.call(id)? {
            Some(row) if row.state != CallState::Ended && !row.detached => {
                tx.put_call(&CallRow { detached: true, ..row })
            }
            _ => Ok(()),
        })
        .await
    }

    /// Removes calls that ended before a time (host's Unix milliseconds), and what only they needed. Answers how many.
    pub async fn prune(&self, before_ms: u64) -> Result<usize, StoreError> {
        let mut removed = 0;
        loop {
            let batch = self
                .write(move |tx| {
                    let ids = tx.ended_before(before_ms, PRUNE_BATCH)?;
                    for id in &ids {
                        tx.remove_call(*id)?;
                    }
                    Ok(ids.len())
                })
                .await?;
            removed += batch;
            if batch < PRUNE_BATCH {
                break;
            }
        }
        self.write(move |tx| tx.remove_unneeded(before_ms)).await?;
        Ok(removed)
    }

    /// Ends the calls that no host could carry on for [`ABANDON_AFTER`]. Answers how many.
    pub async fn abandon_old(&self, now_ms: u64) -> Result<usize, StoreError> {
        self.write(move |tx| rules::abandon_old(tx, now_ms, ABANDON_AFTER)).await
    }

    /// Changes when somebody may have written. A cheap look.
    pub fn generation(&self) -> Result<u64, StoreError> {
        self.0.generation()
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&dyn ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut work, mut done) = (Some(work), None);
        self.0.read(&mut |tx| {
            if let Some(work) = work.take() {
                done = Some(work(tx)?);
            }
            Ok(())
        })?;
        done.ok_or_else(no_value)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Transaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = Arc::new(Mutex::new(None));
        let slot = done.clone();
        let work = move |tx: &mut dyn Transaction| {
            let value = work(tx)?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        };
        self.0.transact(Box::new(work)).await?;
        let value = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(no_value)
    }
}

/// A backend that says that work was done without doing it.
fn no_value() -> StoreError {
    StoreError::Unusable { path: String::new(), reason: "work was left undone".to_owned() }
}

#[cfg(test)]
mod tests;
