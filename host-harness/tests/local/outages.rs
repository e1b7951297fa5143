//! The server goes away and comes back; agents and builds live through it.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use workspace_recovery::local::{AgentSignal, BuildSpec, LocalControlPlane, LocalError, VersionSpec};

use super::support::*;

fn agents_live_on(options: &mut workspace_recovery::local::LocalOptions) {
    options.stop_agents_on_exit = false;
}

/// Away for so long that an agent's last heartbeat is too old.
async fn stay_away() {
    // What is under test is that time has passed; nothing happens in it that could be awaited.
    sleep(timings().inactive + Duration::from_millis(200)).await;
}

#[tokio::test]
async fn after_an_outage_a_healthy_agent_first_reads_disconnected_by_inference_and_then_returns_by_itself() {
    // No agent comes back before the first read.
    let slow = |options: &mut workspace_recovery::local::LocalOptions| {
        agents_live_on(options);
        options.timings.reconnect_first = Duration::from_secs(8);
        options.timings.reconnect_most = Duration::from_secs(8);
    };
    let mut plane = Plane::start_with(slow).await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &agent);
    let token = plane.running().token().to_owned();
    plane.away().await;
    assert!(lives(pid), "agents outlive the server");
    stay_away().await;

    plane.back(|_| {}).await;
    assert_eq!(plane.running().token(), token);
    let first = plane.agent(&workspace).await;
    assert_eq!(first["status"], "disconnected");
    assert_eq!(first["disconnected_at"], first["last_connected_at"], "inferred, though the agent is fine");
    let back = plane.agent_until(&workspace, "back", |agent| agent["status"] == "connected").await;
    assert_eq!((&back["id"], &back["lifecycle_state"]), (&agent.as_str().into(), &"ready".into()));
    assert_eq!(pid_of(&plane, &agent), pid, "the same process");
    plane.end().await;
    assert!(!lives(pid), "ended at exit where that was asked for");
}

#[tokio::test]
async fn a_server_that_comes_back_uses_its_old_port_while_nobody_else_has_taken_it() {
    let mut plane = Plane::start().await;
    let mut kept = false;
    // Another program of this machine may take the port for a moment.
    for _ in 0..3 {
        let url = plane.running().url().to_owned();
        plane.away().await;
        plane.back(|_| {}).await;
        kept |= plane.running().url() == url;
    }
    assert!(kept);
    plane.end().await;
}

#[tokio::test]
async fn a_folder_that_was_never_served_has_its_address_and_token_ahead_and_is_not_served_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new");
    let (one, two) = tokio::join!(LocalControlPlane::will_serve(&data), LocalControlPlane::will_serve(&data));
    let ahead = one.unwrap();
    assert_eq!((two.unwrap(), ahead.pid), (ahead.clone(), 0), "the same for all, and nobody's");
    assert_eq!(LocalControlPlane::find(&data).await.unwrap(), None);
    let plane = LocalControlPlane::start(options(&data)).await.unwrap();
    assert_eq!((plane.token(), plane.endpoint().pid), (&*ahead.token, std::process::id()));
    assert_eq!(LocalControlPlane::will_serve(&data).await.unwrap(), *plane.endpoint());
    plane.shutdown().await;
}

#[tokio::test]
async fn the_address_of_a_folder_whose_first_server_just_starts_is_that_servers() {
    let folder = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(folder.path().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let starts = async {
        let served = serde_json::json!({ "url": url, "token": "its own", "pid": std::process::id() });
        // After the first look: both are polled in turn.
        tokio::task::yield_now().await;
        std::fs::write(folder.path().join("server.new"), served.to_string()).unwrap();
        std::fs::rename(folder.path().join("server.new"), folder.path().join("server.json")).unwrap();
    };
    let (will_serve, ()) = tokio::join!(LocalControlPlane::will_serve(folder.path()), starts);
    assert_eq!(will_serve.unwrap().url, url);
}

#[tokio::test]
async fn an_orderly_restart_that_is_quick_shows_nothing() {
    let mut plane = Plane::start_with(|options| {
        agents_live_on(options);
        options.timings.inactive = Duration::from_secs(30);
    })
    .await;
    let workspace = plane.ready_workspace().await;
    plane.away().await;
    plane.back(|options| options.timings.inactive = Duration::from_secs(30)).await;
    throughout("the agent reads connected", Duration::from_secs(1), async || {
        let agent = plane.agent(&workspace).await;
        agent["status"] == "connected" && agent.get("disconnected_at").is_none()
    })
    .await;
    plane.end().await;
}

#[tokio::test]
async fn an_agent_killed_while_the_server_was_away_is_found_dead_by_inference_only() {
    let mut plane = Plane::start_with(agents_live_on).await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &agent);
    plane.away().await;
    let raw = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    plane.back(|_| {}).await;
    let gone = plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert_eq!(gone["disconnected_at"], gone["last_connected_at"]);
    let refused = plane.admin().signal_agent(&workspace, None, AgentSignal::Kill).await;
    assert!(refused.is_err(), "a dead process is not signalled");
    plane.end().await;
}

