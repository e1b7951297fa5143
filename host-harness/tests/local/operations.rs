//! What only this control plane can do, searching, and streams.

use futures_util::StreamExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use workspace_recovery::local::{AdminError, AgentSignal, AgentSpec, TemplateSpec};

use super::support::*;

#[tokio::test]
async fn a_signal_goes_to_the_agent_named_where_there_are_several() {
    let plane = Plane::start().await;
    let template = plane.template(version(vec![agent("one"), agent("two")])).await;
    let workspace = plane.workspace(&template).await;
    until("both connect", SOON, async || {
        let agents = agents_of(&plane.read(&workspace).await);
        agents.iter().all(|agent| agent["status"] == "connected").then_some(())
    })
    .await;
    let unclear = plane.admin().signal_agent(&workspace, None, AgentSignal::Kill).await;
    assert!(matches!(unclear, Err(AdminError::Refused { status: 400, .. })), "{unclear:?}");
    let name = plane.read(&workspace).await["name"].as_str().unwrap().to_owned();
    let killed = plane.admin().signal_agent(&name, Some("two"), AgentSignal::Kill).await.unwrap();
    until("it is gone", SOON, async || (!lives(killed.pid)).then_some(())).await;
    let agents = until("it reads disconnected", SOON, async || {
        let agents = agents_of(&plane.read(&workspace).await);
        (agents[1]["status"] == "disconnected").then_some(agents)
    })
    .await;
    assert_eq!((&agents[0]["status"], &agents[1]["id"]), (&"connected".into(), &killed.id.as_str().into()));
    let again = plane.admin().signal_agent(&name, Some("two"), AgentSignal::Kill).await;
    assert!(matches!(again, Err(AdminError::Refused { status: 409, .. })), "{again:?}");
    plane.end().await;
}

#[tokio::test]
async fn names_of_templates_and_workspaces_are_unique_and_unknown_ones_are_refused_by_name() {
    let plane = Plane::start().await;
    let spec = TemplateSpec { name: "shell".to_owned(), ..TemplateSpec::default() };
    let taken = plane.admin().create_template(&spec).await;
    assert!(matches!(taken, Err(AdminError::Refused { status: 409, .. })), "{taken:?}");
    plane.admin().create_workspace("dev", "shell", &[]).await.unwrap();
    let taken = plane.admin().create_workspace("dev", "shell", &[]).await;
    assert!(matches!(taken, Err(AdminError::Refused { status: 409, .. })), "{taken:?}");
    let bad = plane.admin().create_workspace("no good", "shell", &[]).await;
    assert!(matches!(bad, Err(AdminError::Refused { status: 400, .. })), "{bad:?}");
    let unknown = plane.admin().create_workspace("other", "nothing", &[]).await.unwrap_err();
    assert!(unknown.to_string().contains("\"nothing\""), "{unknown}");
    plane.end().await;
}

#[tokio::test]
async fn a_search_finds_workspaces_by_name_owner_and_status() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let live = admin.create_workspace("live", "shell", &[]).await.unwrap();
    let idle = admin.create_workspace("idle", "shell", &[]).await.unwrap();
    plane.ended(&live.build_id).await;
    plane.ended(&idle.build_id).await;
    plane.built(&idle.id, "stop").await;
    let count = async |query: &str| {
        let query = query.replace(' ', "%20");
        plane.get(&format!("/api/v2/workspaces?q={query}")).await.body["count"].as_u64().unwrap()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("owner:me name:live").await, 1);
    assert_eq!(count("owner:nobody").await, 0);
    assert_eq!(count("status:stopped").await, 1);
    assert_eq!(count("l").await, 2, "a word is part of a name");
    let page = plane.get("/api/v2/workspaces?limit=1&offset=1").await.body;
    assert_eq!((page["workspaces"].as_array().unwrap().len(), &page["count"]), (1, &json!(2)));
    let builds = plane.get(&format!("/api/v2/workspaces/{}/builds?limit=1", idle.id)).await.body;
    assert_eq!((builds.as_array().unwrap().len(), &builds[0]["build_number"]), (1, &json!(2)));
    assert_eq!(plane.get("/api/v2/workspaces?q=nosuchfilter:x").await.status, 400);
    assert_eq!(plane.get("/api/v2/workspaces?limit=-1").await.status, 400);
    plane.end().await;
}

#[tokio::test]
async fn a_watcher_gets_a_ping_the_workspace_and_each_change_but_not_what_only_time_changes() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let mut watch = plane.websocket(&format!("/api/v2/workspaces/{workspace}/watch-ws")).await.unwrap();
    assert_eq!(next_json(&mut watch).await, json!({"type": "ping", "data": null}));
    let first = next_json(&mut watch).await;
    assert_eq!((&first["type"], &first["data"]["id"]), (&"data".into(), &workspace.as_str().into()));
    plane.signal(&workspace, AgentSignal::Kill).await;
    while agents_of(&next_json(&mut watch).await["data"])[0]["status"] != "disconnected" {}
    plane.build(&workspace, "stop").await;
    while next_json(&mut watch).await["data"]["latest_build"]["status"] != "stopped" {}
    assert_eq!(plane.get(&format!("/api/v2/workspaces/{workspace}/watch-ws")).await.status, 426);
    plane.end().await;
}

#[tokio::test]
async fn a_followed_build_log_has_the_lines_of_the_whole_log_and_is_closed_at_the_end() {
    let plane = Plane::start().await;
    let created = plane.admin().create_workspace("logs", "shell", &[]).await.unwrap();
    let path = format!("/api/v2/workspacebuilds/{}/logs", created.build_id);
    let mut follow = plane.websocket(&format!("{path}?follow=true&after=-1")).await.unwrap();
    let mut followed = Vec::new();
    let code = loop {
        match follow.next().await.unwrap().unwrap() {
            Message::Text(text) => followed.push(serde_json::from_str::<serde_json::Value>(&text).unwrap()),
            Message::Close(frame) => break u16::from(frame.unwrap().code),
            _ => {}
        }
    };
    assert_eq!(code, 1000);
    assert!(followed.iter().any(|line| line["stage"] == "Starting workspace"));
    assert_eq!(plane.get(&path).await.body, json!(followed));
    let half = followed[2]["id"].as_i64().unwrap();
    assert_eq!(plane.get(&format!("{path}?after={half}")).await.body, json!(followed[3..]));
    plane.end().await;
}

#[tokio::test]
async fn a_followed_agent_log_comes_as_lists_of_lines() {
    let plane = Plane::start().await;
    let script = "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two".to_owned();
    let spec = AgentSpec { startup_script: script, ..AgentSpec::default() };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v2/workspaceagents/{agent}/logs");
    let mut follow = plane.websocket(&format!("{path}?follow=true&after=0")).await.unwrap();
    assert_eq!(next_json(&mut follow).await[0]["output"], "one");
    std::fs::write(plane.folder().join("homes").join(&workspace).join("go"), "").unwrap();
    assert_eq!(next_json(&mut follow).await[0]["output"], "two");
    assert_eq!(plane.get(&format!("{path}?after=-1")).await.status, 400);
    plane.end().await;
}
