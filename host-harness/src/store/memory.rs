//! A backend that lives as long as the value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::chat_record::ChatRecord;
use super::error::StoreError;
use super::transaction::{
    Backend, CallRow, CallState, Committed, HostId, HostRow, Listing, ReadTransaction, Transaction, Work,
};
use crate::journal::Entry;
use crate::journal::record::{CallId, CallRecord, Intent, Open, Outcome};

/// Rows in memory. The rules read before they write, so that work that fails has written nothing.
#[derive(Default)]
pub(super) struct Memory(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    chats: BTreeMap<String, ChatRecord>,
    restarts: BTreeMap<String, Vec<u64>>,
    own_builds: BTreeMap<String, u64>,
    hosts: BTreeMap<HostId, HostRow>,
    last_host: HostId,
    calls: BTreeMap<CallId, StoredCall>,
    last_call: CallId,
    keys: BTreeMap<(String, String), CallId>,
    queues: BTreeMap<(String, String), BTreeSet<CallId>>,
    unended: BTreeMap<Option<HostId>, BTreeSet<CallId>>,
    ended: BTreeSet<(u64, CallId)>,
    components: BTreeMap<String, Vec<u8>>,
    generation: u64,
}

struct StoredCall {
    record: CallRecord,
    row: CallRow,
    entries: Vec<Entry>,
    open: Option<Open>,
    outcome: Option<(Outcome, u64)>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    fn transact(&self, work: Work) -> Committed {
        let mut rows = self.lock();
        rows.generation += 1;
        let done = work(&mut *rows);
        Box::pin(std::future::ready(done))
    }

    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        work(&*self.lock())
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.lock().generation)
    }
}

impl Rows {
    fn stored(&self, id: CallId) -> Option<&StoredCall> {
        self.calls.get(&id)
    }

    fn rows(&self, ids: Option<&BTreeSet<CallId>>) -> Vec<CallRow> {
        ids.into_iter().flatten().filter_map(|id| self.stored(*id)).map(|stored| stored.row.clone()).collect()
    }

    /// Takes a call out of the indices of unended calls.
    fn unindex(&mut self, row: &CallRow) {
        if let Some(ids) = self.unended.get_mut(&row.owner) {
            ids.remove(&row.id);
        }
        if let Some(key) = queue_key(row)
            && let Some(ids) = self.queues.get_mut(&key)
        {
            ids.remove(&row.id);
            if ids.is_empty() {
                self.queues.remove(&key);
            }
        }
    }

    /// Gives calls that are in no owner's index to an owner.
    fn own(&mut self, ids: BTreeSet<CallId>, owner: Option<HostId>) {
        for id in &ids {
            if let Some(stored) = self.calls.get_mut(id) {
                stored.row.owner = owner;
            }
        }
        self.unended.entry(owner).or_default().extend(ids);
    }

    fn index(&mut self, row: &CallRow) {
        self.unended.entry(row.owner).or_default().insert(row.id);
        if let Some(key) = queue_key(row) {
            self.queues.entry(key).or_default().insert(row.id);
        }
    }
}

fn queue_key(row: &CallRow) -> Option<(String, String)> {
    Some((row.pinned.deployment.clone(), row.pinned.workspace.clone()?))
}

impl ReadTransaction for Rows {
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError> {
        Ok(self.chats.get(name).cloned())
    }

    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError> {
        Ok(self.chats.values().cloned().collect())
    }

    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError> {
        let times = self.restarts.get(workspace).map(Vec::as_slice).unwrap_or_default();
        Ok(u32::try_from(times.iter().filter(|at| **at >= since_ms).count()).unwrap_or(u32::MAX))
    }

    fn is_own_build(&self, build: &str) -> Result<bool, StoreError> {
        Ok(self.own_builds.contains_key(build))
    }

    fn host(&self, id: HostId) -> Result<Option<HostRow>, StoreError> {
        Ok(self.hosts.get(&id).cloned())
    }

    fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        Ok(self.hosts.values().cloned().collect())
    }

    fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
        Ok(self.stored(id).map(|stored| stored.row.clone()))
    }

    fn record(&self, id: CallId) -> Result<Option<CallRecord>, StoreError> {
        Ok(self.stored(id).map(|stored| stored.record.clone()))
    }

    fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError> {
        Ok(self.stored(id).and_then(|stored| stored.outcome.clone()))
    }

    fn call_by_key(&self, chat: &str, key: &str) -> Result<Option<CallId>, StoreError> {
        Ok(self.keys.get(&(chat.to_owned(), key.to_owned())).copied())
    }

    fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError> {
        Ok(self.rows(self.queues.get(&(deployment.to_owned(), workspace.to_owned()))))
    }

    fn owned_by(&self, owner: Option<HostId>) -> Result<Vec<CallRow>, StoreError> {
        Ok(self.rows(self.unended.get(&owner)))
    }

    fn waiting(&self, owner: HostId) -> Result<Vec<(CallRow, Open)>, StoreError> {
        let ids = self.unended.get(&Some(owner)).into_iter().flatten();
        let waits = ids.filter_map(|id| {
            let stored = self.stored(*id)?;
            let open = stored.open.as_ref().filter(|open| matches!(open.intent, Intent::Wait { .. }))?;
            Some((stored.row.clone(), open.clone()))
        });
        Ok(waits.collect())
    }

    fn needing_attention(&self, owner: HostId) -> Result<Vec<CallRow>, StoreError> {
        let mut rows = self.owned_by(Some(owner))?;
        rows.retain(|row| row.interrupted || row.state == CallState::Queued);
        Ok(rows)
    }

    fn calls(&self, listing: Listing, limit: usize) -> Result<Vec<CallRow>, StoreError> {
        let rows = self.calls.values().rev().map(|stored| &stored.row);
        let listed = rows.filter(|row| match listing {
            Listing::Unended => row.state != CallState::Ended,
            Listing::All => true,
        });
        Ok(listed.take(limit).cloned().collect())
    }

    fn ended_before(&self, at_ms: u64, limit: usize) -> Result<Vec<CallId>, StoreError> {
        Ok(self.ended.range(..(at_ms, 0)).take(limit).map(|(_, id)| *id).collect())
    }

    fn journal(&self, call: CallId) -> Result<(Vec<Entry>, Option<Open>), StoreError> {
        Ok(self.stored(call).map(|stored| (stored.entries.clone(), stored.open.clone())).unwrap_or_default())
    }

    fn component(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.components.get(hash).cloned())
    }

    fn has_component(&self, hash: &str) -> Result<bool, StoreError> {
        Ok(self.components.contains_key(hash))
    }
}

impl Transaction for Rows {
    fn put_chat(&mut self, chat: &ChatRecord) -> Result<(), StoreError> {
        self.chats.insert(chat.name.clone(), chat.clone());
        Ok(())
    }

    fn add_restart(&mut self, workspace: &str, at_ms: u64) -> Result<(), StoreError> {
        self.restarts.entry(workspace.to_owned()).or_default().push(at_ms);
        Ok(())
    }

    fn add_own_build(&mut self, build: &str, at_ms: u64) -> Result<(), StoreError> {
        self.own_builds.entry(build.to_owned()).or_insert(at_ms);
        Ok(())
    }

    fn add_host(&mut self, host: &HostRow) -> Result<HostId, StoreError> {
        self.last_host += 1;
        self.hosts.insert(self.last_host, HostRow { id: self.last_host, ..host.clone() });
        Ok(self.last_host)
    }

    fn put_host(&mut self, host: &HostRow) -> Result<(), StoreError> {
        self.hosts.insert(host.id, host.clone());
        Ok(())
    }

    fn remove_host(&mut self, id: HostId) -> Result<(), StoreError> {
        let left = self.unended.remove(&Some(id)).unwrap_or_default();
        self.own(left, None);
        self.hosts.remove(&id);
        Ok(())
    }

