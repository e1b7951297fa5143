use super::*;
use crate::builders::*;
use crate::contract::{Binding, Provisioner, ReadError, Transition, TransitionError, WaitEnd};
use crate::fake::*;
use JobStatus::{Canceled, Failed, Pending, Running, Succeeded};

/// What follows when a stop is asked for as build 2 and succeeds.
fn stops() -> [Answer; 4] {
    [issued(stop(2, Pending)), published(), reached(stop(2, Succeeded)), latest(stop(2, Succeeded))]
}

#[test]
fn a_chat_whose_workspace_is_missing_or_deleted_gets_an_error_response_that_names_the_create_tool() {
    for tool in ["stop_workspace", "restart_workspace"] {
        run(tool, [binding(Binding::Unbound)]).is_refused("create_workspace").says("error", "no workspace");
        run(tool, [binding(Binding::Deleted)]).is_refused("create_workspace").says("error", "deleted");
    }
}

#[test]
fn a_chat_that_cannot_create_is_not_told_to() {
    let mut policy = policy();
    policy.tools.retain(|tool| tool != "create_workspace");
    let run = run_with("stop_workspace", "{}", &policy, [binding(Binding::Deleted)]);
    run.is_refused("deleted");
    assert!(!run.json["error"].as_str().unwrap().contains("create_workspace"));
}

#[test]
fn a_first_read_that_fails_is_an_error_response() {
    run("stop_workspace", [Answer::Latest(Err(ReadError::Forbidden))]).is_refused("may not read");
}

#[test]
fn a_stopped_workspace_is_left_as_it_is() {
    run("stop_workspace", [latest(stop(1, Succeeded))])
        .has("stopped", true)
        .has("no_build", true)
        .has("workspace_name", "dev")
        .lacks("build_id");
}

#[test]
fn every_other_state_at_rest_gets_a_new_stop() {
    let mut states = vec![start(1, Succeeded), start(1, Failed), start(1, Canceled)];
    states.extend([stop(1, Failed), stop(1, Canceled)]);
    states.extend([Succeeded, Failed, Canceled].map(|status| build(1, Transition::Delete, status)));
    states.push(build(1, Transition::Unknown("freeze".into()), Succeeded));
    for state in states {
        run("stop_workspace", [latest(state)].into_iter().chain(stops()))
            .has("stopped", true)
            .has("build_id", "b2")
            .lacks("no_build")
            .asked(&["latest-build", "stop on b1", "publish b2", "wait for b2 600000", "latest-build"]);
    }
}

#[test]
fn a_start_in_progress_is_published_and_awaited_before_the_stop() {
    for status in in_progress() {
        let script =
            [latest(start(1, status)), published(), reached(start(1, Failed)), latest(start(1, Failed))];
        run("stop_workspace", script.into_iter().chain(stops()))
            .has("stopped", true)
            .has("build_id", "b2")
            .asked(&[
                "latest-build",
                "publish b1",
                "wait for b1 600000",
                "latest-build",
                "stop on b1",
                "publish b2",
                "wait for b2 600000",
                "latest-build",
            ]);
    }
}

#[test]
fn an_awaited_stop_that_succeeds_is_the_stop() {
    let script =
        [latest(stop(1, Running)), published(), reached(stop(1, Succeeded)), latest(stop(1, Succeeded))];
    run("stop_workspace", script).has("stopped", true).has("no_build", true);
}

#[test]
fn a_wait_that_failed_does_not_matter_when_the_build_has_ended_by_then() {
    for wait in [waited(WaitEnd::Limit, None), Answer::Waited(Err(ReadError::Unauthorized))] {
        let script = [latest(start(1, Running)), published(), wait, latest(start(1, Succeeded))];
        run("stop_workspace", script.into_iter().chain(stops())).has("stopped", true);
    }
}

#[test]
fn a_wait_at_its_limit_names_the_build_that_was_read_after_it() {
    let script = [
        latest(start(1, Running)),
        published(),
        waited(WaitEnd::Limit, Some(start(1, Running))),
        latest(start(2, Running)),
    ];
    run("stop_workspace", script).fails().has("build_id", "b2").issued_nothing();
}

#[test]
fn a_read_error_that_ends_a_wait_is_not_reported_as_a_failed_build() {
    let script = [
        latest(start(1, Running)),
        published(),
        Answer::Waited(Err(ReadError::Forbidden)),
        latest(start(1, Running)),
    ];
    run("stop_workspace", script).fails().has("build_id", "b1").says("error", "goes on").issued_nothing();
}

