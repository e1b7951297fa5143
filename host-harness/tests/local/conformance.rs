//! The answers, compared with those recorded from a real server: same status codes, same types, and every field that a
//! lifecycle client reads.
//!
//! The recordings are in `tests/transcripts`. Texts are not compared: a client decides by status and fields.

use reqwest::Method;
use serde_json::{Value, json};
use workspace_recovery::local::{BuildSpec, OnCancel, ParameterSpec, VersionSpec};

use super::support::*;

/// What a client reads of a workspace, as JSON pointers.
const WORKSPACE: &[&str] = &[
    "/id",
    "/name",
    "/owner_id",
    "/owner_name",
    "/template_id",
    "/template_active_version_id",
    "/template_require_active_version",
    "/template_use_classic_parameter_flow",
    "/outdated",
    "/dormant_at",
    "/deleting_at",
    "/organization_name",
    "/health/healthy",
    "/health/failing_agents",
    "/latest_build/id",
];
/// What a client reads of a build.
const BUILD: &[&str] = &[
    "/id",
    "/workspace_id",
    "/workspace_name",
    "/workspace_owner_name",
    "/build_number",
    "/transition",
    "/status",
    "/reason",
    "/initiator_id",
    "/initiator_name",
    "/created_at",
    "/template_version_id",
    "/template_version_name",
    "/resources",
    "/matched_provisioners/count",
    "/matched_provisioners/available",
    "/matched_provisioners/most_recently_seen",
    "/job/id",
    "/job/status",
    "/job/created_at",
    "/job/queue_position",
    "/job/queue_size",
];
/// What a client reads of an agent that has connected and is ready.
const AGENT: &[&str] = &[
    "/id",
    "/parent_id",
    "/name",
    "/status",
    "/lifecycle_state",
    "/created_at",
    "/first_connected_at",
    "/last_connected_at",
    "/started_at",
    "/ready_at",
    "/connection_timeout_seconds",
    "/health/healthy",
    "/resource_id",
];
const LOG_LINE: &[&str] = &["/id", "/created_at", "/log_source", "/log_level", "/stage", "/output"];
const AGENT_LOG_LINE: &[&str] = &["/id", "/created_at", "/level", "/output", "/source_id"];
const PARAMETER: &[&str] =
    &["/name", "/type", "/required", "/default_value", "/mutable", "/options", "/ephemeral"];

/// A recorded exchange.
struct Recorded {
    status: u64,
    body: Value,
}

