use super::*;
use crate::builders::*;
use crate::contract::{
    Agent, AgentState, Binding, FieldProblem, Lifecycle, Probe, Quota, ReadError, Transition,
    TransitionError, WaitEnd,
};
use crate::fake::*;
use JobStatus::{Canceled, Failed, Pending, Running, Succeeded};

/// What follows when a start is asked for as this build, succeeds and its agent gets ready.
fn starts(number: u32) -> Vec<Answer> {
    let mut script = vec![
        issued(start(number, Pending)),
        published(),
        reached(start(number, Succeeded)),
        latest(start(number, Succeeded)),
    ];
    script.extend(ready(start(number, Succeeded)));
    script
}

/// The agent as its wait left it, in a workspace that is started already.
fn with_agent(end: WaitEnd, agent: Agent) -> Run {
    let status = status(start(1, Succeeded), vec![agent.clone()]);
    run("start_workspace", [latest(start(1, Succeeded)), status, agent_waited(end, Some(agent))])
}

#[test]
fn an_unbound_chat_and_a_deleted_workspace_are_error_responses() {
    run("start_workspace", [binding(Binding::Unbound)]).is_refused("create_workspace");
    run("start_workspace", [binding(Binding::Deleted)]).is_refused("deleted");
}

#[test]
fn a_started_workspace_is_left_as_it_is_and_a_ready_agent_adds_no_keys() {
    let script = [latest(start(1, Succeeded))].into_iter().chain(ready(start(1, Succeeded)));
    let run = run("start_workspace", script);
    assert_eq!(run.json, json!({"started": true, "workspace_name": "dev", "no_build": true}));
    run.asked(&["latest-build", "agent-status", "wait for agent a1 of b1 120000 600000"]);
}

#[test]
fn every_other_state_at_rest_gets_a_new_start() {
    let mut states = vec![stop(1, Succeeded), stop(1, Failed), stop(1, Canceled)];
    states.extend([start(1, Failed), start(1, Canceled)]);
    states.extend([Succeeded, Failed, Canceled].map(|status| build(1, Transition::Delete, status)));
    states.push(build(1, Transition::Unknown("freeze".into()), Succeeded));
    for state in states {
        let run = run("start_workspace", [latest(state)].into_iter().chain(starts(2)));
        assert_eq!(run.json, json!({"started": true, "workspace_name": "dev", "build_id": "b2"}));
    }
}

#[test]
fn parameters_are_sent_in_the_order_of_their_names() {
    let arguments = r#"{"parameters":{"zone":"eu","cpu":"2"}}"#;
    let script = [latest(stop(1, Succeeded))].into_iter().chain(starts(2));
    let run = run_with("start_workspace", arguments, &policy(), script);
    assert_eq!(run.requests[1], "start on b1 cpu=2 zone=eu");
}

#[test]
fn a_start_in_progress_is_awaited_and_its_build_is_named() {
    for status in in_progress() {
        let script = [
            latest(start(1, status)),
            published(),
            reached(start(1, Succeeded)),
            latest(start(1, Succeeded)),
        ];
        run("start_workspace", script.into_iter().chain(ready(start(1, Succeeded))))
            .has("started", true)
            .has("build_id", "b1")
            .lacks("no_build")
            .issued_nothing_but_waits();
    }
}

impl Run {
    #[track_caller]
    fn issued_nothing_but_waits(&self) -> &Self {
        assert_eq!(self.requests[1..3], ["publish b1", "wait for b1 600000"]);
        self.issued_nothing()
    }
}

#[test]
fn a_stop_in_progress_is_awaited_and_then_the_workspace_is_started() {
    for status in in_progress() {
        let script =
            [latest(stop(1, status)), published(), reached(stop(1, Succeeded)), latest(stop(1, Succeeded))];
        run("start_workspace", script.into_iter().chain(starts(2)))
            .has("started", true)
            .has("build_id", "b2");
    }
}

#[test]
fn an_awaited_start_that_fails_is_not_repeated() {
    let mut failed = start(1, Failed);
    failed.error = Some("no image".into());
    let script = [latest(start(1, Running)), published(), reached(failed.clone()), latest(failed)];
    run("start_workspace", script).fails().has("build_id", "b1").says("error", "no image").issued_nothing();
}

