//! Turns at a workspace.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{CallError, JobStatus, ToolResult, Transition};
use workspace_recovery::driver::{DriveError, EventKind};
use workspace_recovery::journal::record::Failure;

use crate::plane::{Host, Plane, WORKSPACE, tools};

type Called = Result<Result<ToolResult, CallError>, DriveError>;

/// Calls a tool for a chat of the shared workspace, as a task, after everything before it has come as far as it can.
async fn call(host: &Host, chat: &str, interrupt: &CancellationToken) -> JoinHandle<Called> {
    host.change_chat(chat, |chat| chat.bind(Some(WORKSPACE)));
    let (chat, interrupt) = (host.chats.chat(chat, tools()), interrupt.clone());
    let task = tokio::spawn(async move { chat.call_tool("stop_workspace", "{}", &interrupt).await });
    sleep(Duration::from_millis(10)).await;
    task
}

/// A host whose workspace is held by a call of chat `holder`, which waits for somebody else's build.
async fn held() -> (Host, JoinHandle<Called>) {
    let plane = Plane::running();
    plane.foreign_build("f2", Transition::Start, JobStatus::Running);
    let host = plane.host();
    let holder = call(&host, "holder", &CancellationToken::new()).await;
    (host, holder)
}

fn release(host: &Host) {
    host.plane.world().builds[1].read.build.status = JobStatus::Succeeded;
}

#[tokio::test(start_paused = true)]
async fn calls_at_one_workspace_run_one_at_a_time_in_order_of_arrival() {
    let (host, holder) = held().await;
    let mut events = host.driver.subscribe();
    let token = CancellationToken::new();
    let mut waiting = vec![holder];
    for chat in ["one", "two", "three"] {
        waiting.push(call(&host, chat, &token).await);
    }
    sleep(Duration::from_secs(30)).await;
    release(&host);
    for task in waiting {
        assert!(task.await.unwrap().unwrap().is_ok());
    }
    assert_eq!(host.plane.world().posts.len(), 1, "the later ones find the workspace stopped");
    let (mut order, mut behind_holder) = (Vec::new(), Vec::new());
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Started { .. } => order.push(format!("{} starts", event.chat)),
            EventKind::Ended => order.push(format!("{} ends", event.chat)),
            EventKind::WaitingForTurn(turn) if turn.holder.chat == "holder" => {
                behind_holder.push(turn.between)
            }
            _ => {}
        }
    }
    let expected =
        ["holder ends", "one starts", "one ends", "two starts", "two ends", "three starts", "three ends"];
    assert_eq!((order, behind_holder), (expected.map(str::to_owned).to_vec(), vec![0, 1, 2]));
}

#[tokio::test(start_paused = true)]
async fn calls_at_other_workspaces_do_not_wait() {
    let (host, _holder) = held().await;
    host.change_chat("elsewhere", |chat| chat.bind(Some("w2")));
    let begun = Instant::now();
    let (chat, token) = (host.chats.chat("elsewhere", tools()), CancellationToken::new());
    assert!(chat.call_tool("stop_workspace", "{}", &token).await.unwrap().is_ok());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_ninth_waiting_call_is_told_who_holds_the_workspace() {
    let (host, _holder) = held().await;
    let token = CancellationToken::new();
    let mut waiting = Vec::new();
    for number in 0..8 {
        waiting.push(call(&host, &format!("chat {number}"), &token).await);
    }
    let begun = Instant::now();
    let refused = call(&host, "ninth", &token).await.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    let Err(DriveError::Failed(Failure::Busy { holder })) = refused else { panic!("{refused:?}") };
    assert_eq!((holder.chat.as_str(), holder.tool.as_str()), ("holder", "stop_workspace"));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_ten_minutes_for_its_turn_at_most() {
    let (host, _holder) = held().await;
    // The holder itself waits ten minutes for the build, and began earlier: only a second one behind it waits so long.
    let token = CancellationToken::new();
    let _second = call(&host, "second", &token).await;
    let begun = Instant::now();
    let third = call(&host, "third", &token).await.await.unwrap();
    let Err(DriveError::Failed(Failure::Busy { holder })) = third else { panic!("{third:?}") };
    assert_eq!(holder.chat, "second");
    assert_eq!(begun.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_can_be_interrupted_and_gives_up_its_place() {
    let (host, holder) = held().await;
    let interrupt = CancellationToken::new();
    let waiting = call(&host, "waiting", &interrupt).await;
    let behind = call(&host, "behind", &CancellationToken::new()).await;
    interrupt.cancel();
    let begun = Instant::now();
    assert!(matches!(waiting.await.unwrap(), Err(DriveError::Failed(Failure::Interrupted))));
    assert!(begun.elapsed() < Duration::from_secs(1));
    release(&host);
    assert!(holder.await.unwrap().is_ok() && behind.await.unwrap().is_ok());
}
