//! Builds: accepted, refused, canceled, failed, queued.

use reqwest::Method;
use serde_json::{Value, json};
use workspace_recovery::local::{
    AgentSignal, AgentSpec, BuildSpec, LocalTimings, OnCancel, ParameterSpec, TemplateSpec, VersionSpec,
};

use super::support::*;

/// Builds take so long that nobody waits for one: they are canceled, or the plane ends.
const FOR_EVER: Option<u64> = Some(3_600_000);

fn job_status(build: &Value) -> &str {
    build["job"]["status"].as_str().unwrap()
}

/// A version whose stop builds go in a certain way.
fn stops(stop: BuildSpec) -> VersionSpec {
    VersionSpec { stop, ..VersionSpec::default() }
}

async fn cancel(plane: &Plane, build: &str, query: &str) -> Reply {
    let path = format!("/api/v2/workspacebuilds/{build}/cancel{query}");
    plane.send(Method::PATCH, &path, None, Some(plane.running().token())).await
}

async fn running(plane: &Plane, build: &str) {
    until("the build runs", SOON, async || {
        let read = plane.get(&format!("/api/v2/workspacebuilds/{build}")).await.body;
        (job_status(&read) == "running").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_the_agent_process_and_a_start_makes_a_new_agent() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let old = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &old);
    let stop = plane.built(&workspace, "stop").await;
    assert_eq!(stop["status"], "stopped");
    assert!(!lives(pid), "gone before the build has ended");
    assert_eq!(agents_of(&plane.read(&workspace).await), Vec::<Value>::new());
    assert_eq!(
        plane.get(&format!("/api/v2/workspaceagents/{old}")).await.status,
        200,
        "still readable by id"
    );

    plane.built(&workspace, "start").await;
    let new = plane.agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready").await;
    assert_ne!(new["id"], old.as_str());
    plane.end().await;
}

#[tokio::test]
async fn a_stop_when_stopped_and_a_start_when_running_are_new_builds() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let old = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &old);
    assert_eq!(plane.built(&workspace, "start").await["build_number"], 2);
    assert!(!lives(pid), "the process of the build before is ended first");
    assert_ne!(plane.agent(&workspace).await["id"], old.as_str());
    assert_eq!(plane.built(&workspace, "stop").await["build_number"], 3);
    assert_eq!(plane.built(&workspace, "stop").await["build_number"], 4);
    plane.end().await;
}

#[tokio::test]
async fn an_active_build_refuses_others_and_shows_no_resources_until_it_has_succeeded() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: FOR_EVER, on_cancel: OnCancel::Ignore, ..BuildSpec::default() };
    let workspace = plane.workspace(&plane.template(stops(stop)).await).await;
    plane.agent_until(&workspace, "connected", |agent| agent["status"] == "connected").await;
    let build = plane.build(&workspace, "stop").await;
    let latest = plane.read(&workspace).await["latest_build"].clone();
    assert_eq!(latest["id"], build.as_str());
    assert_eq!(latest["resources"], json!([]));
    assert!(latest.get("has_external_agent").is_none(), "unknown before the build has ended");

    let path = format!("/api/v2/workspaces/{workspace}/builds");
    let conflict = plane.post(&path, json!({"transition": "start"})).await;
    assert_eq!(conflict.status, 409);
    running(&plane, &build).await;
    assert_eq!(cancel(&plane, &build, "").await.status, 200);
    let read = plane.get(&format!("/api/v2/workspacebuilds/{build}")).await.body;
    assert_eq!(job_status(&read), "canceling");
    assert_eq!(plane.post(&path, json!({"transition": "stop"})).await.status, 409, "canceling is active too");
    plane.end().await;
}

#[tokio::test]
async fn of_simultaneous_requests_for_a_build_one_is_accepted() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: FOR_EVER, ..BuildSpec::default() };
    let workspace = plane.workspace(&plane.template(stops(stop)).await).await;
    let path = format!("/api/v2/workspaces/{workspace}/builds");
    let post = || plane.post(&path, json!({"transition": "stop"}));
    let replies = futures_util::future::join_all((0..8).map(|_| post())).await;
    let mut statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    plane.end().await;
}

