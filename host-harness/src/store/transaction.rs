//! What is kept, and the operations that a backend for it must have.
//!
//! The rules (who may write, whose turn it is, what an interrupt means) are written once, over [`Transaction`]; a
//! backend only keeps rows. [`Backend`] runs a piece of such work as one transaction.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use super::chat_record::ChatRecord;
use super::error::StoreError;
use crate::journal::Entry;
use crate::journal::record::{CallId, CallRecord, Holder, Open, Outcome, Pinned};

/// Names a host within its store. Never used again, even if the host is gone.
pub type HostId = u64;

/// Work on the rows, to be done in one transaction.
pub type Work = Box<dyn FnOnce(&mut dyn Transaction) -> Result<(), StoreError> + Send>;

/// Resolves when the work of a transaction is durable, or was undone.
pub type Committed = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Where rows are kept.
pub trait Backend: Send + Sync {
    /// Does the work in one transaction, alone among all processes that share the store. It is done whether or not
    /// the future is polled to its end; if it fails, nothing of it remains.
    fn transact(&self, work: Work) -> Committed;

    /// Reads a consistent state, without waiting for writers.
    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// Counts up when somebody else may have written. A cheap look; equal numbers mean that nothing is new.
    fn generation(&self) -> Result<u64, StoreError>;

    /// The file that it is, if it is one that processes share.
    fn file(&self) -> Option<&Path> {
        None
    }
}

/// A host: a process (or a part of one) that carries calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// Its id.
    pub id: HostId,
    /// The control plane that it speaks to.
    pub deployment: String,
    /// Whom it acts for. `None`: not known yet.
    pub user: Option<String>,
    /// Until when its calls are its own, Unix milliseconds. The lease of all of them at once.
    pub lease_until_ms: u64,
}

/// What of a call changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRow {
    /// Its id; calls that came later have greater ones.
    pub id: CallId,
    /// What was called: the tool's name, or the export's.
    pub tool: String,
    /// Its arguments in canonical form.
    pub arguments: String,
    /// The chat.
    pub chat: String,
    /// What it is pinned to.
    pub pinned: Pinned,
    /// The component that it runs on.
    pub component: String,
    /// How far it is.
    pub state: CallState,
    /// The host that carries it.
    pub owner: Option<HostId>,
    /// Somebody wants it to end.
    pub interrupted: bool,
    /// A request for a build was written down: from here on something may have been sent.
    pub sent: bool,
    /// It goes on also if nobody waits for it: somebody has begun or joined it so.
    pub detached: bool,
    /// When it was begun, host's Unix milliseconds.
    pub created_ms: u64,
    /// When it was last written to.
    pub touched_ms: u64,
    /// Why it cannot go on at the moment, for people.
    pub note: Option<String>,
}

/// Where a call stands that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The first in line.
    pub holder: Holder,
    /// How many calls come after that one and before this.
    pub between: usize,
}

impl Turn {
    /// That of a call behind these; none if it is the first.
    pub(super) fn behind<'a>(mut ahead: impl Iterator<Item = &'a CallRow>) -> Option<Self> {
        let first = ahead.next()?;
        let holder = Holder { call: first.id, chat: first.chat.clone(), tool: first.tool.clone() };
        Some(Self { holder, between: ahead.count() })
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.between {
            0 => write!(f, "{}", self.holder),
            1 => write!(f, "{} and 1 more call", self.holder),
            more => write!(f, "{} and {more} more calls", self.holder),
        }
    }
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallState {
    /// It waits for its turn at the workspace.
    Queued,
    /// It runs, or waits for something at the control plane.
    Active,
    /// It has ended.
    Ended,
}

/// Which calls to list, newest first.
#[derive(Clone, Copy, Debug)]
pub enum Listing {
    /// Those that have not ended.
    Unended,
    /// All, ended ones included.
    All,
}

