//! What is said of an agent: alive, killed, hung, back, never there.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;
use workspace_recovery::local::{AgentSignal, AgentSpec, LocalTimings};

use super::support::*;

/// Long enough that several things can be done between two heartbeats on a slow machine.
const UNHURRIED: u32 = 4;

fn id(agent: &Value) -> String {
    agent["id"].as_str().unwrap().to_owned()
}

async fn unhurried() -> Plane {
    Plane::start_with(|options| options.timings = LocalTimings::shortened(UNHURRIED)).await
}

#[tokio::test]
async fn a_started_workspace_has_an_agent_that_connects_and_becomes_ready() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let read = plane.read(&workspace).await;
    let agent = agents_of(&read).swap_remove(0);
    assert_eq!(read["latest_build"]["status"], "running");
    assert_eq!(read["health"]["healthy"], true);
    assert_eq!(agent["status"], "connected");
    assert!(agent.get("disconnected_at").is_none(), "absent, not null");
    assert!(seconds(&agent["ready_at"]) >= seconds(&agent["started_at"]));
    plane.end().await;
}

#[tokio::test]
async fn a_killed_agent_reads_disconnected_at_once_while_its_workspace_reads_running() {
    // With real timings nothing but the end of the connection can be that quick.
    let plane = Plane::start_with(|options| {
        options.timings = LocalTimings { build: Duration::ZERO, ..LocalTimings::default() };
    })
    .await;
    let workspace = plane.ready_workspace().await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    let killed = Instant::now();
    let agent =
        plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert!(killed.elapsed() < timings().heartbeat * 5, "{:?}", killed.elapsed());
    assert!(
        seconds(&agent["disconnected_at"]) > seconds(&agent["last_connected_at"]),
        "recorded, not inferred"
    );
    assert_eq!(agent["lifecycle_state"], "ready");
    assert_eq!(agent["health"]["healthy"], false);
    let read = plane.read(&workspace).await;
    assert_eq!(read["latest_build"]["status"], "running");
    assert_eq!(read["health"]["failing_agents"], serde_json::json!([agent["id"]]));
    plane.end().await;
}

#[tokio::test]
async fn a_hung_agent_reads_connected_for_one_to_two_heartbeats_more() {
    let plane = unhurried().await;
    let heartbeat = LocalTimings::shortened(UNHURRIED).heartbeat;
    let workspace = plane.ready_workspace().await;
    let before = plane.agent(&workspace).await;
    let hung = Instant::now();
    plane.signal(&workspace, AgentSignal::Stop).await;
    let agent =
        plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    let took = hung.elapsed();
    assert!(took >= heartbeat && took < heartbeat * 2 + Duration::from_secs(2), "{took:?}");
    let moved = seconds(&agent["last_connected_at"]) - seconds(&before["last_connected_at"]);
    assert!(moved > 0.0, "the server notes a heartbeat before it waits for the answer");
    assert!(seconds(&agent["disconnected_at"]) > seconds(&agent["last_connected_at"]));
    plane.signal(&workspace, AgentSignal::Cont).await;
    plane.agent_until(&workspace, "connected again", |agent| agent["status"] == "connected").await;
    plane.end().await;
}

#[tokio::test]
async fn an_agent_that_came_back_reads_connected_with_its_old_disconnect_until_the_next_heartbeat() {
    let plane = unhurried().await;
    let workspace = plane.ready_workspace().await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    let gone = plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    let mut process = plane.restart_agent(&id(&gone));
    let back = plane.agent_until(&workspace, "connected", |agent| agent["status"] == "connected").await;
    assert_eq!(back["disconnected_at"], gone["disconnected_at"]);
    plane
        .agent_until(&workspace, "the old disconnect is cleared", |agent| {
            agent.get("disconnected_at").is_none()
        })
        .await;
    process.kill().unwrap();
    process.wait().unwrap();
    plane.end().await;
}

#[tokio::test]
async fn an_agent_killed_soon_after_it_came_back_reads_connected_until_it_is_inferred_gone() {
    let plane = unhurried().await;
    let inactive = LocalTimings::shortened(UNHURRIED).inactive;
    let workspace = plane.ready_workspace().await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    let gone = plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    let mut process = plane.restart_agent(&id(&gone));
    plane.agent_until(&workspace, "connected", |agent| agent["status"] == "connected").await;
    process.kill().unwrap();
    process.wait().unwrap();
    let killed = Instant::now();
    throughout("a dead agent reads connected", inactive / 2, async || {
        let agent = plane.agent(&workspace).await;
        agent["status"] == "connected" && agent["disconnected_at"] == gone["disconnected_at"]
    })
    .await;
    let agent =
        plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert_eq!(agent["disconnected_at"], agent["last_connected_at"], "inferred");
    assert!(killed.elapsed() < inactive + Duration::from_secs(2));
    plane.end().await;
}

