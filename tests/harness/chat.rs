//! Chats: commands, dials, and what is made of a dial that failed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Action, AgentState, Cause, JobStatus, Transition};
use workspace_recovery::chat::{Began, Execute, ExecuteError, Executed, MAX_OUTPUT_BYTES, Unreachable};
use workspace_recovery::control_plane::ApiError;
use workspace_recovery::journal::Output;
use workspace_recovery::journal::record::Outcome;
use workspace_recovery::policy::ChatTools;
use workspace_recovery::replay::replay;
use workspace_recovery::store::Failures;

use crate::builders::{agent, refusal};
use crate::plane::{Answers, Host, Plane, Post, WORKSPACE, plugin, unavailable};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn run(host: &Host, execute: Execute) -> Result<Executed, ExecuteError> {
    host.chat().execute(&execute, &CancellationToken::new()).await
}

async fn echo(host: &Host) -> Result<Executed, ExecuteError> {
    run(host, Execute { command: "echo hi".into(), ..Execute::default() }).await
}

async fn works(host: &Host) {
    assert_eq!(echo(host).await.unwrap().output, "hi\n");
}

async fn unreachable(host: &Host) -> Unreachable {
    match echo(host).await {
        Err(ExecuteError::Unreachable(unreachable)) => *unreachable,
        other => panic!("{other:?}"),
    }
}

async fn verdict(host: &Host) -> (Action, Cause) {
    let verdict = unreachable(host).await.verdict;
    (verdict.action, verdict.cause)
}

fn failures(host: &Host) -> Failures {
    host.store.chat("ana").unwrap().unwrap().failures
}

/// Which agents were dialled, without repetitions in a row.
fn dialled(host: &Host) -> Vec<String> {
    let mut agents: Vec<_> = host.plane.world().opened.iter().map(|(agent, _)| agent.clone()).collect();
    agents.dedup();
    agents
}

/// A host whose agent reads connected and is silent.
fn silent() -> Host {
    let host = Plane::running().host();
    host.plane.world().answers("a1", Answers::Silence);
    host
}

/// A host whose chat is bound to the agent `old` of a former build, which answers so.
fn stale(answers: Answers) -> Host {
    let host = Plane::running().host();
    host.plane.world().answers("old", answers);
    host.change_chat("ana", |chat| chat.agent = Some("old".into()));
    host
}

fn bound_agent(host: &Host) -> Option<String> {
    host.store.chat("ana").unwrap().unwrap().agent
}

#[tokio::test(start_paused = true)]
async fn a_command_gives_its_output_and_exit_code_from_its_folder() {
    let host = Plane::running().host();
    let execute = Execute { command: "pwd; exit 3".into(), workdir: Some("/".into()), ..Execute::default() };
    let expected = Executed { output: "/\n".into(), exit_code: Some(3), ..Executed::default() };
    assert_eq!(run(&host, execute).await.unwrap(), expected);
    let chat = host.store.chat("ana").unwrap().unwrap();
    assert_eq!((chat.agent.as_deref(), chat.workspace.as_deref()), (Some("a1"), Some(WORKSPACE)));
}

#[tokio::test(start_paused = true)]
async fn long_output_loses_its_middle() {
    let host = Plane::running().host();
    let ran = run(&host, Execute { command: "seq 1 100000".into(), ..Execute::default() }).await.unwrap();
    assert!(ran.truncated && ran.output.len() < MAX_OUTPUT_BYTES + 100);
    assert!(ran.output.starts_with("1\n2\n") && ran.output.ends_with("\n100000\n"));
}

