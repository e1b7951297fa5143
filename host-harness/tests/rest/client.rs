//! The client alone: what it asks for, and what it makes of answers.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use workspace_recovery::bindings::{
    AgentState, JobStatus, Lifecycle, Parameter, Provisioner, ReadError, Transition,
};
use workspace_recovery::control_plane::rest::{RestClient, RestError, RestOptions};
use workspace_recovery::control_plane::{ApiError, ControlPlane, Lost, NewBuild, NewTerminal, Workspace};

use crate::TOKEN;
use crate::replay::{Reply, Server, What};
use crate::transcript::{recorded, recorded_watch};

/// A client, and a server that gives these answers, in order.
async fn serving(replies: impl IntoIterator<Item = Reply>) -> (RestClient, Server) {
    let server = Server::in_order(replies.into_iter().collect::<Vec<_>>()).await;
    (server.client(), server)
}

async fn workspace(reply: Reply) -> Result<Workspace, ApiError> {
    serving([reply]).await.0.workspace("some-id").await
}

async fn refused(file: &str, index: usize) -> ApiError {
    workspace(recorded(file, index)).await.unwrap_err()
}

/// A read that is made twice, because a token that is refused is tried once more.
async fn workspace_twice(reply: Reply) -> ApiError {
    serving([reply.clone(), reply]).await.0.workspace("some-id").await.unwrap_err()
}

async fn post(reply: Reply) -> Result<String, ApiError> {
    let (client, _server) = serving([reply]).await;
    client.create_build("some-id", &stop()).await.map(|made| made.build.id)
}

pub fn stop() -> NewBuild {
    NewBuild { transition: Transition::Stop, template_version: None, parameters: Vec::new() }
}

#[tokio::test]
async fn a_workspace_is_read_with_its_build_job_and_agents() {
    let read = workspace(recorded("05-stop-start-conflicts", 6)).await.unwrap();
    assert_eq!((read.name.as_str(), read.owner.as_str(), read.dormant), ("conflict2", "owner", false));
    assert_eq!(read.active_version.as_deref(), Some("cefefaf2-446d-4304-bbf8-2c7eeebd9695"));
    let latest = &read.latest.build;
    assert_eq!(
        (latest.number, &latest.transition, &latest.status),
        (1, &Transition::Start, &JobStatus::Succeeded)
    );
    assert_eq!(
        (latest.provisioner, latest.cancel_requested, latest.queue_position),
        (Provisioner::Unknown, false, None)
    );
    assert_eq!(read.latest.reason.as_deref(), Some("initiator"));
    let [agent] = &read.agents[..] else { panic!("{:?}", read.agents) };
    assert_eq!((agent.name.as_str(), &agent.parent, agent.external), ("main", &None, false));
    assert_eq!((&agent.state, &agent.lifecycle), (&AgentState::Connected, &Lifecycle::Ready));
    assert_eq!((agent.last_connected, agent.disconnected), (Some(1_795_409_652_726), None));
    // `Date` is cut to seconds, so it is a little earlier than the times in the body, which it was read after.
    assert_eq!(read.observed, Some(1_795_409_652_000));
}

#[tokio::test]
async fn an_external_agent_is_told_by_its_resource() {
    let read = workspace(recorded("17-external-agent", 3)).await.unwrap();
    assert!(read.agents.iter().all(|agent| agent.external) && !read.agents.is_empty());
}

#[tokio::test]
async fn unknown_words_and_missing_or_odd_fields_are_no_errors() {
    let mut reply = recorded("05-stop-start-conflicts", 6);
    let latest = &mut reply.body["latest_build"];
    latest["transition"] = json!("hibernate");
    latest["job"]["status"] = json!("dreaming");
    latest["matched_provisioners"] = json!("many");
    latest["resources"][0]["agents"][0]["status"] = json!("elsewhere");
    latest["resources"][0]["agents"][0]["lifecycle_state"] = json!("asleep");
    for field in ["owner_name", "template_id", "template_require_active_version", "dormant_at"] {
        reply.body.as_object_mut().unwrap().remove(field);
    }
    let read = workspace(reply).await.unwrap();
    assert_eq!(read.latest.build.transition, Transition::Unknown("hibernate".into()));
    assert_eq!(read.latest.build.status, JobStatus::Unknown("dreaming".into()));
    assert_eq!(read.agents[0].state, AgentState::Unknown("elsewhere".into()));
    assert_eq!(read.agents[0].lifecycle, Lifecycle::Unknown("asleep".into()));
    assert_eq!((read.template, read.dormant), (None, false));
}

