//! Every recorded answer to a request that the client makes: read whole, or the error that its status says.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use workspace_recovery::bindings::{Agent, Parameter, Provisioner, Transition};
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, NewBuild, NewTerminal, Workspace,
};

use crate::replay::{Asked, Kind, Reply, Server, What};
use crate::transcript::{Transcript, agents};

/// What the recordings have that this client does not ask for.
const NOT_ASKED: &[&str] = &[
    "GET /healthz",
    "GET /nosuchroute",
    "GET /api/v2/nosuchroute",
    "* /api/v2/files",
    "* /api/v2/organizations",
    "* /api/v2/organizations/*/members/*/workspace-quota",
    "* /api/v2/organizations/*/provisionerjobs",
    "* /api/v2/templates",
    "* /api/v2/templates/*",
    "* /api/v2/templateversions/*",
    "* /api/v2/templateversions/*/archive",
    "* /api/v2/users/*/keys/tokens",
    "* /api/v2/users/*/status/*",
    "* /api/v2/users/*/workspace/*/builds/*",
    "* /api/v2/users/*/workspaces",
    "* /api/v2/users/first",
    "* /api/v2/users/login",
    "* /api/v2/workspaceagents/*",
    "* /api/v2/workspaceagents/*/connection",
    "* /api/v2/workspaceagents/*/containers",
    "* /api/v2/workspaceagents/*/listening-ports",
    "* /api/v2/workspaceagents/*/logs",
    "* /api/v2/workspacebuilds/*/cancel",
    "* /api/v2/workspaces",
    "* /api/v2/workspaces/*/autoupdates",
    "* /api/v2/workspaces/*/dormant",
    "* /api/v2/workspaces/*/external-agent/*/credentials",
    "* /api/v2/workspaces/*/watch",
    "* /api/v2/workspaces/*?include_deleted",
    "* /api/v2/users/*/workspace/*?include_deleted",
];

/// A request as this client would make it.
enum Op {
    BuildInfo,
    User,
    Workspace(String),
    ByName(String),
    Build(String),
    Builds(String, u32),
    Create(String, NewBuild),
    TemplateParameters(String),
    BuildParameters(String),
    Logs(String),
    Terminal(String, NewTerminal),
    Watch(String),
    Provisioners(String),
}

#[tokio::test]
async fn every_recorded_answer_is_read_whole_or_is_the_error_that_its_status_says() {
    let server = Server::start(|_| Reply::hang_up()).await;
    let (mut read, mut left) = (0, BTreeSet::new());
    for file in Transcript::names() {
        let transcript = Transcript::load(&file);
        for (index, exchange) in transcript.exchanges.iter().enumerate() {
            if exchange.get("response").is_none() && exchange.get("handshake").is_none() {
                continue;
            }
            let Some(op) = operation(&exchange["request"]) else {
                left.insert(named(&exchange["request"]));
                continue;
            };
            let mut reply = transcript.reply(index);
            if let Kind::Socket(frames) = &mut reply.kind {
                // What came, not when.
                frames.iter_mut().for_each(|frame| frame.at = Duration::ZERO);
            }
            let before = server.requests().len();
            let answer = reply.clone();
            server.answer(move |_| answer.clone());
            let what = format!("{file} {index}");
            // A client of its own: what one answer teaches must not colour the next.
            answered(&server.client(), op, &reply, &what).await;
            let asked = server.requests();
            // What refuses a token is asked twice: between the two it was seen that its database is there.
            let is_refused = reply.status == 401 && exchange["request"]["method"] == "GET";
            let times = if is_refused { 2 } else { 1 };
            assert_eq!(asked.len(), before + times, "{what}");
            same_request(&asked[before], &exchange["request"], &what);
            read += 1;
        }
    }
    let unlisted: Vec<_> =
        left.iter().filter(|request| !NOT_ASKED.iter().any(|known| fits(known, request))).collect();
    assert!(unlisted.is_empty(), "neither read nor listed: {unlisted:#?}");
    assert!(read > 700, "{read}");
}

