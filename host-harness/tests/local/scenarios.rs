//! The recorded scenarios, gone through once more: in each state the local control plane says of build, job, health and
//! agents what the real server said, and leaves out what that left out.

use serde_json::{Value, json};
use workspace_recovery::local::{AgentSignal, AgentSpec, BuildSpec, LocalTimings, OnCancel, VersionSpec};

use rustix::process::{Pid, Signal, kill_process};

use super::support::*;

/// Times of an agent that are absent until there is a value.
const AGENT_TIMES: [&str; 5] =
    ["first_connected_at", "last_connected_at", "disconnected_at", "started_at", "ready_at"];
/// Fields of a job that are absent until there is a value.
const JOB_FIELDS: [&str; 5] = ["error", "error_code", "started_at", "completed_at", "canceled_at"];

/// The recorded state of a workspace: a whole answer, or a poll of which the status fields were kept.
fn recorded(file: &str, index: usize) -> Value {
    let path = format!("{}/tests/transcripts/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let transcript: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let response = &transcript["exchanges"][index]["response"];
    match response.get("body_excerpt") {
        Some(excerpt) => excerpt.clone(),
        None => response["body"].clone(),
    }
}

/// What a client decides by. `whole`: with the fields that polls were recorded without.
fn state(workspace: &Value, whole: bool) -> Value {
    let excerpt = workspace.get("latest_build").is_none();
    let (build, agents) = if excerpt {
        let field = |name: &str| workspace[format!("latest_build.{name}")].clone();
        let job = json!({ "status": field("job.status") });
        let build = json!({ "status": field("status"), "transition": field("transition"), "job": job });
        (build, workspace["agents"].as_array().unwrap().clone())
    } else {
        (workspace["latest_build"].clone(), agents_of(workspace))
    };
    let present = |value: &Value, fields: &[&str]| -> Vec<String> {
        let there = fields.iter().filter(|field| value.get(**field).is_some());
        there.map(|field| (*field).to_owned()).collect()
    };
    let agents: Vec<_> = agents
        .iter()
        .map(|agent| {
            json!({
                "status": agent["status"],
                "lifecycle_state": agent["lifecycle_state"],
                "healthy": agent["health"]["healthy"],
                "reason": agent["health"].get("reason").is_some(),
                "times": present(agent, &AGENT_TIMES),
            })
        })
        .collect();
    json!({
        "status": build["status"],
        "transition": build["transition"],
        "job": build["job"]["status"],
        "job_fields": whole.then(|| present(&build["job"], &JOB_FIELDS)),
        "healthy": workspace["health"]["healthy"],
        "failing": workspace["health"]["failing_agents"].as_array().map(Vec::len),
        "agents": agents,
    })
}

/// Waits until the workspace reads as recorded.
async fn reads_like(plane: &Plane, workspace: &str, file: &str, index: usize) -> Value {
    let real = recorded(file, index);
    let whole = real.get("latest_build").is_some();
    let wanted = state(&real, whole);
    let mut last = Value::Null;
    let read = tokio::time::timeout(SOON, async {
        loop {
            let read = plane.read(workspace).await;
            last = state(&read, whole);
            if last == wanted {
                return read;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    read.unwrap_or_else(|_| panic!("{file} {index}: wanted {wanted:#}, last read {last:#}"))
}

async fn made(plane: &Plane, version: VersionSpec) -> String {
    let template = plane.template(version).await;
    let name = format!("w{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    plane.admin().create_workspace(&name, &template, &[]).await.unwrap().id
}

async fn cancel(plane: &Plane, workspace: &str) {
    let build = plane.read(workspace).await["latest_build"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v2/workspacebuilds/{build}/cancel");
    let token = plane.running().token().to_owned();
    assert_eq!(plane.send(reqwest::Method::PATCH, &path, None, Some(&token)).await.status, 200);
}

#[tokio::test]
async fn in_02_scripts_run_end_fail_and_take_long() {
    let plane = Plane::start().await;
    let script = "while [ ! -e go ]; do sleep 0.05; done".to_owned();
    let slow =
        made(&plane, version(vec![AgentSpec { startup_script: script, ..AgentSpec::default() }])).await;
    reads_like(&plane, &slow, "02-agent-lifecycle", 6).await;
    std::fs::write(plane.folder().join("homes").join(&slow).join("go"), "").unwrap();
    reads_like(&plane, &slow, "02-agent-lifecycle", 8).await;
    let spec = AgentSpec { startup_script: "exit 3".to_owned(), ..AgentSpec::default() };
    let bad = made(&plane, version(vec![spec])).await;
    reads_like(&plane, &bad, "02-agent-lifecycle", 17).await;
    let spec = AgentSpec {
        startup_script: "sleep 600".to_owned(),
        script_timeout_seconds: 1,
        ..AgentSpec::default()
    };
    let late = made(&plane, version(vec![spec])).await;
    reads_like(&plane, &late, "02-agent-lifecycle", 25).await;
    plane.end().await;
}

#[tokio::test]
async fn in_03_agents_are_killed_hang_and_end() {
    // Slow enough that a killed agent's reconnect falls between two heartbeats.
    let plane = Plane::start_with(|options| options.timings = LocalTimings::shortened(4)).await;
    let killed = made(&plane, version(vec![agent("main")])).await;
    reads_like(&plane, &killed, "03a-agent-killed", 7).await;
    plane.signal(&killed, AgentSignal::Kill).await;
    let gone = reads_like(&plane, &killed, "03a-agent-killed", 14).await;
    let id = agents_of(&gone)[0]["id"].as_str().unwrap().to_owned();
    let mut process = plane.restart_agent(&id);
    reads_like(&plane, &killed, "03a-agent-killed", 58).await;
    // Dead again, soon after it came back: the server notices by its silence only.
    process.kill().unwrap();
    process.wait().unwrap();
    let inferred = reads_like(&plane, &killed, "03d-agent-killed-soon-after-reconnect", 14).await;
    let agent_now = &agents_of(&inferred)[0];
    assert_eq!(agent_now["disconnected_at"], agent_now["last_connected_at"]);

    let hung = made(&plane, version(vec![agent("main")])).await;
    reads_like(&plane, &hung, "03b-agent-hung", 1).await;
    plane.signal(&hung, AgentSignal::Stop).await;
    reads_like(&plane, &hung, "03b-agent-hung", 25).await;
    plane.signal(&hung, AgentSignal::Cont).await;
    reads_like(&plane, &hung, "03b-agent-hung", 66).await;

    let ended = plane.ready_workspace().await;
    let id = plane.agent(&ended).await["id"].as_str().unwrap().to_owned();
    let pid = Pid::from_raw(pid_of(&plane, &id).cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    reads_like(&plane, &ended, "03c-agent-terminated", 9).await;
    plane.end().await;
}

#[tokio::test]
async fn in_04_and_17_agents_never_connect() {
    let plane = Plane::start().await;
    let spec = |seconds| AgentSpec { connects: false, connection_timeout_seconds: seconds, ..agent("main") };
    let limited = made(&plane, version(vec![spec(1)])).await;
    reads_like(&plane, &limited, "04-agent-never-connected", 9).await;
    let patient = made(&plane, version(vec![spec(0)])).await;
    reads_like(&plane, &patient, "04-agent-never-connected", 13).await;
    let external = made(&plane, version(vec![AgentSpec { external: true, ..agent("laptop") }])).await;
    let read = reads_like(&plane, &external, "17-external-agent", 3).await;
    let real = recorded("17-external-agent", 3);
    assert_eq!(read["latest_build"]["has_external_agent"], real["latest_build"]["has_external_agent"]);
    assert_eq!(read["latest_build"]["resources"][0]["type"], real["latest_build"]["resources"][0]["type"]);
    plane.end().await;
}

#[tokio::test]
async fn in_05_and_06_builds_stop_start_and_fail() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: Some(1_000), ..BuildSpec::default() };
    let workspace = made(&plane, VersionSpec { stop, ..version(vec![agent("main")]) }).await;
    reads_like(&plane, &workspace, "05-stop-start-conflicts", 6).await;
    plane.build(&workspace, "stop").await;
    reads_like(&plane, &workspace, "05-stop-start-conflicts", 12).await;
    reads_like(&plane, &workspace, "05-stop-start-conflicts", 16).await;

    let failure = || BuildSpec { failure: Some("no such image".to_owned()), ..BuildSpec::default() };
    let workspace = made(&plane, VersionSpec { start: failure(), ..VersionSpec::default() }).await;
    reads_like(&plane, &workspace, "06-builds-that-fail", 3).await;
    let workspace = made(&plane, VersionSpec { stop: failure(), ..version(vec![agent("main")]) }).await;
    plane.agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready").await;
    plane.build(&workspace, "stop").await;
    reads_like(&plane, &workspace, "06-builds-that-fail", 15).await;
    plane.end().await;
}

#[tokio::test]
async fn in_07_and_10_builds_are_cancelled_and_wait() {
    let plane = Plane::start().await;
    let start = |duration_ms, on_cancel| VersionSpec {
        start: BuildSpec { duration_ms: Some(duration_ms), on_cancel, ..BuildSpec::default() },
        ..version(vec![AgentSpec { connects: false, ..agent("main") }])
    };
    let runs = async |workspace: &str| {
        until("it runs", SOON, async || {
            (plane.read(workspace).await["latest_build"]["job"]["status"] == "running").then_some(())
        })
        .await;
    };
    let workspace = made(&plane, start(3_600_000, OnCancel::default())).await;
    runs(&workspace).await;
    cancel(&plane, &workspace).await;
    reads_like(&plane, &workspace, "07-cancel", 10).await;
    let workspace = made(&plane, start(3_600_000, OnCancel::Ignore)).await;
    runs(&workspace).await;
    cancel(&plane, &workspace).await;
    reads_like(&plane, &workspace, "07-cancel", 19).await;
    reads_like(&plane, &workspace, "07-cancel", 26).await;
    let workspace = made(&plane, start(2_000, OnCancel::Finish)).await;
    runs(&workspace).await;
    cancel(&plane, &workspace).await;
    reads_like(&plane, &workspace, "07b-cancel-too-late", 4).await;

    let workspace = plane.ready_workspace().await;
    plane.admin().set_provisioners(0).await.unwrap();
    plane.build(&workspace, "stop").await;
    let read = reads_like(&plane, &workspace, "10-no-provisioner", 4).await;
    let real = recorded("10-no-provisioner", 33);
    for field in ["count", "available", "most_recently_seen"] {
        let matched = |body: &Value| body["latest_build"]["matched_provisioners"][field].clone();
        assert_eq!(matched(&read), matched(&real), "{field}");
    }
    cancel(&plane, &workspace).await;
    reads_like(&plane, &workspace, "10-no-provisioner", 16).await;
    plane.end().await;
}