#[tokio::test]
async fn a_clock_that_cannot_be_right_gives_no_time() {
    let at = |date: &str| workspace(recorded("05-stop-start-conflicts", 6).header("Date", date));
    // The newest time in the body is 04:54:12.726.
    assert!(at("Mon, 23 Nov 2026 04:54:12 GMT").await.unwrap().observed.is_some());
    assert_eq!(at("Mon, 23 Nov 2026 04:54:11 GMT").await.unwrap().observed, None);
    assert_eq!(at("yesterday").await.unwrap().observed, None);
}

#[tokio::test]
async fn a_clock_that_is_off_a_row_just_written_is_not_trusted_until_another_row_agrees() {
    let made = |date: &str| recorded("05-stop-start-conflicts", 7).header("Date", date);
    let read = || recorded("05-stop-start-conflicts", 6);
    // The build was made at 04:54:12.9.
    let replies =
        [made("Mon, 23 Nov 2026 04:54:22 GMT"), read(), made("Mon, 23 Nov 2026 04:54:12 GMT"), read()];
    let (client, _server) = serving(replies).await;
    client.create_build("w", &stop()).await.unwrap();
    assert_eq!(client.workspace("w").await.unwrap().observed, None);
    client.create_build("w", &stop()).await.unwrap();
    assert!(client.workspace("w").await.unwrap().observed.is_some());
}

#[tokio::test]
async fn errors_are_told_apart_by_status() {
    let deleted = "08-deleted-missing-forbidden";
    assert_eq!(refused(deleted, 5).await, ApiError::Gone);
    assert_eq!(refused(deleted, 17).await, ApiError::NotFound);
    assert!(matches!(refused(deleted, 18).await, ApiError::Invalid(_)), "a malformed id");
    assert!(matches!(workspace_twice(recorded(deleted, 33)).await, ApiError::Unauthorized(_)));
    assert_eq!(refused(deleted, 35).await, ApiError::NotFound, "hidden");
    let limited = refused("13a-rate-limit", 1).await;
    assert_eq!(limited, ApiError::RateLimited { retry_after: Some(Duration::from_secs(60)) });
    assert_eq!(ReadError::from(limited), ReadError::Unavailable(Some(60_000)));
    assert!(matches!(workspace(Reply::text(502, "<html>")).await, Err(ApiError::Unavailable(_))));
    assert!(matches!(workspace(Reply::text(302, "")).await, Err(ApiError::NotCoder(_))));
    assert!(matches!(workspace(Reply::text(418, "")).await, Err(ApiError::Other { status: 418, .. })));
}

#[tokio::test]
async fn a_web_site_that_is_no_deployment_is_told_as_that() {
    let site = workspace(recorded("08-deleted-missing-forbidden", 30)).await;
    assert!(matches!(site, Err(ApiError::NotCoder(_))), "{site:?}");
}

#[tokio::test]
async fn a_build_is_asked_for_with_what_is_needed_and_nothing_else() {
    let (client, server) =
        serving([recorded("05-stop-start-conflicts", 7), recorded("05-stop-start-conflicts", 7)]).await;
    let made = client.create_build("w 1", &stop()).await.unwrap();
    assert_eq!((made.build.number, made.build.transition), (2, Transition::Stop));
    let start = NewBuild {
        transition: Transition::Start,
        template_version: Some("v2".into()),
        parameters: vec![Parameter { name: "size".into(), value: "small".into() }],
    };
    client.create_build("../users", &start).await.unwrap();
    let requests = server.requests();
    assert_eq!(
        (requests[0].path.as_str(), &requests[0].body),
        ("/api/v2/workspaces/w%201/builds", &json!({"transition": "stop"}))
    );
    assert_eq!(requests[1].path, "/api/v2/workspaces/..%2Fusers/builds");
    let sent = json!({"transition": "start", "template_version_id": "v2",
        "rich_parameter_values": [{"name": "size", "value": "small"}]});
    assert_eq!(requests[1].body, sent);
}

