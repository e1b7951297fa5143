//! Cuts a world that breaks a rule down to what is needed for that.

use super::invariants::Invariant;
use super::plugins::Plugins;
use super::schedule::{RandomFaults, Schedule};
use super::world;

/// Worlds that are tried at most: a shorter list is a help, not worth an hour.
const TRIES: u32 = 300;

/// A smaller world that breaks the same rule: fewer events, less bad luck.
pub fn shrink(schedule: &Schedule, broken: Invariant, plugins: &Plugins) -> Schedule {
    let mut tries = TRIES;
    let mut breaks = |schedule: &Schedule| {
        tries = tries.saturating_sub(1);
        tries > 0
            && world::run(schedule, plugins, false)
                .is_ok_and(|report| report.violations.iter().any(|violation| violation.invariant == broken))
    };
    let mut best = schedule.clone();
    let switches: [fn(&mut RandomFaults); 7] = [
        |faults| faults.reads = false,
        |faults| faults.posts = false,
        |faults| faults.builds = false,
        |faults| faults.agents = false,
        |faults| faults.changes = false,
        |faults| faults.store = false,
        |faults| faults.people = false,
    ];
    for off in switches {
        let mut smaller = best.clone();
        off(&mut smaller.random_faults);
        if breaks(&smaller) {
            best = smaller;
        }
    }
    // Halves first, then ever smaller pieces, down to single events.
    let mut piece = best.events.len().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < best.events.len() {
            let mut smaller = best.clone();
            smaller.events.drain(from..(from + piece).min(best.events.len()));
            if breaks(&smaller) {
                best = smaller;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    best
}