#[tokio::test(start_paused = true)]
async fn an_unbound_chat_reaches_nothing() {
    let host = Plane::running().host();
    host.change_chat("ana", |chat| chat.bind(None));
    let unbound = echo(&host).await.unwrap_err();
    assert!(matches!(&unbound, ExecuteError::Unbound { chat, create: None } if chat == "ana"));
    assert_eq!(unbound.to_string(), "the chat \"ana\" is not bound to a workspace");
    for (names, told) in [(&["make_workspace"][..], "; make_workspace makes one"), (&[], "")] {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let tools = ChatTools { names, create: Some("make_workspace".into()), ..ChatTools::default() };
        let chat = host.chats.chat("ana", tools);
        let unbound = chat.execute(&Execute::default(), &CancellationToken::new()).await.unwrap_err();
        assert_eq!(unbound.to_string(), format!("the chat \"ana\" is not bound to a workspace{told}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_has_no_exit_code() {
    let host = Plane::running().host();
    host.plane.world().answers("a1", Answers::BeginsOnly);
    let begun = Instant::now();
    let timeout = Some(seconds(15));
    let ran = run(&host, Execute { command: "echo hi".into(), timeout, ..Execute::default() }).await.unwrap();
    assert_eq!((ran.exit_code, begun.elapsed()), (None, seconds(15)));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_under_a_silent_command_is_noticed_and_judged_like_any_other() {
    let host = Plane::running().host();
    host.plane.world().answers("a1", Answers::BeginsOnly);
    let dies = async {
        sleep(seconds(30)).await;
        host.plane.world().disconnect(Duration::ZERO);
    };
    let (failed, ()) = tokio::join!(unreachable(&host), dies);
    assert_eq!(failed.verdict.cause, Cause::RecentlyDisconnected);
    assert_eq!(failed.began, Began::Yes, "it may have done something already");
    let told = ExecuteError::Unreachable(Box::new(failed)).to_string();
    assert!(told.contains("while the command ran"), "{told}");
    // The next one never begins.
    assert_eq!(unreachable(&host).await.began, Began::No);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_under_a_command_is_told_apart_from_a_lost_agent() {
    let host = Plane::running().host();
    host.plane.world().answers("a1", Answers::BeginsOnly);
    let replaced = async {
        sleep(seconds(10)).await;
        let mut world = host.plane.world();
        world.agents = vec![agent("a2")];
        world.answers("a1", Answers::Silence);
        world.answers("a2", Answers::Runs);
    };
    let begun = Instant::now();
    let (lost, ()) = tokio::join!(echo(&host), replaced);
    assert!(matches!(lost, Err(ExecuteError::Lost { began: Began::Yes, .. })), "{lost:?}");
    assert!(
        begun.elapsed() <= seconds(10 + 15),
        "a sign of life is missed within seconds: {:?}",
        begun.elapsed()
    );
}

// Dials.

#[tokio::test(start_paused = true)]
async fn a_stale_binding_that_fails_fast_is_exchanged_for_the_newest_builds_agent() {
    for error in [unavailable(), ApiError::NotFound] {
        let host = stale(Answers::Refusal(error));
        works(&host).await;
        assert_eq!(
            (dialled(&host), bound_agent(&host)),
            (vec!["old".into(), "a1".into()], Some("a1".into()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_binding_that_stays_silent_is_exchanged_after_five_seconds() {
    let host = stale(Answers::Silence);
    let begun = Instant::now();
    works(&host).await;
    assert_eq!((bound_agent(&host), begun.elapsed()), (Some("a1".into()), seconds(5)));
}

#[tokio::test(start_paused = true)]
async fn a_bound_agent_is_dialled_before_it_is_judged() {
    let host = stale(Answers::Runs);
    works(&host).await;
    assert_eq!(dialled(&host), ["old"], "it answered, so it was not looked at");
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(500));
    host.plane.world().answers("a1", Answers::Runs);
    works(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_workspace_without_agents_is_not_dialled_for_long() {
    let host = stale(Answers::Silence);
    host.plane.foreign_build("f2", Transition::Stop, JobStatus::Succeeded);
    host.plane.world().agents.clear();
    let begun = Instant::now();
    assert_eq!(verdict(&host).await, (Action::Start, Cause::Stopped));
    assert_eq!(begun.elapsed(), seconds(5));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_within_the_window_is_reached() {
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(100));
    let back = async {
        sleep(seconds(20)).await;
        host.plane.world().agents[0].state = AgentState::Connected;
        host.plane.world().answers("a1", Answers::Runs);
    };
    let (ran, ()) = tokio::join!(echo(&host), back);
    assert_eq!(ran.unwrap().exit_code, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_healthy_agent_whose_terminal_stays_silent_costs_three_seconds_and_no_verdict() {
    let host = Plane::running().host();
    host.plane.world().answers("a1", Answers::SilenceOnce);
    let begun = Instant::now();
    works(&host).await;
    assert_eq!((begun.elapsed(), failures(&host)), (seconds(3), Failures::default()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_terminal_is_opened_again_when_its_agent_was_gone_and_came_back() {
    let host = silent();
    let back = async {
        sleep(seconds(8)).await;
        host.plane.world().agents[0].state = AgentState::Disconnected;
        sleep(seconds(8)).await;
        host.plane.world().agents[0].state = AgentState::Connected;
        host.plane.world().answers("a1", Answers::Runs);
    };
    let (ran, ()) = tokio::join!(echo(&host), back);
    assert_eq!(ran.unwrap().exit_code, Some(0));
    let sessions = host.plane.world().opened.clone();
    assert_eq!(sessions.len(), 3, "one, another one beside it after 3 s, and one when the agent is back");
    assert_ne!(sessions[0].1, sessions[2].1, "nobody attaches to what is left of an older terminal");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_waiting_cannot_cure_is_passed_on_unchanged_and_not_counted() {
    let denied = ApiError::Forbidden(refusal("no"));
    for host in [Plane::running().host(), stale(Answers::Runs)] {
        let bound = bound_agent(&host).map(|_| "old");
        host.plane.world().disconnect(seconds(500));
        host.plane.world().agents[0].id = bound.unwrap_or("a1").into();
        host.plane.world().answers(bound.unwrap_or("a1"), Answers::Refusal(denied.clone()));
        let begun = Instant::now();
        let failed = echo(&host).await;
        assert!(matches!(&failed, Err(ExecuteError::Failed(error)) if *error == denied), "{failed:?}");
        assert!(begun.elapsed() < seconds(1));
        assert_eq!(failures(&host), Failures::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_gets_that_back_and_nothing_is_counted() {
    let host = silent();
    let token = CancellationToken::new();
    let later = async {
        sleep(seconds(20)).await;
        token.cancel();
    };
    let execute = Execute { command: "echo hi".into(), ..Execute::default() };
    let chat = host.chat();
    let (failed, ()) = tokio::join!(chat.execute(&execute, &token), later);
    assert!(matches!(failed, Err(ExecuteError::Interrupted { running: false })));
    assert_eq!(failures(&host), Failures::default());
}

// The cache.

#[tokio::test(start_paused = true)]
async fn a_cached_connection_is_used_if_its_agent_is_well_or_cannot_be_looked_at() {
    let host = Plane::running().host();
    works(&host).await;
    works(&host).await;
    host.plane.world().reads_fail = Some(unavailable());
    works(&host).await;
    assert_eq!(dialled(&host), ["a1"]);
}

#[tokio::test(start_paused = true)]
async fn a_cached_connection_to_an_agent_that_is_gone_is_looked_up_anew_before_anything_is_said() {
    let host = Plane::running().host();
    works(&host).await;
    let mut second = agent("a2");
    second.order = -1;
    host.plane.world().disconnect(seconds(500));
    host.plane.world().agents.push(second);
    host.plane.world().answers("a2", Answers::Runs);
    works(&host).await;
    let opened: Vec<_> = host.plane.world().opened.iter().map(|(agent, _)| agent.clone()).collect();
    assert_eq!(opened, ["a1", "a2"], "the disconnected one was not even tried again");
}

#[tokio::test(start_paused = true)]
async fn a_cached_connection_to_an_agent_of_an_older_build_is_dropped() {
    let host = Plane::running().host();
    works(&host).await;
    host.plane.world().agents = vec![agent("a2")];
    host.plane.world().answers("a2", Answers::Runs);
    works(&host).await;
    assert_eq!((dialled(&host), bound_agent(&host)), (vec!["a1".into(), "a2".into()], Some("a2".into())));
}

// Verdicts.

#[tokio::test(start_paused = true)]
async fn a_silent_agent_that_reads_connected_is_tried_again_once_and_then_the_user_is_asked() {
    let host = silent();
    let begun = Instant::now();
    let first = unreachable(&host).await;
    assert_eq!(begun.elapsed(), seconds(30), "the whole window, and no more");
    assert_eq!((first.verdict.action, first.verdict.cause), (Action::Retry, Cause::AgentAlive));
    assert!(!first.verdict.message.contains("stop_workspace"));
    assert_eq!(verdict(&host).await, (Action::AskUser, Cause::AgentAlive));
    assert_eq!(failures(&host).timeouts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_advised_only_at_the_threshold() {
    // Judged at the end of the window of 30 s.
    for (before, expected) in [
        (Duration::from_millis(59_999), (Action::Retry, Cause::RecentlyDisconnected)),
        (seconds(60), (Action::Restart, Cause::Disconnected)),
    ] {
        let host = Plane::running().host();
        host.plane.world().disconnect(before);
        assert_eq!(verdict(&host).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_builds_agent_is_judged_not_the_bound_one() {
    let host = stale(Answers::Refusal(unavailable()));
    host.plane.world().disconnect(seconds(600));
    let failed = unreachable(&host).await;
    assert_eq!((failed.verdict.action, failed.agent.as_deref()), (Action::Restart, Some("a1")));
}

#[tokio::test(start_paused = true)]
async fn an_external_agent_is_dialled_while_it_connects_and_is_the_users_to_reconnect_when_offline() {
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(600));
    host.plane.world().agents[0].external = true;
    let failed = unreachable(&host).await;
    assert_eq!(failed.verdict.cause, Cause::ExternalAgentOffline);
    assert_eq!((failed.verdict.action, failed.verdict.tools), (Action::ReconnectAgent, vec![]));
    host.plane.world().agents[0].state = AgentState::Connecting;
    host.plane.world().answers("a1", Answers::Runs);
    works(&host).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_keeps_refusing_leads_to_advice_too() {
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(119));
    let begun = Instant::now();
    assert_eq!(verdict(&host).await.0, Action::Restart);
    assert_eq!(begun.elapsed(), seconds(30));
    assert!(host.plane.world().opened.len() > 10, "tried again and again");
}

#[tokio::test(start_paused = true)]
async fn the_last_error_accuses_nobody_who_is_well() {
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(600));
    assert_eq!(unreachable(&host).await.last_error, "the agent's terminal cannot be used: down");
    host.plane.world().reads_fail = Some(unavailable());
    assert_eq!(unreachable(&host).await.last_error, unavailable().to_string(), "now it is the control plane");
    for terminal in [unavailable(), ApiError::NotFound] {
        let host = stale(Answers::Refusal(terminal));
        host.plane.world().reads_fail = Some(ApiError::Gone);
        assert_eq!(unreachable(&host).await.last_error, ApiError::Gone.to_string());
        let host = stale(Answers::Refusal(ApiError::NotFound));
        host.plane.world().agents.clear();
        assert_eq!(unreachable(&host).await.last_error, "the newest build has no agent for this chat");
    }
}

#[tokio::test(start_paused = true)]
async fn a_third_restart_within_the_hour_asks_the_user() {
    let host = Plane::running().host();
    for tools in [&["restart_workspace"][..], &["stop_workspace", "start_workspace"]] {
        host.plane.world().disconnect(seconds(600));
        assert_eq!(verdict(&host).await.0, Action::Restart);
        for tool in tools {
            host.chat().call_tool(tool, "{}", &CancellationToken::new()).await.unwrap().unwrap();
        }
        works(&host).await;
    }
    host.plane.world().disconnect(seconds(600));
    let refused = unreachable(&host).await.verdict;
    assert_eq!(refused.action, Action::AskUser);
    assert!(refused.message.contains("was restarted 2 times within the last hour"), "{}", refused.message);
    sleep(seconds(3600)).await;
    assert_eq!(verdict(&host).await.0, Action::Restart, "an hour later they are forgotten");
}

#[tokio::test(start_paused = true)]
async fn restarts_that_were_advised_and_not_made_use_nothing_up() {
    let host = Plane::running().host();
    host.plane.world().disconnect(seconds(600));
    for _ in 0..5 {
        assert_eq!(verdict(&host).await.0, Action::Restart);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_after_somebody_elses_stop_is_no_restart() {
    let host = Plane::running().host();
    for number in [2, 4, 6] {
        host.plane.foreign_build(&format!("f{number}"), Transition::Stop, JobStatus::Succeeded);
        host.chat().call_tool("start_workspace", "{}", &CancellationToken::new()).await.unwrap().unwrap();
    }
    host.plane.world().disconnect(seconds(600));
    assert_eq!(verdict(&host).await.0, Action::Restart);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_was_away_extends_the_window_and_is_not_the_agents_fault() {
    let host = silent();
    let outage = async {
        sleep(seconds(10)).await;
        host.plane.world().reads_fail = Some(unavailable());
        sleep(seconds(10)).await;
        host.plane.world().reads_fail = None;
    };
    let begun = Instant::now();
    let (first, ()) = tokio::join!(verdict(&host), outage);
    assert_eq!(first, (Action::Retry, Cause::ControlPlaneAway));
    assert!((seconds(40)..seconds(46)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((failures(&host).timeouts, failures(&host).away), (0, 1));
    // Still within 90 s of the outage, which also the next process would know.
    assert_eq!(verdict(&host).await.1, Cause::ControlPlaneAway);
    sleep(seconds(100)).await;
    assert_eq!(verdict(&host).await.1, Cause::AgentAlive);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_stays_away_ends_the_dial_after_twice_its_time() {
    let host = silent();
    host.change_chat("ana", |chat| chat.agent = Some("a1".into()));
    host.plane.world().reads_fail = Some(unavailable());
    let begun = Instant::now();
    let mut actions = Vec::new();
    for _ in 0..3 {
        actions.push(verdict(&host).await);
    }
    let away = Cause::ControlPlaneAway;
    assert_eq!(actions, [(Action::Retry, away), (Action::Retry, away), (Action::AskUser, away)]);
    assert_eq!(begun.elapsed(), seconds(3 * 60));
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_share_one_dial_and_count_once() {
    let host = silent();
    let begun = Instant::now();
    let (one, two, three) = tokio::join!(verdict(&host), verdict(&host), verdict(&host));
    assert_eq!((one, two), (three, one));
    assert_eq!((begun.elapsed(), failures(&host).timeouts), (seconds(30), 1));
    assert_eq!(host.plane.world().opened.len(), 2, "one, and another one beside it after 3 s");
}

#[tokio::test(start_paused = true)]
async fn success_a_new_build_and_quiet_time_reset_the_count() {
    let host = silent();
    let twice = [(Action::Retry, Cause::AgentAlive), (Action::AskUser, Cause::AgentAlive)];
    assert_eq!([verdict(&host).await, verdict(&host).await], twice);
    host.plane.world().answers("a1", Answers::Runs);
    works(&host).await;
    host.plane.world().answers("a1", Answers::Silence);
    assert_eq!([verdict(&host).await, verdict(&host).await], twice, "success");
    host.plane.foreign_build("f2", Transition::Start, JobStatus::Succeeded);
    assert_eq!([verdict(&host).await, verdict(&host).await], twice, "a new build");
    sleep(seconds(600)).await;
    assert_eq!([verdict(&host).await, verdict(&host).await], twice, "ten quiet minutes");
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_bound_elsewhere_during_the_dial_gets_no_advice() {
    let host = silent();
    let rebind = async {
        sleep(seconds(10)).await;
        host.change_chat("ana", |chat| chat.bind(Some("w2")));
    };
    let (verdict, ()) = tokio::join!(verdict(&host), rebind);
    assert_eq!(verdict, (Action::Propagate, Cause::ChatRebound));
    assert_eq!(failures(&host), Failures::default(), "nor is it counted for the new workspace");
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_workspace_that_a_chat_is_bound_to_now_has_nothing_to_do_with_a_dial_of_the_one_before()
{
    let host = silent();
    let begun = Instant::now();
    let rebind = async {
        sleep(seconds(10)).await;
        host.change_chat("ana", |chat| chat.bind(Some("w2")));
        (echo(&host).await, begun.elapsed())
    };
    let (before, now) = tokio::join!(verdict(&host), rebind);
    assert_eq!(before, (Action::Propagate, Cause::ChatRebound));
    // Nobody knows that workspace.
    assert!(matches!(now.0, Err(ExecuteError::Failed(ApiError::NotFound))), "{now:?}");
    assert!(now.1 < seconds(20), "it waited for the other one's dial: {now:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_makes_a_build_makes_the_chat_look_its_agent_up_anew() {
    let host = Plane::running().host();
    works(&host).await;
    host.chat().call_tool("restart_workspace", "{}", &CancellationToken::new()).await.unwrap().unwrap();
    works(&host).await;
    assert_eq!(dialled(&host), ["a1", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_kept_and_can_be_run_again() {
    let host = silent();
    let unreachable = unreachable(&host).await;
    let recording = host.store.recording(unreachable.call.unwrap()).unwrap().unwrap();
    assert_eq!(
        recording.outcome,
        Some(Outcome::Done { result: Output::ClassifyFailure(unreachable.verdict) })
    );
    assert_eq!(replay(&plugin(), &recording).unwrap().requests, 1);
}

#[tokio::test(start_paused = true)]
async fn a_command_can_be_run_by_a_task_of_its_own() {
    let host = Plane::running().host();
    let ran = tokio::spawn(async move { echo(&host).await });
    assert_eq!(ran.await.unwrap().unwrap().output, "hi\n");
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_hangs_ends_a_dial_after_twice_its_time_though_there_is_nobody_to_dial() {
    let host = Plane::running().host();
    host.plane.world().reads_hang = true;
    let begun = Instant::now();
    let unreachable = unreachable(&host).await;
    assert_eq!((unreachable.tried, unreachable.verdict.cause), (seconds(60), Cause::ControlPlaneAway));
    assert!(begun.elapsed() <= seconds(61), "with a moment for the verdict: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_ours_is_not_taken_for_somebody_elses_while_its_answer_is_on_its_way() {
    for (post, expected) in [
        (Post::Made, (Action::Start, Cause::OwnStopInProgress)),
        (Post::Overtaken, (Action::AskUser, Cause::ForeignStopInProgress)),
    ] {
        let host = Plane::running().host();
        host.plane.world().next_post = post;
        host.plane.world().answer_takes = seconds(20);
        host.plane.world().new_builds.0 = seconds(60);
        let (chat, interrupt) = (host.chat(), CancellationToken::new());
        let asked = host.plane.clone();
        tokio::select! {
            stopped = chat.call_tool("stop_workspace", "{}", &interrupt) => panic!("{stopped:?}"),
            judged = async {
                while asked.world().posts.is_empty() {
                    sleep(Duration::from_millis(1)).await;
                }
                verdict(&host).await
            } => assert_eq!(judged, expected),
        }
    }
}
