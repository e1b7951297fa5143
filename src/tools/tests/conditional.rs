//! `only_if_unreachable`, for stop and restart alike.

use super::*;
use crate::builders::*;
use crate::contract::{
    Agent, AgentState, Agents, Build, NeverConnected, ReadError, Transition, TransitionError, WaitEnd,
};
use crate::fake::*;
use JobStatus::{Failed, Pending, Running, Succeeded};

const CONDITION: &str = r#"{"only_if_unreachable":true}"#;

fn stop_if(policy: &Policy, looks: impl IntoIterator<Item = Answer>) -> Run {
    let script = [latest(start(1, Succeeded))].into_iter().chain(looks);
    run_with("stop_workspace", CONDITION, policy, script)
}

/// The answers to a stop that is asked for after the look.
fn stops() -> [Answer; 4] {
    [issued(stop(2, Pending)), published(), reached(stop(2, Succeeded)), latest(stop(2, Succeeded))]
}

fn inferred(for_ms: u64) -> Agent {
    let gone = gone_agent("a1", for_ms);
    Agent { last_connected: gone.disconnected, ..gone }
}

fn readable(agent: Agent, readable_for_ms: u64) -> Answer {
    Answer::Agents(Ok(Agents { readable_for_ms, ..agents_of(start(1, Succeeded), vec![agent]) }))
}

impl Run {
    #[track_caller]
    fn stopped_nothing(&self) -> &Self {
        assert!(self.json["reason"].is_string(), "{}", self.json);
        self.has("stopped", false).has("workspace_name", "dev").lacks("error").issued_nothing()
    }
}

#[test]
fn an_agent_that_is_gone_for_long_enough_is_stopped_on_the_strength_of_that_read() {
    let look = status(start(9, Succeeded), vec![gone_agent("a1", 120_000)]);
    let run = stop_if(&policy(), [look].into_iter().chain(stops()));
    run.has("stopped", true).has("build_id", "b2");
    assert_eq!(run.requests[..3], ["latest-build", "agent-status", "stop on b9"]);
}

#[test]
fn anything_but_a_restart_row_stops_nothing() {
    let with = |build: Build, agents: Vec<Agent>| status(build, agents);
    let gone = || gone_agent("a1", 120_000);
    let looks = vec![
        Answer::Agents(Err(ReadError::Unavailable(None))),
        Answer::Agents(Err(ReadError::NotFound)),
        with(start(1, Succeeded), vec![agent("a1")]),
        with(start(1, Succeeded), vec![Agent { state: AgentState::Connecting, ..agent("a1") }]),
        with(start(1, Succeeded), vec![Agent { state: AgentState::TimedOut, ..agent("a1") }]),
        with(start(1, Succeeded), vec![Agent { state: AgentState::Unknown("odd".into()), ..agent("a1") }]),
        with(start(1, Succeeded), vec![gone_agent("a1", 89_999)]),
        with(start(1, Succeeded), vec![Agent { disconnected: None, ..gone() }]),
        with(start(1, Succeeded), vec![Agent { external: true, ..gone() }]),
        with(start(1, Succeeded), vec![]),
        with(start(1, Running), vec![gone()]),
        with(stop(1, Running), vec![gone()]),
        with(stop(1, Succeeded), vec![]),
        with(stop(1, Failed), vec![gone()]),
        with(build(1, Transition::Delete, Failed), vec![gone()]),
        Answer::Agents(Ok(Agents { observed: None, ..agents_of(start(1, Succeeded), vec![gone()]) })),
    ];
    for look in looks {
        stop_if(&policy(), [look]).stopped_nothing();
    }
}

#[test]
fn an_agent_that_never_connected_is_restarted_by_policy_only() {
    let never = || Agent { state: AgentState::TimedOut, first_connected: None, ..agent("a1") };
    let policy = Policy { never_connected: NeverConnected::Restart, ..policy() };
    stop_if(&policy, [status(start(1, Succeeded), vec![never()])].into_iter().chain(stops()))
        .has("stopped", true);
}

#[test]
fn an_agent_that_is_known_to_be_dead_takes_some_seconds_of_reading() {
    let looks = [
        readable(gone_agent("a1", 120_000), 1_000),
        agent_waited(WaitEnd::Limit, Some(gone_agent("a1", 120_000))),
        readable(gone_agent("a1", 124_000), 5_000),
    ];
    let run = stop_if(&policy(), looks.into_iter().chain(stops()));
    run.has("stopped", true);
    assert_eq!(run.requests[2], "wait for agent a1 of b1 4000 0");
}

