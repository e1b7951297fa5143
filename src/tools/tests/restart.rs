use super::*;
use crate::builders::*;
use crate::contract::{
    Binding, Build, FieldProblem, ReadError, Refusal, Snapshot, Transition, TransitionError, WaitEnd,
};
use crate::fake::*;
use JobStatus::{Canceled, Failed, Pending, Running, Succeeded};

/// The first half: the workspace is started as build 1 and is stopped as build 2.
fn stops() -> Vec<Answer> {
    vec![
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        published(),
        reached(stop(2, Succeeded)),
        latest(stop(2, Succeeded)),
    ]
}

/// The second half, as build 3.
fn starts() -> Vec<Answer> {
    let mut script = vec![
        issued(start(3, Pending)),
        published(),
        reached(start(3, Succeeded)),
        latest(start(3, Succeeded)),
    ];
    script.extend(ready(start(3, Succeeded)));
    script
}

fn after_stop(rest: impl IntoIterator<Item = Answer>) -> Run {
    run("restart_workspace", stops().into_iter().chain(rest))
}

fn unstartable(message: &str, missing: &[&str]) -> Answer {
    let validations = missing
        .iter()
        .map(|field| FieldProblem { field: (*field).into(), detail: "has no value".into() })
        .collect();
    let start_refusal = Some(Refusal { validations, ..refusal(message) });
    binding(Binding::Bound(Snapshot { start_refusal, ..snapshot(start(1, Succeeded)) }))
}

#[test]
fn a_restart_stops_and_starts_and_names_both_builds() {
    let run = after_stop([latest(stop(2, Succeeded))].into_iter().chain(starts()));
    assert_eq!(
        run.json,
        json!({"message": "The stop has ended what ran in the workspace, commands of other clients included.",
            "restarted": true, "started": true, "workspace_name": "dev", "stop_build_id": "b2", "build_id": "b3"})
    );
    run.asked(&[
        "latest-build with check",
        "stop on b1",
        "publish b2",
        "wait for b2 3600000",
        "latest-build",
        "latest-build",
        "start on b2",
        "publish b3",
        "wait for b3 600000",
        "latest-build",
        "agent-status",
        "wait for agent a1 of b3 120000 600000",
    ]);
}

#[test]
fn a_stopped_workspace_is_only_started() {
    let script = [latest(stop(2, Succeeded))].into_iter().chain(starts());
    run("restart_workspace", script).has("restarted", true).has("build_id", "b3").lacks("stop_build_id");
}

#[test]
fn a_build_in_progress_is_awaited_before_the_restart_begins() {
    let script = [latest(start(1, Running)), published(), reached(start(1, Succeeded))];
    let script = script.into_iter().chain(stops()).chain([latest(stop(2, Succeeded))]).chain(starts());
    run("restart_workspace", script).has("restarted", true).has("stop_build_id", "b2");
}

#[test]
fn nothing_is_stopped_that_could_not_be_started_again() {
    let dormant = Snapshot { dormant: true, ..snapshot(start(1, Succeeded)) };
    run("restart_workspace", [binding(Binding::Bound(dormant))])
        .fails()
        .says("error", "dormant")
        .has("stopped", false)
        .issued_nothing();
    run("restart_workspace", [unstartable("Not allowed.", &[])]).fails().says("error", "Not allowed.");
    run("restart_workspace", [binding(Binding::Deleted)]).is_refused("deleted");
}

#[test]
fn only_parameters_that_the_call_brings_suffice_for_the_start() {
    let some = r#"{"parameters":{"region":"eu"}}"#;
    let run = run_with("restart_workspace", some, &policy(), [unstartable("Missing.", &["region", "cpu"])]);
    run.fails().has("restarted", false).has("template_id", "t1").issued_nothing();
    assert_eq!(run.json["validations"], json!([{"field": "cpu", "detail": "has no value"}]));

    let all = r#"{"parameters":{"region":"eu","cpu":"2"}}"#;
    let mut script = stops();
    script[0] = unstartable("Missing.", &["region", "cpu"]);
    script.push(latest(stop(2, Succeeded)));
    script.extend(starts());
    let run = run_with("restart_workspace", all, &policy(), script);
    run.has("restarted", true);
    assert_eq!(run.requests[6], "start on b2 cpu=2 region=eu");
}

/// The stop ended so, and was last read so.
fn unfinished(end: Answer, read: Answer) -> Run {
    let mut script = stops();
    (script[3], script[4]) = (end, read);
    run("restart_workspace", script)
}

fn failed_stop(error: &str) -> Build {
    Build { error: Some(error.into()), ..stop(2, Failed) }
}

