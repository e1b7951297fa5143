//! The decision table over every combination of its inputs, and the texts.

#[path = "../../tests/support/table_cases.rs"]
mod cases;

use super::*;
use crate::builders::{self, evidence};
use crate::contract::{Action, Agent, Build, Cause, Dial, JobStatus, NeverConnected, Transition};
use crate::fake::{self, Answer, Fake};
use crate::types;
use cases::{Age, Case, Dialed, Who};

const LIFECYCLE_TOOLS: [&str; 3] = ["stop_workspace", "start_workspace", "restart_workspace"];

fn verdict(case: &Case) -> Verdict {
    let mut script = vec![];
    let timed_out = matches!(case.evidence.dial, Dial::TimedOut(_));
    if timed_out && !case.evidence.control_plane_away {
        script.push(Answer::Agents(case.status.clone()));
        if case.status == Err(ReadError::NotFound) {
            script.push(Answer::Latest(case.binding.clone()));
        }
    }
    let fake = Fake::new(script);
    let verdict = classify(&fake, &case.evidence, &case.policy);
    fake.requests();
    verdict
}

/// The table once more, as a list of independent conditions: the number of the first row that holds.
fn expected_row(case: &Case) -> u8 {
    use JobStatus::{Canceled, Canceling, Failed, Pending, Running, Succeeded, Unknown};
    let build: Option<&Build> = case.status.as_ref().ok().map(|agents| &agents.build);
    let state = case.status.as_ref().ok().and_then(|agents| agents.agents.first()).map(|agent| &agent.state);
    let is = |transition: Transition| build.is_some_and(|build| build.transition == transition);
    let active = build.is_some_and(|build| matches!(build.status, Pending | Running | Canceling));
    let succeeded = build.is_some_and(|build| build.status == Succeeded);
    let broken = build.is_some_and(|build| matches!(build.status, Failed | Canceled));
    let canceled = build
        .is_some_and(|build| build.status == Canceled || (build.status == Failed && build.cancel_requested));
    let ours = build.is_some_and(|build| build.ours);
    let nobody = matches!(case.who, Who::Nobody | Who::OnlyAChild);
    let external = case.who == Who::One { external: true };
    let connected = state == Some(&AgentState::Connected);
    let absent = case.status == Err(ReadError::NotFound);
    let elsewhere = absent && matches!(case.binding, Ok(Binding::Unbound | Binding::Rebound));
    let deleted = absent && case.binding == Ok(Binding::Deleted);
    let odd_build = build.is_some_and(|build| {
        matches!(build.transition, Transition::Unknown(_)) || matches!(build.status, Unknown(_))
    });
    let long = matches!(case.age, Age::LongEnough | Age::LongEnoughInferred);
    let rows = [
        (1, case.evidence.dial == Dial::Interrupted),
        (2, matches!(case.evidence.dial, Dial::FailedFast(_))),
        (3, case.evidence.control_plane_away),
        (4, case.status.is_err() && !elsewhere && !deleted),
        (4, odd_build),
        (5, elsewhere),
        (6, deleted || (is(Transition::Delete) && (active || succeeded))),
        (7, is(Transition::Delete) && broken),
        (8, is(Transition::Start) && active),
        (9, is(Transition::Stop) && active && ours),
        (10, is(Transition::Stop) && active),
        (11, is(Transition::Stop) && succeeded),
        (12, is(Transition::Stop) && broken),
        (13, nobody && canceled),
        (14, nobody && broken),
        (15, nobody),
        (16, case.who == Who::SeveralClaim),
        (17, external && !connected),
        (18, external),
        (19, case.dialed != Dialed::This),
        (20, connected || state == Some(&AgentState::Connecting)),
        // A state that is not known is as good as unreadable.
        (4, matches!(state, Some(AgentState::Unknown(_)))),
        (21, state == Some(&AgentState::TimedOut)),
        (22, !long),
        (23, case.changed),
        (24, case.age == Age::LongEnoughInferred),
        (25, true),
    ];
    rows.into_iter().find(|(_, holds)| *holds).unwrap().0
}