#[tokio::test]
async fn a_crash_loop_faster_than_the_heartbeat_never_reads_disconnected() {
    let plane = Plane::start_with(|options| {
        options.timings = LocalTimings { build: Duration::ZERO, ..LocalTimings::default() };
    })
    .await;
    let workspace = plane.ready_workspace().await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    let mut agent = plane.agent_until(&workspace, "gone", |agent| agent["status"] == "disconnected").await;
    let first = agent["disconnected_at"].clone();
    for round in 0..4 {
        let mut process = plane.restart_agent(&id(&agent));
        let before = agent["last_connected_at"].clone();
        agent = until("it connects again", SOON, async || {
            let agent = plane.agent(&workspace).await;
            assert!(round == 0 || agent["status"] == "connected", "round {round}: {agent}");
            (agent["last_connected_at"] != before).then_some(agent)
        })
        .await;
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let agent = plane.agent(&workspace).await;
    assert_eq!((&agent["status"], &agent["disconnected_at"]), (&"connected".into(), &first));
    plane.end().await;
}

#[tokio::test]
async fn an_agent_told_to_end_shuts_down_and_reads_off() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let pid = pid_of(&plane, &id(&plane.agent(&workspace).await));
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
    let agent =
        plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert_eq!(agent["lifecycle_state"], "off");
    assert_eq!(agent["health"]["healthy"], false);
    until("its process is gone", SOON, async || (!lives(pid)).then_some(())).await;
    plane.end().await;
}

#[tokio::test]
async fn a_failing_startup_script_gives_start_error_and_its_output_in_the_log() {
    let plane = Plane::start().await;
    let script = "echo installing; echo boom >&2; exit 3".to_owned();
    let spec = AgentSpec { startup_script: script, ..AgentSpec::default() };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let agent = plane.agent_until(&workspace, "start_error", |a| a["lifecycle_state"] == "start_error").await;
    assert_eq!(agent["status"], "connected");
    assert_eq!(agent["health"]["healthy"], false);
    let path = format!("/api/v2/workspaceagents/{}/logs", id(&agent));
    let lines = until("both lines are logged", SOON, async || {
        let lines = plane.get(&path).await.body;
        (lines.as_array().unwrap().len() == 2).then_some(lines)
    })
    .await;
    let mut lines: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| format!("{} {}", line["level"].as_str().unwrap(), line["output"].as_str().unwrap()))
        .collect();
    lines.sort();
    assert_eq!(lines, ["error boom", "info installing"]);
    plane.end().await;
}

#[tokio::test]
async fn a_slow_startup_script_reads_start_timeout_healthy_and_may_still_become_ready() {
    let plane = Plane::start().await;
    let script = "while [ ! -e go ]; do sleep 0.05; done".to_owned();
    let spec = AgentSpec { startup_script: script, script_timeout_seconds: 1, ..AgentSpec::default() };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let agent = plane.agent_until(&workspace, "late", |a| a["lifecycle_state"] == "start_timeout").await;
    assert_eq!(agent["health"]["healthy"], true);
    std::fs::write(plane.folder().join("homes").join(&workspace).join("go"), "").unwrap();
    plane.agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready").await;
    plane.end().await;
}

#[tokio::test]
async fn an_agent_that_never_connects_reads_timeout_only_where_its_template_has_a_limit() {
    let plane = Plane::start().await;
    let never = |name: &str, connection_timeout_seconds| AgentSpec {
        connects: false,
        connection_timeout_seconds,
        ..agent(name)
    };
    let template = plane.template(version(vec![never("limited", 1), never("patient", 0)])).await;
    let workspace = plane.workspace(&template).await;
    let agents = agents_of(&plane.read(&workspace).await);
    assert!(agents.iter().all(|agent| agent["status"] == "connecting"));
    assert!(agents.iter().all(|agent| agent["health"]["healthy"] == true));
    plane.agent_until(&workspace, "timeout", |agent| agent["status"] == "timeout").await;
    let agents = agents_of(&plane.read(&workspace).await);
    assert_eq!(agents[0]["health"]["healthy"], false);
    assert_eq!(agents[1]["status"], "connecting");

    let mut late = plane.restart_agent(&id(&agents[0]));
    plane.agent_until(&workspace, "a late agent connects", |agent| agent["status"] == "connected").await;
    late.kill().unwrap();
    late.wait().unwrap();
    plane.end().await;
}

#[tokio::test]
async fn an_external_agent_gets_no_process_and_is_marked_by_its_resource_and_its_build() {
    let plane = Plane::start().await;
    let spec = AgentSpec { external: true, ..agent("laptop") };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let build = &plane.read(&workspace).await["latest_build"];
    assert_eq!(build["has_external_agent"], true);
    assert_eq!(build["resources"][0]["type"], "coder_external_agent");
    assert_eq!(build["resources"][0]["agents"][0]["status"], "connecting");
    let refused = plane.admin().signal_agent(&workspace, None, AgentSignal::Kill).await.unwrap_err();
    assert!(refused.to_string().contains("no process"), "{refused}");
    plane.end().await;
}
