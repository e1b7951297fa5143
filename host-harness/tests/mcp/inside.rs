//! A server that runs in the very workspace that it serves.

use rmcp::service::ClientLifecycleMode;
use serde_json::json;
use workspace_recovery::bindings::Transition::Start;
use workspace_recovery::local::AgentSignal;

use crate::agent::{Agent, Client, data, is_error, text};
use crate::world::World;

/// A server that was started in the workspace of this name, as its agent starts things.
async fn started_in(world: &World, workspace: &str, owner: &str) -> Agent {
    let mut program = world.program(&["mcp", "--workspace", "dev"]);
    program
        .env("CODER", "true")
        .env("CODER_WORKSPACE_NAME", workspace)
        .env("CODER_WORKSPACE_OWNER_NAME", owner);
    Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_would_end_the_server_half_way_is_refused_with_a_sentence_and_named_by_no_verdict() {
    let world = World::with_a_workspace().await;
    let agent = started_in(&world, "dev", "owner").await;
    for tool in ["stop_workspace", "restart_workspace"] {
        let refused = agent.call(tool, json!({})).await;
        let text = text(&refused);
        assert!(is_error(&refused) && text.contains("runs in that very workspace"), "{text}");
        assert!(text.contains("call it from elsewhere") && text.contains("--from-inside"), "{text}");
    }
    let started = agent.call("start_workspace", json!({})).await;
    assert_eq!(data(&started)["started"], true, "{started:?}");
    world.signal(AgentSignal::Kill).await;
    world.until_gone_for_long().await;
    let refused = agent.call("execute", json!({ "command": "true" })).await;
    let verdict = &data(&refused)["verdict"];
    assert_eq!((&verdict["action"], &verdict["tools"]), (&json!("restart"), &json!([])), "{verdict}");
    assert!(text(&refused).contains("restarted from elsewhere"), "{refused:?}");
    assert_eq!(world.transitions().await, [Start]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_another_workspace_restarts_this_one() {
    let world = World::with_a_workspace().await;
    for (workspace, owner) in [("other", "owner"), ("dev", "ana")] {
        let agent = started_in(&world, workspace, owner).await;
        let restarted = agent.call("restart_workspace", json!({})).await;
        assert_eq!(data(&restarted)["restarted"], true, "{restarted:?}");
        agent.close().await;
    }
    world.end().await;
}