/// What each row says.
fn expected(case: &Case, row: u8) -> (Action, Cause, bool) {
    use Action::{AskUser, Propagate, ReconnectAgent, Restart, Retry, Start};
    let once = if case.evidence.earlier_timeouts == 0 { Retry } else { AskUser };
    let restart = if case.evidence.recent_restarts >= 2 { AskUser } else { Restart };
    let never = if case.policy.never_connected == NeverConnected::Restart { restart } else { once };
    let inferred = if case.evidence.earlier_timeouts == 0 { Retry } else { restart };
    let away = if case.evidence.earlier_away < 2 { Retry } else { AskUser };
    match row {
        1 => (Propagate, Cause::Interrupted, false),
        2 => (Propagate, Cause::FailedFast, false),
        3 => (away, Cause::ControlPlaneAway, false),
        4 => (once, Cause::StatusUnreadable, true),
        5 => (Propagate, Cause::ChatRebound, false),
        6 => (Propagate, Cause::WorkspaceDeleted, false),
        7 => (AskUser, Cause::DeleteUnfinished, true),
        8 => (Start, Cause::StartInProgress, true),
        9 => (Start, Cause::OwnStopInProgress, true),
        10 => (AskUser, Cause::ForeignStopInProgress, true),
        11 => (Start, Cause::Stopped, true),
        12 => (once, Cause::StopUnfinished, true),
        13 => (once, Cause::StartCanceled, true),
        14 => (Start, Cause::StartFailed, true),
        15 => (AskUser, Cause::NoAgent, true),
        16 => (once, Cause::AmbiguousAgent, true),
        17 => (ReconnectAgent, Cause::ExternalAgentOffline, true),
        18 => (once, Cause::ExternalAgentOnline, true),
        19 => (Retry, Cause::AgentReplaced, false),
        20 => (once, Cause::AgentAlive, true),
        21 => (never, Cause::AgentNeverConnected, true),
        22 if case.age == Age::Short && !case.changed => (Retry, Cause::RecentlyDisconnected, false),
        22 => (once, Cause::RecentlyDisconnected, true),
        23 => (once, Cause::ChangedDuringDial, true),
        24 => (inferred, Cause::InferredDisconnect, true),
        25 => (restart, Cause::Disconnected, true),
        other => panic!("no row {other}"),
    }
}

#[test]
fn every_combination_of_inputs_gets_the_verdict_of_the_first_row_that_holds() {
    let mut rows = [0_u32; 26];
    for case in cases::all() {
        let verdict = verdict(&case);
        let row = expected_row(&case);
        let got = (verdict.action, verdict.cause, verdict.counts_as_timeout);
        assert_eq!(got, expected(&case, row), "row {row} of {case:?}");
        rows[usize::from(row)] += 1;
    }
    assert!(rows[1..].iter().all(|count| *count > 0), "a row that nothing reaches: {rows:?}");
}

#[test]
fn no_verdict_names_a_tool_that_the_chat_does_not_have() {
    for case in cases::all() {
        let verdict = verdict(&case);
        let names = LIFECYCLE_TOOLS.into_iter().chain(["ask", "create"]);
        for tool in names {
            let has = case.policy.tools.iter().any(|one| one == tool);
            let in_list = verdict.tools.iter().any(|one| one == tool);
            let as_word =
                |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == tool);
            // "Ask" as a word of English has a capital letter or stands before "what".
            let in_text = match tool {
                "ask" => verdict.message.contains("with ask "),
                "create" => verdict.message.contains("with create."),
                _ => as_word(&verdict.message),
            };
            assert!(has || (!in_list && !in_text), "{tool} in {verdict:?}");
            assert_eq!(in_list, in_text, "{tool} in {verdict:?}");
        }
    }
}

#[test]
fn a_retry_names_no_tool_and_a_start_or_question_nothing_destructive() {
    for case in cases::all() {
        let verdict = verdict(&case);
        match verdict.action {
            Action::Retry | Action::ReconnectAgent => {
                assert!(verdict.tools.is_empty());
                assert!(!LIFECYCLE_TOOLS.iter().any(|tool| verdict.message.contains(tool)), "{verdict:?}");
            }
            Action::Restart => {}
            _ => {
                assert!(!verdict.message.contains("stop_workspace"), "{verdict:?}");
                assert!(!verdict.message.contains("restart_workspace"), "{verdict:?}");
            }
        }
    }
}

