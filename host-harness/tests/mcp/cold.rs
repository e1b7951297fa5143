//! A machine on which no plugin was compiled before.

use std::path::Path;

use rmcp::service::ClientLifecycleMode;
use serde_json::json;
use workspace_recovery::PLUGIN;

use crate::agent::{Agent, Client, is_error, text};
use crate::world::World;

/// The program, with a cache in which there is nothing.
async fn start(world: &World, cache: &Path, arguments: &[&str]) -> Agent {
    let mut program = world.program(arguments);
    program.env("XDG_CACHE_HOME", cache);
    Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await
}

/// How many compiled plugins are kept.
fn images(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("workspace-recovery")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_the_tools_before_the_plugin_is_compiled_and_it_is_kept_though_the_client_leaves() {
    let (world, cache) = (World::never_served(), tempfile::tempdir().unwrap());
    let agent = start(&world, cache.path(), &["mcp"]).await;
    let tools = agent.peer().list_all_tools().await.unwrap();
    let compiled = images(cache.path());
    assert!(tools.iter().any(|tool| tool.name == "restart_workspace"));
    assert_eq!(compiled, 0, "what takes longest is not waited for");
    assert_eq!(agent.close().await, Some(0));
    assert_eq!(images(cache.path()), 1, "the next start need not compile it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_needs_the_plugin_waits_until_it_is_compiled() {
    let (world, cache) = (World::with_a_workspace().await, tempfile::tempdir().unwrap());
    let agent = start(&world, cache.path(), &["mcp", "--workspace", "dev"]).await;
    let ran = agent.call("execute", json!({ "command": "echo there" })).await;
    assert_eq!(text(&ran), "there\n", "a command does not need it");
    let started = agent.call("start_workspace", json!({})).await;
    assert!(!is_error(&started), "{started:?}");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_a_plugin_from_a_file_are_listed_when_it_is_compiled() {
    let (world, folder) = (World::never_served(), tempfile::tempdir().unwrap());
    let file = folder.path().join("other.wasm");
    // The same code under another hash: a section that engines pass over stands at its end.
    std::fs::write(&file, [PLUGIN, b"\0\x06\x05other"].concat()).unwrap();
    let agent = start(&world, folder.path(), &["--plugin", file.to_str().unwrap(), "mcp"]).await;
    let tools = agent.peer().list_all_tools().await.unwrap();
    assert_eq!(images(folder.path()), 1, "it was asked for them");
    assert!(tools.iter().any(|tool| tool.name == "restart_workspace"));
    assert_eq!(agent.close().await, Some(0));
}

#[test]
fn a_plugin_that_cannot_be_compiled_ends_the_server_with_the_reason() {
    let (world, folder) = (World::never_served(), tempfile::tempdir().unwrap());
    let file = folder.path().join("other.wasm");
    let functions = |names: &[&str]| {
        names.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect::<String>()
    };
    let instance = |of: &str, names: &[&str]| {
        format!(
            "(instance ${of} {}) (export \"workspace-recovery:plugin/{of}@0.1.0\" (instance ${of}))",
            functions(names)
        )
    };
    // The right names, and other types.
    let component = format!(
        "(component (core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) \
         (func $f (canon lift (core func $i \"f\"))) {} {})",
        instance("tools", &["list-tools", "call-tool"]),
        instance("recovery", &["classify-failure", "check-connection"]),
    );
    std::fs::write(&file, wat::parse_str(component).unwrap()).unwrap();
    let ended = world.run(&["--plugin", file.to_str().unwrap(), "mcp", "--http", "127.0.0.1:0"]);
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("do not match contract"), "{told}");
}
