//! What all parts of a world share: the time, the control plane's truth, and the observer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::Span;
use super::invariants::Invariant;
use super::observer::Observer;
use super::plane::Plane;
use super::schedule::{At, Event, Schedule};
use crate::clock::Clock;

/// The hosts' time when a world begins, Unix milliseconds: far from the control plane's, with which it must never be
/// mixed up.
pub const HOST_BEGIN: u64 = 1_700_000_000_000;

/// How often the time may be looked at in one moment. Worlds look some hundred times at most; one that looks so often
/// does the same thing over and over, and its time will never move again.
const MOST_LOOKS: u64 = 20_000;

/// A world while it runs.
pub struct WorldState {
    /// What was planned.
    pub schedule: Schedule,
    begun: Instant,
    plane: Mutex<Plane>,
    observer: Mutex<Observer>,
    looks: Mutex<Looks>,
    /// Time stands still.
    stuck: CancellationToken,
    /// By workspace: something was done to it that could not be foreseen.
    changed: Vec<Notify>,
}

/// Looks at the time.
#[derive(Default)]
struct Looks {
    at: At,
    /// At this time.
    count: u64,
}

impl WorldState {
    /// A world that begins now. `tell`: what happens is written down in words.
    pub fn new(schedule: Schedule, tell: bool) -> Arc<Self> {
        let spans = |of: fn(&Event) -> Option<u64>| -> Vec<Span> {
            let planned = schedule.events.iter();
            planned
                .filter_map(|planned| of(&planned.event).map(|lasts| span(&schedule, planned.at, lasts)))
                .collect()
        };
        let away = spans(|event| if let Event::Away { lasts } = event { Some(*lasts) } else { None });
        let idle =
            spans(|event| if let Event::NoProvisioner { lasts } = event { Some(*lasts) } else { None });
        let plane = Mutex::new(Plane::new(&schedule, away, idle));
        let (begun, observer) = (Instant::now(), Mutex::new(Observer::new(tell)));
        let changed = (0..=schedule.workspaces).map(|_| Notify::new()).collect();
        let (looks, stuck) = (Mutex::default(), CancellationToken::new());
        Arc::new(Self { schedule, begun, plane, observer, looks, stuck, changed })
    }

    /// Milliseconds since the world began. Everything that a host reaches looks here, so that one that does something
    /// without end in one moment is noticed.
    pub fn now(&self) -> At {
        let now = self.begun.elapsed().as_millis() as u64;
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        *looks = Looks { at: now, count: if looks.at == now { looks.count + 1 } else { 1 } };
        if looks.count > MOST_LOOKS {
            self.stuck.cancel();
        }
        now
    }

    /// Whether time stands still. Nothing outside of a host answers then any more, so that it comes to rest.
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_cancelled()
    }

    /// Waits until time stands still, and notes that.
    pub async fn stuck(&self) {
        self.stuck.cancelled().await;
        let what = format!("the time was looked at {MOST_LOOKS} times, and did not move");
        self.observer().check(self.now(), Invariant::TimeMoves, Err(what));
    }

    /// Whether the faults are over.
    pub fn is_calm(&self) -> bool {
        self.now() >= self.schedule.calm
    }

    /// When a fault that begins now and lasts so long ends: with the calm at the latest.
    pub fn until(&self, lasts: u64) -> At {
        (self.now() + lasts).min(self.schedule.calm)
    }

    /// Sleeps until a time.
    pub async fn reach(&self, at: At) {
        tokio::time::sleep_until(self.begun + Duration::from_millis(at)).await;
    }

    /// The control plane's truth.
    pub fn plane(&self) -> MutexGuard<'_, Plane> {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done to a workspace, for who wants to know.
    pub fn changed(&self, workspace: &str) -> &Notify {
        let number = workspace.strip_prefix('w').and_then(|number| number.parse::<usize>().ok());
        // The first one is nobody's.
        self.changed.get(number.unwrap_or_default()).unwrap_or(&self.changed[0])
    }

    /// The observer. Nobody takes it while it is held: a world has one thread, and no lock is held while something is
    /// awaited.
    pub fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A planned span of trouble. None reaches into the calm.
fn span(schedule: &Schedule, from: At, lasts: u64) -> Span {
    (from, (from + lasts).min(schedule.calm))
}

/// The hosts' clocks, which are one: they share a machine, as their store does.
pub struct SimulatedClock(pub Arc<WorldState>);

impl Clock for SimulatedClock {
    fn now_ms(&self) -> u64 {
        HOST_BEGIN + self.0.now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.now()
    }
}
