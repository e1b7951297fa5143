use super::*;
use crate::engine::{Engine, EngineOptions};

/// The plugin, loaded once.
fn plugin() -> Plugin {
    static PLUGIN: std::sync::LazyLock<Plugin> = std::sync::LazyLock::new(|| {
        Engine::new(EngineOptions::default()).unwrap().load(crate::PLUGIN).unwrap()
    });
    PLUGIN.clone()
}

fn settings(seed: u64, worlds: u64) -> Settings {
    Settings { seed, calls: worlds * CALLS_PER_WORLD, threads: 2 }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let first = run(settings(3, 2), &plugin()).unwrap();
    let again = run(Settings { threads: 1, ..settings(3, 2) }, &plugin()).unwrap();
    assert_eq!(first, again);
}

#[test]
fn worlds_break_no_rule() {
    let report = run(settings(1, 20), &plugin()).unwrap();
    if let Some(failure) = &report.failure {
        panic!("{failure}");
    }
    eprintln!("{report:?}");
}