    fn add_call(&mut self, record: &CallRecord, row: &CallRow) -> Result<CallId, StoreError> {
        self.last_call += 1;
        let id = self.last_call;
        let row = CallRow { id, ..row.clone() };
        if let Some(key) = &record.key {
            self.keys.insert((record.chat.clone(), key.clone()), id);
        }
        self.index(&row);
        let record = record.clone();
        self.calls.insert(id, StoredCall { record, row, entries: Vec::new(), open: None, outcome: None });
        Ok(id)
    }

    fn put_call(&mut self, row: &CallRow) -> Result<(), StoreError> {
        let Some(stored) = self.calls.get_mut(&row.id) else { return Ok(()) };
        let before = std::mem::replace(&mut stored.row, row.clone());
        self.unindex(&before);
        self.index(row);
        Ok(())
    }

    fn put_progress(&mut self, row: &CallRow) -> Result<(), StoreError> {
        self.put_call(row)
    }

    fn end_call(&mut self, id: CallId, outcome: &Outcome, at_ms: u64) -> Result<(), StoreError> {
        let Some(stored) = self.calls.get_mut(&id) else { return Ok(()) };
        stored.outcome = Some((outcome.clone(), at_ms));
        let before = stored.row.clone();
        stored.row.state = CallState::Ended;
        (stored.row.owner, stored.row.touched_ms) = (None, at_ms);
        self.unindex(&before);
        self.ended.insert((at_ms, id));
        Ok(())
    }

    fn reassign_calls(&mut self, from: Option<HostId>, to: &HostRow) -> Result<usize, StoreError> {
        let ours = |row: &CallRow| row.pinned.deployment == to.deployment && row.pinned.user == to.user;
        let mut ids = self.unended.remove(&from).unwrap_or_default();
        let others =
            ids.extract_if(.., |id| !self.calls.get(id).is_some_and(|stored| ours(&stored.row))).collect();
        self.unended.insert(from, others);
        let (given, owner) = if to.user.is_none() { (0, from) } else { (ids.len(), Some(to.id)) };
        self.own(ids, owner);
        Ok(given)
    }

    fn remove_call(&mut self, id: CallId) -> Result<(), StoreError> {
        if let Some(stored) = self.calls.remove(&id) {
            self.unindex(&stored.row);
            if let Some((_, at_ms)) = stored.outcome {
                self.ended.remove(&(at_ms, id));
            }
            if let Some(key) = stored.record.key {
                self.keys.remove(&(stored.record.chat, key));
            }
        }
        Ok(())
    }

    fn remove_unneeded(&mut self, before_ms: u64) -> Result<(), StoreError> {
        self.own_builds.retain(|_, at_ms| *at_ms >= before_ms);
        for times in self.restarts.values_mut() {
            times.retain(|at_ms| *at_ms >= before_ms);
        }
        self.restarts.retain(|_, times| !times.is_empty());
        let named: BTreeSet<_> = self.calls.values().map(|stored| &stored.row.component).collect();
        self.components.retain(|hash, _| named.contains(hash));
        Ok(())
    }

    fn put_entry(&mut self, call: CallId, index: usize, entry: &Entry) -> Result<(), StoreError> {
        if let Some(stored) = self.calls.get_mut(&call) {
            stored.entries.truncate(index);
            stored.entries.push(entry.clone());
            stored.open = None;
        }
        Ok(())
    }

    fn put_open(&mut self, call: CallId, index: usize, open: &Open) -> Result<(), StoreError> {
        if let Some(stored) = self.calls.get_mut(&call) {
            stored.entries.truncate(index);
            stored.open = Some(open.clone());
        }
        Ok(())
    }

    fn truncate(&mut self, call: CallId, from: usize) -> Result<(), StoreError> {
        if let Some(stored) = self.calls.get_mut(&call) {
            if from <= stored.entries.len() {
                stored.open = None;
            }
            stored.entries.truncate(from);
        }
        Ok(())
    }

    fn put_component(&mut self, hash: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.components.insert(hash.to_owned(), bytes.to_vec());
        Ok(())
    }
}