#[tokio::test]
async fn a_canceled_running_build_ends_failed_with_the_cancel_marked() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: FOR_EVER, ..BuildSpec::default() };
    let workspace = plane.workspace(&plane.template(stops(stop)).await).await;
    let build = plane.build(&workspace, "stop").await;
    running(&plane, &build).await;
    assert_eq!(cancel(&plane, &build, "?expect_status=pending").await.status, 412);
    assert_eq!(cancel(&plane, &build, "?expect_status=bogus").await.status, 400);
    assert_eq!(cancel(&plane, &build, "?expect_status=running").await.status, 200);
    let ended = plane.ended(&build).await;
    assert_eq!(job_status(&ended), "failed");
    assert_eq!(ended["job"]["error"], "canceled");
    assert!(ended["job"]["canceled_at"].is_string());
    assert_eq!(cancel(&plane, &build, "").await.status, 400, "it has ended");
    plane.end().await;
}

#[tokio::test]
async fn a_build_that_ignores_its_cancel_is_given_up_as_failed() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: FOR_EVER, on_cancel: OnCancel::Ignore, ..BuildSpec::default() };
    let workspace = plane.workspace(&plane.template(stops(stop)).await).await;
    let build = plane.build(&workspace, "stop").await;
    running(&plane, &build).await;
    assert_eq!(cancel(&plane, &build, "").await.status, 200);
    assert_eq!(cancel(&plane, &build, "").await.status, 400, "it is being canceled");
    let ended = plane.ended(&build).await;
    let took = seconds(&ended["job"]["completed_at"]) - seconds(&ended["job"]["canceled_at"]);
    assert!(took >= timings().force_cancel.as_secs_f64(), "{took}");
    assert_eq!(job_status(&ended), "failed");
    plane.end().await;
}

#[tokio::test]
async fn a_build_canceled_too_late_ends_canceled_with_all_its_work_done() {
    let plane = Plane::start().await;
    let start = BuildSpec { duration_ms: Some(3_000), on_cancel: OnCancel::Finish, ..BuildSpec::default() };
    let template = plane.template(VersionSpec { start, ..VersionSpec::default() }).await;
    let created = plane.admin().create_workspace("late", &template, &[]).await.unwrap();
    running(&plane, &created.build_id).await;
    assert_eq!(cancel(&plane, &created.build_id, "").await.status, 200);
    let ended = plane.ended(&created.build_id).await;
    assert_eq!(job_status(&ended), "canceled");
    assert_eq!(ended["status"], "canceled");
    plane.agent_until(&created.id, "its agent connects", |agent| agent["status"] == "connected").await;
    plane.end().await;
}

#[tokio::test]
async fn a_build_canceled_while_it_waits_is_canceled_at_once_and_hides_the_agent_that_goes_on() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let agent = plane.agent(&workspace).await["id"].as_str().unwrap().to_owned();
    plane.admin().set_provisioners(0).await.unwrap();
    let build = plane.build(&workspace, "stop").await;
    assert_eq!(cancel(&plane, &build, "?expect_status=running").await.status, 412);
    assert_eq!(cancel(&plane, &build, "?expect_status=pending").await.status, 200);
    let read = plane.read(&workspace).await;
    assert_eq!(read["latest_build"]["status"], "canceled");
    assert_eq!(read["latest_build"]["resources"], json!([]));
    assert!(lives(pid_of(&plane, &agent)));
    let agent = plane.get(&format!("/api/v2/workspaceagents/{agent}")).await.body;
    assert_eq!(agent["status"], "connected");
    plane.end().await;
}

#[tokio::test]
async fn a_failed_stop_hides_the_agent_that_goes_on_and_the_next_stop_ends_it() {
    let plane = Plane::start().await;
    let failure = Some("container is in use".to_owned());
    let code = Some("SOME_CODE".to_owned());
    let template =
        plane.template(stops(BuildSpec { failure, error_code: code, ..BuildSpec::default() })).await;
    let workspace = plane.workspace(&template).await;
    let agent = plane.agent_until(&workspace, "connected", |agent| agent["status"] == "connected").await;
    let agent = agent["id"].as_str().unwrap().to_owned();
    let pid = pid_of(&plane, &agent);
    let stop = plane.built(&workspace, "stop").await;
    assert_eq!((job_status(&stop), &stop["job"]["error"]), ("failed", &"container is in use".into()));
    assert_eq!(stop["job"]["error_code"], "SOME_CODE");
    assert_eq!(agents_of(&plane.read(&workspace).await), Vec::<Value>::new());
    assert!(lives(pid), "an empty list of agents does not mean stopped");

    let good = plane.admin().add_version(&template, &VersionSpec::default(), false).await.unwrap();
    let body = json!({"transition": "stop", "template_version_id": good});
    let reply = plane.post(&format!("/api/v2/workspaces/{workspace}/builds"), body).await;
    let stop = plane.ended(reply.body["id"].as_str().unwrap()).await;
    assert_eq!(stop["status"], "stopped");
    assert!(!lives(pid));
    plane.end().await;
}

