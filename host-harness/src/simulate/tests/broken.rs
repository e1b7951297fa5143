//! Ways to break a host, each at one of its seams, so that tests can show that the simulator's checks see it.

use std::sync::Arc;
use std::time::Duration;

use super::super::hosts::{Fitting, Seams};
use super::super::world_state::WorldState;
use crate::clock::Clock;

mod plane;
mod store;

/// A host that does not keep a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A policy calls an agent gone as soon as it is disconnected.
    PolicyWithoutPatience,
    /// A dial calls an agent dead as soon as it is disconnected.
    DialWithoutPatience,
    /// Time stands still for whoever looks at the clock.
    BusyClock,
    /// What goes wrong between the host and the control plane.
    Plane(BrokenPlane),
    /// What goes wrong between the host and its store.
    Store(BrokenStore),
}

/// How a way to the control plane is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenPlane {
    /// A request without an answer is sent again.
    SendsAgain,
    /// Reads answer what was seen up to half a minute ago: the last look before a request is sent shows nothing new.
    ReadsLate,
    /// Builds in progress read as having succeeded.
    SucceedsTooEarly,
    /// A terminal greets though nobody has answered in it.
    GreetsItself,
    /// Workspaces forget which commands have begun.
    ForgetsSessions,
}

/// How a way to the store is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenStore {
    /// No call reads as interrupted.
    HidesInterrupts,
    /// Requests for builds are not written down.
    WritesNoIntents,
    /// No call reads as being ahead of another.
    HidesQueues,
    /// Calls of hosts that are gone are left where they are.
    LeavesOrphans,
    /// The last entry of a call is lost when it ends.
    LosesTheLastEntry,
    /// Results are empty.
    EmptiesResults,
    /// Every lease reads as current.
    PassesLeases,
    /// A host is given the calls of all users.
    IgnoresUsers,
    /// Every call reads as begun on the plugin that its host has.
    UpgradesCalls,
}

impl Broken {
    /// Breaks each host so.
    pub fn fitting(self) -> Fitting {
        Arc::new(move |seams, world| self.fit(seams, world))
    }

    fn fit(self, mut seams: Seams, world: &Arc<WorldState>) -> Seams {
        match self {
            Self::PolicyWithoutPatience => seams.timings.recover_after = Duration::ZERO,
            Self::DialWithoutPatience => seams.timings.known_dead_after = seams.timings.known_dead_dial,
            Self::BusyClock => seams.clock = Arc::new(BusyClock(seams.clock)),
            Self::Plane(how) => seams.plane = plane::broken(how, seams.plane, world.clone()),
            Self::Store(how) => {
                let plugin = seams.plugin.report().sha256.clone();
                seams.backend = store::broken(how, seams.backend, plugin);
            }
        }
        seams
    }
}

/// A clock that looks at the time over and over before it tells it.
struct BusyClock(Arc<dyn Clock>);

impl Clock for BusyClock {
    fn now_ms(&self) -> u64 {
        for _ in 0..30_000 {
            self.0.now_ms();
        }
        self.0.now_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic_ms()
    }
}
