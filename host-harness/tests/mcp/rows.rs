//! Rows of the decision table, each played with a real workspace: the messages name tools that there are, and following
//! them ends as the row says.

use serde_json::json;
use workspace_recovery::bindings::AgentState;
use workspace_recovery::bindings::Transition::{Delete, Start, Stop};
use workspace_recovery::control_plane::is_terminal;
use workspace_recovery::local::{AgentSignal, AgentSpec, BuildSpec, VersionSpec};

use crate::agent::{Agent, Client, data, is_error, text};
use crate::calls::{hear, hearing};
use crate::follower::follow;
use crate::played::{ASKS, Played, agent};
use crate::world::World;

fn failing() -> BuildSpec {
    BuildSpec { failure: Some("no disk".to_owned()), ..BuildSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_1_a_dial_whose_request_is_cancelled_goes_on_for_the_same_request_and_counts_once() {
    let never = AgentSpec { connects: false, ..agent("main") };
    let version = VersionSpec { agents: vec![never], ..VersionSpec::default() };
    let world = World::with_a_workspace_of(version).await;
    let (agent, mut told) = hearing(&world).await;
    // Dropped, it is cancelled.
    tokio::select! {
        result = agent.call("execute", json!({ "command": "true" })) => panic!("{result:?}"),
        _ = hear(&mut told, "the agent does not answer") => {}
    }
    let played = Played { world, agent };
    let result = played.agent.call("execute", json!({ "command": "true" })).await;
    assert_eq!(data(&result)["verdict"]["action"], "retry", "it is the first: {}", text(&result));
    assert_eq!(played.world.calls().len(), 1, "there was one dial");
    played.left_to_the_user_after(1, &["connected or connecting", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_a_chat_that_is_bound_elsewhere_meanwhile_is_told_so() {
    let world = World::with_a_workspace().await;
    world.create("other", VersionSpec::default()).await;
    // A server that was started for a workspace binds its chat when that is first needed, or a little after its start.
    assert!(world.run(&["chat", "bind", "talk", "dev"]).status.success());
    let agent = Agent::start(&world, &["--chat", "talk", "--workspace", "dev"]).await;
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let other = Agent::start_as(
        &world,
        &["--chat", "talk"],
        Client { progress: Some(progress), ..Client::default() },
        rmcp::service::ClientLifecycleMode::Initialize,
    )
    .await;
    // Only just lost, it is dialled for the whole window, however long the servers took to start.
    world.signal(AgentSignal::Kill).await;
    let result = {
        let mut called = std::pin::pin!(other.call("execute", json!({ "command": "true" })));
        tokio::select! {
            result = &mut called => panic!("it has ended without a word of a dial: {}", text(&result)),
            _ = told.recv() => {}
        }
        // It is being dialled.
        assert!(world.run(&["chat", "bind", "talk", "other"]).status.success());
        called.await
    };
    assert!(text(&result).contains("not bound to that workspace any more"), "{}", text(&result));
    assert_eq!((agent.close().await, other.close().await), (Some(0), Some(0)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_a_deleted_workspace_is_told_as_that() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.ask_for("dev", Delete).await;
    let result = loop {
        let result = played.agent.call("execute", json!({ "command": "true" })).await;
        if is_error(&result) {
            break result;
        }
    };
    assert!(text(&result).contains("deleted"), "{}", text(&result));
    assert_eq!(data(&result)["verdict"]["tools"], json!([]));
    let gone = loop {
        let status = played.agent.call("workspace_status", json!({})).await;
        // It is still there while it is being deleted.
        if is_error(&status) {
            break status;
        }
    };
    assert!(text(&gone).contains("has to start this server for another one"), "{}", text(&gone));
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_7_a_delete_that_failed_is_for_the_user() {
    let played = Played::new(VersionSpec { delete: failing(), ..VersionSpec::default() }).await;
    played.world.ask_for("dev", Delete).await;
    played.world.until("dev", |workspace| is_terminal(&workspace.latest.build.status)).await;
    played.world.signal(AgentSignal::Kill).await;
    played.left_to_the_user_after(1, &["was begun and not finished", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_8_a_start_in_progress_is_waited_for() {
    let played = Played::new(VersionSpec::default()).await;
    assert!(!is_error(&played.agent.call("stop_workspace", json!({})).await));
    played.world.let_builds_run(false).await;
    played.world.ask_for("dev", Start).await;
    assert_eq!(played.verdict().await["cause"], "start-in-progress");
    let release = async {
        // The start is joined while it waits in the queue.
        played.world.until_calls(|calls| calls.iter().any(|call| call.tool == "start_workspace")).await;
        played.world.let_builds_run(true).await;
    };
    let (followed, ()) = tokio::join!(follow(&played.agent, "echo back"), release);
    assert!(followed.ran, "{followed:?}");
    assert_eq!(played.world.transitions().await, [Start, Stop, Start], "no start of its own");
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_9_a_stop_of_its_own_is_waited_for_and_then_it_is_started() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.let_builds_run(false).await;
    let stopping = played.agent.call("stop_workspace", json!({}));
    let follow = async {
        played.world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
        played.world.signal(AgentSignal::Kill).await;
        assert_eq!(played.verdict().await["cause"], "own-stop-in-progress");
        played.world.let_builds_run(true).await;
        follow(&played.agent, "echo back").await
    };
    let (stopped, followed) = tokio::join!(stopping, follow);
    assert!(!is_error(&stopped) && followed.ran, "{stopped:?} {followed:?}");
    assert_eq!(played.world.transitions().await, [Start, Stop, Start]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_somebody_elses_stop_is_for_the_user() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.let_builds_run(false).await;
    played.world.ask_for("dev", Stop).await;
    played.world.signal(AgentSignal::Kill).await;
    played.left_to_the_user_after(1, &["Somebody else is stopping", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_stopped_workspace_is_started() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.ask_for("dev", Stop).await;
    played.world.until("dev", |workspace| is_terminal(&workspace.latest.build.status)).await;
    played.brought_back_by(&["execute", "start_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_a_stop_that_failed_is_tried_again_and_then_for_the_user() {
    let played = Played::new(VersionSpec { stop: failing(), ..VersionSpec::default() }).await;
    played.world.ask_for("dev", Stop).await;
    played.world.until("dev", |workspace| is_terminal(&workspace.latest.build.status)).await;
    played.world.signal(AgentSignal::Kill).await;
    played.left_to_the_user_after(2, &["that was not finished", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_a_start_that_was_cancelled_is_tried_again_and_then_for_the_user() {
    let played = Played::new(VersionSpec::default()).await;
    assert!(!is_error(&played.agent.call("stop_workspace", json!({})).await));
    played.world.let_builds_run(false).await;
    played.world.ask_for("dev", Start).await;
    played.world.cancel_build().await;
    played.world.until("dev", |workspace| is_terminal(&workspace.latest.build.status)).await;
    played.world.let_builds_run(true).await;
    played.left_to_the_user_after(2, &["was canceled, and it has no agent", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_a_start_that_failed_is_begun_again_and_its_error_is_told() {
    let played = Played::new(VersionSpec { start: failing(), ..VersionSpec::default() }).await;
    let followed = follow(&played.agent, "true").await;
    assert_eq!(followed.called, ["execute", "start_workspace"]);
    assert!(!followed.ran && followed.last.contains("no disk"), "{followed:?}");
    assert_eq!(played.world.transitions().await, [Start, Start]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_15_a_template_without_an_agent_is_for_the_user() {
    Played::with_agents(vec![]).await.left_to_the_user_after(1, &["has no agent", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_16_several_agents_for_chats_are_named_to_the_user() {
    let played = Played::with_agents(vec![agent("a-coderd-chat"), agent("b-coderd-chat")]).await;
    played.left_to_the_user_after(2, &["a-coderd-chat, b-coderd-chat", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_17_an_agent_elsewhere_is_for_the_user_to_connect() {
    let played = Played::with_agents(vec![AgentSpec { external: true, ..agent("laptop") }]).await;
    played.left_to_the_user_after(1, &["ask the user to start the agent"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_17_an_agent_elsewhere_that_was_there_is_for_the_user_to_reconnect() {
    let played = Played::with_agents(vec![AgentSpec { external: true, ..agent("laptop") }]).await;
    played.world.connect_external_agent().await.abort();
    played.world.until("dev", |workspace| workspace.agents[0].state == AgentState::Disconnected).await;
    played.left_to_the_user_after(1, &["ask the user to reconnect the agent"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_18_an_agent_elsewhere_that_is_connected_is_tried_again_and_then_for_the_user() {
    let played = Played::with_agents(vec![AgentSpec { external: true, ..agent("laptop") }]).await;
    let connected = played.world.connect_external_agent().await;
    let says = ["although it is connected", "a computer that the deployment does not manage", ASKS];
    played.left_to_the_user_after(2, &says).await;
    connected.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_20_an_agent_that_is_still_connecting_is_tried_again_and_then_for_the_user() {
    let played = Played::with_agents(vec![AgentSpec { connects: false, ..agent("main") }]).await;
    played.left_to_the_user_after(2, &["connected or connecting", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_21_an_agent_that_never_connected_is_tried_again_and_then_for_the_user() {
    let never = AgentSpec { connects: false, connection_timeout_seconds: 1, ..agent("main") };
    let played = Played::with_agents(vec![never]).await;
    played.world.until("dev", |workspace| workspace.agents[0].state == AgentState::TimedOut).await;
    played.left_to_the_user_after(2, &["has not connected since", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_22_an_agent_that_is_only_just_gone_is_no_reason_to_stop_anything() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.signal(AgentSignal::Kill).await;
    let verdict = played.verdict().await;
    assert_eq!((&verdict["action"], &verdict["tools"]), (&json!("retry"), &json!([])), "{verdict}");
    played.world.until_gone_for_long().await;
    played.brought_back_by(&["execute", "restart_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_24_an_agent_that_nobody_saw_go_is_tried_again_before_it_is_restarted() {
    let played = Played::in_world(World::with_an_agent_that_nobody_saw_go().await).await;
    let verdict = played.verdict().await;
    assert_eq!((&verdict["cause"], &verdict["action"]), (&json!("inferred-disconnect"), &json!("retry")));
    assert_eq!(verdict["tools"], json!([]));
    assert_eq!(played.world.transitions().await, [Start]);
    played.brought_back_by(&["execute", "restart_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_25_an_agent_that_hangs_is_restarted() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.signal(AgentSignal::Stop).await;
    played.world.until_gone_for_long().await;
    played.brought_back_by(&["execute", "restart_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_25_an_agent_that_was_killed_is_restarted() {
    let played = Played::new(VersionSpec::default()).await;
    assert!(follow(&played.agent, "true").await.ran);
    played.world.signal(AgentSignal::Kill).await;
    played.world.until_gone_for_long().await;
    played.brought_back_by(&["execute", "restart_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_restart_of_a_workspace_within_an_hour_is_for_the_user_whoever_made_the_first_two() {
    let played = Played::new(VersionSpec::default()).await;
    let dies = async || {
        played.world.signal(AgentSignal::Kill).await;
        played.world.until_gone_for_long().await;
    };
    dies().await;
    let followed = follow(&played.agent, "true").await;
    assert!(followed.ran && followed.called == ["execute", "restart_workspace", "execute"], "{followed:?}");
    dies().await;
    let other = Agent::start(&played.world, &["--chat", "other", "--workspace", "dev"]).await;
    let result = other.call("execute", json!({ "command": "true" })).await;
    assert_eq!(data(&result)["verdict"]["action"], "restart", "{}", text(&result));
    // Advice that is not followed uses nothing up.
    let followed = follow(&other, "true").await;
    assert!(followed.ran && followed.called == ["execute", "restart_workspace", "execute"], "{followed:?}");
    other.close().await;
    dies().await;
    let says = ["has been gone for at least", "was restarted 2 times within the last hour", ASKS];
    played.gives_up_after(1, &says).await;
    assert_eq!(played.world.transitions().await, [Start, Stop, Start, Stop, Start]);
    played.end().await;
}