#[tokio::test]
async fn both_forms_of_a_conflict_are_conflicts() {
    assert!(matches!(post(recorded("05-stop-start-conflicts", 1)).await, Err(ApiError::Conflict(_))));
    assert!(matches!(post(Reply::text(409, "no json")).await, Err(ApiError::Conflict(_))));
}

#[tokio::test]
async fn a_missing_parameter_is_invalid_in_both_shapes() {
    for index in [9, 49] {
        let Err(ApiError::Invalid(refusal)) = post(recorded("09-parameters", index)).await else { panic!() };
        assert_ne!(refusal.detail.is_some(), !refusal.validations.is_empty(), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_start_of_a_dormant_workspace_is_forbidden() {
    let error = post(recorded("08-deleted-missing-forbidden", 58)).await;
    assert!(matches!(error, Err(ApiError::Forbidden(_))), "{error:?}");
}

#[tokio::test]
async fn a_failure_of_the_control_plane_keeps_its_status_message_and_detail() {
    let reply = |body: serde_json::Value| Reply::json(500, body);
    let said = reply(json!({"message": "Internal error updating job.", "detail": "no space left"}));
    let error = post(said).await.unwrap_err();
    let ApiError::UnknownOutcome(Lost::Failed { status, refusal: Some(refusal) }) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(status, "500 Internal Server Error");
    assert_eq!(
        (refusal.message.as_str(), refusal.detail.as_deref()),
        ("Internal error updating job.", Some("no space left"))
    );
    let read = workspace(reply(json!({"message": "Internal error.", "detail": "no space left"}))).await;
    for error in [error, read.unwrap_err()] {
        let text = error.to_string();
        assert!(
            ["500 Internal Server Error", "nternal error", "no space left"]
                .iter()
                .all(|part| text.contains(part)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_message_without_words_is_never_passed_on() {
    for (body, message) in [
        (json!({"message": ""}), "The control plane gave no reason."),
        (json!({"message": " ", "detail": ""}), "The control plane gave no reason."),
        (json!({"message": "", "detail": "no space left"}), "no space left"),
    ] {
        for status in [400, 403, 409, 418, 500] {
            let refusal = match post(Reply::json(status, body.clone())).await.unwrap_err() {
                ApiError::Invalid(refusal)
                | ApiError::Forbidden(refusal)
                | ApiError::Conflict(refusal)
                | ApiError::Other { refusal, .. }
                | ApiError::UnknownOutcome(Lost::Failed { refusal: Some(refusal), .. }) => refusal,
                error => panic!("{error:?}"),
            };
            assert_eq!((refusal.message.as_str(), refusal.detail), (message, None), "{status}");
        }
    }
}

#[tokio::test]
async fn whether_a_build_was_made_is_unknown_when_its_answer_is_lost_and_known_when_nothing_was_sent() {
    for reply in
        [Reply::hang_up(), Reply::text(500, "oops"), Reply::text(504, ""), Reply::text(201, "{\"id\":")]
    {
        let error = post(reply).await;
        assert!(matches!(error, Err(ApiError::UnknownOutcome(_))), "{error:?}");
    }
    let nobody = RestClient::new("http://127.0.0.1:1", TOKEN).unwrap();
    assert!(matches!(nobody.create_build("w", &stop()).await, Err(ApiError::Unavailable(_))));
    assert!(
        matches!(workspace(Reply::hang_up()).await, Err(ApiError::Unavailable(_))),
        "a read has no outcome"
    );
}

#[tokio::test]
async fn whether_a_provisioner_is_there_is_told_by_the_workspace_and_never_by_a_build() {
    let pending = "10-no-provisioner";
    let (client, _server) =
        serving([recorded(pending, 4), recorded(pending, 27), recorded(pending, 3)]).await;
    let available = client.workspace("w").await.unwrap().latest.build;
    assert_eq!((available.provisioner, available.queue_position), (Provisioner::Available, Some(1)));
    let missing = client.workspace("w").await.unwrap().latest.build;
    assert_eq!((missing.provisioner, missing.queue_position), (Provisioner::Missing, None));
    assert_eq!(client.build("b").await.unwrap().build.provisioner, Provisioner::Unknown);
}

#[tokio::test]
async fn a_cancelled_build_that_reads_failed_keeps_the_mark_of_the_cancel() {
    let (client, _server) = serving([recorded("07-cancel", 8)]).await;
    let build = client.build("b").await.unwrap().build;
    assert!(
        build.cancel_requested && build.status == JobStatus::Failed && build.error.is_some(),
        "{build:?}"
    );
}

#[tokio::test]
async fn builds_parameters_logs_and_the_user_are_read() {
    let (client, server) = serving([
        recorded("05-stop-start-conflicts", 52),
        recorded("09-parameters", 1),
        recorded("09-parameters", 22),
        recorded("07-cancel", 11),
        recorded("01-setup-create-workspace", 7),
    ])
    .await;
    let builds: Vec<_> = client.builds("w", 3).await.unwrap().iter().map(|read| read.build.number).collect();
    assert!(builds.is_sorted_by(|a, b| a > b) && builds.len() == 3, "{builds:?}");
    let declared = client.template_parameters("v").await.unwrap();
    assert_eq!(
        (declared[0].name.as_str(), declared[0].required, declared[1].required),
        ("region", true, false)
    );
    assert_eq!(client.build_parameters("b").await.unwrap()[0].value, "eu");
    assert!(!client.build_logs("b", 7).await.unwrap().is_empty());
    assert_eq!(client.user().await.unwrap().name, "owner");
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths[0], "/api/v2/workspaces/w/builds?limit=3");
    assert_eq!(paths[3], "/api/v2/workspacebuilds/b/logs?after=7");
}

#[tokio::test]
async fn a_workspace_is_found_by_name_with_or_without_owner_and_by_id() {
    let reply = || recorded("05-stop-start-conflicts", 6);
    let (client, server) = serving([reply(), reply(), reply()]).await;
    let id = "37bb662f-f699-4f23-a50b-5033c5ee39e6";
    for name in ["dev", "ben/dev", id] {
        client.workspace_by_name(name).await.unwrap();
    }
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    let by_id = format!("/api/v2/workspaces/{id}");
    assert_eq!(paths, ["/api/v2/users/me/workspace/dev", "/api/v2/users/ben/workspace/dev", &by_id]);
}

#[tokio::test]
async fn the_token_goes_into_its_header_and_nowhere_else() {
    let (client, server) = serving([recorded("05-stop-start-conflicts", 6)]).await;
    client.workspace("w").await.unwrap();
    let request = server.requests().remove(0);
    assert_eq!(request.token.as_deref(), Some(TOKEN));
    assert!(!request.path.contains(TOKEN));
    assert!(!format!("{client:?}").contains(TOKEN));
}

#[test]
fn only_encrypted_urls_and_this_machine_get_the_token() {
    let refused = |url: &str| RestClient::new(url, TOKEN).unwrap_err();
    assert!(matches!(refused("http://coder.example.com"), RestError::Plain(_)));
    assert!(matches!(refused("http://127.0.0.1.example.com"), RestError::Plain(_)));
    assert!(matches!(refused("ftp://coder.example.com"), RestError::Url(_)));
    let with_password = refused("http://ana:hunter2@coder.example.com");
    assert!(with_password == RestError::UserInUrl && !with_password.to_string().contains("hunter2"));
    let plain = RestOptions { allow_plain_http: true, ..RestOptions::new("http://coder.example.com", TOKEN) };
    assert!(RestClient::with_options(&plain).is_ok());
    assert_eq!(RestClient::new("https://coder.example.com", "").unwrap_err(), RestError::Token);
    assert!(matches!(refused("coder.example.com"), RestError::Url(_)));
    assert_eq!(RestClient::new("https://coder.example.com", "two\nlines").unwrap_err(), RestError::Token);
    for url in ["https://coder.example.com/", "http://localhost:3000", "http://127.0.0.1:1", "http://[::1]:1"]
    {
        assert!(RestClient::new(url, TOKEN).is_ok(), "{url}");
    }
}

#[tokio::test]
async fn a_terminal_shows_output_takes_input_and_ends_when_the_connection_breaks_off() {
    let (client, server) = serving([Reply::terminal()]).await;
    let wanted = NewTerminal { session: "5f1d".into(), command: "echo 'a&b'".into(), height: 24, width: 80 };
    let mut terminal = client.open_terminal("a1", &wanted).await.unwrap();
    assert_eq!(terminal.next().await.unwrap().as_deref(), Some(&b"hi\r\n"[..]));
    terminal.send("\u{3}").await.unwrap();
    // The server repeats the frame that it got.
    let frame: Value = serde_json::from_slice(&terminal.next().await.unwrap().unwrap()).unwrap();
    assert_eq!(frame, json!({"binary": true, "frame": {"data": "\u{3}"}}));
    assert_eq!(terminal.next().await, Ok(None));
    let request = server.requests().remove(0);
    assert_eq!(request.token.as_deref(), Some(TOKEN));
    let path = "/api/v2/workspaceagents/a1/pty?reconnect=5f1d&height=24&width=80&command=echo+%27a%26b%27\
                &backend_type=buffered";
    assert_eq!(request.path, path);
}

#[tokio::test]
async fn a_terminal_that_is_refused_says_whether_waiting_may_help() {
    let wanted = NewTerminal { session: "5f1d".into(), command: "true".into(), height: 24, width: 80 };
    let refused = async |reply| serving([reply]).await.0.open_terminal("a1", &wanted).await.err().unwrap();
    // An agent that is not connected, on both servers, and an agent id that does not exist: the same page on the newer.
    for (file, index) in
        [("12b-pty-dead-and-hung", 29), ("20-killed-agent-2026", 6), ("12b-pty-dead-and-hung", 0)]
    {
        let absent = refused(recorded(file, index)).await;
        assert!(matches!(absent, ApiError::Unavailable(_)), "{file} {index}: {absent:?}");
    }
    assert_eq!(
        refused(recorded("12b-pty-dead-and-hung", 2)).await,
        ApiError::NotFound,
        "the API's own refusal"
    );
    assert!(matches!(refused(recorded("12-pty", 11)).await, ApiError::Invalid(_)), "a bad session id");
    let proxy = refused(Reply::text(426, "Upgrade Required")).await.to_string();
    assert!(proxy.contains("does not pass websockets on"), "{proxy}");
    let firewall = refused(Reply::text(403, "<title>Attention Required!</title>")).await.to_string();
    assert!(firewall.contains("firewall") && !firewall.contains("administrator"), "{firewall}");
}

#[tokio::test]
async fn each_message_of_a_watched_workspace_but_the_first_ping_announces_a_change() {
    let sent = recorded_watch();
    assert!(matches!(&sent[0], What::Text(text) if text.contains("ping")), "{:?}", sent[0]);
    let changes = sent.len() - 1;
    let (client, server) = serving([Reply::socket(sent)]).await;
    assert_eq!(client.changes("w 1").unwrap().count().await, changes);
    let request = server.requests().remove(0);
    assert_eq!(request.path, "/api/v2/workspaces/w%201/watch-ws");
    assert_eq!(request.token.as_deref(), Some(TOKEN));
}

#[tokio::test]
async fn a_watch_that_is_refused_or_gets_no_answer_ends_without_an_announcement() {
    for reply in [Reply::text(404, "no"), Reply::text(200, "no websocket"), Reply::hang_up()] {
        let (client, _server) = serving([reply]).await;
        assert_eq!(client.changes("w1").unwrap().count().await, 0);
    }
}

#[tokio::test]
async fn a_deployment_is_asked_for_its_version_once_and_again_only_if_it_did_not_answer() {
    let (client, server) = serving([Reply::text(503, ""), recorded("01-setup-create-workspace", 1)]).await;
    client.deployment_info().await.unwrap_err();
    for _ in 0..3 {
        let info = client.deployment_info().await.unwrap();
        assert_eq!((info.version.as_str(), info.release), ("v0.0.0-devel", None));
        assert_eq!(info.shortfalls(), [], "who knows what developers have");
    }
    assert_eq!(server.requests().len(), 2);
    assert_eq!(server.requests()[0].path, "/api/v2/buildinfo");
}

#[tokio::test]
async fn what_an_old_deployment_lacks_is_named() {
    let lost = async |version: &str| {
        let (client, _server) =
            serving([Reply::json(200, json!({"version": version, "new field": 1}))]).await;
        client.deployment_info().await.unwrap().shortfalls().len()
    };
    for version in ["v2.21.9+deadbeef", "v2.4.0", "1.99.99"] {
        assert_eq!(lost(version).await, 1, "{version}");
    }
    for version in ["v2.22.0+deadbeef", "v2.26.1", "v3.0.0", "v2.21.0-devel+deadbeef", "v0.0.0", "main", ""] {
        assert_eq!(lost(version).await, 0, "{version}");
    }
}
