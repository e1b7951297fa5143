//! What a host has to pass to reach anything outside of itself: shut while it stands still, and for good when it dies.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::schedule::{At, FaultPoint};
use super::world_state::WorldState;
use crate::store::HostId;

/// The gate of one life of a host.
pub struct FaultGate {
    /// The host's number.
    pub host: u64,
    /// How often it was begun before.
    pub life: u64,
    world: Arc<WorldState>,
    died: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It stands still until then.
    still_until: At,
    cut_off_until: At,
    full_until: At,
    /// Where it is to be killed, and after how long it comes back.
    armed: Option<(FaultPoint, u64)>,
    /// After how long it comes back.
    back: u64,
    /// Its ids in the store; it gets a new one whenever it begins anew.
    ids: BTreeSet<HostId>,
    /// What it has asked for so far, for its luck.
    asked: u64,
}

impl FaultGate {
    /// An open gate.
    pub fn new(world: Arc<WorldState>, host: u64, life: u64) -> Self {
        Self { host, life, world, died: CancellationToken::new(), state: Mutex::default() }
    }

    /// Waits until the host may go on. A dead one waits for ever.
    pub async fn pass(&self) {
        loop {
            if self.is_dead() || self.world.is_stuck() {
                return std::future::pending().await;
            }
            let until = self.state().still_until;
            if until <= self.world.now() {
                return;
            }
            self.world.reach(until).await;
        }
    }

    /// Whether the host can go on now.
    pub fn is_open(&self) -> bool {
        !self.is_dead() && self.state().still_until <= self.world.now()
    }

    /// Whether the host was killed.
    pub fn is_dead(&self) -> bool {
        self.died.is_cancelled()
    }

    /// Waits until the host is killed.
    pub async fn death(&self) {
        self.died.cancelled().await;
    }

    /// Kills the host. What it has under way stops where it is.
    pub fn die(&self, back: u64) {
        self.state().back = back;
        self.died.cancel();
    }

    /// After how long it comes back.
    pub fn back(&self) -> u64 {
        self.state().back
    }

    /// Has the host killed when it comes to this point.
    pub fn arm(&self, point: FaultPoint, back: u64) {
        self.state().armed = Some((point, back));
    }

    /// Kills the host if it was to be killed at this point. Answers whether it was.
    pub fn come_to(&self, point: FaultPoint) -> bool {
        let mut state = self.state();
        match state.armed {
            Some((armed, back)) if armed == point && !self.world.is_calm() => {
                state.armed = None;
                drop(state);
                self.die(back);
                true
            }
            _ => false,
        }
    }

    /// Has the host stand still until then.
    pub fn suspend(&self, until: At) {
        let mut state = self.state();
        state.still_until = until.max(state.still_until);
    }

    /// Cuts the host off from the control plane until then.
    pub fn cut_off(&self, until: At) {
        self.state().cut_off_until = until;
    }

    /// Whether it is cut off.
    pub fn is_cut_off(&self) -> bool {
        self.world.now() < self.state().cut_off_until
    }

    /// Fills the host's disk until then.
    pub fn fill(&self, until: At) {
        self.state().full_until = until;
    }

    /// Whether its disk is full.
    pub fn is_full(&self) -> bool {
        self.world.now() < self.state().full_until
    }

    /// A number for each thing that it asks for.
    pub fn count(&self) -> u64 {
        let mut state = self.state();
        state.asked += 1;
        state.asked
    }

    /// Notes that it has entered the store.
    pub fn entered(&self, id: HostId) {
        self.state().ids.insert(id);
    }

    /// Whether this id in the store is one of this life.
    pub fn is(&self, id: HostId) -> bool {
        self.state().ids.contains(&id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
