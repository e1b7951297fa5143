//! The store as one host reaches it: slow, full, lost in a crash; and every write to it is seen by the observer.

use std::sync::Arc;
use std::time::Duration;

use super::dice::Dice;
use super::fault_gate::FaultGate;
use super::schedule::FaultPoint;
use super::world_state::WorldState;
use crate::journal::Entry;
use crate::journal::record::{CallId, CallRecord, Open, Outcome};
use crate::store::{
    Backend, CallRow, ChatRecord, Committed, HostId, HostRow, Listing, ReadTransaction, Store, StoreError,
    Transaction, Work,
};

/// The backend of a world, as one life of a host has it.
pub struct Disk {
    world: Arc<WorldState>,
    gate: Arc<FaultGate>,
    backend: Arc<dyn Backend>,
}

impl Disk {
    /// A host's way to the backend that all hosts share.
    pub fn new(world: Arc<WorldState>, gate: Arc<FaultGate>, store: &Store) -> Self {
        Self { world, gate, backend: store.backend().clone() }
    }

    /// Does the work, in view of the observer. In the backend in memory a transaction is done when this returns.
    fn commit(&self, work: Work) -> Committed {
        let (world, gate) = (self.world.clone(), self.gate.clone());
        self.backend
            .transact(Box::new(move |tx| work(&mut ObservedTransaction { tx, world: &world, gate: &gate })))
    }

    fn delay(&self) -> Option<Duration> {
        if !self.world.schedule.random_faults.store || self.world.is_calm() {
            return None;
        }
        let mut dice = Dice::new(
            self.world.schedule.seed,
            "store",
            &[self.gate.host, self.gate.life, self.gate.count()],
        );
        match dice.between(0, 99) {
            0..=9 => Some(Duration::from_millis(dice.between(1, 30))),
            10 => Some(Duration::from_millis(dice.between(30, 5_000))),
            _ => None,
        }
    }
}

impl Backend for Disk {
    fn transact(&self, work: Work) -> Committed {
        if self.gate.come_to(FaultPoint::BeforeCommit) || self.gate.is_dead() || self.world.is_stuck() {
            return Box::pin(std::future::pending());
        }
        if self.gate.is_full() {
            return Box::pin(std::future::ready(Err(full())));
        }
        let delay = self.delay();
        if delay.is_none() && self.gate.is_open() {
            let done = self.commit(work);
            if self.gate.come_to(FaultPoint::AfterCommit) {
                return Box::pin(std::future::pending());
            }
            let gate = self.gate.clone();
            return Box::pin(async move {
                let done = done.await;
                gate.pass().await;
                done
            });
        }
        // It is done whether or not somebody waits for it, unless the host dies before.
        let (told, hear) = tokio::sync::oneshot::channel();
        let disk = Self { world: self.world.clone(), gate: self.gate.clone(), backend: self.backend.clone() };
        tokio::spawn(async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            disk.gate.pass().await;
            let done = if disk.gate.is_full() { Err(full()) } else { disk.commit(work).await };
            // Whoever does not wait any more does not need to know.
            let _ = told.send(done);
        });
        let gate = self.gate.clone();
        Box::pin(async move {
            let done = hear.await;
            gate.pass().await;
            done.unwrap_or(Err(StoreError::LeaseLost))
        })
    }

    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.world.now();
        self.backend.read(work)
    }

    fn generation(&self) -> Result<u64, StoreError> {
        self.backend.generation()
    }
}

fn full() -> StoreError {
    StoreError::Full { path: "disk".to_owned() }
}

/// The rows within a transaction of a host, in view of the observer.
struct ObservedTransaction<'a> {
    tx: &'a mut dyn Transaction,
    world: &'a WorldState,
    gate: &'a FaultGate,
}

impl ObservedTransaction<'_> {
    /// A write to a call: by its owner, while his lease is current.
    fn owned(&self, call: CallId) -> Result<(), StoreError> {
        if let Some(row) = self.tx.call(call)?
            && !is_verdict(&row)
        {
            self.world.observer().wrote(self.world, self.gate, self.tx, &row)?;
        }
        Ok(())
    }

    /// A call's state may have become another one.
    fn turn(&self, row: &CallRow) -> Result<(), StoreError> {
        let Some(workspace) = &row.pinned.workspace else { return Ok(()) };
        let queue = self.tx.queue(&row.pinned.deployment, workspace)?;
        self.world.observer().turns(self.world, workspace, &queue);
        Ok(())
    }
}

/// Verdicts are kept by hosts without a lease.
fn is_verdict(row: &CallRow) -> bool {
    row.tool == "classify-failure"
}

