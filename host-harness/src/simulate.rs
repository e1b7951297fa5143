//! The plugin, the engine and the driver as they are, in worlds made of chance.
//!
//! A *world* is a control plane with workspaces and agents, hosts that share a store, chats that make calls, people,
//! and trouble of all kinds. It is planned as data from a seed, runs in one thread on a clock that jumps, and is the
//! same each time. First everything goes wrong that can; then comes a calm, in which every call must end. The rules
//! that must hold all the time are the [`Invariant`]s; a world that breaks one is cut down to what is needed for that.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::engine::Plugin;
use plugins::Plugins;

mod agent;
mod clients;
mod dice;
mod fault_gate;
mod hosts;
mod invariants;
mod network;
mod observations;
mod observer;
mod plane;
mod plugins;
mod schedule;
pub mod shell;
mod shrink;
mod store;
mod world;
mod world_state;

#[cfg(test)]
mod tests;

pub use invariants::{Invariant, Violation};
pub use observer::Digest;
pub use schedule::{Event, RandomFaults, Schedule, ScheduledEvent};
pub use world::WorldReport;

/// Calls in one world: enough to meet each other, few enough that a failure can be read.
pub const CALLS_PER_WORLD: u64 = 40;

/// What is to be simulated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// All chance comes from it.
    pub seed: u64,
    /// Calls in all; split into worlds of [`CALLS_PER_WORLD`].
    pub calls: u64,
    /// Threads; each runs one world at a time.
    pub threads: usize,
}

/// What came of it. Equal for equal settings, however many threads there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Worlds that were run, up to and including the first that broke a rule.
    pub worlds: u64,
    /// Calls that were begun in them.
    pub calls: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Virtual time that passed in them, in milliseconds.
    pub lasted: u64,
    /// A hash of all that happened.
    pub digest: Digest,
    /// The first world that broke a rule.
    pub failure: Option<Failure>,
}

/// A world that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Its calls.
    pub calls: u64,
    /// The first rule that it broke.
    pub violation: Violation,
    /// What is left of the world when everything is left out that is not needed to break that rule.
    pub schedule: Schedule,
    /// What happens in what is left.
    pub lines: Vec<String>,
}

/// Runs worlds.
pub fn run(settings: Settings, plugin: &Plugin) -> std::io::Result<Report> {
    run_on(settings, &Plugins::new(plugin).map_err(std::io::Error::other)?)
}

fn run_on(settings: Settings, plugins: &Plugins) -> std::io::Result<Report> {
    let worlds = settings.calls.div_ceil(CALLS_PER_WORLD).max(1);
    let calls_of = |world: u64| (settings.calls - world * CALLS_PER_WORLD).min(CALLS_PER_WORLD);
    let (next, first_bad) = (AtomicU64::new(0), AtomicU64::new(worlds));
    let seen = Mutex::new(BTreeMap::new());
    let work = || -> std::io::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            // Worlds before the first bad one are run to their end, whichever thread finds it.
            if number >= first_bad.load(Ordering::SeqCst) {
                return Ok(());
            }
            let schedule = Schedule::draw(dice::world_seed(settings.seed, number), calls_of(number));
            let one = world::run(&schedule, plugins, false)?;
            if !one.violations.is_empty() {
                first_bad.fetch_min(number, Ordering::SeqCst);
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(number, one);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..settings.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut report = Report {
        worlds: 0,
        calls: 0,
        counts: BTreeMap::new(),
        lasted: 0,
        digest: Digest::default(),
        failure: None,
    };
    for (number, one) in seen {
        report.worlds += 1;
        report.calls += one.calls;
        report.lasted += one.lasted;
        report.digest.add(&one.digest.0.to_le_bytes());
        for (kind, count) in &one.counts {
            *report.counts.entry(kind).or_default() += count;
        }
        if let Some(violation) = one.violations.into_iter().next() {
            let (seed, calls) = (dice::world_seed(settings.seed, number), calls_of(number));
            report.failure = Some(explain(seed, calls, violation, plugins)?);
            break;
        }
    }
    Ok(report)
}

/// Finds out what of a world breaks the rule.
fn explain(seed: u64, calls: u64, violation: Violation, plugins: &Plugins) -> std::io::Result<Failure> {
    let schedule = shrink::shrink(&Schedule::draw(seed, calls), violation.invariant, plugins);
    let lines = world::run(&schedule, plugins, true)?.lines;
    Ok(Failure { seed, calls, violation, schedule, lines })
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, violation: Violation { invariant, at, what }, schedule, lines, .. } = self;
        writeln!(f, "seed {seed}: {invariant} is broken after {:.1} s: {what}", *at as f64 / 1000.0)?;
        writeln!(f, "what is needed for that (bad luck of its own: {}):", schedule.random_faults)?;
        schedule.events.iter().try_for_each(|planned| writeln!(f, "  {planned}"))?;
        writeln!(f, "what happens then:")?;
        lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "repeat it with: {}", self.command())
    }
}

impl Failure {
    /// The command that runs this world again.
    pub fn command(&self) -> String {
        format!("workspace-recovery simulate --seed {} --calls {}", self.seed, self.calls)
    }
}