#[test]
fn a_restart_rests_on_a_timeout_and_on_a_fresh_look_at_the_agent_that_was_dialled() {
    let mut restarts = 0;
    for case in cases::all() {
        let verdict = verdict(&case);
        if verdict.action != Action::Restart {
            continue;
        }
        restarts += 1;
        let agents = case.status.as_ref().unwrap();
        let state = &agents.agents[0].state;
        assert!(matches!(case.evidence.dial, Dial::TimedOut(_)) && !case.evidence.control_plane_away);
        assert_eq!(case.dialed, Dialed::This);
        assert_eq!(case.who, Who::One { external: false });
        assert!(agents.build.transition == Transition::Start && !build::in_progress(&agents.build));
        assert!(
            *state == AgentState::TimedOut || matches!(case.age, Age::LongEnough | Age::LongEnoughInferred)
        );
        assert!(case.evidence.recent_restarts < case.policy.max_restarts);
    }
    assert!(restarts > 0);
}

/// A dial to `a1`, which has been disconnected for so long, timed out.
fn after_ms(gone_for_ms: u64) -> Verdict {
    let agent = builders::gone_agent("a1", gone_for_ms);
    let status = fake::status(builders::start(1, JobStatus::Succeeded), vec![agent.clone()]);
    let evidence = Evidence { disconnected_at_start: agent.disconnected, ..evidence() };
    classify(&Fake::new([status]), &evidence, &builders::policy())
}

#[test]
fn the_text_of_a_restart_says_for_how_long_and_sets_the_condition() {
    let verdict = after_ms(90_000);
    assert_eq!(verdict.action, Action::Restart);
    assert_eq!(verdict.tools, ["restart_workspace"]);
    assert!(verdict.message.contains("at least 90 seconds"), "{}", verdict.message);
    assert!(verdict.message.contains("`only_if_unreachable: true`"), "{}", verdict.message);
    assert!(after_ms(540_999).message.contains("at least 540 seconds"));
}

#[test]
fn a_chat_without_the_restart_tool_is_told_to_stop_and_then_to_start() {
    let case = cases::all()
        .find(|case| {
            verdict(case).action == Action::Restart
                && case.policy.tools == ["stop_workspace", "start_workspace"]
        })
        .unwrap();
    let verdict = verdict(&case);
    assert_eq!(verdict.tools, ["stop_workspace", "start_workspace"]);
    let (stop, start) = (verdict.message.find("stop_workspace"), verdict.message.find("start_workspace"));
    assert!(stop < start && verdict.message.contains("only_if_unreachable"), "{}", verdict.message);
}

#[test]
fn the_threshold_is_inclusive() {
    assert_eq!(after_ms(89_999).cause, Cause::RecentlyDisconnected);
    assert_eq!(after_ms(45_000).action, Action::Retry);
    assert_eq!(after_ms(90_000).cause, Cause::Disconnected);
}

#[test]
fn a_retry_whose_end_is_known_says_after_how_long_and_is_not_counted() {
    let verdict = after_ms(48_001);
    assert_eq!((verdict.retry_after_ms, verdict.counts_as_timeout), (Some(41_999), false));
    assert!(verdict.message.contains("gone for 48 seconds"), "{}", verdict.message);
    assert!(
        verdict.message.contains("Wait 42 seconds, then make the same call again."),
        "{}",
        verdict.message
    );
    for case in cases::all() {
        let verdict = self::verdict(&case);
        if verdict.retry_after_ms.is_some() {
            assert_eq!((verdict.action, verdict.counts_as_timeout), (Action::Retry, false), "{verdict:?}");
        }
    }
}