/// What the request asks of a client; `None` if this one never asks for it.
fn operation(request: &Value) -> Option<Op> {
    let segments: Vec<_> = request["path"].as_str()?.strip_prefix("/api/v2/")?.split('/').collect();
    let (query, body) = (&request["query"], &request["body"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(match (request["method"].as_str()?, &segments[..]) {
        ("GET", ["buildinfo"]) => Op::BuildInfo,
        ("GET", ["users", "me"]) => Op::User,
        ("GET", ["workspaces", id]) if query.is_null() => Op::Workspace((*id).to_owned()),
        ("GET", ["users", owner, "workspace", name]) if query.is_null() => {
            Op::ByName(format!("{owner}/{name}"))
        }
        ("GET", ["workspacebuilds", id]) => Op::Build((*id).to_owned()),
        ("GET", ["workspaces", id, "builds"]) => {
            Op::Builds((*id).to_owned(), query["limit"].as_u64().unwrap_or(50).try_into().ok()?)
        }
        ("POST", ["workspaces", id, "builds"]) => {
            let values = body["rich_parameter_values"].as_array().into_iter().flatten();
            let build = NewBuild {
                transition: match text(&body["transition"]).as_str() {
                    "start" => Transition::Start,
                    "stop" => Transition::Stop,
                    "delete" => Transition::Delete,
                    other => Transition::Unknown(other.to_owned()),
                },
                template_version: body["template_version_id"].as_str().map(str::to_owned),
                parameters: values
                    .map(|value| Parameter { name: text(&value["name"]), value: text(&value["value"]) })
                    .collect(),
            };
            Op::Create((*id).to_owned(), build)
        }
        ("GET", ["templateversions", id, "rich-parameters"]) => Op::TemplateParameters((*id).to_owned()),
        ("GET", ["workspacebuilds", id, "parameters"]) => Op::BuildParameters((*id).to_owned()),
        ("GET", ["workspacebuilds", id, "logs"]) => Op::Logs((*id).to_owned()),
        ("GET", ["workspaceagents", id, "pty"]) => {
            let terminal = NewTerminal {
                session: text(&query["reconnect"]),
                command: text(&query["command"]),
                height: 24,
                width: 80,
            };
            Op::Terminal((*id).to_owned(), terminal)
        }
        ("GET", ["organizations", id, "provisionerdaemons"]) => Op::Provisioners((*id).to_owned()),
        ("GET", ["workspaces", id, "watch-ws"]) => Op::Watch((*id).to_owned()),
        _ => return None,
    })
}

/// Does what was recorded, and compares the outcome with the answer.
async fn answered(client: &RestClient, op: Op, reply: &Reply, what: &str) {
    let body = &reply.body;
    match op {
        Op::BuildInfo => {
            if let Some(info) = outcome(client.deployment_info().await, reply, false, what) {
                assert_eq!(info.version, str_of(body, "/version"), "{what}");
                assert_eq!(
                    info.release.is_some(),
                    info.version == "v2.99.0",
                    "{what}: not a developer's build"
                );
                assert_eq!(info.id.as_deref(), body["deployment_id"].as_str(), "{what}");
            }
        }
        Op::User => {
            let user = client.user().await;
            if reply.status == 404 {
                // The token's scopes do not let it read its own user.
                assert!(matches!(user, Err(ApiError::MissingScope { scope: "user:read", .. })), "{what}");
            } else if let Some(user) = outcome(user, reply, false, what) {
                assert_eq!(
                    (&*user.id, &*user.name),
                    (str_of(body, "/id"), str_of(body, "/username")),
                    "{what}"
                );
            }
        }
        Op::Workspace(id) => {
            if let Some(read) = outcome(client.workspace(&id).await, reply, false, what) {
                same_workspace(&read, reply, what);
            }
        }
        Op::ByName(name) => {
            if let Some(read) = outcome(client.workspace_by_name(&name).await, reply, false, what) {
                same_workspace(&read, reply, what);
            }
        }
        Op::Build(id) => {
            if let Some(read) = outcome(client.build(&id).await, reply, false, what) {
                assert_eq!(read.build.provisioner, Provisioner::Unknown, "{what}: this read cannot tell");
                same_build(&read, body, what);
            }
        }
        Op::Builds(id, limit) => {
            if let Some(read) = outcome(client.builds(&id, limit).await, reply, false, what) {
                let bodies = body.as_array().unwrap();
                assert_eq!(read.len(), bodies.len(), "{what}");
                read.iter().zip(bodies).for_each(|(read, body)| same_build(read, body, what));
            }
        }
        Op::Create(id, build) => {
            if let Some(made) = outcome(client.create_build(&id, &build).await, reply, true, what) {
                assert_eq!(made.build.transition, build.transition, "{what}");
                same_build(&made, body, what);
            }
        }
        Op::TemplateParameters(version) => {
            if let Some(read) = outcome(client.template_parameters(&version).await, reply, false, what) {
                let read: Vec<_> = read.iter().map(|one| (&*one.name, one.required, one.ephemeral)).collect();
                let bodies = body.as_array().unwrap().iter();
                let flag = |body: &Value, name| body[name].as_bool().unwrap();
                let wanted = bodies
                    .map(|body| (str_of(body, "/name"), flag(body, "required"), flag(body, "ephemeral")));
                assert_eq!(read, wanted.collect::<Vec<_>>(), "{what}");
            }
        }
        Op::BuildParameters(build) => {
            if let Some(read) = outcome(client.build_parameters(&build).await, reply, false, what) {
                let read: Vec<_> = read.iter().map(|one| (&*one.name, &*one.value)).collect();
                let wanted = body
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|body| (str_of(body, "/name"), str_of(body, "/value")));
                assert_eq!(read, wanted.collect::<Vec<_>>(), "{what}");
            }
        }
        Op::Logs(build) => {
            if let Some(read) = outcome(client.build_logs(&build, 0).await, reply, false, what) {
                let read: Vec<_> = read.iter().map(|line| (line.id, &*line.stage, &*line.text)).collect();
                let wanted = body.as_array().into_iter().flatten().map(|body| {
                    (body["id"].as_u64().unwrap(), str_of(body, "/stage"), str_of(body, "/output"))
                });
                assert_eq!(read, wanted.collect::<Vec<_>>(), "{what}");
            }
        }
        Op::Terminal(agent, wanted) => {
            let opened = client.open_terminal(&agent, &wanted).await;
            let Kind::Socket(frames) = &reply.kind else {
                let page = reply.status == 404 && reply.body["message"].is_null();
                match opened {
                    Err(ApiError::Unavailable(_)) if page => {}
                    opened => {
                        outcome(opened.map(|_| ()), reply, false, what);
                    }
                }
                return;
            };
            let mut terminal = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            let mut shown = Vec::new();
            let all: String = frames
                .iter()
                .filter_map(|frame| match &frame.what {
                    What::Binary(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            while shown.len() < all.len()
                && let Some(piece) = terminal.next().await.unwrap()
            {
                shown.extend(piece);
            }
            assert_eq!(String::from_utf8(shown).unwrap(), all, "{what}");
            if !matches!(frames.last().map(|frame| &frame.what), Some(What::Nothing)) {
                assert_eq!(terminal.next().await, Ok(None), "{what}: every end is an end");
            }
        }
        Op::Provisioners(id) => {
            let there = outcome(client.provisioners(&id).await, reply, false, what).unwrap();
            assert_eq!(there, body.as_array().map(Vec::len), "{what}");
        }
        Op::Watch(id) => {
            let announced = client.changes(&id).unwrap().count().await;
            assert_eq!(announced, 0, "{what}: a refused watch is a stream that ends");
        }
    }
}

/// The answer if there has to be one. Else the error has to be the one that the status says.
fn outcome<T: Debug>(result: Result<T, ApiError>, reply: &Reply, effect: bool, what: &str) -> Option<T> {
    let wanted = match (&reply.kind, reply.status) {
        (Kind::HangUp, _) | (_, 500..) if effect => "UnknownOutcome",
        (Kind::HangUp, _) | (_, 500..) => "Unavailable",
        (_, 200 | 201 | 101) => return Some(result.unwrap_or_else(|error| panic!("{what}: {error}"))),
        (_, 400) => "Invalid",
        (_, 401) => "Unauthorized",
        (_, 403) => "Forbidden",
        (_, 404) => "NotFound",
        (_, 409) => "Conflict",
        (_, 410) => "Gone",
        (_, 426) => "Other",
        (_, 429) => "RateLimited",
        (_, status) => panic!("{what}: no error is written down for status {status}"),
    };
    let error = result.expect_err(what);
    let shown = format!("{error:?}");
    let name = shown.split(['(', ' ']).next().unwrap();
    assert_eq!(name, wanted, "{what}: {error}");
    match &error {
        ApiError::Invalid(refusal) | ApiError::Forbidden(refusal) | ApiError::Conflict(refusal) => {
            assert_eq!(refusal.message, str_of(&reply.body, "/message"), "{what}");
            assert_eq!(refusal.detail.as_deref(), reply.body["detail"].as_str(), "{what}");
            let problems: Vec<_> =
                refusal.validations.iter().map(|one| (&*one.field, &*one.detail)).collect();
            let bodies = reply.body["validations"].as_array().into_iter().flatten();
            let wanted = bodies.map(|body| (str_of(body, "/field"), str_of(body, "/detail")));
            assert_eq!(problems, wanted.collect::<Vec<_>>(), "{what}");
        }
        ApiError::RateLimited { retry_after } => {
            assert_eq!(*retry_after, Some(Duration::from_secs(60)), "{what}");
        }
        _ => {}
    }
    None
}

fn same_workspace(read: &Workspace, reply: &Reply, what: &str) {
    let body = &reply.body;
    let texts = [
        (read.id.as_str(), "/id"),
        (&read.name, "/name"),
        (&read.owner, "/owner_name"),
        (&read.organization, "/organization_id"),
        (read.template.as_deref().unwrap(), "/template_id"),
        (read.active_version.as_deref().unwrap(), "/template_active_version_id"),
    ];
    for (ours, pointer) in texts {
        assert_eq!(ours, str_of(body, pointer), "{what} {pointer}");
    }
    assert_eq!(
        Some(read.requires_active_version),
        body["template_require_active_version"].as_bool(),
        "{what}"
    );
    assert_eq!(
        Some(read.classic_parameters),
        body["template_use_classic_parameter_flow"].as_bool(),
        "{what}"
    );
    assert_eq!(read.dormant, body["dormant_at"].is_string(), "{what}");
    same_build(&read.latest, &body["latest_build"], what);
    let agents = agents(body);
    assert_eq!(read.agents.len(), agents.len(), "{what}");
    for (at, (read, body)) in read.agents.iter().zip(&agents).enumerate() {
        same_agent(read, body, at, what);
    }
    let date = reply.headers.iter().find(|(name, _)| name == "Date").map(|(_, date)| date.as_str());
    let date = date.map(|date| httpdate::parse_http_date(date).unwrap());
    let date = date.map(|date| date.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis());
    assert_eq!(read.observed.map(u128::from), date, "{what}: the recorded server's clock is right");
}

fn same_agent(read: &Agent, body: &Value, at: usize, what: &str) {
    let same = [(read.id.as_str(), "/id"), (&read.name, "/name")];
    for (ours, pointer) in same {
        assert_eq!(ours, str_of(body, pointer), "{what} {pointer}");
    }
    assert_eq!(usize::try_from(read.order).unwrap(), at, "{what}");
    assert_eq!(read.parent.as_deref(), body["parent_id"].as_str(), "{what}");
    assert_eq!(word(&read.state), str_of(body, "/status"), "{what}");
    assert_eq!(word(&read.lifecycle), str_of(body, "/lifecycle_state"), "{what}");
    let times = [
        (Some(read.created), "created_at"),
        (read.first_connected, "first_connected_at"),
        (read.last_connected, "last_connected_at"),
        (read.disconnected, "disconnected_at"),
    ];
    for (ours, key) in times {
        assert_eq!(ours, time_of(&body[key]), "{what} {key}");
    }
}

fn same_build(read: &BuildRead, body: &Value, what: &str) {
    let BuildRead { build, created, initiator, reason } = read;
    assert_eq!(build.id, str_of(body, "/id"), "{what}");
    // Some polls were recorded without it.
    if let Some(number) = body["build_number"].as_u64() {
        assert_eq!(u64::from(build.number), number, "{what}");
    }
    assert_eq!(word(&build.transition), str_of(body, "/transition"), "{what}");
    let job = &body["job"];
    assert_eq!(word(&build.status), str_of(job, "/status"), "{what}");
    assert_eq!(build.cancel_requested, job["canceled_at"].is_string(), "{what}");
    assert_eq!(build.error.as_deref(), job["error"].as_str().filter(|error| !error.is_empty()), "{what}");
    assert_eq!(build.error_code.as_deref(), job["error_code"].as_str(), "{what}");
    assert_eq!(build.template_version.as_deref(), body["template_version_id"].as_str(), "{what}");
    assert_eq!(initiator.as_deref(), body["initiator_id"].as_str(), "{what}");
    assert_eq!(reason.as_deref(), body["reason"].as_str(), "{what}");
    assert_eq!(*created, time_of(&body["created_at"]), "{what}");
    let pending = job["status"] == "pending";
    let position = job["queue_position"].as_u64().filter(|position| pending && *position > 0);
    assert_eq!(build.queue_position.map(u64::from), position, "{what}");
    if build.provisioner != Provisioner::Unknown {
        let available = body["matched_provisioners"]["available"].as_u64().unwrap() > 0;
        assert_eq!((build.provisioner == Provisioner::Available, pending), (available, true), "{what}");
    }
}

/// The client's request was the recorded one.
fn same_request(asked: &Asked, recorded: &Value, what: &str) {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    assert_eq!(
        (asked.method.as_str(), path),
        (str_of(recorded, "/method"), str_of(recorded, "/path")),
        "{what}"
    );
    for (key, value) in recorded["query"].as_object().into_iter().flatten() {
        // Free text is escaped; whether well is another test's business.
        if let Some(number) = value.as_u64() {
            assert!(query.contains(&format!("{key}={number}")), "{what}: {query}");
        }
    }
    for (key, value) in asked.body.as_object().into_iter().flatten() {
        if recorded["body"].get(key).is_some() {
            assert_eq!(value, &recorded["body"][key], "{what}");
        }
    }
}

fn named(request: &Value) -> String {
    let deleted = if request["query"].get("include_deleted").is_some() { "?include_deleted" } else { "" };
    format!("{} {}{deleted}", str_of(request, "/method"), str_of(request, "/path"))
}

/// Whether a request is one of this form: `*` stands for any method, and for any one segment.
fn fits(form: &str, request: &str) -> bool {
    let parts = |text: &str| text.split([' ', '/', '?']).map(str::to_owned).collect::<Vec<_>>();
    let (form, request) = (parts(form), parts(request));
    form.len() == request.len() && form.iter().zip(&request).all(|(form, part)| form == "*" || form == part)
}

/// The API's word for a value of the contract. There is none for one that the contract does not know.
pub fn word(value: &impl Debug) -> String {
    let (mut word, shown) = (String::new(), format!("{value:?}"));
    for character in shown.rsplit("::").next().unwrap().chars() {
        if character.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(character.to_lowercase());
    }
    if word == "timed_out" { "timeout".to_owned() } else { word }
}

fn str_of<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {body}"))
}

fn time_of(value: &Value) -> Option<u64> {
    let time: jiff::Timestamp = value.as_str()?.parse().unwrap();
    Some(u64::try_from(time.as_millisecond()).unwrap())
}