#[test]
fn an_awaited_start_that_somebody_canceled_is_not_repeated() {
    let script =
        [latest(start(1, Canceling)), published(), reached(start(1, Canceled)), latest(start(1, Canceled))];
    run("start_workspace", script).fails().has("canceled", true).has("build_id", "b1").issued_nothing();
}
use JobStatus::Canceling;

#[test]
fn a_delete_that_was_awaited_and_succeeded_leaves_nothing_to_start() {
    let script = [
        latest(build(1, Transition::Delete, Running)),
        published(),
        reached(build(1, Transition::Delete, Succeeded)),
        binding(Binding::Deleted),
    ];
    run("start_workspace", script).is_refused("deleted");
}

#[test]
fn a_start_on_a_newer_template_version_says_so() {
    let mut newer = start(2, Pending);
    newer.template_version = Some("v2".into());
    let mut script = vec![latest(stop(1, Succeeded)), issued(newer), published()];
    script.extend([reached(start(2, Succeeded)), latest(start(2, Succeeded))]);
    script.extend(ready(start(2, Succeeded)));
    let run = run("start_workspace", script);
    run.has("updated_to_active_version", true).says("message", "active version");
    run.has("update_reason", "template requires active versions");
}

#[test]
fn refused_parameters_are_listed_with_their_template() {
    let mut invalid = refusal("A parameter is missing.");
    invalid.validations = vec![FieldProblem { field: "region".into(), detail: "has no value".into() }];
    let run =
        run("start_workspace", [latest(stop(1, Succeeded)), refused(TransitionError::Invalid(invalid))]);
    run.fails().has("template_id", "t1");
    assert_eq!(run.json["validations"], json!([{"field": "region", "detail": "has no value"}]));
}

#[test]
fn a_failed_start_of_its_own_is_a_structured_error() {
    let script = [
        latest(stop(1, Succeeded)),
        issued(start(2, Pending)),
        published(),
        reached(start(2, Failed)),
        latest(start(2, Failed)),
    ];
    run("start_workspace", script).fails().has("build_id", "b2").lacks("started").lacks("no_build");
}

#[test]
fn a_start_that_the_quota_does_not_allow_says_what_is_used() {
    let mut failed = start(2, Failed);
    failed.error_code = Some("INSUFFICIENT_QUOTA".into());
    failed.quota = Some(Quota { credits_consumed: 9, budget: 10 });
    let script = [
        latest(stop(1, Succeeded)),
        issued(start(2, Pending)),
        published(),
        reached(failed.clone()),
        latest(failed),
    ];
    let run = run("start_workspace", script);
    run.fails().has("error_code", "INSUFFICIENT_QUOTA").has("build_id", "b2").says("message", "quota");
    assert_eq!(run.json["quota"], json!({"credits_consumed": 9, "budget": 10}));
    assert!(run.json["title"].is_string() && run.json["next_steps"].is_array());
}

#[test]
fn a_start_that_ends_in_the_queue_may_still_run() {
    let script = [
        latest(stop(1, Succeeded)),
        issued(start(2, Pending)),
        published(),
        waited(WaitEnd::Limit, Some(start(2, Pending))),
        latest(start(2, Pending)),
    ];
    run("start_workspace", script).fails().has("build_id", "b2").says("error", "may still run");
}

#[test]
fn a_chat_that_left_during_the_start_is_told_and_its_agent_not_looked_for() {
    let script = [
        latest(stop(1, Succeeded)),
        issued(start(2, Pending)),
        published(),
        reached(start(2, Succeeded)),
        binding(Binding::Unbound),
    ];
    run("start_workspace", script).has("started", true).says("message", "not bound").lacks("agent_status");
}

#[test]
fn a_workspace_without_agents_is_told_from_one_that_has_only_agents_of_agents() {
    let agents = |agents| [latest(start(1, Succeeded)), status(start(1, Succeeded), agents)];
    run("start_workspace", agents(vec![]))
        .has("started", true)
        .has("agent_status", "no_agent")
        .lacks("error");
    let child = Agent { parent: Some("a0".into()), ..agent("a1") };
    run("start_workspace", agents(vec![child]))
        .has("started", true)
        .has("agent_status", "selection_error")
        .has("agent_error", "no eligible workspace agents found")
        .lacks("error");
}