#[tokio::test]
async fn a_failed_start_has_no_agents_and_says_why_in_its_log() {
    let plane = Plane::start().await;
    let start = BuildSpec { failure: Some("no such image".to_owned()), ..BuildSpec::default() };
    let template = plane.template(VersionSpec { start, ..VersionSpec::default() }).await;
    let workspace = plane.workspace(&template).await;
    let read = plane.read(&workspace).await;
    assert_eq!(read["latest_build"]["status"], "failed");
    assert_eq!(read["latest_build"]["resources"], json!([]));
    let build = read["latest_build"]["id"].as_str().unwrap();
    let log = plane.get(&format!("/api/v2/workspacebuilds/{build}/logs")).await.body;
    assert!(log.as_array().unwrap().iter().any(|line| line["log_level"] == "error"), "{log}");
    plane.end().await;
}

#[tokio::test]
async fn only_some_answers_say_that_no_provisioner_can_take_a_build() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("shell").await;
    plane.admin().set_provisioners(0).await.unwrap();
    let posted =
        plane.post(&format!("/api/v2/workspaces/{workspace}/builds"), json!({"transition": "stop"})).await;
    assert_eq!(
        posted.body["matched_provisioners"],
        json!({"count": 0, "available": 0, "most_recently_seen": null})
    );
    let read = plane.read(&workspace).await;
    assert_eq!(job_status(&read["latest_build"]), "pending");
    assert_eq!(read["latest_build"]["job"]["queue_position"], 0);
    plane.admin().set_provisioners(1).await.unwrap();
    let build = posted.body["id"].as_str().unwrap();
    assert_eq!(plane.ended(build).await["status"], "stopped", "a provisioner that appears takes it");
    plane.end().await;
}

#[tokio::test]
async fn a_waiting_build_shows_its_place_and_its_provisioners_but_not_where_it_is_read_by_id() {
    let plane = Plane::start_with(|options| options.provisioners = 1).await;
    let stop = BuildSpec { duration_ms: FOR_EVER, ..BuildSpec::default() };
    let template = plane.template(stops(stop)).await;
    let busy = plane.workspace(&template).await;
    let waiting = plane.workspace(&template).await;
    running(&plane, &plane.build(&busy, "stop").await).await;
    let posted =
        plane.post(&format!("/api/v2/workspaces/{waiting}/builds"), json!({"transition": "stop"})).await;
    assert_eq!(posted.body["matched_provisioners"]["available"], 1);
    assert_eq!(posted.body["job"]["queue_position"], 0, "not known yet");
    let latest = plane.read(&waiting).await["latest_build"].clone();
    assert_eq!((&latest["job"]["queue_position"], &latest["job"]["queue_size"]), (&1.into(), &1.into()));
    assert_eq!(latest["matched_provisioners"]["available"], 1);
    let by_id = plane.get(&format!("/api/v2/workspacebuilds/{}", latest["id"].as_str().unwrap())).await.body;
    assert_eq!(
        by_id["matched_provisioners"],
        json!({"count": 0, "available": 0, "most_recently_seen": null})
    );
    let list = plane.get(&format!("/api/v2/workspaces/{waiting}/builds")).await.body;
    assert_eq!(list[0]["matched_provisioners"]["available"], 1);
    plane.end().await;
}

#[tokio::test]
async fn a_deleted_workspace_is_gone_by_id_absent_by_name_and_still_accepts_a_start() {
    let plane = Plane::start().await;
    let workspace = plane.ready_workspace().await;
    let read = plane.read(&workspace).await;
    let name = read["name"].as_str().unwrap();
    let pid = pid_of(&plane, agents_of(&read)[0]["id"].as_str().unwrap());
    assert_eq!(plane.built(&workspace, "delete").await["status"], "deleted");
    assert!(!lives(pid));
    let by_id = format!("/api/v2/workspaces/{workspace}");
    assert_eq!(plane.get(&by_id).await.status, 410);
    assert_eq!(plane.get(&format!("{by_id}?include_deleted=true")).await.status, 200);
    let by_name = format!("/api/v2/users/me/workspace/{name}");
    assert_eq!(plane.get(&by_name).await.status, 404);
    assert_eq!(plane.get(&format!("{by_name}?include_deleted=true")).await.status, 200);
    assert_eq!(job_status(&plane.built(&workspace, "start").await), "succeeded");
    assert_eq!(plane.get(&by_id).await.status, 410);
    assert!(!plane.folder().join("homes").join(&workspace).exists(), "no file and no process comes of it");
    plane.end().await;
}