/// Rows, as they are within a transaction. Nothing here decides anything.
pub trait ReadTransaction {
    /// A chat by name.
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError>;
    /// All chats, by name.
    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError>;
    /// How many restarts of a workspace were made since.
    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError>;
    /// Whether a call made this build.
    fn is_own_build(&self, build: &str) -> Result<bool, StoreError>;
    /// A host by id.
    fn host(&self, id: HostId) -> Result<Option<HostRow>, StoreError>;
    /// All hosts.
    fn hosts(&self) -> Result<Vec<HostRow>, StoreError>;
    /// What of a call changes.
    fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError>;
    /// What of a call never changes.
    fn record(&self, id: CallId) -> Result<Option<CallRecord>, StoreError>;
    /// How a call ended, and when.
    fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError>;
    /// The call of a chat with this key.
    fn call_by_key(&self, chat: &str, key: &str) -> Result<Option<CallId>, StoreError>;
    /// The calls at a workspace that have not ended, in order of arrival.
    fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError>;
    /// The unended calls of a host, or those without one, in order of arrival.
    fn owned_by(&self, owner: Option<HostId>) -> Result<Vec<CallRow>, StoreError>;
    /// The unended calls of a host whose open request is a wait, with that, in order of arrival.
    fn waiting(&self, owner: HostId) -> Result<Vec<(CallRow, Open)>, StoreError>;
    /// Those of a host that somebody wants to end, or that wait for their turn: what may have news for it.
    fn needing_attention(&self, owner: HostId) -> Result<Vec<CallRow>, StoreError>;
    /// Calls, newest first.
    fn calls(&self, listing: Listing, limit: usize) -> Result<Vec<CallRow>, StoreError>;
    /// The oldest calls that ended before a time, at most `limit`.
    fn ended_before(&self, at_ms: u64, limit: usize) -> Result<Vec<CallId>, StoreError>;
    /// The requests of a call that were answered, in order, and the one that is open.
    fn journal(&self, call: CallId) -> Result<(Vec<Entry>, Option<Open>), StoreError>;
    /// A component by its hash.
    fn component(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Whether a component is there.
    fn has_component(&self, hash: &str) -> Result<bool, StoreError>;
}

/// As [`ReadTransaction`], and they may be written.
pub trait Transaction: ReadTransaction {
    /// Writes a chat, in place of the one of that name.
    fn put_chat(&mut self, chat: &ChatRecord) -> Result<(), StoreError>;
    /// Notes that a restart of a workspace was made.
    fn add_restart(&mut self, workspace: &str, at_ms: u64) -> Result<(), StoreError>;
    /// Notes a build that a call made.
    fn add_own_build(&mut self, build: &str, at_ms: u64) -> Result<(), StoreError>;
    /// Adds a host, and answers its id.
    fn add_host(&mut self, host: &HostRow) -> Result<HostId, StoreError>;
    /// Writes a host that exists.
    fn put_host(&mut self, host: &HostRow) -> Result<(), StoreError>;
    /// Removes a host; the calls that it still had have no owner then.
    fn remove_host(&mut self, id: HostId) -> Result<(), StoreError>;
    /// Adds a call and answers its id. `row.id` is ignored.
    fn add_call(&mut self, record: &CallRecord, row: &CallRow) -> Result<CallId, StoreError>;
    /// Writes state, owner, marks and note of a call.
    fn put_call(&mut self, row: &CallRow) -> Result<(), StoreError>;
    /// Writes of an unended call what it has sent and for whom, and when it was written to: what is in no index.
    fn put_progress(&mut self, row: &CallRow) -> Result<(), StoreError>;
    /// Ends a call.
    fn end_call(&mut self, id: CallId, outcome: &Outcome, at_ms: u64) -> Result<(), StoreError>;
    /// Gives the unended calls of a host, or those without one, that are pinned to this user to another host.
    /// Answers how many.
    fn reassign_calls(&mut self, from: Option<HostId>, to: &HostRow) -> Result<usize, StoreError>;
    /// Removes a call with its entries.
    fn remove_call(&mut self, id: CallId) -> Result<(), StoreError>;
    /// Removes what only ended calls of long ago needed: own builds and restarts before that time, components that no
    /// call names.
    fn remove_unneeded(&mut self, before_ms: u64) -> Result<(), StoreError>;
    /// Writes an answered request, in place of an open one if there is one at this index.
    fn put_entry(&mut self, call: CallId, index: usize, entry: &Entry) -> Result<(), StoreError>;
    /// Writes a request that is going to be carried out.
    fn put_open(&mut self, call: CallId, index: usize, open: &Open) -> Result<(), StoreError>;
    /// Removes the entries from an index on.
    fn truncate(&mut self, call: CallId, from: usize) -> Result<(), StoreError>;
    /// Keeps a component, in place of what is kept under its hash.
    fn put_component(&mut self, hash: &str, bytes: &[u8]) -> Result<(), StoreError>;
}
