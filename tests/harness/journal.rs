//! The journal: what it records, and what happens when a plugin does not keep to it.

use workspace_recovery::bindings::{
    Binding, Build, Connection, JobStatus, ReadError, Refusal, Transition, TransitionError,
};
use workspace_recovery::engine::{Plugin, Step, StepError};
use workspace_recovery::journal::{Answer, Asked, Entry, Journal, JournalError, Output, Request};
use workspace_recovery::limits::{ANSWER_AGENTS, ANSWER_NAME_BYTES, ANSWER_PROBLEMS, ANSWER_TEXT_BYTES};

use crate::builders::{agent, agents_of, refusal, start};
use crate::support::{Handmade, LATEST_BUILD, PUBLISH_BINDING, check_connection, journal, unbound};

/// Asks for the newest build, then binds the chat to the build "b1"; says "redial" if it was bound.
fn two_requests() -> Plugin {
    let items = format!(r#"{LATEST_BUILD} {PUBLISH_BINDING} (data (i32.const 8) "b1")"#);
    let ask = "(call $latest_build (i32.const 0) (i32.const 64))
               (call $publish_binding (i32.const 8) (i32.const 2) (i32.const 16))
               (i32.load8_u (i32.const 20))";
    Handmade { items: &items, check_connection: ask, ..Handmade::default() }.load()
}

fn latest_build() -> Request {
    Request::LatestBuild { check_start: false }
}

fn publish(build: &str) -> Request {
    Request::PublishBinding { build: build.into() }
}

fn build(id: &str) -> Build {
    Build { id: id.into(), ours: true, ..start(7, JobStatus::Succeeded) }
}

#[test]
fn each_step_ends_at_the_first_request_without_an_answer() {
    let plugin = two_requests();
    let mut journal = Journal::new();
    assert_eq!(plugin.step(&check_connection(), &journal), Ok(Step::Request(latest_build())));
    journal.append(latest_build(), unbound(), None).unwrap();
    assert_eq!(plugin.step(&check_connection(), &journal), Ok(Step::Request(publish("b1"))));
    journal.append(publish("b1"), Answer::PublishBinding(Ok(true)), Some(1)).unwrap();
    let done = Step::Done(Output::CheckConnection(Connection::Redial));
    assert_eq!(plugin.step(&check_connection(), &journal), Ok(done));
}

#[test]
fn the_plugin_gets_the_recorded_answer() {
    let plugin = two_requests();
    let refused = journal([(latest_build(), unbound()), (publish("b1"), Answer::PublishBinding(Ok(false)))]);
    let done = Step::Done(Output::CheckConnection(Connection::Reuse));
    assert_eq!(plugin.step(&check_connection(), &refused), Ok(done));
}

#[test]
fn another_function_than_the_recorded_one_is_a_divergence() {
    let plugin = two_requests();
    let other = journal([(Request::AgentStatus, Answer::AgentStatus(Err(ReadError::NotFound)))]);
    let error = plugin.step(&check_connection(), &other).unwrap_err();
    let (expected, got) = (Box::new(Request::AgentStatus), Box::new(Step::Request(latest_build())));
    assert_eq!(error, StepError::Diverged { index: 0, expected, got });
    let sentence = error.to_string();
    assert!(
        sentence.contains("workspace/agent-status") && sentence.contains("workspace/latest-build"),
        "{sentence}"
    );
}

#[test]
fn other_arguments_than_the_recorded_ones_are_a_divergence() {
    let plugin = two_requests();
    let other = journal([(latest_build(), unbound()), (publish("b2"), Answer::PublishBinding(Ok(true)))]);
    let error = plugin.step(&check_connection(), &other).unwrap_err();
    let (expected, got) = (Box::new(publish("b2")), Box::new(Step::Request(publish("b1"))));
    assert_eq!(error, StepError::Diverged { index: 1, expected, got });
    let sentence = error.to_string();
    assert!(sentence.contains("b1") && sentence.contains("b2"), "{sentence}");
}

#[test]
fn answers_left_over_at_the_end_are_a_divergence() {
    let plugin = two_requests();
    let longer = journal([
        (latest_build(), unbound()),
        (publish("b1"), Answer::PublishBinding(Ok(true))),
        (latest_build(), unbound()),
    ]);
    let error = plugin.step(&check_connection(), &longer).unwrap_err();
    let got = Box::new(Step::Done(Output::CheckConnection(Connection::Redial)));
    assert_eq!(error, StepError::Diverged { index: 2, expected: Box::new(latest_build()), got });
}

#[test]
fn a_written_journal_replays_to_the_same_bytes() {
    let plugin = two_requests();
    let first = journal([(latest_build(), unbound()), (publish("b1"), Answer::PublishBinding(Ok(true)))]);
    let written = serde_json::to_string(first.entries()).unwrap();
    let read: Vec<Entry> = serde_json::from_str(&written).unwrap();
    let second = Journal::recorded(read);
    assert_eq!(second, first);
    assert_eq!(serde_json::to_string(second.entries()).unwrap(), written);
    let outputs = [&first, &second].map(|journal| plugin.step(&check_connection(), journal).unwrap());
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn a_recorded_journal_keeps_count_of_its_bytes() {
    let first = journal([(latest_build(), unbound())]);
    assert_eq!(Journal::recorded(first.entries().to_vec()).bytes(), first.bytes());
    let written = serde_json::to_string(&first.entries()[0].request).unwrap().len()
        + serde_json::to_string(&first.entries()[0].answer).unwrap().len();
    assert_eq!(first.bytes(), written);
}

#[test]
fn appending_to_a_clone_leaves_the_original_alone() {
    let first = journal([(latest_build(), unbound())]);
    let mut second = first.clone();
    second.append(publish("b1"), Answer::PublishBinding(Ok(true)), None).unwrap();
    assert_eq!((first.entries().len(), second.entries().len()), (1, 2));
}

#[test]
fn an_answer_to_another_function_is_refused() {
    let error = Journal::new().append(latest_build(), Answer::PublishBinding(Ok(true)), None).unwrap_err();
    let (request, answer) = ("workspace/latest-build", "workspace/publish-binding");
    assert_eq!(error, JournalError::WrongAnswer { request, answer });
}

#[test]
fn a_long_text_is_cut_at_a_character_before_it_is_recorded() {
    // Three bytes each, so that the limit falls into the middle of one.
    let long = "€".repeat(ANSWER_TEXT_BYTES);
    let failed = Build { error: Some(long), ..build("b1") };
    let mut journal = Journal::new();
    journal
        .append(latest_build(), Answer::LatestBuild(Err(ReadError::Other("x".repeat(100_000)))), None)
        .unwrap();
    let conflict = Answer::IssueTransition(Err(TransitionError::Conflict(Some(failed))));
    let issue =
        Request::IssueTransition { to: Transition::Stop, rests_on: "b0".into(), parameters: Vec::new() };
    journal.append(issue, conflict, None).unwrap();
    let [Entry { answer: Answer::LatestBuild(Err(ReadError::Other(first))), .. }, second] = journal.entries()
    else {
        panic!("other entries");
    };
    assert_eq!(first.len(), ANSWER_TEXT_BYTES);
    let Answer::IssueTransition(Err(TransitionError::Conflict(Some(Build { error: Some(second), .. })))) =
        &second.answer
    else {
        panic!("another answer");
    };
    assert!(second.len() <= ANSWER_TEXT_BYTES && second.len() > ANSWER_TEXT_BYTES - 4);
    assert!(second.ends_with("€…"));
}

#[test]
fn surplus_field_problems_are_cut() {
    let problem =
        workspace_recovery::bindings::FieldProblem { field: "region".into(), detail: "is required".into() };
    let refusal = Refusal { validations: vec![problem; ANSWER_PROBLEMS + 5], ..refusal("no") };
    let issue =
        Request::IssueTransition { to: Transition::Start, rests_on: "b0".into(), parameters: Vec::new() };
    let invalid = Answer::IssueTransition(Err(TransitionError::Invalid(refusal)));
    let journal = journal([(issue, invalid)]);
    let Answer::IssueTransition(Err(TransitionError::Invalid(kept))) = &journal.entries()[0].answer else {
        panic!("another answer");
    };
    assert_eq!(kept.validations.len(), ANSWER_PROBLEMS);
}

#[test]
fn an_identifier_that_is_too_long_is_refused_instead_of_cut() {
    let mut journal = Journal::new();
    let issue =
        Request::IssueTransition { to: Transition::Stop, rests_on: "b0".into(), parameters: Vec::new() };
    let size = ANSWER_NAME_BYTES + 1;
    let error =
        journal.append(issue, Answer::IssueTransition(Ok(build(&"b".repeat(size)))), None).unwrap_err();
    let (request, field, limit) = ("workspace/issue-transition", "build id", ANSWER_NAME_BYTES);
    assert_eq!(error, JournalError::Oversized { request, field, size, limit });
    assert_eq!(journal, Journal::new());
}

#[test]
fn more_agents_than_a_plugin_may_be_given_are_refused_instead_of_cut() {
    let size = ANSWER_AGENTS + 1;
    let found = agents_of(build("b"), vec![agent("a"); size]);
    let error =
        Journal::new().append(Request::AgentStatus, Answer::AgentStatus(Ok(found)), None).unwrap_err();
    let (request, field, limit) = ("workspace/agent-status", "list of agents", ANSWER_AGENTS);
    assert_eq!(error, JournalError::Oversized { request, field, size, limit });
}

#[test]
fn a_journal_with_a_wrong_answer_is_not_run() {
    // Only a damaged or forged record can look like this: `append` refuses to make one.
    let entry = Entry {
        request: latest_build(),
        answer: Answer::PublishBinding(Ok(true)),
        observed: None,
        asked: Asked::default(),
        answered_ms: 0,
    };
    let forged = Journal::recorded(vec![entry]);
    assert!(two_requests().step(&check_connection(), &forged).is_err());
}

#[test]
fn the_record_is_readable() {
    let written = serde_json::to_string(
        &journal([(latest_build(), Answer::LatestBuild(Ok(Binding::Deleted)))]).entries()[0],
    );
    assert_eq!(
        written.unwrap(),
        r#"{"request":{"function":"latest-build","check_start":false},"answer":{"function":"latest-build","answer":{"Ok":"Deleted"}},"observed":null,"asked":{"asked_ms":0,"intent":null},"answered_ms":0}"#
    );
}