#[test]
fn an_agent_that_may_still_be_brought_back_by_its_own_watchdog_is_given_the_time() {
    let looks = [
        readable(gone_agent("a1", 92_000), 600_000),
        agent_waited(WaitEnd::Limit, Some(gone_agent("a1", 92_000))),
        readable(gone_agent("a1", 120_000), 628_000),
    ];
    let run = stop_if(&policy(), looks.into_iter().chain(stops()));
    run.has("stopped", true);
    assert_eq!(run.requests[2], "wait for agent a1 of b1 28000 0");
    let back =
        [readable(gone_agent("a1", 92_000), 600_000), agent_waited(WaitEnd::Reached, Some(agent("a1")))];
    stop_if(&policy(), back).stopped_nothing();
}

#[test]
fn where_no_agent_is_known_to_be_dead_it_takes_a_whole_dial_of_reading() {
    let policy = Policy { known_dead: None, ..policy() };
    let looks = [
        readable(gone_agent("a1", 120_000), 10_000),
        agent_waited(WaitEnd::Limit, Some(gone_agent("a1", 120_000))),
        readable(gone_agent("a1", 140_000), 30_000),
    ];
    let run = stop_if(&policy, looks.into_iter().chain(stops()));
    run.has("stopped", true);
    assert_eq!(run.requests[2], "wait for agent a1 of b1 20000 0");
    let young = status(start(9, Succeeded), vec![gone_agent("a1", 90_000)]);
    stop_if(&policy, [young].into_iter().chain(stops())).has("stopped", true);
}

#[test]
fn an_inferred_disconnect_needs_as_much_reading_as_the_threshold() {
    let looks = [
        readable(inferred(90_000), 30_000),
        agent_waited(WaitEnd::Limit, None),
        readable(inferred(90_000), 90_000),
    ];
    let run = stop_if(&policy(), looks.into_iter().chain(stops()));
    run.has("stopped", true);
    assert_eq!(run.requests[2], "wait for agent a1 of b1 60000 0");
}

#[test]
fn an_agent_that_comes_back_in_the_missing_time_is_not_stopped() {
    let look = || readable(gone_agent("a1", 90_000), 0);
    stop_if(&policy(), [look(), agent_waited(WaitEnd::Reached, Some(agent("a1")))]).stopped_nothing();
    let seen = [look(), agent_waited(WaitEnd::Limit, None), readable(agent("a1"), 30_000)];
    stop_if(&policy(), seen).stopped_nothing();
}

#[test]
fn a_control_plane_that_never_stays_is_not_trusted() {
    let looks =
        (0..3).flat_map(|_| [readable(gone_agent("a1", 90_000), 0), agent_waited(WaitEnd::Limit, None)]);
    stop_if(&policy(), looks).stopped_nothing();
}

#[test]
fn an_interrupt_in_the_missing_time_stops_nothing() {
    let looks = [readable(gone_agent("a1", 90_000), 0), agent_waited(WaitEnd::Interrupted, None)];
    stop_if(&policy(), looks).fails().has("interrupted", true).has("build_id", "b1").issued_nothing();
}

#[test]
fn another_build_after_the_look_stops_nothing() {
    for (conflict, reason) in [
        (TransitionError::Superseded(start(2, Running)), "Another build began"),
        (TransitionError::UnseenConflict(refusal("Busy.")), "It said: Busy."),
        (TransitionError::Conflict(None), "shows none."),
    ] {
        let looks = [status(start(1, Succeeded), vec![gone_agent("a1", 120_000)]), refused(conflict)];
        stop_if(&policy(), looks).has("stopped", false).says("reason", reason);
    }
}

#[test]
fn a_restart_keeps_to_the_same_condition() {
    let back = [latest(start(1, Succeeded)), status(start(1, Succeeded), vec![agent("a1")])];
    run_with("restart_workspace", CONDITION, &policy(), back).stopped_nothing().has("restarted", false);

    let mut script =
        vec![latest(start(1, Succeeded)), status(start(1, Succeeded), vec![gone_agent("a1", 120_000)])];
    script.extend(stops());
    script.extend([latest(stop(2, Succeeded)), issued(start(3, Pending)), published()]);
    script.extend([reached(start(3, Succeeded)), latest(start(3, Succeeded))]);
    script.extend(ready(start(3, Succeeded)));
    run_with("restart_workspace", CONDITION, &policy(), script)
        .has("restarted", true)
        .has("stop_build_id", "b2");
}

#[test]
fn a_restart_in_progress_is_not_awaited_under_the_condition() {
    let script = [latest(start(1, Running)), status(start(1, Running), vec![])];
    run_with("restart_workspace", CONDITION, &policy(), script).stopped_nothing();
}
