//! Terminals: what they show, how they end, and how they fail.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use workspace_recovery::local::AgentSignal;

use super::support::*;

#[tokio::test]
async fn a_command_shows_its_output_and_ends_with_the_bare_end_of_the_connection() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let command = "echo out; echo err >&2; (exit 3); echo status:$?";
    let mut terminal = plane.terminal(&agent, &new_reconnect(), command).await.unwrap();
    let (shown, end) = read_to_end(&mut terminal).await;
    assert_eq!(shown, "out\r\nerr\r\nstatus:3\r\n");
    assert_eq!(end, End::Bare, "no close frame, and so no exit code");
    plane.end().await;
}

#[tokio::test]
async fn long_output_arrives_in_full_and_in_order() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "seq 1 60000").await.unwrap();
    let (shown, _) = read_to_end(&mut terminal).await;
    let expected: String = (1..=60_000).map(|number| format!("{number}\r\n")).collect();
    assert!(shown == expected, "got {} bytes of {}", shown.len(), expected.len());
    plane.end().await;
}

#[tokio::test]
async fn the_same_reconnect_id_attaches_to_the_running_command_and_shows_its_output_again() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let reconnect = new_reconnect();
    let command = "echo first; read line; echo got:$line";
    let mut one = plane.terminal(&agent, &reconnect, command).await.unwrap();
    read_until(&mut one, "first").await;
    drop(one);

    let mut two = plane.terminal(&agent, &reconnect, "echo never run").await.unwrap();
    assert_eq!(read_until(&mut two, "first").await, "first\r\n");
    send_input(&mut two, json!({"data": "word\r"})).await;
    let (shown, _) = read_to_end(&mut two).await;
    assert!(shown.ends_with("got:word\r\n"), "{shown:?}");

    let mut three = plane.terminal(&agent, &reconnect, "echo fresh").await.unwrap();
    assert_eq!(read_to_end(&mut three).await.0, "fresh\r\n", "after its end the id is free again");
    plane.end().await;
}

#[tokio::test]
async fn a_terminal_has_the_size_asked_for_and_changes_it() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let command = "stty size; read line; stty size";
    let mut terminal = plane.terminal(&agent, &new_reconnect(), command).await.unwrap();
    read_until(&mut terminal, "24 80").await;
    send_input(&mut terminal, json!({"height": 40, "width": 120})).await;
    send_input(&mut terminal, json!({"data": "\r"})).await;
    assert!(read_to_end(&mut terminal).await.0.contains("40 120"));
    plane.end().await;
}

#[tokio::test]
async fn input_in_a_text_frame_is_refused_with_a_close_frame() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "cat").await.unwrap();
    terminal.send(Message::text("{\"data\": \"x\"}")).await.unwrap();
    assert!(matches!(read_to_end(&mut terminal).await.1, End::Closed(1003, _)));
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "cat").await.unwrap();
    terminal.send(Message::binary("not JSON")).await.unwrap();
    assert_eq!(read_to_end(&mut terminal).await.1, End::Bare);
    plane.end().await;
}

#[tokio::test]
async fn an_agent_that_is_not_connected_by_its_status_is_refused_with_502_and_html() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    // Past the first heartbeat, so that the disconnect is recorded at once.
    plane.signal(&workspace, AgentSignal::Kill).await;
    plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert_eq!(plane.terminal(&agent, &new_reconnect(), "true").await.err(), Some(502));
    let path = format!("/api/v2/workspaceagents/{agent}/pty?reconnect={}", new_reconnect());
    let plain = plane.get(&path).await;
    assert_eq!(plain.status, 502);
    assert!(plain.content_type.starts_with("text/html"), "{}", plain.content_type);
    plane.end().await;
}

#[tokio::test]
async fn a_new_terminal_to_a_hung_agent_is_silent_and_then_closed_as_ping_failed() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    plane.signal(&workspace, AgentSignal::Stop).await;
    let opened = Instant::now();
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "echo hi").await.unwrap();
    let (shown, end) = read_to_end(&mut terminal).await;
    assert_eq!(shown, "");
    assert_eq!(end, End::Closed(1001, "Ping failed".to_owned()));
    assert!(opened.elapsed() >= timings().terminal_dial, "{:?}", opened.elapsed());
    plane.end().await;
}

#[tokio::test]
async fn a_terminal_asked_for_while_its_agent_hangs_opens_when_the_agent_goes_on() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    plane.signal(&workspace, AgentSignal::Stop).await;
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "echo hi").await.unwrap();
    plane.signal(&workspace, AgentSignal::Cont).await;
    assert_eq!(read_to_end(&mut terminal).await, ("hi\r\n".to_owned(), End::Bare));
    plane.end().await;
}

#[tokio::test]
async fn an_open_terminal_whose_agent_is_killed_stays_open_and_silent() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "echo begun; cat").await.unwrap();
    read_until(&mut terminal, "begun\r\n").await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    let mut pings = 0;
    let heard = timeout(Duration::from_secs(3), async {
        loop {
            match terminal.next().await {
                Some(Ok(Message::Ping(_))) => pings += 1,
                other => return other,
            }
        }
    })
    .await;
    assert!(heard.is_err(), "nothing but pings, but: {heard:?}");
    assert!(pings >= 2, "{pings} pings");
    plane.end().await;
}

#[tokio::test]
async fn refused_terminals_have_the_status_codes_of_the_real_server() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let reconnect = new_reconnect();
    assert_eq!(plane.terminal(&agent, "nope", "true").await.err(), Some(400));
    assert_eq!(plane.terminal(&agent, "", "true").await.err(), Some(400));
    assert_eq!(plane.terminal(&new_reconnect(), &reconnect, "true").await.err(), Some(404));
    assert_eq!(plane.terminal("not-a-uuid", &reconnect, "true").await.err(), Some(500));
    let path = format!("/api/v2/workspaceagents/{agent}/pty?reconnect={reconnect}");
    assert_eq!(plane.send(reqwest::Method::GET, &path, None, None).await.status, 404);
    assert_eq!(plane.get(&path).await.status, 426);
    plane.end().await;
}