/// The exchange with this index in a recording, which has to be a request that fits: `METHOD part-of-path`.
fn recorded(file: &str, index: usize, request: &str) -> Recorded {
    let path = format!("{}/tests/transcripts/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let transcript: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let exchange = &transcript["exchanges"][index];
    let (method, part) = request.split_once(' ').unwrap();
    assert_eq!(exchange["request"]["method"], method, "{file} {index}");
    assert!(exchange["request"]["path"].as_str().unwrap().contains(part), "{file} {index}");
    let (status, body) = match exchange.get("handshake") {
        Some(handshake) => (&handshake["status"], &handshake["body"]),
        None => (&exchange["response"]["status"], &exchange["response"]["body"]),
    };
    Recorded { status: status.as_u64().unwrap(), body: body.clone() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The fields that the real server gives as null while there is no value.
const NULLABLE: &[&str] = &["dormant_at", "most_recently_seen", "deadline", "P50", "P95"];

/// Each field of ours that was recorded too has the recorded type. Of lists, the first elements are compared.
fn same_types(ours: &Value, real: &Value, at: &str) {
    let field = at.rsplit('/').next().unwrap();
    if (ours.is_null() || real.is_null()) && NULLABLE.contains(&field) {
        return;
    }
    assert_eq!(kind(ours), kind(real), "{at}: ours {ours}, recorded {real}");
    match (ours, real) {
        (Value::Object(ours), Value::Object(real)) => {
            for (key, value) in ours {
                if let Some(real) = real.get(key) {
                    same_types(value, real, &format!("{at}/{key}"));
                }
            }
        }
        (Value::Array(ours), Value::Array(real)) => {
            if let (Some(ours), Some(real)) = (ours.first(), real.first()) {
                same_types(ours, real, &format!("{at}/0"));
            }
        }
        _ => {}
    }
}

/// Same status, same types, and each of the fields present in both.
fn conforms(ours: &Reply, real: &Recorded, fields: &[&str]) {
    assert_eq!(u64::from(ours.status), real.status, "{}", ours.body);
    same_types(&ours.body, &real.body, "");
    has_fields(&ours.body, &real.body, fields);
}

fn has_fields(ours: &Value, real: &Value, fields: &[&str]) {
    for field in fields {
        assert!(real.pointer(field).is_some(), "{field} is in the recording");
        assert!(ours.pointer(field).is_some(), "{field} is in {ours}");
    }
}

/// A refusal: same status, a message, and detail and validations exactly where they were recorded.
fn refuses(ours: &Reply, real: &Recorded) {
    conforms(ours, real, &["/message"]);
    for key in ["detail", "validations"] {
        assert_eq!(ours.body.get(key).is_some(), real.body.get(key).is_some(), "{key}: {}", ours.body);
    }
}

#[tokio::test]
async fn workspaces_builds_and_agents_have_the_recorded_shape() {
    let plane = Plane::start().await;
    let agent =
        workspace_recovery::local::AgentSpec { startup_script: "echo starting".to_owned(), ..agent("main") };
    let template = plane.template(version(vec![agent])).await;
    let file = "01-setup-create-workspace";
    let created =
        plane.post("/api/v2/users/me/workspaces", json!({"name": "dev", "template_id": template})).await;
    let real = recorded(file, 17, "POST /users/me/workspaces");
    conforms(&created, &real, WORKSPACE);
    has_fields(&created.body["latest_build"], &real.body["latest_build"], BUILD);
    let workspace = created.body["id"].as_str().unwrap();
    let build = created.body["latest_build"]["id"].as_str().unwrap();
    plane.ended(build).await;
    plane.agent_until(workspace, "ready", |agent| agent["lifecycle_state"] == "ready").await;

    let real = recorded("02-agent-lifecycle", 8, "GET /workspaces/");
    let read = plane.get(&format!("/api/v2/workspaces/{workspace}")).await;
    conforms(&read, &real, WORKSPACE);
    has_fields(&read.body["latest_build"], &real.body["latest_build"], BUILD);
    has_fields(&agents_of(&read.body)[0], &agents_of(&real.body)[0], AGENT);
    let by_name = plane.get("/api/v2/users/owner/workspace/dev").await;
    conforms(&by_name, &recorded(file, 22, "GET /users/owner/workspace/dev"), WORKSPACE);
    let by_number = plane.get("/api/v2/users/me/workspace/dev/builds/1").await;
    conforms(&by_number, &recorded(file, 23, "GET /builds/1"), BUILD);
    conforms(
        &plane.get(&format!("/api/v2/workspacebuilds/{build}")).await,
        &recorded(file, 20, "GET /workspacebuilds"),
        BUILD,
    );
    let list = plane.get(&format!("/api/v2/workspaces/{workspace}/builds")).await;
    conforms(&list, &recorded(file, 24, "GET /builds"), &["/0/id", "/0/build_number", "/0/job/status"]);

    let id = agents_of(&read.body)[0]["id"].as_str().unwrap().to_owned();
    let by_id = plane.get(&format!("/api/v2/workspaceagents/{id}")).await;
    conforms(&by_id, &recorded("02-agent-lifecycle", 9, "GET /workspaceagents"), AGENT);
    let real = recorded("02-agent-lifecycle", 10, "GET /logs");
    let logs = plane.get(&format!("/api/v2/workspaceagents/{id}/logs")).await;
    conforms(&logs, &real, &[]);
    has_fields(&logs.body[0], &real.body[0], AGENT_LOG_LINE);
    let real = recorded("06-builds-that-fail", 4, "GET /logs");
    let logs = plane.get(&format!("/api/v2/workspacebuilds/{build}/logs")).await;
    conforms(&logs, &real, &[]);
    has_fields(&logs.body[0], &real.body[0], LOG_LINE);

    let taken =
        plane.post("/api/v2/users/me/workspaces", json!({"name": "dev", "template_id": template})).await;
    refuses(&taken, &recorded(file, 25, "POST /users/me/workspaces"));
    plane.end().await;
}

#[tokio::test]
async fn an_agent_that_has_not_connected_leaves_out_what_the_real_server_leaves_out() {
    let plane = Plane::start().await;
    let spec = workspace_recovery::local::AgentSpec { connects: false, ..agent("main") };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let ours = plane.agent(&workspace).await;
    let real = agents_of(&recorded("01-setup-create-workspace", 21, "GET /workspaces/").body).swap_remove(0);
    for key in ["first_connected_at", "last_connected_at", "disconnected_at", "started_at", "ready_at"] {
        assert!(real.get(key).is_none() && ours.get(key).is_none(), "{key}");
    }
    assert_eq!(ours["status"], real["status"]);
    assert_eq!(ours["lifecycle_state"], real["lifecycle_state"]);
    plane.end().await;
}

#[tokio::test]
async fn the_server_and_its_user_and_templates_have_the_recorded_shape() {
    let plane = Plane::start().await;
    let file = "01-setup-create-workspace";
    let health = plane.send(Method::GET, "/healthz", None, None).await;
    assert_eq!((health.status, &health.body), (200, &json!("OK")));
    let info = plane.send(Method::GET, "/api/v2/buildinfo", None, None).await;
    conforms(&info, &recorded(file, 1, "GET /buildinfo"), &["/version", "/deployment_id"]);
    let me = plane.get("/api/v2/users/me").await;
    conforms(&me, &recorded(file, 7, "GET /users/me"), &["/id", "/username", "/status"]);
    let list = plane.get("/api/v2/templates").await;
    conforms(&list, &recorded(file, 12, "GET /templates"), &["/0/id", "/0/name", "/0/active_version_id"]);
    let template = list.body[0]["id"].as_str().unwrap();
    let template = plane.get(&format!("/api/v2/templates/{template}")).await;
    let fields = ["/id", "/active_version_id", "/require_active_version", "/use_classic_parameter_flow"];
    conforms(&template, &recorded(file, 13, "GET /templates/"), &fields);
    let version = template.body["active_version_id"].as_str().unwrap();
    let ours = plane.get(&format!("/api/v2/templateversions/{version}")).await;
    conforms(&ours, &recorded(file, 14, "GET /templateversions/"), &["/id", "/template_id", "/archived"]);
    let search = plane.get("/api/v2/workspaces?q=owner:me").await;
    conforms(&search, &recorded("16-search", 0, "GET /workspaces"), &["/workspaces", "/count"]);
    plane.end().await;
}

#[tokio::test]
async fn a_new_build_a_conflict_and_bad_requests_are_as_recorded() {
    let plane = Plane::start().await;
    let stop =
        BuildSpec { duration_ms: Some(3_600_000), on_cancel: OnCancel::Ignore, ..BuildSpec::default() };
    let template = plane.template(VersionSpec { stop, ..VersionSpec::default() }).await;
    let workspace = plane.workspace(&template).await;
    let path = format!("/api/v2/workspaces/{workspace}/builds");
    let file = "05-stop-start-conflicts";
    let bad = plane.post(&path, json!({"transition": "restart"})).await;
    refuses(&bad, &recorded(file, 44, "POST /builds"));
    refuses(&plane.post(&path, json!({})).await, &recorded(file, 45, "POST /builds"));
    let token = plane.running().token().to_owned();
    let garbage = plane.send(Method::POST, &path, Some("{bad".to_owned()), Some(&token)).await;
    refuses(&garbage, &recorded(file, 46, "POST /builds"));
    let version = json!({"transition": "stop", "template_version_id": new_reconnect()});
    refuses(&plane.post(&path, version).await, &recorded(file, 47, "POST /builds"));
    let reason = json!({"transition": "start", "reason": "nonsense"});
    refuses(&plane.post(&path, reason).await, &recorded(file, 49, "POST /builds"));

    let posted = plane.post(&path, json!({"transition": "stop", "unknown_field": 1})).await;
    conforms(&posted, &recorded(file, 7, "POST /builds"), BUILD);
    refuses(&plane.post(&path, json!({"transition": "stop"})).await, &recorded(file, 10, "POST /builds"));

    let build = posted.body["id"].as_str().unwrap();
    until("it runs", SOON, async || {
        let build = plane.get(&format!("/api/v2/workspacebuilds/{build}")).await.body;
        (build["job"]["status"] == "running").then_some(())
    })
    .await;
    let cancel = async |query: &str| {
        let path = format!("/api/v2/workspacebuilds/{build}/cancel{query}");
        plane.send(Method::PATCH, &path, None, Some(&token)).await
    };
    refuses(&cancel("?expect_status=pending").await, &recorded("07-cancel", 2, "PATCH /cancel"));
    refuses(&cancel("?expect_status=bogus").await, &recorded("07-cancel", 3, "PATCH /cancel"));
    conforms(
        &cancel("?expect_status=running").await,
        &recorded("07-cancel", 4, "PATCH /cancel"),
        &["/message"],
    );
    refuses(&cancel("").await, &recorded("07-cancel", 20, "PATCH /cancel"));
    refuses(
        &plane.post(&path, json!({"transition": "stop"})).await,
        &recorded("07-cancel", 21, "POST /builds"),
    );
    let ended = plane.ended(build).await;
    let real = recorded("07-cancel", 8, "GET /workspacebuilds");
    same_types(&ended, &real.body, "");
    has_fields(
        &ended,
        &real.body,
        &["/job/error", "/job/canceled_at", "/job/completed_at", "/job/started_at"],
    );
    assert_eq!(ended["job"]["status"], real.body["job"]["status"]);
    refuses(&cancel("").await, &recorded("07-cancel", 9, "PATCH /cancel"));
    plane.end().await;
}

#[tokio::test]
async fn what_is_deleted_missing_malformed_or_not_allowed_is_refused_as_recorded() {
    let plane = Plane::start().await;
    let file = "08-deleted-missing-forbidden";
    let deleted = plane.workspace("shell").await;
    plane.built(&deleted, "delete").await;
    refuses(
        &plane.get(&format!("/api/v2/workspaces/{deleted}")).await,
        &recorded(file, 5, "GET /workspaces/"),
    );
    let seen = plane.get(&format!("/api/v2/workspaces/{deleted}?include_deleted=true")).await;
    conforms(&seen, &recorded(file, 6, "GET /workspaces/"), WORKSPACE);

    let nobody = new_reconnect();
    for (index, path) in [
        (17, format!("/api/v2/workspaces/{nobody}")),
        (18, "/api/v2/workspaces/not-a-uuid".to_owned()),
        (20, format!("/api/v2/workspacebuilds/{nobody}")),
        (21, "/api/v2/workspacebuilds/not-a-uuid".to_owned()),
        (23, format!("/api/v2/workspaceagents/{nobody}")),
        (24, "/api/v2/workspaceagents/not-a-uuid".to_owned()),
        (25, format!("/api/v2/templates/{nobody}")),
        (26, format!("/api/v2/templateversions/{nobody}")),
        (27, "/api/v2/users/me/workspace/nosuch".to_owned()),
        (28, "/api/v2/users/nosuch/workspace/dev".to_owned()),
        (29, "/api/v2/nosuchroute".to_owned()),
    ] {
        refuses(&plane.get(&path).await, &recorded(file, index, "GET /api/v2"));
    }
    let stop = json!({"transition": "stop"});
    let unknown = plane.post(&format!("/api/v2/workspaces/{nobody}/builds"), stop.clone()).await;
    refuses(&unknown, &recorded(file, 19, "POST /builds"));
    assert_eq!(
        u64::from(plane.get("/nosuchroute").await.status),
        recorded(file, 30, "GET /nosuchroute").status
    );

    let workspace = plane.workspace("shell").await;
    let path = format!("/api/v2/workspaces/{workspace}");
    refuses(&plane.send(Method::GET, &path, None, None).await, &recorded(file, 31, "GET /workspaces"));
    refuses(&plane.send(Method::GET, &path, None, Some("x-y")).await, &recorded(file, 34, "GET /workspaces"));
    plane.admin().set_dormant(&workspace, true).await.unwrap();
    let start = plane.post(&format!("{path}/builds"), json!({"transition": "start"})).await;
    refuses(&start, &recorded(file, 58, "POST /builds"));
    plane.end().await;
}

#[tokio::test]
async fn parameters_are_as_recorded() {
    let plane = Plane::start().await;
    let region = ParameterSpec { name: "region".to_owned(), required: true, ..ParameterSpec::default() };
    let template = plane.template(VersionSpec { parameters: vec![region], ..VersionSpec::default() }).await;
    let body = json!({"name": "missing", "template_id": template});
    let refused = plane.post("/api/v2/users/me/workspaces", body).await;
    refuses(&refused, &recorded("09-parameters", 68, "POST /workspaces"));
    let values = [("region".to_owned(), "eu".to_owned())];
    let created = plane.admin().create_workspace("given", &template, &values).await.unwrap();
    let read = plane.read(&created.id).await;
    let version = read["latest_build"]["template_version_id"].as_str().unwrap();
    let ours = plane.get(&format!("/api/v2/templateversions/{version}/rich-parameters")).await;
    let real = recorded("09-parameters", 1, "GET /rich-parameters");
    conforms(&ours, &real, &[]);
    has_fields(&ours.body[0], &real.body[0], PARAMETER);
    let ours = plane.get(&format!("/api/v2/workspacebuilds/{}/parameters", created.build_id)).await;
    conforms(&ours, &recorded("09-parameters", 22, "GET /parameters"), &["/0/name", "/0/value"]);
    plane.end().await;
}

#[tokio::test]
async fn refused_terminals_are_as_recorded() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let path = |agent: &str, query: &str| format!("/api/v2/workspaceagents/{agent}/pty{query}");
    let reconnect = format!("?reconnect={}", new_reconnect());
    refuses(&plane.get(&path(&agent, "?reconnect=nope")).await, &recorded("12-pty", 11, "GET /pty"));
    refuses(&plane.get(&path(&agent, "")).await, &recorded("12-pty", 12, "GET /pty"));
    let stranger = plane.send(Method::GET, &path(&agent, &reconnect), None, None).await;
    refuses(&stranger, &recorded("12-pty", 13, "GET /pty"));
    let file = "12b-pty-dead-and-hung";
    for (index, agent) in [(0, new_reconnect()), (1, "not-a-uuid".to_owned())] {
        let ours = plane.get(&path(&agent, &reconnect)).await;
        assert_eq!(u64::from(ours.status), recorded(file, index, "GET /pty").status);
        assert!(ours.content_type.starts_with("text/html"), "{}", ours.content_type);
    }
    let ours = plane.get(&path(&agent, &reconnect)).await;
    assert_eq!(u64::from(ours.status), recorded(file, 36, "GET /pty").status);
    plane.end().await;
}

#[tokio::test]
async fn refused_streams_and_logs_are_as_recorded() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let read = plane.read(&workspace).await;
    let agent = agents_of(&read)[0]["id"].as_str().unwrap().to_owned();
    let build = read["latest_build"]["id"].as_str().unwrap();
    let file = "11-watch-events";
    for (index, path) in [
        (51, format!("workspaceagents/{agent}/logs?after=-1")),
        (62, format!("workspaces/{}/watch-ws", new_reconnect())),
    ] {
        refuses(&plane.get(&format!("/api/v2/{path}")).await, &recorded(file, index, "GET /api/v2"));
    }
    for (index, path) in [
        (53, format!("workspacebuilds/{build}/logs?follow=true")),
        (61, format!("workspaces/{workspace}/watch-ws")),
    ] {
        let ours = plane.get(&format!("/api/v2/{path}")).await;
        assert_eq!(u64::from(ours.status), recorded(file, index, "GET /api/v2").status, "{path}");
    }
    plane.end().await;
}