#[tokio::test]
async fn a_dormant_workspace_can_be_stopped_and_not_started() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("shell").await;
    plane.admin().set_dormant(&workspace, true).await.unwrap();
    assert!(plane.read(&workspace).await["dormant_at"].is_string());
    assert_eq!(plane.built(&workspace, "stop").await["status"], "stopped");
    let path = format!("/api/v2/workspaces/{workspace}/builds");
    assert_eq!(plane.post(&path, json!({"transition": "start"})).await.status, 403);
    plane.admin().set_dormant(&workspace, false).await.unwrap();
    assert_eq!(plane.built(&workspace, "start").await["status"], "running");
    plane.end().await;
}

#[tokio::test]
async fn a_start_beyond_the_budget_fails_with_the_code_for_it() {
    let plane = Plane::start_with(|options| options.quota_budget = Some(10)).await;
    let template = plane.template(VersionSpec { daily_cost: 6, ..VersionSpec::default() }).await;
    let first = plane.workspace(&template).await;
    let second = plane.workspace(&template).await;
    let latest = plane.read(&second).await["latest_build"].clone();
    assert_eq!(job_status(&latest), "failed");
    assert_eq!(latest["job"]["error_code"], "INSUFFICIENT_QUOTA");
    let quota = plane.get("/api/v2/workspace-quota/me").await.body;
    assert_eq!(quota, json!({"credits_consumed": 6, "budget": 10}));
    plane.built(&first, "stop").await;
    assert_eq!(plane.built(&second, "start").await["status"], "running");
    plane.end().await;
}

#[tokio::test]
async fn a_missing_parameter_is_refused_in_the_way_of_its_template() {
    let plane = Plane::start().await;
    let region = ParameterSpec { name: "region".to_owned(), required: true, ..ParameterSpec::default() };
    let size = ParameterSpec {
        name: "size".to_owned(),
        default_value: "small".to_owned(),
        options: vec!["small".to_owned(), "large".to_owned()],
        ..ParameterSpec::default()
    };
    for classic in [true, false] {
        let spec = TemplateSpec {
            name: format!("classic-{classic}"),
            classic_parameters: classic,
            ..TemplateSpec::default()
        };
        let template = plane.admin().create_template(&spec).await.unwrap().id;
        let workspace = plane.workspace(&template).await;
        let newer = VersionSpec { parameters: vec![region.clone(), size.clone()], ..VersionSpec::default() };
        let newer = plane.admin().add_version(&template, &newer, true).await.unwrap();
        assert_eq!(plane.read(&workspace).await["outdated"], true);
        let path = format!("/api/v2/workspaces/{workspace}/builds");
        let with = |values: Value| json!({"transition": "start", "template_version_id": newer, "rich_parameter_values": values});

        let missing = plane.post(&path, with(json!([]))).await;
        assert_eq!(missing.status, 400);
        assert_eq!(missing.body.get("detail").is_some(), classic, "{}", missing.body);
        assert_eq!(missing.body.get("validations").is_some(), !classic, "{}", missing.body);
        let empty = plane.post(&path, with(json!([{"name": "region", "value": ""}]))).await;
        assert_eq!(empty.status, if classic { 400 } else { 201 }, "{}", empty.body);
        if !classic {
            assert_eq!(missing.body["validations"][0]["field"], "region");
            plane.ended(empty.body["id"].as_str().unwrap()).await;
        }
        let wrong = json!([{"name": "region", "value": "eu"}, {"name": "size", "value": "huge"}]);
        assert_eq!(plane.post(&path, with(wrong)).await.status, 400);
        let good = plane.post(&path, with(json!([{"name": "region", "value": "eu"}]))).await;
        assert_eq!(good.status, 201, "{}", good.body);
        let build = good.body["id"].as_str().unwrap().to_owned();
        plane.ended(&build).await;
        let values = plane.get(&format!("/api/v2/workspacebuilds/{build}/parameters")).await.body;
        let expected = json!([{"name": "region", "value": "eu"}, {"name": "size", "value": "small"}]);
        assert_eq!(values, expected);
        plane.built(&workspace, "start").await;
    }
    plane.end().await;
}