#[test]
fn somebody_elses_start_that_came_first_is_the_build_that_is_named() {
    for refusal in [
        TransitionError::Superseded(start(2, Succeeded)),
        TransitionError::UnseenConflict(refusal("A workspace build is already active.")),
    ] {
        let script = [latest(stop(1, Succeeded)), refused(refusal), latest(start(2, Succeeded))];
        run("start_workspace", script.into_iter().chain(ready(start(2, Succeeded))))
            .has("started", true)
            .has("build_id", "b2")
            .lacks("no_build");
    }
}

#[test]
fn somebody_elses_start_that_came_first_and_was_canceled_is_not_repeated() {
    let script = [
        latest(stop(1, Succeeded)),
        refused(TransitionError::Superseded(start(2, Canceled))),
        latest(start(2, Canceled)),
    ];
    run("start_workspace", script).fails().has("canceled", true).has("build_id", "b2");
}

#[test]
fn a_build_of_unknown_status_is_named_with_it_and_not_said_to_go_on() {
    let napping = || start(7, JobStatus::Unknown("napping".into()));
    for end in [
        waited(WaitEnd::Limit, Some(napping())),
        waited(WaitEnd::Interrupted, Some(napping())),
        Answer::Waited(Err(ReadError::Forbidden)),
    ] {
        let mut script = vec![latest(napping()), published(), end];
        if !matches!(&script[2], Answer::Waited(Ok(wait)) if wait.end == WaitEnd::Interrupted) {
            script.push(latest(napping()));
        }
        let run = run("start_workspace", script);
        run.fails().has("build_id", "b7").says("error", "tart build 7 has the status \"napping\"");
        let text = run.json["error"].as_str().unwrap();
        assert!(
            !["still", "goes on by itself", "itself goes on"].iter().any(|claim| text.contains(claim)),
            "{text}"
        );
        run.issued_nothing();
    }
}

#[test]
fn an_agent_that_cannot_be_read_is_not_called_missing() {
    let script = [latest(start(1, Succeeded)), Answer::Agents(Err(ReadError::Unavailable(None)))];
    run("start_workspace", script)
        .has("started", true)
        .has("agent_status", "unreadable")
        .says("agent_error", "read");
    let script = [
        latest(start(1, Succeeded)),
        status(start(1, Succeeded), vec![agent("a1")]),
        agent_waited(WaitEnd::Limit, None),
    ];
    run("start_workspace", script).has("agent_status", "unreadable");
}

#[test]
fn the_agent_with_the_chat_suffix_is_awaited() {
    let chat = Agent { name: "x-coderd-chat".into(), order: 5, ..agent("a2") };
    let script = [
        latest(start(1, Succeeded)),
        status(start(1, Succeeded), vec![agent("a1"), chat.clone()]),
        agent_waited(WaitEnd::Reached, Some(chat)),
    ];
    let run = run("start_workspace", script);
    assert_eq!(run.requests[2], "wait for agent a2 of b1 120000 600000");
}

#[test]
fn an_ambiguous_agent_is_a_selection_error_and_is_not_awaited() {
    let named = |id: &str, name: &str| Agent { name: name.into(), ..agent(id) };
    let agents = vec![named("a1", "b-coderd-chat"), named("a2", "a-coderd-chat")];
    run("start_workspace", [latest(start(1, Succeeded)), status(start(1, Succeeded), agents)])
        .has("started", true)
        .has("agent_status", "selection_error")
        .says("agent_error", "a-coderd-chat, b-coderd-chat");
}

#[test]
fn an_agent_that_does_not_connect_is_not_ready() {
    for state in [AgentState::Connecting, AgentState::Disconnected, AgentState::TimedOut] {
        let late = Agent { state, ..agent("a1") };
        let run = with_agent(WaitEnd::Limit, late);
        run.has("started", true).has("agent_status", "not_ready").lacks("error").lacks("startup_scripts");
        assert!(run.json["agent_error"].is_string());
    }
}

