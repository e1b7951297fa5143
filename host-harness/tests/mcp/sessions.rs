//! Clients over HTTP that have sessions: what they choose, what they lose, and what they come back for.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::{AgentSignal, VersionSpec};
use workspace_recovery::store::CallState;

use crate::served::{NEW, OLD, Served, answer, events, next, tool_call};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn more_sessions_than_there_may_be_are_refused_and_clients_without_one_are_not() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev", "--http-rate", "100000"]).await;
    let params = json!({
        "protocolVersion": OLD, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
    });
    let begin = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let mut sessions = Vec::new();
    let refused = loop {
        let begun = served.post("").json(&begin).send().await.unwrap();
        match begun.headers().get("mcp-session-id") {
            Some(session) => sessions.push(session.clone()),
            None => break begun.status(),
        }
        assert!(sessions.len() <= 1000);
    };
    assert_eq!((refused, sessions.len()), (StatusCode::SERVICE_UNAVAILABLE, 1000));
    // One that does not look like the beginning of a session, and is one.
    let mut odd = begin.clone();
    odd["params"]["protocolVersion"] = NEW.into();
    let odd = served.post("").header("Mcp-Protocol-Version", NEW).json(&odd).send().await.unwrap();
    assert!(odd.status().is_server_error() && odd.text().await.unwrap().contains("too many sessions"));
    assert!(
        served.call("", "workspace_status", json!({})).await["structuredContent"]["workspace"].is_object()
    );
    served.delete(sessions[0].to_str().unwrap()).await;
    served.session().await;
    served.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_chooses_its_own_workspace() {
    let world = World::with_a_workspace().await;
    world.create("other", VersionSpec::default()).await;
    let served = Served::start(&world, &[]).await;
    let sessions = [("dev", served.session().await), ("other", served.session().await)];
    for (workspace, session) in &sessions {
        let unbound = served.call_in(session, "workspace_status", json!({})).await;
        assert_eq!(unbound["isError"], true, "{unbound}");
        served.call_in(session, "use_workspace", json!({ "workspace": workspace })).await;
    }
    for (workspace, session) in &sessions {
        let status = served.call_in(session, "workspace_status", json!({})).await;
        assert_eq!(status["structuredContent"]["workspace"]["name"], *workspace, "{status}");
    }
    // Whoever binds the chat elsewhere does not lead the session there.
    let status = served.call_in(&sessions[0].1, "workspace_status", json!({})).await;
    let chat = format!("mcp {}/dev", status["structuredContent"]["workspace"]["owner"].as_str().unwrap());
    assert!(world.run(&["chat", "bind", &chat, "other"]).status.success());
    let rebound = served.call_in(&sessions[0].1, "execute", json!({ "command": "true" })).await;
    let error = rebound["structuredContent"]["error"].as_str().unwrap();
    assert!(error.contains("nothing was done: call use_workspace again"), "{error}");
    served.call_in(&sessions[0].1, "use_workspace", json!({ "workspace": "dev" })).await;
    let ran = served.call_in(&sessions[0].1, "execute", json!({ "command": "true" })).await;
    assert_eq!(ran["structuredContent"]["exit_code"], 0, "{ran}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_deleted_ends_a_call_that_has_sent_nothing_and_leaves_one_that_has() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let begin =
        |id: u32, tool: &str| tokio::spawn(served.post_in(&session, &tool_call(id, tool, json!({}))).send());
    let restart = begin(1, "restart_workspace");
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    let stop = begin(2, "stop_workspace");
    world.until_calls(|calls| calls.len() == 2).await;
    served.delete(&session).await;
    let ended = world.until_calls(|calls| calls[0].state == CallState::Ended && calls[0].interrupted);
    // The protocol's library alone would cancel it after five seconds.
    tokio::time::timeout(std::time::Duration::from_secs(3), ended).await.expect("it ends at once");
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls[1].state == CallState::Ended).await;
    assert!(!world.calls()[1].interrupted);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    drop((restart, stop));
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_loses_its_connection_cancels_nothing() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let restart = served.post_in(&session, &tool_call(1, "restart_workspace", json!({}))).send();
    let restart = restart.await.unwrap();
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    let stop = served.post_in(&session, &tool_call(2, "stop_workspace", json!({}))).send().await.unwrap();
    world.until_calls(|calls| calls.len() == 2).await;
    drop((restart, stop));
    // Answered after the connections were closed.
    served.call_in(&session, "workspace_status", json!({})).await;
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls.iter().all(|call| call.state == CallState::Ended)).await;
    assert!(world.calls().iter().all(|call| !call.interrupted), "also the one that had sent nothing");
    assert_eq!(world.transitions().await, [Start, Stop, Start, Stop]);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_missed_is_given_to_a_client_that_comes_back_once() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let (session, other) = (served.session().await, served.session().await);
    world.let_builds_run(false).await;
    let stop = served.post_in(&session, &tool_call(7, "stop_workspace", json!({})));
    let mut stop = stop.send().await.unwrap();
    let begun = events(&mut stop, 1).await;
    let (last, nothing) = &begun[0];
    assert_eq!((begun.len(), nothing), (1, &Value::Null));
    world.until_calls(|calls| calls.len() == 1).await;
    drop(stop);
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls[0].state == CallState::Ended).await;
    // Answered after that call was.
    served.call_in(&session, "workspace_status", json!({})).await;
    let resume = async |session, last| {
        let mut resumed = served.resume_in(session, last).send().await.unwrap().error_for_status().unwrap();
        events(&mut resumed, usize::MAX).await
    };
    let missed = resume(&session, last).await;
    assert_eq!(missed.len(), 1, "{missed:?}");
    let (id, told) = &missed[0];
    assert_eq!((&told["id"], &told["result"]["isError"]), (&json!(7), &json!(false)), "{told}");
    assert_eq!(resume(&session, last).await, missed, "this connection may have been lost as well");
    assert_eq!(resume(&session, id).await, []);
    assert_eq!(resume(&other, last).await, []);
    assert_eq!(world.transitions().await, [Start, Stop]);
    served.delete(&session).await;
    let gone = served.resume_in(&session, last).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_sent_to_nobody_who_reads_is_given_again() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    let execute = tool_call(1, "execute", json!({ "command": "echo once >> ran; cat ran" }));
    let sent = events(&mut served.post_in(&session, &execute).send().await.unwrap(), usize::MAX).await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[1].1["result"]["structuredContent"]["output"], "once\n");
    let mut resumed = served.resume_in(&session, &sent[0].0).send().await.unwrap();
    assert_eq!(events(&mut resumed, usize::MAX).await, sent[1..]);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_while_its_call_runs_gets_the_rest_and_the_answer() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let mut stop = tool_call(1, "stop_workspace", json!({}));
    stop["params"]["_meta"] = json!({ "progressToken": "stop" });
    let mut stop = served.post_in(&session, &stop).send().await.unwrap();
    let mut all = events(&mut stop, 2).await;
    drop(stop);
    let mut resumed = served.resume_in(&session, &all.last().unwrap().0).send().await.unwrap();
    world.let_builds_run(true).await;
    all.extend(events(&mut resumed, usize::MAX).await);
    let ids: BTreeSet<_> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), all.len(), "none came twice: {all:?}");
    let (answers, progress): (Vec<_>, Vec<_>) =
        all[1..].iter().map(|(_, message)| message).partition(|message| message["method"].is_null());
    assert_eq!((answers.len(), &answers[0]["id"]), (1, &json!(1)), "{all:?}");
    assert!(progress.len() > 1, "{all:?}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_asked_in_a_session() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session_of(json!({ "elicitation": {} })).await;
    world.let_builds_run(false).await;
    world.ask_for("dev", Stop).await;
    world.signal(AgentSignal::Kill).await;
    let execute = tool_call(1, "execute", json!({ "command": "true" }));
    let mut stream = served.post_in(&session, &execute).send().await.unwrap();
    let asked = next(&mut stream).await;
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    let says = json!({ "action": "accept", "content": { "answer": "wait for it" } });
    let says = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": says });
    served.post_in(&session, &says).send().await.unwrap().error_for_status().unwrap();
    let told = answer(stream).await;
    assert_eq!(told["result"]["structuredContent"]["user"]["answer"], "wait for it", "{told}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}