#[tokio::test]
async fn a_start_stays_on_the_version_of_the_build_before_unless_another_is_named() {
    let plane = Plane::start().await;
    let template = plane.template(VersionSpec::default()).await;
    let workspace = plane.workspace(&template).await;
    let first = plane.read(&workspace).await["latest_build"]["template_version_id"].clone();
    let newer = plane.admin().add_version(&template, &VersionSpec::default(), true).await.unwrap();
    assert_eq!(plane.built(&workspace, "start").await["template_version_id"], first);
    let path = format!("/api/v2/workspaces/{workspace}/builds");
    let body = json!({"transition": "start", "template_version_id": newer});
    let build = plane.post(&path, body).await.body["id"].as_str().unwrap().to_owned();
    assert_eq!(plane.ended(&build).await["template_version_id"], newer.as_str());
    let unknown = json!({"transition": "stop", "template_version_id": new_reconnect()});
    assert_eq!(plane.post(&path, unknown).await.status, 400);
    let other = plane.template(VersionSpec::default()).await;
    let other = plane.get(&format!("/api/v2/templates/{other}")).await.body["active_version_id"].clone();
    let foreign = json!({"transition": "stop", "template_version_id": other});
    assert_eq!(plane.post(&path, foreign).await.status, 400);
    plane.end().await;
}

#[tokio::test]
async fn the_reason_is_kept_for_a_start_checked_for_both_and_ignored_for_a_stop() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("shell").await;
    let path = format!("/api/v2/workspaces/{workspace}/builds");
    let stop = plane.post(&path, json!({"transition": "stop", "reason": "dashboard"})).await;
    assert_eq!(stop.body["reason"], "initiator");
    plane.ended(stop.body["id"].as_str().unwrap()).await;
    assert_eq!(plane.post(&path, json!({"transition": "start", "reason": "nonsense"})).await.status, 400);
    let start = plane.post(&path, json!({"transition": "start", "reason": "cli"})).await;
    assert_eq!(start.body["reason"], "cli");
    plane.end().await;
}

#[tokio::test]
async fn a_hung_agent_with_a_script_that_ignores_sigterm_is_ended_by_a_stop_all_the_same() {
    let plane = Plane::start_with(|options| {
        options.timings = LocalTimings { terminate: std::time::Duration::from_secs(1), ..timings() };
    })
    .await;
    let script = "trap '' TERM; echo $$ > script-pid; while true; do sleep 0.1; done".to_owned();
    let spec = AgentSpec { startup_script: script, ..AgentSpec::default() };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let agent = plane.agent_until(&workspace, "starting", |a| a["lifecycle_state"] == "starting").await;
    let agent_pid = pid_of(&plane, agent["id"].as_str().unwrap());
    let file = plane.folder().join("homes").join(&workspace).join("script-pid");
    let script_pid: u32 =
        until("the script runs", SOON, async || std::fs::read_to_string(&file).ok()?.trim().parse().ok())
            .await;
    plane.signal(&workspace, AgentSignal::Stop).await;
    assert_eq!(plane.built(&workspace, "stop").await["status"], "stopped");
    assert!(!lives(agent_pid));
    until("the script is gone", SOON, async || (!lives(script_pid)).then_some(())).await;
    plane.end().await;
}

#[tokio::test]
async fn a_stop_ends_the_startup_script_of_an_agent_that_was_killed() {
    let plane = Plane::start().await;
    let script = "cat; echo $$ > script-pid; sleep 3600".to_owned();
    let spec = AgentSpec { startup_script: script, ..AgentSpec::default() };
    let workspace = plane.workspace(&plane.template(version(vec![spec])).await).await;
    let file = plane.folder().join("homes").join(&workspace).join("script-pid");
    let script_pid: u32 =
        until("the script runs", SOON, async || std::fs::read_to_string(&file).ok()?.trim().parse().ok())
            .await;
    plane.signal(&workspace, AgentSignal::Kill).await;
    plane.agent_until(&workspace, "disconnected", |agent| agent["status"] == "disconnected").await;
    assert!(lives(script_pid), "only the agent was killed");
    assert_eq!(plane.built(&workspace, "stop").await["status"], "stopped");
    until("the script is gone", SOON, async || (!lives(script_pid)).then_some(())).await;
    plane.end().await;
}
