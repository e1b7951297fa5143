//! Recorded calls, run again.

use std::path::PathBuf;

use workspace_recovery::bindings::{Binding, Transition};
use workspace_recovery::engine::StepError;
use workspace_recovery::journal::record::{Outcome, Recording};
use workspace_recovery::journal::{Answer, Output, Request};
use workspace_recovery::replay::{Expected, ReplayError, replay};

use crate::plane::plugin;

fn recordings() -> Vec<(PathBuf, Recording)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "jsonl")).collect();
    files.sort();
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        let recording =
            Recording::from_json_lines(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (file, recording)
    };
    files.into_iter().map(read).collect()
}

fn recording(name: &str) -> Recording {
    let found = recordings().into_iter().find(|(file, _)| file.file_stem().unwrap() == name);
    found.unwrap().1
}

#[test]
fn every_recorded_call_runs_again_to_the_same_bytes() {
    let recordings = recordings();
    assert!(recordings.len() >= 9, "{}", recordings.len());
    for (file, recording) in recordings {
        let replayed = replay(&plugin(), &recording);
        let replayed = replayed.unwrap_or_else(|error| panic!("{}: {error:?}", file.display()));
        assert_eq!(replayed.requests, recording.entries.len(), "{}", file.display());
        assert_eq!(replayed.outcome, recording.outcome, "{}", file.display());
        assert_eq!(Recording::from_json_lines(&recording.to_json_lines().unwrap()).unwrap(), recording);
    }
}

#[test]
fn a_call_can_be_run_again_from_any_point_at_which_it_was_recorded() {
    let whole = recording("restart-of-a-dead-agent");
    for length in 0..whole.entries.len() {
        let part = Recording { entries: whole.entries[..length].to_vec(), outcome: None, ..whole.clone() };
        assert_eq!(replay(&plugin(), &part).unwrap().outcome, None);
    }
}

#[test]
fn another_request_than_the_recorded_one_is_named_with_its_place() {
    let mut changed = recording("stop");
    let asked = changed.entries.iter_mut().enumerate().find_map(|(index, entry)| match &mut entry.request {
        Request::IssueTransition { to, .. } => Some((index, to)),
        _ => None,
    });
    let (place, to) = asked.unwrap();
    *to = Transition::Start;
    let ReplayError::Step(StepError::Diverged { index, .. }) = replay(&plugin(), &changed).unwrap_err()
    else {
        panic!("it must diverge")
    };
    assert_eq!(index, place);
}

#[test]
fn another_answer_that_leads_to_another_end_is_a_difference_in_the_outcome() {
    let mut changed = recording("stop-when-stopped");
    let Answer::LatestBuild(Ok(Binding::Bound(snapshot))) = &mut changed.entries[0].answer else { panic!() };
    snapshot.workspace_name = "other".into();
    let ReplayError::Outcome { expected, .. } = replay(&plugin(), &changed).unwrap_err() else {
        panic!("the end must differ")
    };
    let Expected::Outcome(Outcome::Done { result: Output::CallTool(Ok(result)) }) = *expected else {
        panic!()
    };
    assert!(result.json.contains("\"dev\""), "{}", result.json);
}