#[test]
fn an_outage_says_for_how_long_to_wait_where_that_is_known() {
    let wait = |known: bool| {
        let case = cases::all()
            .find(|case| {
                let evidence = &case.evidence;
                matches!(evidence.dial, Dial::TimedOut(_))
                    && evidence.control_plane_away
                    && evidence.trusted_in_ms.is_some() == known
            })
            .unwrap();
        verdict(&case)
    };
    assert_eq!(wait(true).retry_after_ms, Some(61_001));
    assert!(wait(true).message.contains("Wait 62 seconds"), "{}", wait(true).message);
    assert!(wait(false).message.contains("once more"), "{}", wait(false).message);
}

/// An agent that is gone for so long, and was gone since `before` when the dial began, once and a second time.
fn changed(gone_for_ms: u64, before: Option<u64>) -> [Verdict; 2] {
    [0, 1].map(|earlier_timeouts| {
        let agent = builders::gone_agent("a1", gone_for_ms);
        let evidence = Evidence { disconnected_at_start: before, earlier_timeouts, ..evidence() };
        let status = fake::status(builders::start(1, JobStatus::Succeeded), vec![agent]);
        classify(&Fake::new([status]), &evidence, &builders::policy())
    })
}

#[test]
fn an_agent_that_comes_and_goes_during_the_dials_is_no_reason_to_retry_for_ever() {
    let [first, second] = changed(20_000, Some(builders::NOW - 60_000));
    assert_eq!((first.action, first.counts_as_timeout), (Action::Retry, true));
    assert_eq!((second.action, second.retry_after_ms), (Action::AskUser, None));
    // One that hung, and was noticed in the midst of the second dial, is not asked about.
    let [_, went] = changed(20_000, None);
    assert_eq!((went.action, went.retry_after_ms), (Action::Retry, Some(70_000)));
}

#[test]
fn an_agent_that_went_away_during_the_dial_is_told_otherwise_than_one_that_came_back() {
    let [went, _] = changed(90_000, None);
    let [back, _] = changed(90_000, Some(builders::NOW - 300_000));
    assert_eq!([went.cause, back.cause], [Cause::ChangedDuringDial; 2]);
    assert!(went.message.contains("was there when the call began"), "{}", went.message);
    assert!(back.message.contains("had come back"), "{}", back.message);
}

#[test]
fn another_process_is_another_agent_whatever_its_id() {
    let agent = Agent { process: Some("p2".into()), ..builders::gone_agent("a1", 90_000) };
    let of = |dialed: Option<&str>| {
        let evidence = Evidence {
            dialed_process: dialed.map(Into::into),
            disconnected_at_start: agent.disconnected,
            ..evidence()
        };
        let status = fake::status(builders::start(1, JobStatus::Succeeded), vec![agent.clone()]);
        classify(&Fake::new([status]), &evidence, &builders::policy()).cause
    };
    assert_eq!(of(Some("p1")), Cause::ChangedDuringDial);
    assert_eq!([of(Some("p2")), of(None)], [Cause::Disconnected; 2]);
}

#[test]
fn a_workspace_that_was_paused_as_a_task_is_started_and_called_paused() {
    let of = |reason: Option<&str>| {
        let paused = Build { reason: reason.map(Into::into), ..builders::stop(2, JobStatus::Succeeded) };
        let evidence = Evidence {
            disconnected_at_start: Some(1),
            earlier_timeouts: 1,
            recent_restarts: 2,
            ..evidence()
        };
        classify(&Fake::new([fake::status(paused, vec![])]), &evidence, &builders::policy())
    };
    let paused = of(Some("task_auto_pause"));
    assert_eq!((paused.action, &paused.tools[..]), (Action::Start, &["start_workspace".to_owned()][..]));
    assert!(paused.message.contains("paused"), "{}", paused.message);
    for other in [None, Some("autostop")] {
        assert!(of(other).message.contains("is stopped") && !of(other).message.contains("paused"));
    }
}

#[test]
fn an_answer_that_contradicts_itself_gives_no_age() {
    let agent = builders::gone_agent("a1", 90_000);
    assert_eq!(gone::gone_for_ms(&agent, Some(builders::NOW)), Some(90_000));
    assert_eq!(gone::gone_for_ms(&agent, None), None);
    let ahead = Agent { first_connected: Some(builders::NOW + 1), ..agent.clone() };
    assert_eq!(gone::gone_for_ms(&ahead, Some(builders::NOW)), None);
    let seen_since = Agent { last_connected: Some(builders::NOW - 1_000), ..agent };
    assert_eq!(gone::gone_for_ms(&seen_since, Some(builders::NOW)), None);
}

