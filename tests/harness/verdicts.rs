//! The decision table again, through the built component: over every combination of inputs it says what the same code
//! says natively, where the unit tests compare each with the table.

/// The cases with the plugin's types.
#[path = "../support"]
mod native {
    pub mod types {
        pub use workspace_recovery_plugin::contract::*;
    }
    #[path = "builders.rs"]
    mod builders;
    #[path = "table_cases.rs"]
    #[expect(dead_code, reason = "what the cases stand for is for the unit tests")]
    pub mod cases;
}

/// The same cases with the host's types.
#[path = "../support"]
mod hosted {
    pub mod types {
        pub use ::workspace_recovery::bindings::*;
    }
    use crate::builders;
    #[path = "table_cases.rs"]
    #[expect(dead_code, reason = "what the cases stand for is for the unit tests")]
    pub mod cases;
}

use std::thread;

use workspace_recovery::bindings::{Dial, ReadError, Verdict};
use workspace_recovery::engine::{Plugin, Step};
use workspace_recovery::journal::{Answer, Export, Journal, Output, Request};
use workspace_recovery_plugin::contract as plugin_types;
use workspace_recovery_plugin::host::Host;

use crate::support::engine;

#[test]
fn the_component_gives_the_verdict_of_the_table_for_every_combination_of_inputs() {
    let plugin = engine().load(guest_artifact::COMPONENT).unwrap();
    let native: Vec<_> = native::cases::all().collect();
    let hosted: Vec<_> = hosted::cases::all().collect();
    assert_eq!(native.len(), hosted.len());
    // A test build of the engine is slow, and these are more than a hundred thousand steps.
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let part = hosted.len().div_ceil(cores);
    thread::scope(|scope| {
        for (native, hosted) in native.chunks(part).zip(hosted.chunks(part)) {
            let plugin = plugin.clone();
            scope.spawn(move || {
                let mut answers: Option<(&hosted::cases::Case, Journal)> = None;
                for (native, hosted) in native.iter().zip(hosted) {
                    // Cases beside each other mostly differ in their evidence alone.
                    let journal = match answers.take() {
                        Some((last, journal)) if same_answers(last, hosted) => journal,
                        _ => prepared(hosted),
                    };
                    compare(native, hosted, &through_the_component(&plugin, hosted, &journal));
                    answers = Some((hosted, journal));
                }
            });
        }
    });
}

fn compare(native: &native::cases::Case, hosted: &hosted::cases::Case, verdict: &Verdict) {
    let expected =
        workspace_recovery_plugin::recovery::classify(&Scripted(native), &native.evidence, &native.policy);
    assert_eq!(format!("{:?}", verdict.action), format!("{:?}", expected.action), "{hosted:?}");
    assert_eq!(format!("{:?}", verdict.cause), format!("{:?}", expected.cause), "{hosted:?}");
    assert_eq!(verdict.counts_as_timeout, expected.counts_as_timeout, "{hosted:?}");
    assert_eq!(verdict.tools, expected.tools, "{hosted:?}");
    assert_eq!(verdict.message, expected.message, "{hosted:?}");
}

/// What a verdict may ask for in this case, answered before it is asked for: one step is enough, and an answer left
/// over would be a divergence.
fn prepared(case: &hosted::cases::Case) -> Journal {
    let mut journal = Journal::new();
    if reads(case) {
        journal.append(Request::AgentStatus, Answer::AgentStatus(case.status.clone()), None).unwrap();
        if case.status == Err(ReadError::NotFound) {
            let request = Request::LatestBuild { check_start: false };
            journal.append(request, Answer::LatestBuild(case.binding.clone()), None).unwrap();
        }
    }
    journal
}

/// Whether the verdict takes a look: not where the evidence decides alone.
fn reads(case: &hosted::cases::Case) -> bool {
    matches!(case.evidence.dial, Dial::TimedOut(_)) && !case.evidence.control_plane_away
}

fn same_answers(one: &hosted::cases::Case, other: &hosted::cases::Case) -> bool {
    reads(one) == reads(other) && one.status == other.status && one.binding == other.binding
}

fn through_the_component(plugin: &Plugin, case: &hosted::cases::Case, journal: &Journal) -> Verdict {
    let export = Export::ClassifyFailure { evidence: case.evidence.clone(), policy: case.policy.clone() };
    match plugin.step(&export, journal) {
        Ok(Step::Done(Output::ClassifyFailure(verdict))) => verdict,
        other => panic!("{other:?} for {case:?}"),
    }
}

/// The host of a verdict: it reads, and does nothing else.
struct Scripted<'a>(&'a native::cases::Case);

impl Host for Scripted<'_> {
    fn latest_build(&self, _: bool) -> Result<plugin_types::Binding, plugin_types::ReadError> {
        self.0.binding.clone()
    }

    fn agent_status(&self) -> Result<plugin_types::Agents, plugin_types::ReadError> {
        self.0.status.clone()
    }

    fn issue_transition(
        &self,
        _: plugin_types::Transition,
        _: &str,
        _: &[plugin_types::Parameter],
    ) -> Result<plugin_types::Build, plugin_types::TransitionError> {
        panic!("a verdict issues nothing")
    }

    fn publish_binding(&self, _: &str) -> Result<bool, plugin_types::ReadError> {
        panic!("a verdict publishes nothing")
    }

    fn wait_for_build(&self, _: &str, _: u32) -> Result<plugin_types::BuildWait, plugin_types::ReadError> {
        panic!("a verdict waits for nothing")
    }

    fn wait_for_agent(
        &self,
        _: &str,
        _: &str,
        _: u32,
        _: u32,
    ) -> Result<plugin_types::AgentWait, plugin_types::ReadError> {
        panic!("a verdict waits for nothing")
    }
}
