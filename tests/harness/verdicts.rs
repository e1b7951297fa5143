//! The decision table again, through the built component: it says what the same code says natively, where the unit
//! tests compare every combination of inputs with the table.

/// The cases with the plugin's types.
#[path = "../support"]
mod native {
    pub mod types {
        pub use workspace_recovery_plugin::contract::*;
    }
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
    #[path = "table_cases.rs"]
    pub mod cases;
}

use std::thread;

use workspace_recovery::bindings::Verdict;
use workspace_recovery::engine::{Plugin, Step};
use workspace_recovery::journal::{Answer, Export, Journal, Output, Request};
use workspace_recovery_plugin::contract as plugin_types;
use workspace_recovery_plugin::host::Host;

use crate::support::engine;

#[test]
fn the_component_gives_the_verdicts_of_the_table() {
    let plugin = engine().load(guest_artifact::COMPONENT).unwrap();
    let native: Vec<_> = native::cases::all().collect();
    let hosted: Vec<_> = hosted::cases::essential().collect();
    assert!(hosted.len() > 1000);
    // A test build of the engine is slow: the halves run side by side.
    thread::scope(|scope| {
        for half in hosted.chunks(hosted.len().div_ceil(2)) {
            let (plugin, native) = (plugin.clone(), &native);
            scope.spawn(move || {
                for (index, case) in half {
                    compare(&native[*index], case, &through_the_component(&plugin, case));
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

fn through_the_component(plugin: &Plugin, case: &hosted::cases::Case) -> Verdict {
    let export = Export::ClassifyFailure { evidence: case.evidence.clone(), policy: case.policy.clone() };
    let mut journal = Journal::new();
    loop {
        let request = match plugin.step(&export, &journal).unwrap() {
            Step::Done(Output::ClassifyFailure(verdict)) => return verdict,
            Step::Done(other) => panic!("{other:?}"),
            Step::Request(request) => request,
        };
        let answer = match request {
            Request::AgentStatus => Answer::AgentStatus(case.status.clone()),
            Request::LatestBuild { .. } => Answer::LatestBuild(case.binding.clone()),
            ref other => panic!("a verdict asks for {other:?}"),
        };
        journal.append(request, answer, None).unwrap();
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
