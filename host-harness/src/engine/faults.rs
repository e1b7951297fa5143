//! Faults of the host: a step runs again, three times in all, and nothing else does.

use super::*;
use crate::engine::{Engine, EngineOptions, HostFault};
use crate::journal::Request;

/// Runs until the attempt `good`, counted from 1; those before end with `failure`. How often it ran, and how it ended.
fn attempted(good: u32, failure: fn() -> Failure) -> (u32, bool) {
    let mut count = 0;
    let ended = attempts(|| {
        count += 1;
        if count == good { Ok(Step::Request(Request::AgentStatus)) } else { Err(failure()) }
    });
    (count, ended.is_ok())
}

#[test]
fn a_step_is_run_three_times_at_most_while_the_host_is_to_blame() {
    for failure in [|| Failure::Host("no memory".into()), || Failure::Deadline] {
        assert_eq!(attempted(1, failure), (1, true));
        assert_eq!(attempted(2, failure), (2, true));
        assert_eq!(attempted(3, failure), (3, true));
        assert_eq!(attempted(4, failure), (3, false));
    }
}

#[test]
fn a_fault_of_the_plugin_and_a_limit_are_final_at_once() {
    assert_eq!(attempted(2, || Failure::Plugin("unreachable".into())), (1, false));
    assert_eq!(attempted(2, || failure(Limit::Fuel)), (1, false));
}

#[cfg(feature = "plugin")]
#[test]
fn a_pool_that_is_used_up_is_the_hosts_fault_and_passes_with_its_cause() {
    let engine = Engine::new(EngineOptions { concurrent_steps: 1, ..EngineOptions::default() }).unwrap();
    let plugin = engine.load(crate::PLUGIN).unwrap();
    let step = || plugin.step(&Export::CheckConnection { cached: "agent".into() }, &Journal::new());

    // An instance beside the step's own, which the slots do not know of.
    let linked = plugin.inner.linked.wait().as_ref().unwrap();
    let mut other = store(linked.engine(), &Journal::new()).unwrap();
    other.set_epoch_deadline(DEADLINE_TICKS);
    let held = linked.instantiate(&mut other).unwrap();
    let Err(StepError::HostFault(HostFault::Resources(reason))) = step() else {
        panic!("not the host's fault")
    };
    assert!(reason.contains("concurrent"), "{reason}");

    drop((held, other));
    assert_eq!(step(), Ok(Step::Request(Request::AgentStatus)));
}
