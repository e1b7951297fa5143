//! Arguments as clients and models write them that do not keep to a schema, or say of every argument that it has no
//! value.

use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};

use crate::agent::{Agent, data, is_error, text};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_argument_without_a_value_or_in_another_type_is_taken_for_what_it_obviously_is() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &["--workspace", "dev"]).await;
    for (workdir, seconds) in [
        (Value::Null, Value::Null),
        (json!(""), json!("")),
        (json!("/"), json!("60")),
        (json!("~"), json!(60.0)),
    ] {
        let arguments = json!({ "command": "echo hi", "workdir": workdir, "timeout_seconds": seconds });
        let ran = agent.call("execute", arguments).await;
        assert_eq!(data(&ran)["output"], "hi\n", "{ran:?}");
    }
    for condition in [json!("true"), json!(true)] {
        // Its agent is there: only an unconditional stop would stop it.
        let kept = agent.call("stop_workspace", json!({ "only_if_unreachable": condition })).await;
        assert_eq!(data(&kept)["stopped"], false, "{kept:?}");
    }
    let stopped = agent.call("stop_workspace", json!({ "only_if_unreachable": null })).await;
    assert_eq!(data(&stopped)["stopped"], true, "{stopped:?}");
    for none in [Value::Null, json!(""), json!("{}"), json!({}), json!([])] {
        let started = agent.call("start_workspace", json!({ "parameters": none })).await;
        assert_eq!(data(&started)["started"], true, "{started:?}");
    }
    let nothing = json!({ "only_if_unreachable": "", "parameters": null });
    let restarted = agent.call("restart_workspace", nothing).await;
    assert_eq!(data(&restarted)["restarted"], true, "{restarted:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start, Stop, Start]);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_without_arguments_ignore_what_they_are_given() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &[]).await;
    let listed = agent.call("list_workspaces", json!({ "random_string": "x" })).await;
    assert_eq!(data(&listed)["workspaces"][0]["name"], "dev", "{listed:?}");
    assert!(!is_error(&agent.call("use_workspace", json!({ "workspace": "dev" })).await));
    let status = agent.call("workspace_status", json!({ "random_string": "x" })).await;
    assert_eq!(data(&status)["workspace"]["name"], "dev", "{status:?}");
    // But a misspelt condition must stop nothing.
    let refused = agent.call("stop_workspace", json!({ "only_if_unreachabel": "" })).await;
    assert!(is_error(&refused) && text(&refused).contains("only_if_unreachabel"), "{refused:?}");
    assert_eq!(world.transitions().await, [Start]);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}