#[test]
fn another_build_found_running_after_the_wait_is_awaited_too() {
    let script = [
        latest(start(1, Running)),
        published(),
        reached(start(1, Succeeded)),
        latest(stop(2, Running)),
        published(),
        reached(stop(2, Succeeded)),
        latest(stop(2, Succeeded)),
    ];
    run("stop_workspace", script).has("stopped", true).has("no_build", true).issued_nothing();
}

#[test]
fn a_queue_without_provisioner_is_named_and_the_build_may_still_run() {
    let waiting = || {
        let mut build = start(1, Pending);
        build.provisioner = Provisioner::Missing;
        build
    };
    let script = [latest(waiting()), published(), waited(WaitEnd::Limit, Some(waiting())), latest(waiting())];
    run("stop_workspace", script).fails().says("error", "no provisioner").says("error", "may still run");
}

#[test]
fn an_interrupt_while_waiting_keeps_the_build_and_issues_nothing() {
    let script =
        [latest(start(1, Running)), published(), waited(WaitEnd::Interrupted, Some(start(1, Running)))];
    run("stop_workspace", script).fails().has("interrupted", true).has("build_id", "b1").issued_nothing();
}

#[test]
fn an_interrupt_of_the_own_wait_keeps_the_build() {
    let script = [
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        published(),
        waited(WaitEnd::Interrupted, None),
    ];
    run("stop_workspace", script).fails().has("interrupted", true).has("build_id", "b2").lacks("stopped");
}

#[test]
fn an_interrupt_before_the_request_issues_nothing() {
    let script = [latest(start(1, Succeeded)), refused(TransitionError::Interrupted)];
    run("stop_workspace", script).fails().has("interrupted", true);
}

#[test]
fn a_binding_that_cannot_be_written_is_no_reason_to_fail() {
    let script = [
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        Answer::Published(Err(ReadError::Unavailable(None))),
        reached(stop(2, Succeeded)),
        latest(stop(2, Succeeded)),
    ];
    run("stop_workspace", script).has("stopped", true);
}

#[test]
fn a_chat_that_was_bound_elsewhere_while_waiting_is_left_as_it_is() {
    for elsewhere in [Binding::Rebound, Binding::Unbound] {
        let script =
            [latest(start(1, Running)), published(), reached(start(1, Succeeded)), binding(elsewhere)];
        run("stop_workspace", script).fails().has("rebound", true).has("build_id", "b1").issued_nothing();
    }
    let script = [latest(start(1, Running)), Answer::Published(Ok(false))];
    run("stop_workspace", script).fails().has("rebound", true).issued_nothing();
    let script = [latest(start(1, Succeeded)), refused(TransitionError::Rebound)];
    run("stop_workspace", script).fails().has("rebound", true);
}

#[test]
fn a_stop_that_succeeded_says_when_the_chat_has_left_meanwhile() {
    let script = [
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        published(),
        reached(stop(2, Succeeded)),
        binding(Binding::Rebound),
    ];
    run("stop_workspace", script).has("stopped", true).says("message", "not bound");
}

#[test]
fn a_workspace_deleted_while_waiting_is_an_error_response() {
    let script = [
        latest(build(1, Transition::Delete, Running)),
        published(),
        reached(build(1, Transition::Delete, Succeeded)),
        binding(Binding::Deleted),
    ];
    run("stop_workspace", script).is_refused("deleted");
    run("stop_workspace", [latest(start(1, Succeeded)), refused(TransitionError::Gone)])
        .is_refused("deleted");
}

#[test]
fn a_failed_stop_of_its_own_is_a_structured_error_even_for_quota() {
    let mut failed = stop(2, Failed);
    failed.error = Some("disk stuck".into());
    failed.error_code = Some("INSUFFICIENT_QUOTA".into());
    let script = [
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        published(),
        reached(failed.clone()),
        latest(failed),
    ];
    let run = run("stop_workspace", script);
    run.fails()
        .has("build_id", "b2")
        .says("error", "disk stuck")
        .lacks("quota")
        .lacks("stopped")
        .lacks("no_build");
}

#[test]
fn a_stop_that_somebody_canceled_is_told_as_that_and_not_as_stopped() {
    let canceled = || {
        let mut build = stop(2, Failed);
        build.cancel_requested = true;
        build
    };
    let script = [
        latest(start(1, Succeeded)),
        issued(stop(2, Pending)),
        published(),
        reached(canceled()),
        latest(canceled()),
    ];
    run("stop_workspace", script).fails().has("canceled", true).lacks("stopped");
}

