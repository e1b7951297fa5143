//! The printed snippets are what clients start the server with.

use std::process::Command;

use rmcp::service::ClientLifecycleMode;
use serde_json::Value;
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::AgentSignal;

use crate::agent::{Agent, Client};
use crate::follower::follow;
use crate::world::World;

/// What is printed for a client on standard output.
fn snippet(world: &World, client: &str) -> String {
    let mut program =
        world.program(&["mcp", "--workspace", "dev", "--log", "info", "--print-config", client]);
    // The folder is where the user stands; the client will stand elsewhere.
    let printed = program.current_dir(world.folder()).env("WORKSPACE_RECOVERY_DATA", ".").output().unwrap();
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert!(String::from_utf8_lossy(&printed.stderr).contains("belongs into"), "{printed:?}");
    String::from_utf8(printed.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_the_printed_snippet_gets_a_killed_workspace_back() {
    let world = World::with_a_workspace().await;
    world.signal(AgentSignal::Kill).await;
    let snippet: Value = serde_json::from_str(&snippet(&world, "json")).unwrap();
    let server = &snippet["mcpServers"]["workspace-recovery"];
    let mut program = Command::new(server["command"].as_str().unwrap());
    program.args(server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()));
    assert!(program.get_args().any(|argument| argument == "--log"), "{program:?}");
    program.env_clear().env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    let agent = Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await;
    world.until_gone_for_long().await;
    let followed = follow(&agent, "echo back").await;
    assert!(followed.ran && followed.last == "back\n", "{followed:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_the_same_server_in_its_own_form() {
    let world = World::new().await;
    let json: Value = serde_json::from_str(&snippet(&world, "json")).unwrap();
    let server = &json["mcpServers"]["workspace-recovery"];
    for (client, key) in [
        ("claude-code", "mcpServers"),
        ("claude-desktop", "mcpServers"),
        ("cursor", "mcpServers"),
        ("vscode", "servers"),
        ("zed", "context_servers"),
    ] {
        let snippet: Value = serde_json::from_str(&snippet(&world, client)).unwrap();
        let its = &snippet[key]["workspace-recovery"];
        assert_eq!((&its["command"], &its["args"]), (&server["command"], &server["args"]), "{client}");
    }
    let codex = snippet(&world, "codex");
    for line in [
        "[mcp_servers.workspace-recovery]".to_owned(),
        format!("command = {}", server["command"]),
        format!("args = {}", server["args"]),
    ] {
        assert!(codex.lines().any(|its| its == line), "{line}: {codex}");
    }
    world.end().await;
}
