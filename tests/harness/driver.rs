//! Whole tool calls: the built plugin, the driver and a control plane in memory.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{CallError, JobStatus, ToolResult, Transition};
use workspace_recovery::driver::{DriveError, EventKind};
use workspace_recovery::journal::EffectClass;
use workspace_recovery::journal::record::Failure;

use crate::plane::{Host, Plane, Post, failed};

type Called = Result<Result<ToolResult, CallError>, DriveError>;

async fn call(host: &Host, tool: &str, interrupt: &CancellationToken) -> Called {
    host.chat().call_tool(tool, "{}", interrupt).await
}

async fn json(host: &Host, tool: &str) -> serde_json::Value {
    object(call(host, tool, &CancellationToken::new()).await)
}

fn object(called: Called) -> serde_json::Value {
    serde_json::from_str(&called.unwrap().unwrap().json).unwrap()
}

/// What was asked for, in order.
fn sent(host: &Host) -> Vec<Transition> {
    host.plane.world().posts.iter().map(|post| post.transition.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_its_build_and_a_second_one_finds_it_done() {
    let host = Plane::running().host();
    let stopped = json(&host, "stop_workspace").await;
    assert_eq!(stopped["stopped"], true);
    assert_eq!(stopped["build_id"], "b2");
    let again = json(&host, "stop_workspace").await;
    assert_eq!(again["no_build"], true);
    assert_eq!(sent(&host), [Transition::Stop]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_stops_starts_and_binds_the_chat_to_the_new_build() {
    let host = Plane::running().host();
    let restarted = json(&host, "restart_workspace").await;
    assert_eq!(restarted["started"], true);
    assert_eq!(sent(&host), [Transition::Stop, Transition::Start]);
    assert_eq!(host.chat().record().unwrap().unwrap().build.as_deref(), Some("b3"));
}

#[tokio::test(start_paused = true)]
async fn listeners_hear_of_each_request_and_then_of_its_answer() {
    let host = Plane::running().host();
    let mut events = host.driver.subscribe();
    let interrupt = CancellationToken::new();
    let later = async {
        sleep(Duration::from_secs(7)).await;
        interrupt.cancel();
    };
    // One wait comes to its end, the next one is interrupted.
    let (_, ()) = tokio::join!(call(&host, "restart_workspace", &interrupt), later);
    let mut open = None;
    let mut waits = 0;
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Requested(request) => {
                assert!(open.is_none(), "{open:?} was not answered before {request:?}");
                waits += usize::from(request.effect_class() == EffectClass::Wait);
                open = Some(request);
            }
            EventKind::Answered(answer) => {
                let request = open.take().expect("an answer follows its request");
                assert_eq!(answer.function(), request.function());
            }
            _ => {}
        }
    }
    assert_eq!((open, waits), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_in_the_middle_of_a_restart_costs_no_second_build() {
    let host = Plane::running().host();
    host.plane.world().next_post = Post::MadeUnanswered;
    assert_eq!(json(&host, "restart_workspace").await["started"], true);
    assert_eq!(sent(&host), [Transition::Stop, Transition::Start]);
}

#[tokio::test(start_paused = true)]
async fn a_build_whose_answer_cannot_be_recorded_is_told_as_asked_for_and_ends_the_call() {
    let host = Plane::running().host();
    host.plane.world().next_post = Post::MadeUnreadably;
    let error = call(&host, "restart_workspace", &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, DriveError::Failed(Failure::Unrecorded { .. })), "{error}");
    assert_eq!(sent(&host), [Transition::Stop]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_waited_for_and_decided_again() {
    let host = Plane::running().host();
    host.plane.world().next_post = Post::Overtaken;
    let end = async {
        sleep(Duration::from_secs(20)).await;
        host.plane.world().builds[1].read.build.status = JobStatus::Failed;
    };
    let (stopped, ()) = tokio::join!(json(&host, "stop_workspace"), end);
    assert_eq!(stopped["stopped"], true);
    assert_eq!(sent(&host), [Transition::Stop, Transition::Stop]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_lasts_costs_a_pause_for_each_request_and_ends_in_the_control_planes_words() {
    let host = Plane::running().host();
    host.plane.world().posts_conflict = true;
    let begun = Instant::now();
    let json = json(&host, "stop_workspace").await;
    assert!(json["build_id"].is_null(), "{json}");
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("shows none. It said: active."), "{error}");
    assert_eq!(host.plane.world().posts.len(), 4);
    assert!(begun.elapsed() >= Duration::from_secs(4 * 2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_failing_control_plane_said_is_kept_while_the_build_is_looked_for() {
    let host = Plane::running().host();
    host.plane.world().next_post = Post::Refused(failed("Internal error.", Some("no space left")));
    let begun = Instant::now();
    let json = json(&host, "stop_workspace").await;
    assert!(begun.elapsed() >= Duration::from_secs(60), "{json}");
    let said = "The request failed with status 500 Internal Server Error: Internal error.";
    assert_eq!((json["error"].as_str(), json["detail"].as_str()), (Some(said), Some("no space left")));
    assert_eq!(host.plane.world().posts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_between_stop_and_start_sends_nothing_more_and_says_what_was_done() {
    let host = Plane::running().host();
    let interrupt = CancellationToken::new();
    let later = async {
        sleep(Duration::from_secs(2)).await;
        interrupt.cancel();
    };
    let (result, ()) = tokio::join!(call(&host, "restart_workspace", &interrupt), later);
    let result = object(result);
    assert!(result["error"].is_string() && result["build_id"] == "b2", "{result}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(sent(&host), [Transition::Stop]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_any_more_goes_on_if_it_has_sent_something() {
    let host = Plane::running().host();
    let token = CancellationToken::new();
    assert!(timeout(Duration::from_secs(2), call(&host, "restart_workspace", &token)).await.is_err());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(sent(&host), [Transition::Stop, Transition::Start]);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_that_was_there_before_the_call_sends_nothing() {
    for tool in ["stop_workspace", "restart_workspace"] {
        let host = Plane::running().host();
        let interrupt = CancellationToken::new();
        interrupt.cancel();
        let result = object(call(&host, tool, &interrupt).await);
        assert_eq!(result["interrupted"], true, "{result}");
        assert_eq!(sent(&host), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_any_more_is_interrupted_if_it_has_sent_nothing() {
    let host = Plane::running().host();
    host.plane.foreign_build("f2", Transition::Start, JobStatus::Running);
    let token = CancellationToken::new();
    assert!(timeout(Duration::from_secs(2), call(&host, "restart_workspace", &token)).await.is_err());
    host.plane.world().builds[1].read.build.status = JobStatus::Succeeded;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(sent(&host), []);
}

#[tokio::test(start_paused = true)]
async fn the_same_call_made_again_joins_the_one_that_has_sent_something() {
    let host = Plane::running().host();
    let token = CancellationToken::new();
    assert!(timeout(Duration::from_secs(2), call(&host, "restart_workspace", &token)).await.is_err());
    let begun = Instant::now();
    assert_eq!(json(&host, "restart_workspace").await["started"], true);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(sent(&host), [Transition::Stop, Transition::Start]);
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_call_can_interrupt_it() {
    let host = Plane::running().host();
    let token = CancellationToken::new();
    assert!(timeout(Duration::from_secs(2), call(&host, "restart_workspace", &token)).await.is_err());
    let second = CancellationToken::new();
    second.cancel();
    let result = object(call(&host, "restart_workspace", &second).await);
    assert!(result["error"].is_string(), "{result}");
    assert_eq!(sent(&host), [Transition::Stop]);
}

#[tokio::test(start_paused = true)]
async fn wrong_calls_are_refused_by_the_plugin() {
    let host = Plane::running().host();
    let unknown = call(&host, "no_such_tool", &CancellationToken::new()).await.unwrap();
    assert_eq!(unknown, Err(CallError::UnknownTool));
    assert_eq!(host.driver.list_tools().await.unwrap().len(), 3);
}