#[test]
fn a_build_that_was_seen_to_end_has_ended_whatever_a_late_read_says() {
    for read in [Answer::Latest(Err(ReadError::Unavailable(None))), latest(stop(2, Running))] {
        let script = [
            latest(start(1, Succeeded)),
            issued(stop(2, Pending)),
            published(),
            reached(stop(2, Succeeded)),
            read,
        ];
        run("stop_workspace", script).has("stopped", true).has("build_id", "b2");
    }
}

#[test]
fn a_refused_request_keeps_its_fields() {
    let mut forbidden = refusal("Not yours.");
    forbidden.detail = Some("It belongs to somebody else.".into());
    let script = [latest(start(1, Succeeded)), refused(TransitionError::Forbidden(forbidden))];
    run("stop_workspace", script)
        .fails()
        .has("error", "Not yours.")
        .has("detail", "It belongs to somebody else.")
        .lacks("validations")
        .lacks("build_id");
}

#[test]
fn a_control_plane_that_does_not_answer_the_request_is_an_error_response() {
    for (pause, says) in [(Some(1000), "Try again in 1 s."), (None, "Try again later.")] {
        let script = [latest(start(1, Succeeded)), refused(TransitionError::Unavailable(pause))];
        run("stop_workspace", script).is_refused(&format!("no stop build was made. {says}"));
    }
}

#[test]
fn a_conflict_is_awaited_and_decided_again() {
    for conflict in
        [TransitionError::Conflict(Some(start(2, Running))), TransitionError::Superseded(start(2, Running))]
    {
        let script = [
            latest(start(1, Succeeded)),
            refused(conflict),
            published(),
            reached(start(2, Succeeded)),
            latest(start(2, Succeeded)),
            issued(stop(3, Pending)),
            published(),
            reached(stop(3, Succeeded)),
            latest(stop(3, Succeeded)),
        ];
        run("stop_workspace", script).has("stopped", true).has("build_id", "b3");
    }
}

#[test]
fn conflicts_are_given_way_to_three_times_and_then_named() {
    let mut script = vec![latest(start(1, Succeeded))];
    for _ in 0..3 {
        script.extend([refused(TransitionError::Conflict(None)), latest(start(1, Succeeded))]);
    }
    script.push(refused(TransitionError::Conflict(Some(start(7, Running)))));
    run("stop_workspace", script).fails().has("build_id", "b7").says("error", "start build 7");
}

#[test]
fn a_conflict_without_a_build_keeps_what_the_control_plane_said_and_names_no_build() {
    let mut said = refusal("A workspace build is already active.");
    said.detail = Some("Try the other door.".into());
    let mut script = vec![latest(start(1, Succeeded))];
    for _ in 0..3 {
        let unseen = TransitionError::UnseenConflict(said.clone());
        script.extend([refused(unseen), latest(start(1, Succeeded))]);
    }
    script.push(refused(TransitionError::UnseenConflict(said)));
    run("stop_workspace", script)
        .fails()
        .lacks("build_id")
        .says("error", "shows none. It said: A workspace build is already active. No build was made.")
        .has("detail", "Try the other door.");
}

#[test]
fn no_error_is_empty_whatever_the_host_says() {
    for empty in ["", "  "] {
        let script = [latest(start(1, Succeeded)), refused(TransitionError::Other(refusal(empty)))];
        run("stop_workspace", script).fails().says("error", "no reason");
        let unseen = TransitionError::UnseenConflict(refusal(empty));
        let reads = (0..3).map(|_| [refused(unseen.clone()), latest(start(1, Succeeded))]);
        let script = [latest(start(1, Succeeded))].into_iter().chain(reads.flatten());
        let run = run("stop_workspace", script.chain([refused(unseen.clone())]));
        run.fails().says("error", "shows none. No build was made.");
        let error = Answer::Latest(Err(ReadError::Other(empty.into())));
        super::run("stop_workspace", [error]).is_refused("does not say why");
    }
}

#[test]
fn a_newer_build_found_after_the_stop_is_no_success() {
    let [issued, published, reached, _] = stops();
    let script = [latest(start(1, Succeeded)), issued, published, reached, latest(start(3, Running))];
    run("stop_workspace", script).fails().has("build_id", "b2").has("newest_build_id", "b3").lacks("stopped");
}