#[test]
fn a_stop_that_fails_ends_the_restart() {
    let run = unfinished(reached(failed_stop("disk stuck")), latest(failed_stop("disk stuck")));
    run.fails()
        .has("restarted", false)
        .has("started", false)
        .has("stopped", false)
        .has("stop_build_id", "b2");
    assert_eq!(
        run.json["error"],
        "Stop build 2 failed: disk stuck. No start was asked for: what of the workspace is still up is not known. \
         Try once whether a command runs in the workspace; if none does, ask the user what to do."
    );
}

#[test]
fn what_a_build_failed_of_ends_with_one_full_stop_before_more_is_said() {
    for (error, told) in [
        ("disk stuck.", "failed: disk stuck. No start"),
        ("disk stuck!\n", "failed: disk stuck! No start"),
        (" ", "failed without saying why. No start"),
    ] {
        unfinished(reached(failed_stop(error)), latest(failed_stop(error))).says("error", told);
    }
}

#[test]
fn a_stop_that_can_not_succeed_any_more_names_no_tool_where_another_try_is_not_the_chats_to_make() {
    let canceled = || stop(2, Canceled);
    let gone = waited(WaitEnd::Gone, None);
    for run in [
        unfinished(reached(canceled()), latest(canceled())),
        unfinished(gone, Answer::Latest(Err(ReadError::Forbidden))),
        unfinished(reached(stop(2, Failed)), binding(Binding::Rebound)),
        unfinished(reached(stop(2, Failed)), binding(Binding::Deleted)),
    ] {
        run.fails().says("error", "is not known");
        let error = run.json["error"].as_str().unwrap();
        assert!(!error.contains("start_workspace") && !error.contains("still succeeds"), "{error}");
    }
}

#[test]
fn a_stop_that_may_still_succeed_says_so_whatever_ended_the_wait() {
    let going = || stop(2, Running);
    let lost = || Answer::Waited(Err(ReadError::Other("no route".into())));
    unfinished(lost(), latest(going())).says("error", "no route. The build itself goes on. No start");
    unfinished(waited(WaitEnd::Limit, Some(going())), latest(going())).says(
        "error",
        "the workspace is down if the stop still succeeds. To have the workspace up again, call start_workspace.",
    );
    let mut script = stops();
    script.truncate(2);
    script.push(Answer::Published(Ok(false)));
    let run = run("restart_workspace", script);
    run.has("rebound", true).says("error", "if the stop still succeeds");
    assert!(!run.json["error"].as_str().unwrap().contains("start_workspace"), "{}", run.json);
}

#[test]
fn an_interrupt_during_the_stop_says_that_the_workspace_goes_down() {
    let mut script = stops();
    script.truncate(3);
    script.push(waited(WaitEnd::Interrupted, Some(stop(2, Running))));
    run("restart_workspace", script)
        .fails()
        .has("interrupted", true)
        .has("build_id", "b2")
        .has("stop_build_id", "b2")
        .says("error", "down")
        .says("error", "call start_workspace");
}

#[test]
fn an_interrupt_between_stop_and_start_says_that_the_workspace_is_down() {
    after_stop([latest(stop(2, Succeeded)), refused(TransitionError::Interrupted)])
        .fails()
        .has("interrupted", true)
        .has("stopped", true)
        .has("started", false)
        .has("stop_build_id", "b2")
        .says("error", "not up")
        .says("error", "call start_workspace");
}

#[test]
fn an_interrupted_restart_names_no_tool_that_the_chat_does_not_have() {
    let mut script = stops();
    script.truncate(3);
    script.push(waited(WaitEnd::Interrupted, Some(stop(2, Running))));
    let policy = Policy { tools: vec!["restart_workspace".into()], ..policy() };
    let run = run_with("restart_workspace", "", &policy, script);
    assert!(!run.json["error"].as_str().unwrap().contains("start_workspace"), "{}", run.json);
}

#[test]
fn a_start_that_fails_after_the_stop_tells_both() {
    after_stop([
        latest(stop(2, Succeeded)),
        issued(start(3, Pending)),
        published(),
        reached(start(3, Failed)),
        latest(start(3, Failed)),
    ])
    .fails()
    .has("stopped", true)
    .has("started", false)
    .has("restarted", false)
    .has("stop_build_id", "b2")
    .has("build_id", "b3");
    after_stop([latest(stop(2, Succeeded)), refused(TransitionError::Policy(refusal("Not now.")))])
        .fails()
        .says("error", "Not now.")
        .has("stopped", true);
}

#[test]
fn a_read_that_fails_after_the_stop_tells_that_the_workspace_is_down() {
    after_stop([Answer::Latest(Err(ReadError::Forbidden))])
        .fails()
        .has("stopped", true)
        .has("started", false);
    after_stop([binding(Binding::Rebound)]).fails().has("rebound", true).has("stopped", true);
    after_stop([binding(Binding::Deleted)]).fails().has("stopped", true);
}