#[test]
fn an_agent_on_which_no_command_can_run_is_not_ready_however_it_reads() {
    let probed = |end, agent: Agent, probe| {
        let script = [
            latest(start(1, Succeeded)),
            status(start(1, Succeeded), vec![agent.clone()]),
            agent_probed(end, Some(agent), Some(probe)),
        ];
        run("start_workspace", script)
    };
    let silent = || Probe::Unanswered("its terminal stays silent".into());
    probed(WaitEnd::Limit, agent("a1"), silent())
        .has("started", true)
        .has("agent_status", "not_ready")
        .says("agent_error", "reads as connected, but no command can run on it: its terminal stays silent.")
        .lacks("startup_scripts");
    let broken = Agent { lifecycle: Lifecycle::StartError, ..agent("a1") };
    probed(WaitEnd::Limit, broken, silent())
        .has("agent_status", "not_ready")
        .has("startup_scripts", "startup_scripts_failed");
    let gone = Agent { state: AgentState::Disconnected, ..agent("a1") };
    probed(WaitEnd::Limit, gone, silent()).says("agent_error", "lost its connection");
    let interrupted = probed(WaitEnd::Interrupted, agent("a1"), silent());
    interrupted.has("interrupted", true).has("agent_status", "not_ready");
}

#[test]
fn an_agent_that_could_not_be_probed_is_taken_for_ready_and_that_is_said() {
    let script = [
        latest(start(1, Succeeded)),
        status(start(1, Succeeded), vec![agent("a1")]),
        agent_probed(WaitEnd::Reached, Some(agent("a1")), Some(Probe::Untried("no permission".into()))),
    ];
    let run = run("start_workspace", script);
    run.has("started", true).lacks("agent_status").lacks("agent_error");
    run.says("message", "Whether a command can run on the agent was not tried: no permission.");
}

#[test]
fn an_external_agent_that_does_not_connect_is_for_the_user_to_connect() {
    let away = Agent { external: true, state: AgentState::Connecting, first_connected: None, ..agent("a1") };
    with_agent(WaitEnd::Limit, away.clone())
        .has("agent_status", "not_ready")
        .says("agent_error", "never connected");
    let known = Agent { first_connected: Some(1), ..away };
    with_agent(WaitEnd::Limit, known).says("agent_error", "reconnect");
}

#[test]
fn scripts_that_failed_or_are_late_are_told_apart() {
    let with = |end, lifecycle| with_agent(end, Agent { lifecycle, ..agent("a1") });
    for (lifecycle, state) in [
        (Lifecycle::StartError, "start_error"),
        (Lifecycle::StartTimeout, "start_timeout"),
        (Lifecycle::ShuttingDown, "shutting_down"),
        (Lifecycle::Off, "off"),
    ] {
        with(WaitEnd::Reached, lifecycle)
            .has("started", true)
            .has("startup_scripts", "startup_scripts_failed")
            .has("lifecycle_state", state)
            .lacks("error");
    }
    with(WaitEnd::Limit, Lifecycle::Starting).has("startup_scripts", "startup_scripts_timeout");
    with(WaitEnd::Interrupted, Lifecycle::Created)
        .has("startup_scripts", "startup_scripts_unknown")
        .has("interrupted", true);
}

#[test]
fn a_newer_build_found_while_the_agent_is_awaited_is_no_success() {
    let seen_at_once = vec![latest(start(1, Succeeded)), status(stop(2, Running), vec![])];
    let seen_later = vec![
        latest(start(1, Succeeded)),
        status(start(1, Succeeded), vec![agent("a1")]),
        agent_waited(WaitEnd::Gone, None),
        status(stop(2, Running), vec![]),
    ];
    for script in [seen_at_once, seen_later] {
        run("start_workspace", script)
            .fails()
            .has("build_id", "b1")
            .has("newest_build_id", "b2")
            .lacks("started");
    }
}

#[test]
fn a_workspace_that_is_deleted_after_the_start_is_not_started() {
    let script = [
        latest(stop(1, Succeeded)),
        issued(start(2, Pending)),
        published(),
        reached(start(2, Succeeded)),
        binding(Binding::Deleted),
    ];
    run("start_workspace", script).fails().has("build_id", "b2").says("error", "deleted").lacks("started");
}
