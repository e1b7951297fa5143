//! Clients that give up sooner than a dial does, and ask again.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use workspace_recovery::local::{AgentSignal, AgentSpec, VersionSpec};

use crate::agent::{Agent, data, is_error, text};
use crate::calls::{hear, hearing};
use crate::world::{SOON, World};

/// A sixth of a dial, which takes 2 s here: the share that one big SDK gives a request.
const PATIENCE: Duration = Duration::from_millis(333);

/// Calls and cancels until there is an answer.
async fn insists(agent: &Agent, command: &str) -> Value {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        // Dropped, it is cancelled.
        let called = timeout(PATIENCE, agent.call("execute", json!({ "command": command }))).await;
        if let Ok(result) = called {
            return json!({ "error": is_error(&result), "text": text(&result), "data": data(&result) });
        }
    }
    panic!("it never hears anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_and_calls_again_hears_the_verdict() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    world.signal(AgentSignal::Kill).await;
    let told = insists(&agent, "echo here").await;
    assert_eq!(told["error"], true, "{told}");
    assert!(told["data"]["verdict"]["action"].is_string(), "{told}");
    assert!(told["data"]["tried_ms"].as_u64().unwrap() >= 2000, "the whole dial: {told}");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_came_when_nobody_waited_is_told_to_whoever_asks_next_and_no_further() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    world.signal(AgentSignal::Kill).await;
    let call = || agent.call("execute", json!({ "command": "echo here" }));
    let impatient = timeout(PATIENCE, call()).await;
    assert!(impatient.is_err(), "{impatient:?}");
    world.until_calls(|verdicts| verdicts.len() == 1).await;
    for verdicts in [1, 2] {
        let told = call().await;
        assert!(is_error(&told) && data(&told)["verdict"]["action"].is_string(), "{told:?}");
        assert_eq!(world.calls().len(), verdicts);
    }
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_waits_for_does_not_begin_and_one_that_is_asked_for_again_begins_once() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    world.signal(AgentSignal::Stop).await;
    for command in ["echo nobody >> ran", "echo asked >> ran"] {
        let cancelled = timeout(PATIENCE, agent.call("execute", json!({ "command": command }))).await;
        assert!(cancelled.is_err(), "{cancelled:?}");
    }
    world.signal(AgentSignal::Cont).await;
    // On a busy machine the dial may be over before the agent has come to itself: that is told as such.
    while is_error(&agent.call("execute", json!({ "command": "echo asked >> ran" })).await) {}
    // One that had begun for nobody would have run by now.
    sleep(PATIENCE).await;
    let ran = agent.call("execute", json!({ "command": "cat ran" })).await;
    assert_eq!(data(&ran)["output"], "asked\n");
    // Those that are waited for at the same time are two.
    let twice = || agent.call("execute", json!({ "command": "echo twice >> both" }));
    tokio::join!(twice(), twice());
    let ran = agent.call("execute", json!({ "command": "cat both" })).await;
    assert_eq!(data(&ran)["output"], "twice\ntwice\n");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_not_told_again_where_the_same_request_overtook_the_cancellation() {
    let never = AgentSpec { connects: false, ..AgentSpec::default() };
    let world =
        World::with_a_workspace_of(VersionSpec { agents: vec![never], ..VersionSpec::default() }).await;
    let (agent, mut told) = hearing(&world).await;
    let call = || agent.call("execute", json!({ "command": "echo here" }));
    let (mut first, mut second) = (Box::pin(call()), Box::pin(call()));
    tokio::select! {
        result = &mut first => panic!("{result:?}"),
        _ = hear(&mut told, "the agent does not answer") => {}
    }
    tokio::select! {
        biased;
        result = &mut second => panic!("{result:?}"),
        result = &mut first => panic!("{result:?}"),
        _ = hear(&mut told, "the agent does not answer") => {}
    }
    // Only now it is cancelled: the other is waited for, and shares the end of its dial.
    drop(first);
    assert_eq!(data(&second.await)["verdict"]["action"], "retry");
    assert_eq!(
        data(&call().await)["verdict"]["action"],
        "ask-user",
        "a second dial, and not the first one's end"
    );
    assert_eq!(world.calls().len(), 2);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}