#[test]
fn somebody_elses_start_after_the_stop_is_the_restart() {
    let mut script = vec![
        latest(start(3, Running)),
        published(),
        reached(start(3, Succeeded)),
        latest(start(3, Succeeded)),
    ];
    script.extend(ready(start(3, Succeeded)));
    after_stop(script).has("restarted", true).has("build_id", "b3").has("stop_build_id", "b2");

    let mut script =
        vec![latest(stop(2, Succeeded)), refused(TransitionError::Conflict(Some(start(3, Running))))];
    script.extend([published(), reached(start(3, Succeeded)), latest(start(3, Succeeded))]);
    script.extend(ready(start(3, Succeeded)));
    after_stop(script).has("restarted", true).has("build_id", "b3");
}

#[test]
fn somebody_elses_start_in_place_of_the_stop_is_the_restart() {
    let mut script = vec![
        latest(start(1, Succeeded)),
        refused(TransitionError::Superseded(start(2, Running))),
        published(),
        reached(start(2, Succeeded)),
        latest(start(2, Succeeded)),
    ];
    script.extend(ready(start(2, Succeeded)));
    run("restart_workspace", script).has("restarted", true).has("build_id", "b2").lacks("stop_build_id");
}

#[test]
fn somebody_elses_start_that_was_canceled_is_not_repeated() {
    after_stop([
        latest(start(3, Running)),
        published(),
        reached(start(3, Canceled)),
        latest(start(3, Canceled)),
    ])
    .fails()
    .has("canceled", true)
    .has("stopped", true);
    after_stop([latest(start(3, Canceled))]).fails().has("canceled", true);
}

#[test]
fn somebody_elses_stop_or_delete_ends_the_restart_as_superseded() {
    for other in [stop(3, Running), stop(3, Succeeded), build(3, Transition::Delete, Running)] {
        after_stop([latest(other.clone())])
            .fails()
            .has("superseded", true)
            .has("build_id", "b3")
            .has("stopped", true);
        let late = [latest(stop(2, Succeeded)), refused(TransitionError::Superseded(other.clone()))];
        after_stop(late).fails().has("superseded", true).has("build_id", "b3");
        let early = [latest(start(1, Succeeded)), refused(TransitionError::Conflict(Some(other)))];
        run("restart_workspace", early).fails().has("superseded", true).has("stopped", false);
    }
}

#[test]
fn a_nameless_conflict_is_decided_again() {
    let script = [latest(start(1, Succeeded)), refused(TransitionError::Conflict(None))];
    let script = script.into_iter().chain(stops()).chain([latest(stop(2, Succeeded))]).chain(starts());
    run("restart_workspace", script).has("restarted", true);
}

#[test]
fn a_stop_still_in_the_queue_at_its_limit_may_still_run() {
    let mut script = stops();
    script[3] = waited(WaitEnd::Limit, Some(stop(2, Pending)));
    script[4] = latest(stop(2, Pending));
    run("restart_workspace", script).fails().has("stop_build_id", "b2").says("error", "may still run");
}

#[test]
fn a_newer_build_found_after_the_start_is_no_restart() {
    let mut starts = starts();
    starts.truncate(3);
    let overtaken = [latest(stop(4, Running))];
    let run = after_stop([latest(stop(2, Succeeded))].into_iter().chain(starts).chain(overtaken));
    run.fails()
        .has("restarted", false)
        .has("newest_build_id", "b4")
        .has("stop_build_id", "b2")
        .lacks("started");
}

#[test]
fn somebody_elses_start_after_a_canceled_one_of_ours_is_the_restart() {
    let mut script =
        vec![latest(stop(2, Succeeded)), issued(start(3, Pending)), published(), reached(start(3, Canceled))];
    script.push(latest(start(4, Succeeded)));
    script.extend(ready(start(4, Succeeded)));
    after_stop(script).has("restarted", true).has("started", true).has("build_id", "b4").lacks("error");
}

#[test]
fn a_chat_that_left_while_somebody_elses_start_was_awaited_is_told_that_the_workspace_is_up() {
    let run = after_stop([
        latest(start(3, Running)),
        published(),
        reached(start(3, Succeeded)),
        binding(Binding::Rebound),
    ]);
    run.fails().has("rebound", true).has("stopped", false).has("started", true).has("restarted", false);
}

#[test]
fn an_interrupt_after_a_lost_start_was_found_to_have_succeeded_says_that_the_workspace_is_up() {
    let run = after_stop([
        latest(stop(2, Succeeded)),
        issued(start(3, Succeeded)),
        published(),
        waited(WaitEnd::Interrupted, None),
    ]);
    run.fails().has("interrupted", true).has("stopped", false).has("started", true).has("restarted", false);
}
