//! Which tools there are, what they answer, and what they refuse.

use rmcp::ServiceError;
use rmcp::model::{ErrorCode, ProtocolVersion};
use rmcp::service::ClientLifecycleMode;
use serde_json::{Value, json};
use workspace_recovery::local::VersionSpec;

use crate::agent::{Agent, Client, data, is_error, text};
use crate::world::World;

const OF_THE_PLUGIN: [&str; 3] = ["stop_workspace", "start_workspace", "restart_workspace"];

async fn names(agent: &Agent) -> Vec<String> {
    let tools = agent.peer().list_all_tools().await.unwrap();
    tools.into_iter().map(|tool| tool.name.into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_listed_as_the_plugin_gives_them_and_those_for_choosing_only_where_there_is_a_choice() {
    let world = World::with_a_workspace().await;
    let free = Agent::start(&world, &[]).await;
    let all =
        [&OF_THE_PLUGIN[..], &["execute", "list_workspaces", "use_workspace", "workspace_status"]].concat();
    assert_eq!(names(&free).await, all);
    assert_eq!(names(&free).await, all, "in the same order each time");
    let bound = Agent::start(&world, &["--workspace", "dev"]).await;
    let fewer = [&OF_THE_PLUGIN[..], &["execute", "workspace_status"]].concat();
    assert_eq!(names(&bound).await, fewer);
    let refused = bound.try_call("use_workspace", json!({ "workspace": "dev" })).await.unwrap_err();
    assert!(matches!(refused, ServiceError::McpError(error) if error.code == ErrorCode::INVALID_PARAMS));

    let listed = serde_json::to_value(free.peer().list_all_tools().await.unwrap()).unwrap();
    let told = world.json(&["tools"]);
    let (listed, told) = (listed.as_array().unwrap(), told.as_array().unwrap());
    assert_eq!((listed.len(), told.len()), (all.len(), OF_THE_PLUGIN.len()));
    for (listed, told) in listed.iter().zip(told) {
        for key in ["name", "title", "description", "inputSchema", "outputSchema"] {
            assert_eq!(listed[key], told[key]);
        }
        for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
            assert_eq!(listed["annotations"][hint], told["annotations"][hint]);
        }
    }
    let types = |schema: &Value| {
        schema["properties"].as_object().is_none_or(|all| all.values().all(|one| one["type"].is_string()))
    };
    assert!(listed.iter().all(|tool| types(&tool["inputSchema"])), "for clients that know no other");
    assert_eq!((free.close().await, bound.close().await), (Some(0), Some(0)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_chooses_its_workspace_and_works_in_it() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &[]).await;
    let unbound = agent.call("execute", json!({ "command": "true" })).await;
    assert!(is_error(&unbound) && text(&unbound).contains("use_workspace"), "{unbound:?}");
    let listed = agent.call("list_workspaces", json!({})).await;
    assert_eq!(data(&listed)["workspaces"][0]["name"], "dev");
    let wrong = agent.call("use_workspace", json!({ "workspace": "nothing" })).await;
    assert!(is_error(&wrong) && text(&wrong).contains("list_workspaces"), "{wrong:?}");
    assert!(!is_error(&agent.call("use_workspace", json!({ "workspace": "dev" })).await));

    let ran = agent.call("execute", json!({ "command": "echo out; echo err >&2; exit 7" })).await;
    assert!(!is_error(&ran), "a command that fails is not a tool that fails: {ran:?}");
    assert_eq!(*data(&ran), json!({ "output": "out\nerr\n", "exit_code": 7, "truncated": false }));
    assert_eq!(text(&ran), "out\nerr\n\n[exit code 7]");
    for seconds in [json!(60), json!(60.0), json!(null)] {
        let quiet = agent.call("execute", json!({ "command": "true", "timeout_seconds": seconds })).await;
        assert_eq!(text(&quiet), "[exit code 0, no output]");
    }
    let slow =
        agent.call("execute", json!({ "command": "echo begun; sleep 600", "timeout_seconds": 1 })).await;
    assert!(is_error(&slow) && data(&slow)["output"] == "begun\n", "{slow:?}");
    let status = agent.call("workspace_status", json!({})).await;
    assert_eq!(data(&status)["workspace"]["agents"][0]["status"], "connected");
    let stopped = agent.call("stop_workspace", json!({})).await;
    assert_eq!(data(&stopped)["stopped"], true);
    assert_eq!(serde_json::from_str::<Value>(&text(&stopped)).unwrap(), *data(&stopped));
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_chosen_is_read_once() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    let agent = Agent::start(&world, &[]).await;
    let used = agent.call("use_workspace", json!({ "workspace": "dev" })).await;
    assert!(!is_error(&used), "{used:?}");
    assert_eq!(world.deployment().asked(|request| request.contains("/workspace")), 1);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_started_for_a_workspace_works_in_no_other() {
    let world = World::with_a_workspace().await;
    world.create("other", VersionSpec::default()).await;
    let agent = Agent::start(&world, &["--chat", "talk", "--workspace", "dev"]).await;
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    assert!(world.run(&["chat", "bind", "talk", "other"]).status.success());
    for (tool, arguments) in [
        ("execute", json!({ "command": "touch ran" })),
        ("stop_workspace", json!({})),
        ("workspace_status", json!({})),
    ] {
        let refused = agent.call(tool, arguments).await;
        assert!(is_error(&refused) && text(&refused).contains("another workspace"), "{tool}: {refused:?}");
    }
    assert_eq!(world.workspace("other").await.latest.build.number, 1, "nothing was done there");
    assert!(world.run(&["chat", "bind", "talk", "dev"]).status.success());
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_later_is_no_hindrance() {
    let mut world = World::with_a_workspace().await;
    world.go_away().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    assert!(!names(&agent).await.is_empty());
    let away = agent.call("workspace_status", json!({})).await;
    assert!(is_error(&away) && text(&away).contains("cannot be reached"), "{away:?}");
    world.come_back().await;
    let there = agent.call("workspace_status", json!({})).await;
    assert_eq!(data(&there)["workspace"]["name"], "dev", "{there:?}");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_served_for_the_first_time_is_found_by_servers_that_waited_for_it() {
    let mut world = World::never_served();
    let agents = [Agent::start(&world, &[]).await, Agent::start(&world, &[]).await];
    for agent in &agents {
        let away = agent.call("list_workspaces", json!({})).await;
        let told = text(&away);
        assert!(is_error(&away) && told.contains("cannot be reached"), "{told}");
        assert!(told.contains("`workspace-recovery local serve`"), "it says what to do: {told}");
    }
    let other = world.run(&["workspace", "list"]);
    assert!(!other.status.success(), "a folder that is waited for is not served");
    assert!(String::from_utf8_lossy(&other.stderr).contains("no local control plane serves"), "{other:?}");
    world.come_back().await;
    for agent in agents {
        let there = agent.call("list_workspaces", json!({})).await;
        assert_eq!(data(&there)["workspaces"], json!([]), "{there:?}");
        assert_eq!(agent.close().await, Some(0));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_is_not_there_is_told_with_each_call() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dve"]).await;
    for _ in 0..2 {
        let refused = agent.call("execute", json!({ "command": "true" })).await;
        assert!(is_error(&refused) && text(&refused).contains("\"dve\""), "{refused:?}");
    }
    world.create("dve", VersionSpec::default()).await;
    let ran = agent.call("execute", json!({ "command": "true" })).await;
    assert!(!is_error(&ran), "{ran:?}");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_called_so_is_refused_with_a_sentence_for_the_model() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    for (tool, arguments, field) in [
        ("execute", json!({}), "command"),
        ("execute", json!({ "command": " " }), "command"),
        ("execute", json!({ "command": "x".repeat(2 * 1024 * 1024) }), "too long"),
        ("execute", json!({ "command": "echo \0" }), "NUL"),
        (
            "execute",
            json!({ "command": "true", "timeout_seconds": 0 }),
            "execute: `timeout_seconds`: it has to be a whole number from 1 to 3600;",
        ),
        (
            "execute",
            json!({ "command": "true", "timeout_seconds": "soon" }),
            "`timeout_seconds`: it has to be",
        ),
        ("execute", json!({ "command": "true", "timeout_seconds": 7200 }), "`timeout_seconds`: it has to be"),
        ("execute", json!({ "command": "true", "timeout_seconds": 1.5 }), "`timeout_seconds`: it has to be"),
        (
            "execute",
            json!({ "command": ["true"] }),
            "execute: `command`: invalid type: sequence, expected a string;",
        ),
        ("execute", json!({ "command": "true", "folder": "/" }), "folder"),
        ("execute", json!({ "command": null }), "command"),
        ("stop_workspace", json!({ "name": "dev" }), "name"),
        ("stop_workspace", json!({ "only_if_unreachabel": true }), "only_if_unreachabel"),
        ("restart_workspace", json!({ "parameters": { "a": "x".repeat(600 * 1024) } }), "524288"),
    ] {
        let refused = agent.call(tool, arguments).await;
        assert!(is_error(&refused) && text(&refused).contains(field), "{tool} {field}: {}", text(&refused));
    }
    let unknown = agent.try_call("erase_workspace", json!({})).await.unwrap_err();
    let ServiceError::McpError(unknown) = unknown else { panic!("{unknown}") };
    assert_eq!(unknown.code, ErrorCode::INVALID_PARAMS);
    assert!(unknown.message.contains("erase_workspace"));
    assert_eq!(world.json(&["calls", "--all"]), json!([]), "nothing of this was begun");
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_revisions_are_spoken() {
    let world = World::with_a_workspace().await;
    let old = Agent::start(&world, &["--workspace", "dev"]).await;
    let discover = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    let new =
        Agent::start_as(&world, &["--chat", "talk", "--workspace", "dev"], Client::default(), discover).await;
    for agent in [old, new] {
        let ran = agent.call("execute", json!({ "command": "echo here" })).await;
        assert_eq!(data(&ran)["output"], "here\n");
        assert_eq!(agent.close().await, Some(0));
    }
    world.end().await;
}