#[tokio::test]
async fn an_agent_that_is_not_wanted_any_more_when_the_server_returns_ends_itself() {
    let mut plane = Plane::start_with(agents_live_on).await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &agent);
    plane.away().await;
    let db = Connection::open(plane.folder().join("control.db")).unwrap();
    db.execute("UPDATE agents SET retired = 1 WHERE id = ?", [&agent]).unwrap();
    drop(db);
    plane.back(|_| {}).await;
    until("it ends itself", SOON, async || (!lives(pid)).then_some(())).await;
    plane.end().await;
}

#[tokio::test]
async fn an_agent_whose_control_plane_was_removed_ends_itself() {
    let mut plane = Plane::start_with(agents_live_on).await;
    let workspace = plane.ready_workspace().await;
    let pid = pid_of(&plane, plane.agent(&workspace).await["id"].as_str().unwrap());
    plane.away().await;
    std::fs::remove_dir_all(plane.folder()).unwrap();
    until("it ends itself", SOON, async || (!lives(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_build_that_ran_when_the_server_ended_is_failed_and_a_waiting_one_goes_on() {
    let mut plane = Plane::start_with(|options| options.provisioners = 1).await;
    let stop = BuildSpec { duration_ms: Some(3_600_000), ..BuildSpec::default() };
    let template = plane.template(VersionSpec { stop, ..VersionSpec::default() }).await;
    let slow = plane.workspace(&template).await;
    let quick = plane.workspace("shell").await;
    let running = plane.build(&slow, "stop").await;
    until("it runs", SOON, async || {
        let build = plane.get(&format!("/api/v2/workspacebuilds/{running}")).await.body;
        (build["job"]["status"] == "running").then_some(())
    })
    .await;
    let waiting = plane.build(&quick, "stop").await;
    plane.away().await;
    plane.back(|_| {}).await;
    assert_eq!(plane.ended(&running).await["job"]["status"], "failed");
    assert_eq!(plane.ended(&waiting).await["status"], "stopped");
    plane.end().await;
}

#[tokio::test]
async fn one_folder_has_one_server_and_a_second_one_is_told_of_the_first() {
    let mut plane = Plane::start().await;
    let first = plane.running().endpoint().clone();
    match LocalControlPlane::start(options(plane.folder())).await {
        Err(LocalError::AlreadyServed { endpoint, .. }) => assert_eq!(endpoint, first),
        other => panic!("{other:?}"),
    }
    assert_eq!(LocalControlPlane::find(plane.folder()).await.unwrap(), Some(first));
    plane.away().await;
    assert_eq!(LocalControlPlane::find(plane.folder()).await.unwrap(), None);
    assert_eq!(LocalControlPlane::find(&plane.folder().join("nowhere")).await.unwrap(), None);
}

#[tokio::test]
async fn shutting_down_takes_no_time_although_streams_are_open() {
    let mut plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let _watch = plane.websocket(&format!("/api/v2/workspaces/{workspace}/watch-ws")).await.unwrap();
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let mut terminal = plane.terminal(&agent, &new_reconnect(), "echo open; cat").await.unwrap();
    read_until(&mut terminal, "open").await;
    let begun = Instant::now();
    plane.away().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn secrets_are_readable_by_their_owner_only_and_not_in_any_argument() {
    use std::os::unix::fs::PermissionsExt;
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let folder = plane.folder().join("agents").join(&agent);
    for file in [plane.folder().join("server.json"), folder.join("config.json")] {
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", pid_of(&plane, &agent))).unwrap();
    assert!(!command.contains(config["token"].as_str().unwrap()));
    assert!(!format!("{:?}", plane.running()).contains(plane.running().token()), "nor in a debug output");
    plane.end().await;
}
