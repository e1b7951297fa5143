//! A way to the store that hides or loses something.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::BrokenStore;
use crate::bindings::ToolResult;
use crate::journal::record::{CallId, CallRecord, Intent, Open, Outcome};
use crate::journal::{Entry, Output};
use crate::store::{
    Backend, CallRow, ChatRecord, Committed, HostId, HostRow, Listing, ReadTransaction, StoreError,
    Transaction, Work,
};

/// The backend, broken so. `plugin` is the hash of the host's own plugin.
pub fn broken(how: BrokenStore, backend: Arc<dyn Backend>, plugin: String) -> Arc<dyn Backend> {
    Arc::new(BrokenBackend { how, backend, plugin })
}

struct BrokenBackend {
    how: BrokenStore,
    backend: Arc<dyn Backend>,
    plugin: String,
}

impl Backend for BrokenBackend {
    fn transact(&self, work: Work) -> Committed {
        let (how, plugin) = (self.how, self.plugin.clone());
        self.backend.transact(Box::new(move |tx| work(&mut Rows { how, plugin: &plugin, tx })))
    }

    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (how, plugin) = (self.how, &*self.plugin);
        self.backend.read(&mut |tx| work(&Rows { how, plugin, tx }))
    }

    fn generation(&self) -> Result<u64, StoreError> {
        self.backend.generation()
    }
}

/// Rows that may be read (`T` is a `&dyn ReadTransaction`), or written too (a `&mut dyn Transaction`).
struct Rows<'a, T> {
    how: BrokenStore,
    /// The hash of the host's own plugin.
    plugin: &'a str,
    tx: T,
}

/// Both kinds of rows are read alike.
macro_rules! read_broken {
    ($rows:ty) => {
        impl ReadTransaction for $rows {
            fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
                let hidden = self.how == BrokenStore::HidesInterrupts;
                let row = self.tx.call(id)?;
                Ok(row.map(|row| CallRow { interrupted: row.interrupted && !hidden, ..row }))
            }

            fn record(&self, id: CallId) -> Result<Option<CallRecord>, StoreError> {
                let record = self.tx.record(id)?;
                Ok(match self.how {
                    BrokenStore::UpgradesCalls => {
                        record.map(|record| CallRecord { component: self.plugin.to_owned(), ..record })
                    }
                    _ => record,
                })
            }

            fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError> {
                match self.how {
                    BrokenStore::HidesQueues => Ok(Vec::new()),
                    _ => self.tx.queue(deployment, workspace),
                }
            }

            fn host(&self, id: HostId) -> Result<Option<HostRow>, StoreError> {
                let host = self.tx.host(id)?;
                Ok(match self.how {
                    BrokenStore::PassesLeases => {
                        host.map(|host| HostRow { lease_until_ms: u64::MAX, ..host })
                    }
                    _ => host,
                })
            }

            delegate::delegate! {
                to self.tx {
                    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError>;
                    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError>;
                    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError>;
                    fn is_own_build(&self, build: &str) -> Result<bool, StoreError>;
                    fn hosts(&self) -> Result<Vec<HostRow>, StoreError>;
                    fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError>;
                    fn call_by_key(&self, chat: &str, key: &str) -> Result<Option<CallId>, StoreError>;
                    fn owned_by(&self, owner: Option<HostId>) -> Result<Vec<CallRow>, StoreError>;
                    fn waiting(&self, owner: HostId) -> Result<Vec<(CallRow, Open)>, StoreError>;
                    fn needing_attention(&self, owner: HostId) -> Result<Vec<CallRow>, StoreError>;
                    fn calls(&self, listing: Listing, limit: usize) -> Result<Vec<CallRow>, StoreError>;
                    fn ended_before(&self, at_ms: u64, limit: usize) -> Result<Vec<CallId>, StoreError>;
                    fn journal(&self, call: CallId) -> Result<(Vec<Entry>, Option<Open>), StoreError>;
                    fn component(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError>;
                    fn has_component(&self, hash: &str) -> Result<bool, StoreError>;
                }
            }
        }
    };
}

read_broken!(Rows<'_, &dyn ReadTransaction>);
read_broken!(Rows<'_, &mut dyn Transaction>);

impl Transaction for Rows<'_, &mut dyn Transaction> {
    fn put_open(&mut self, call: CallId, index: usize, open: &Open) -> Result<(), StoreError> {
        match (self.how, &open.intent) {
            (BrokenStore::WritesNoIntents, Intent::Build(_)) => Ok(()),
            _ => self.tx.put_open(call, index, open),
        }
    }

    fn end_call(&mut self, id: CallId, outcome: &Outcome, at_ms: u64) -> Result<(), StoreError> {
        match (self.how, outcome) {
            (BrokenStore::EmptiesResults, Outcome::Done { result: Output::CallTool(_) }) => {
                let empty = ToolResult { json: "{}".to_owned(), is_error: false };
                let outcome = Outcome::Done { result: Output::CallTool(Ok(empty)) };
                self.tx.end_call(id, &outcome, at_ms)
            }
            (BrokenStore::LosesTheLastEntry, _) => {
                let entries = self.tx.journal(id)?.0.len();
                self.tx.truncate(id, entries.saturating_sub(1))?;
                self.tx.end_call(id, outcome, at_ms)
            }
            _ => self.tx.end_call(id, outcome, at_ms),
        }
    }

    fn reassign_calls(&mut self, from: Option<HostId>, to: &HostRow) -> Result<usize, StoreError> {
        match self.how {
            BrokenStore::LeavesOrphans => Ok(0),
            BrokenStore::IgnoresUsers => {
                let users: BTreeSet<_> =
                    self.tx.owned_by(from)?.into_iter().map(|row| row.pinned.user).collect();
                let reassign = |user| self.tx.reassign_calls(from, &HostRow { user, ..to.clone() });
                users.into_iter().map(reassign).sum()
            }
            _ => self.tx.reassign_calls(from, to),
        }
    }

    delegate::delegate! {
        to self.tx {
            fn put_chat(&mut self, chat: &ChatRecord) -> Result<(), StoreError>;
            fn add_restart(&mut self, workspace: &str, at_ms: u64) -> Result<(), StoreError>;
            fn add_own_build(&mut self, build: &str, at_ms: u64) -> Result<(), StoreError>;
            fn add_host(&mut self, host: &HostRow) -> Result<HostId, StoreError>;
            fn put_host(&mut self, host: &HostRow) -> Result<(), StoreError>;
            fn remove_host(&mut self, id: HostId) -> Result<(), StoreError>;
            fn add_call(&mut self, record: &CallRecord, row: &CallRow) -> Result<CallId, StoreError>;
            fn put_call(&mut self, row: &CallRow) -> Result<(), StoreError>;
            fn put_progress(&mut self, row: &CallRow) -> Result<(), StoreError>;
            fn remove_call(&mut self, id: CallId) -> Result<(), StoreError>;
            fn remove_unneeded(&mut self, before_ms: u64) -> Result<(), StoreError>;
            fn put_entry(&mut self, call: CallId, index: usize, entry: &Entry) -> Result<(), StoreError>;
            fn truncate(&mut self, call: CallId, from: usize) -> Result<(), StoreError>;
            fn put_component(&mut self, hash: &str, bytes: &[u8]) -> Result<(), StoreError>;
        }
    }
}
