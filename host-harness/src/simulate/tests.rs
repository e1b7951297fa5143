use super::*;
use crate::engine::{Engine, EngineOptions};

mod broken;

use broken::{Broken, BrokenPlane, BrokenStore};

/// Worlds with seeds that nobody has seen, each time.
const FRESH_WORLDS: u64 = 30;
/// Within so many worlds a broken rule must be seen.
const MOST_WORLDS: u64 = 60;

/// The plugin in both versions, loaded once.
fn plugins() -> &'static Plugins {
    static PLUGINS: std::sync::LazyLock<Plugins> = std::sync::LazyLock::new(|| {
        let plugin = Engine::new(EngineOptions::default()).unwrap().load(crate::PLUGIN).unwrap();
        Plugins::new(&plugin).unwrap()
    });
    &PLUGINS
}

fn settings(seed: u64, worlds: u64) -> Settings {
    Settings { seed, calls: worlds * CALLS_PER_WORLD, threads: 2 }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let first = run_on(settings(3, 2), plugins()).unwrap();
    let again = run_on(Settings { threads: 1, ..settings(3, 2) }, plugins()).unwrap();
    assert_eq!(first, again);
}

/// Runs worlds with these seeds, on two threads.
fn break_no_rule(seeds: &[u64]) {
    std::thread::scope(|scope| {
        for half in seeds.chunks(seeds.len().div_ceil(2).max(1)) {
            scope.spawn(move || {
                for seed in half {
                    let report = run_on(Settings { threads: 1, ..settings(*seed, 1) }, plugins()).unwrap();
                    assert!(report.failure.is_none(), "{}", report.failure.unwrap());
                }
            });
        }
    });
}

#[test]
fn worlds_with_fresh_seeds_break_no_rule() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = u64::try_from(now.as_millis()).unwrap();
    eprintln!("seeds from {first} on");
    break_no_rule(&(first..first + FRESH_WORLDS).collect::<Vec<_>>());
}

#[test]
fn worlds_that_ever_broke_a_rule_break_none() {
    let lines = include_str!("../../../tests/seeds.txt").lines();
    let seeds = lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let seeds = seeds.map(|line| line.split_whitespace().next().unwrap().parse().unwrap());
    break_no_rule(&seeds.collect::<Vec<u64>>());
}

/// Breaks every host in this way, and has worlds run until a check sees it.
fn is_seen(broken: Broken, invariant: Invariant) {
    let seen = (1..=MOST_WORLDS).find(|seed| {
        let schedule = Schedule::draw(*seed, CALLS_PER_WORLD);
        let report = world::run_fitted(&schedule, plugins(), false, broken.fitting()).unwrap();
        report.violations.iter().any(|violation| violation.invariant == invariant)
    });
    assert!(seen.is_some(), "{MOST_WORLDS} worlds run with {broken:?}, and {invariant} is not broken in any");
    eprintln!("{broken:?} is seen in world {}", seen.unwrap());
}

#[test]
fn stops_of_agents_that_are_gone_for_too_short_a_time_are_seen() {
    is_seen(Broken::PolicyWithoutPatience, Invariant::TwoSignals);
}

#[test]
fn dials_that_end_too_soon_are_seen() {
    is_seen(Broken::DialWithoutPatience, Invariant::TwoSignals);
}

#[test]
fn a_request_after_an_interrupt_is_seen() {
    is_seen(Broken::Store(BrokenStore::HidesInterrupts), Invariant::NothingAfterInterrupt);
}

#[test]
fn a_request_that_is_not_written_down_is_seen() {
    is_seen(Broken::Store(BrokenStore::WritesNoIntents), Invariant::IntentFirst);
}

#[test]
fn a_request_that_is_sent_twice_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::SendsAgain), Invariant::OneEffectPerIntent);
}

#[test]
fn a_request_that_rests_on_an_old_build_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::ReadsLate), Invariant::RestsOnWhatIs);
}

#[test]
fn a_result_that_is_not_true_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::SucceedsTooEarly), Invariant::ResultsAreTrue);
}

#[test]
fn an_agent_that_is_called_ready_without_having_answered_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::GreetsItself), Invariant::ResultsAreTrue);
}

#[test]
fn a_start_of_what_somebody_stopped_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::ReadsLate), Invariant::NobodyIsOverruled);
}

#[test]
fn calls_that_have_their_turns_at_once_are_seen() {
    is_seen(Broken::Store(BrokenStore::HidesQueues), Invariant::TurnsDoNotOverlap);
}

#[test]
fn calls_that_nobody_carries_on_are_seen() {
    is_seen(Broken::Store(BrokenStore::LeavesOrphans), Invariant::CallsEnd);
}

#[test]
fn a_recording_that_lacks_an_entry_is_seen() {
    is_seen(Broken::Store(BrokenStore::LosesTheLastEntry), Invariant::RecordingsReplay);
}

#[test]
fn a_restart_that_does_not_say_that_the_workspace_is_down_is_seen() {
    is_seen(Broken::Store(BrokenStore::EmptiesResults), Invariant::DownIsTold);
}

#[test]
fn a_host_that_writes_without_a_lease_is_seen() {
    is_seen(Broken::Store(BrokenStore::PassesLeases), Invariant::FencedHostsAreSilent);
}

#[test]
fn a_host_that_carries_on_calls_of_another_user_is_seen() {
    is_seen(Broken::Store(BrokenStore::IgnoresUsers), Invariant::FencedHostsAreSilent);
}

#[test]
fn starts_are_refused_for_want_of_parameters_and_of_quota() {
    let report = run_on(settings(1, 40), plugins()).unwrap();
    assert!(report.failure.is_none(), "{}", report.failure.unwrap());
    for what in ["refusal", "quota"] {
        assert!(report.counts.contains_key(what), "{what}: {:?}", report.counts);
    }
}

#[test]
fn a_call_that_goes_on_on_another_plugin_is_seen() {
    is_seen(Broken::Store(BrokenStore::UpgradesCalls), Invariant::RecordingsReplay);
}

#[test]
fn a_command_that_begins_twice_is_seen() {
    is_seen(Broken::Plane(BrokenPlane::ForgetsSessions), Invariant::CommandsBeginOnce);
}

#[test]
fn a_host_that_does_something_over_and_over_in_one_moment_is_seen() {
    is_seen(Broken::BusyClock, Invariant::TimeMoves);
}
