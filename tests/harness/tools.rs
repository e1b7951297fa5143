//! The tools through the built component.

use workspace_recovery::bindings::{Binding, Build, BuildWait, CallError, JobStatus, Transition, WaitEnd};
use workspace_recovery::engine::Step;
use workspace_recovery::journal::{Answer, Export, Journal, Output, Request};

use crate::builders::{default_policy, snapshot, start, stop};
use crate::support::engine;

#[test]
fn the_component_lists_the_tools_without_asking_for_anything() {
    let plugin = engine().load(guest_artifact::COMPONENT).unwrap();
    let Step::Done(Output::ListTools(tools)) = plugin.step(&Export::ListTools, &Journal::new()).unwrap()
    else {
        panic!("list-tools asks for something");
    };
    let native = workspace_recovery_plugin::tools::list();
    assert_eq!(format!("{tools:?}"), format!("{native:?}"));
    assert_eq!(
        tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
        ["stop_workspace", "start_workspace", "restart_workspace"]
    );
}

#[test]
fn a_stop_goes_through_the_component_request_by_request() {
    let plugin = engine().load(guest_artifact::COMPONENT).unwrap();
    let export = Export::CallTool {
        name: "stop_workspace".into(),
        arguments: String::new(),
        policy: default_policy(),
    };
    let stopped = || stop(2, JobStatus::Succeeded);
    let script = [
        (Request::LatestBuild { check_start: false }, latest(start(1, JobStatus::Succeeded))),
        (
            Request::IssueTransition { to: Transition::Stop, rests_on: "b1".into(), parameters: vec![] },
            Answer::IssueTransition(Ok(stop(2, JobStatus::Pending))),
        ),
        (Request::PublishBinding { build: "b2".into() }, Answer::PublishBinding(Ok(true))),
        (
            Request::WaitForBuild { build: "b2".into(), limit_ms: 600_000 },
            Answer::WaitForBuild(Ok(BuildWait {
                end: WaitEnd::Reached,
                waited_ms: 5,
                build: Some(stopped()),
            })),
        ),
        (Request::LatestBuild { check_start: false }, latest(stopped())),
    ];
    let mut journal = Journal::new();
    for (expected, answer) in script {
        let Step::Request(request) = plugin.step(&export, &journal).unwrap() else {
            panic!("done before {expected:?}")
        };
        assert_eq!(request, expected);
        journal.append(request, answer, None).unwrap();
    }
    let Step::Done(Output::CallTool(Ok(result))) = plugin.step(&export, &journal).unwrap() else {
        panic!("not done after the last answer");
    };
    assert_eq!(result.json, r#"{"build_id":"b2","stopped":true,"workspace_name":"dev"}"#);
    assert!(!result.is_error);
}

/// The JSON parser calls itself for each level up to its own limit of 128, on the guest's stack.
#[test]
fn deeply_nested_arguments_are_refused_not_a_fault() {
    let plugin = engine().load(guest_artifact::COMPONENT).unwrap();
    for (open, inner, close) in [("[", "", "]"), (r#"{"a":"#, "1", "}")] {
        for depth in [100, 126, 127, 1000] {
            let value = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
            let arguments = format!(r#"{{"parameters":{value}}}"#);
            let export =
                Export::CallTool { name: "start_workspace".into(), arguments, policy: default_policy() };
            let step = plugin.step(&export, &Journal::new());
            assert!(
                matches!(step, Ok(Step::Done(Output::CallTool(Err(CallError::InvalidArguments(_)))))),
                "{depth} times {open}: {step:?}"
            );
        }
    }
}

fn latest(latest: Build) -> Answer {
    Answer::LatestBuild(Ok(Binding::Bound(snapshot(latest))))
}
