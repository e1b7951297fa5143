//! A verdict that is for the user reaches the user, where the client can ask.

use std::sync::Arc;

use rmcp::model::{ClientCapabilities, ElicitationCapability, ProtocolVersion, UrlElicitationCapability};
use rmcp::service::ClientLifecycleMode;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::AgentSignal;

use crate::agent::{Agent, Client, data, is_error, text};
use crate::calls::hear;
use crate::world::{SOON, World};

/// Somebody else stops the workspace, and its agent is gone: that is for the user.
async fn with_a_question() -> World {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    world.ask_for("dev", Stop).await;
    world.signal(AgentSignal::Kill).await;
    world
}

fn who_answers(answer: Option<&'static str>) -> Client {
    let capabilities = ClientCapabilities::builder().enable_elicitation().build();
    Client { capabilities, answer, ..Client::default() }
}

async fn asks(lifecycle: ClientLifecycleMode, answer: Option<&'static str>, says: &str) {
    let world = with_a_question().await;
    let client = who_answers(answer);
    let agent = Agent::start_as(&world, &["--workspace", "dev"], client.clone(), lifecycle).await;
    let result = agent.call("execute", json!({ "command": "true" })).await;
    let asked = client.asked.lock().unwrap().clone();
    assert!(asked.len() == 1 && asked[0].contains("Somebody else is stopping"), "{asked:?}");
    assert!(is_error(&result) && text(&result).contains(says), "{}", text(&result));
    assert_eq!(data(&result)["verdict"]["action"], "ask-user", "what it was about is still told");
    assert_eq!(data(&result)["user"]["answer"], json!(answer));
    assert_eq!(world.transitions().await, [Start, Stop]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_answer_is_told_to_the_model() {
    asks(ClientLifecycleMode::Initialize, Some("wait for it"), "answers: wait for it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_session_asks_between_two_requests() {
    let new = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    asks(new, Some("wait for it"), "answers: wait for it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_does_not_answer_is_told_as_that() {
    asks(ClientLifecycleMode::Initialize, None, "does not want to answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_sent_off_empty_is_told_as_no_answer() {
    asks(ClientLifecycleMode::Initialize, Some(" \n"), "gave no answer: leave the workspace as it is").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_user_thinks_the_client_hears_that_it_goes_on() {
    let world = with_a_question().await;
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let thinks = Arc::new(Notify::new());
    let client =
        Client { progress: Some(progress), thinks: Some(thinks.clone()), ..who_answers(Some("wait for it")) };
    let agent =
        Agent::start_as(&world, &["--workspace", "dev"], client, ClientLifecycleMode::Initialize).await;
    let heard = async {
        hear(&mut told, "the user has not answered yet").await;
        thinks.notify_one();
    };
    let (result, ()) = tokio::join!(agent.call("execute", json!({ "command": "true" })), heard);
    assert!(text(&result).contains("answers: wait for it"), "{}", text(&result));
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_takes_long_holds_no_verdict_back_and_is_heard_with_the_next_call() {
    let world = with_a_question().await;
    let thinks = Arc::new(Notify::new());
    let client = Client { thinks: Some(thinks.clone()), ..who_answers(Some("wait for it")) };
    let asked = client.asked.clone();
    let agent =
        Agent::start_as(&world, &["--workspace", "dev"], client, ClientLifecycleMode::Initialize).await;
    for says in ["The user was asked, and has not answered yet.", "The user was asked before, and has not"] {
        let result = agent.call("execute", json!({ "command": "true" })).await;
        assert!(is_error(&result) && text(&result).contains(says), "{}", text(&result));
        assert_eq!(data(&result)["verdict"]["action"], "ask-user");
        assert_eq!(asked.lock().unwrap().len(), 1, "one question at a time");
    }
    assert!(!text(&agent.call("workspace_status", json!({})).await).contains("wait for it"));
    thinks.notify_one();
    // Until the answer has come.
    let mut status = agent.call("workspace_status", json!({})).await;
    while !text(&status).contains("answers: wait for it") {
        status = agent.call("workspace_status", json!({})).await;
    }
    assert!(text(&status).contains("could not be run: true"), "{}", text(&status));
    assert_eq!(data(&status)["workspace"]["name"], "dev", "what was asked for is told, too");
    assert!(data(&status)["user_answered"].as_str().unwrap().contains("wait for it"));
    assert!(!text(&agent.call("workspace_status", json!({})).await).contains("wait for it"), "once");
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_request_is_cancelled_is_withdrawn() {
    let world = with_a_question().await;
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let client =
        Client { progress: Some(progress), thinks: Some(Arc::default()), ..who_answers(Some("wait for it")) };
    let withdrawn = client.withdrawn.clone();
    let agent =
        Agent::start_as(&world, &["--workspace", "dev"], client, ClientLifecycleMode::Initialize).await;
    tokio::select! {
        result = agent.call("execute", json!({ "command": "true" })) => panic!("{result:?}"),
        // Dropped, it is cancelled.
        _ = hear(&mut told, "the user has not answered yet") => {}
    }
    timeout(SOON, withdrawn.notified()).await.expect("the question is withdrawn");
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fails_to_ask_is_told_as_that() {
    let world = with_a_question().await;
    let client = Client { cannot_ask: true, ..who_answers(None) };
    let agent =
        Agent::start_as(&world, &["--workspace", "dev"], client, ClientLifecycleMode::Initialize).await;
    let result = agent.call("execute", json!({ "command": "true" })).await;
    assert!(
        is_error(&result) && text(&result).ends_with("The user could not be asked."),
        "{}",
        text(&result)
    );
    assert_eq!(data(&result)["verdict"]["action"], "ask-user", "what it was about is still told");
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_client_cannot_ask_the_model_is_told_to() {
    let world = with_a_question().await;
    let pages = ElicitationCapability::new().with_url(UrlElicitationCapability::new());
    let pages = ClientCapabilities::builder().enable_elicitation_with(pages).build();
    for capabilities in [ClientCapabilities::default(), pages] {
        let client = Client { capabilities, ..Client::default() };
        let lifecycle = ClientLifecycleMode::Initialize;
        let agent = Agent::start_as(&world, &["--workspace", "dev"], client.clone(), lifecycle).await;
        let result = agent.call("execute", json!({ "command": "true" })).await;
        assert!(is_error(&result) && text(&result).contains("ask what to do"), "{}", text(&result));
        assert!(data(&result).get("user").is_none());
        assert!(client.asked.lock().unwrap().is_empty(), "it can show pages, and no forms");
        agent.close().await;
    }
    world.end().await;
}