impl Transaction for ObservedTransaction<'_> {
    fn put_call(&mut self, row: &CallRow) -> Result<(), StoreError> {
        let before = self.tx.call(row.id)?;
        match before {
            // Anybody may say that a call is to end, or that it is not to end for want of somebody who waits for it.
            Some(before) if *row == (CallRow { interrupted: true, ..before.clone() }) => {
                self.world.observer().interrupted(self.world, row.id);
            }
            Some(before) if *row == (CallRow { detached: true, ..before.clone() }) => {}
            _ => self.owned(row.id)?,
        }
        self.tx.put_call(row)?;
        self.turn(row)
    }

    fn put_progress(&mut self, row: &CallRow) -> Result<(), StoreError> {
        self.put_call(row)
    }

    fn add_call(&mut self, record: &CallRecord, row: &CallRow) -> Result<CallId, StoreError> {
        let id = self.tx.add_call(record, row)?;
        if row.owner.is_some() {
            self.world.observer().wrote(self.world, self.gate, self.tx, row)?;
            self.world.observer().begun(self.world, self.gate, id, row);
            self.turn(row)?;
        }
        // Else it is a verdict, which takes no turn: it is written down when it has ended.
        Ok(id)
    }

    fn end_call(&mut self, id: CallId, outcome: &Outcome, at_ms: u64) -> Result<(), StoreError> {
        if let Some(row) = self.tx.call(id)? {
            if row.owner.is_some() {
                self.owned(id)?;
            }
            let (entries, open) = self.tx.journal(id)?;
            let record = self.tx.record(id)?;
            let call = record.as_ref().map(|record| &record.call);
            self.world.observer().ended(self.world, &row, call, (&entries, open.as_ref()), outcome);
        }
        self.tx.end_call(id, outcome, at_ms)
    }

    fn put_entry(&mut self, call: CallId, index: usize, entry: &Entry) -> Result<(), StoreError> {
        self.owned(call)?;
        self.world.observer().answered(self.world, call, entry);
        self.tx.put_entry(call, index, entry)
    }

    fn put_open(&mut self, call: CallId, index: usize, open: &Open) -> Result<(), StoreError> {
        self.owned(call)?;
        if let Some(row) = self.tx.call(call)? {
            let (entries, _) = self.tx.journal(call)?;
            self.world.observer().opened(self.world, self.gate, &row, &entries, open);
        }
        self.tx.put_open(call, index, open)
    }

    fn truncate(&mut self, call: CallId, from: usize) -> Result<(), StoreError> {
        self.owned(call)?;
        self.world.observer().forgotten(self.world, call);
        self.tx.truncate(call, from)
    }

    fn reassign_calls(&mut self, from: Option<HostId>, to: &HostRow) -> Result<usize, StoreError> {
        let current = self.tx.host(to.id)?;
        self.world.observer().took(self.world, self.gate, from, to.id, current.as_ref());
        self.tx.reassign_calls(from, to)
    }

    fn add_host(&mut self, host: &HostRow) -> Result<HostId, StoreError> {
        let id = self.tx.add_host(host)?;
        self.gate.entered(id);
        Ok(id)
    }

    // Nothing about these is to be seen.
    delegate::delegate! {
        to self.tx {
            fn put_host(&mut self, host: &HostRow) -> Result<(), StoreError>;
            fn remove_host(&mut self, id: HostId) -> Result<(), StoreError>;
            fn put_chat(&mut self, chat: &ChatRecord) -> Result<(), StoreError>;
            fn add_restart(&mut self, workspace: &str, at_ms: u64) -> Result<(), StoreError>;
            fn add_own_build(&mut self, build: &str, at_ms: u64) -> Result<(), StoreError>;
            fn remove_call(&mut self, id: CallId) -> Result<(), StoreError>;
            fn remove_unneeded(&mut self, before_ms: u64) -> Result<(), StoreError>;
            fn put_component(&mut self, hash: &str, bytes: &[u8]) -> Result<(), StoreError>;
        }
    }
}

impl ReadTransaction for ObservedTransaction<'_> {
    delegate::delegate! {
        to self.tx {
            fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError>;
            fn chats(&self) -> Result<Vec<ChatRecord>, StoreError>;
            fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError>;
            fn is_own_build(&self, build: &str) -> Result<bool, StoreError>;
            fn host(&self, id: HostId) -> Result<Option<HostRow>, StoreError>;
            fn hosts(&self) -> Result<Vec<HostRow>, StoreError>;
            fn call(&self, id: CallId) -> Result<Option<CallRow>, StoreError>;
            fn record(&self, id: CallId) -> Result<Option<CallRecord>, StoreError>;
            fn outcome(&self, id: CallId) -> Result<Option<(Outcome, u64)>, StoreError>;
            fn call_by_key(&self, chat: &str, key: &str) -> Result<Option<CallId>, StoreError>;
            fn queue(&self, deployment: &str, workspace: &str) -> Result<Vec<CallRow>, StoreError>;
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