#[test]
fn an_interrupt_and_a_fast_failure_are_passed_on_as_they_came_without_a_read() {
    for case in cases::all().filter(|case| !matches!(case.evidence.dial, Dial::TimedOut(_))) {
        let verdict = verdict(&case);
        let told = match &case.evidence.dial {
            Dial::FailedFast(error) => error,
            _ => "The call was interrupted.",
        };
        assert_eq!((verdict.action, verdict.message.as_str()), (Action::Propagate, told));
    }
}

#[test]
fn what_is_not_known_is_named_and_nothing_is_claimed_of_it() {
    let unknown = |status: &str| JobStatus::Unknown(status.into());
    let odd = Agent { state: AgentState::Unknown("dozing".into()), ..builders::agent("a1") };
    for (status, part) in [
        (
            fake::status(builders::start(7, unknown("napping")), vec![]),
            "start build 7 has the status \"napping\"",
        ),
        (
            fake::status(builders::stop(7, unknown("napping")), vec![]),
            "stop build 7 has the status \"napping\"",
        ),
        (fake::status(builders::start(7, JobStatus::Succeeded), vec![odd]), "status is \"dozing\""),
    ] {
        let evidence = Evidence { disconnected_at_start: Some(1), recent_restarts: 2, ..evidence() };
        let verdict = classify(&Fake::new([status]), &evidence, &builders::policy());
        assert_eq!((verdict.action, verdict.cause), (Action::Retry, Cause::StatusUnreadable));
        assert!(verdict.message.contains(part), "{}", verdict.message);
        for claim in ["being started", "being stopped", "could not be read"] {
            assert!(!verdict.message.contains(claim), "{}", verdict.message);
        }
    }
}

#[test]
fn no_verdict_is_silent() {
    assert!(cases::all().all(|case| !verdict(&case).message.is_empty()));
}

#[test]
fn several_claimants_are_named() {
    let case = cases::all().find(|case| {
        let agents = case.status.as_ref();
        let is_start = agents.is_ok_and(|agents| build::is_started(&agents.build));
        case.who == Who::SeveralClaim && is_start
    });
    assert!(verdict(&case.unwrap()).message.contains("a-coderd-chat, b-coderd-chat"));
}

fn connection(build: Build, agents: Vec<Agent>) -> Connection {
    check_connection(&Fake::new([fake::status(build, agents)]), "a1")
}

#[test]
fn a_cached_connection_to_a_disconnected_agent_is_redialled_however_short_it_is_gone() {
    let started = || builders::start(1, JobStatus::Succeeded);
    assert_eq!(connection(started(), vec![builders::gone_agent("a1", 1)]), Connection::Redial);
    for state in [AgentState::Connected, AgentState::Connecting, AgentState::TimedOut] {
        let agent = Agent { state, ..builders::agent("a1") };
        assert_eq!(connection(started(), vec![agent]), Connection::Reuse);
    }
}

#[test]
fn a_cached_connection_to_an_agent_of_an_older_build_is_redialled() {
    let other = || vec![builders::agent("a2")];
    assert_eq!(connection(builders::start(2, JobStatus::Succeeded), other()), Connection::Redial);
    assert_eq!(connection(builders::stop(2, JobStatus::Succeeded), vec![]), Connection::Redial);
    assert_eq!(connection(builders::start(2, JobStatus::Running), vec![]), Connection::Reuse);
    assert_eq!(connection(builders::start(2, JobStatus::Failed), vec![]), Connection::Reuse);
}

#[test]
fn a_status_that_cannot_be_read_keeps_the_cached_connection() {
    for error in [ReadError::Unavailable(None), ReadError::NotFound, ReadError::Unauthorized] {
        let fake = Fake::new([Answer::Agents(Err(error))]);
        assert_eq!(check_connection(&fake, "a1"), Connection::Reuse);
    }
}
