//! Builds: read, create, cancel.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::db::builds::{Build, NewBuild, ParameterValue};
use super::super::db::workspaces::Workspace;
use super::super::db::{Template, Version};
use super::super::model::{JobStatus, Transition};
use super::super::server_state::ServerState;
use super::problem::{Answer, Problem, body, id};
use super::render::{self, Place};
use super::search::Page;
use super::{known_user, parameters};

/// The reasons that a start may give.
const REASONS: [&str; 7] = [
    "initiator",
    "dashboard",
    "cli",
    "ssh_connection",
    "vscode_connection",
    "jetbrains_connection",
    "task_resume",
];

#[derive(Deserialize)]
pub(super) struct BuildBody {
    #[serde(default)]
    transition: String,
    template_version_id: Option<String>,
    #[serde(default)]
    rich_parameter_values: Vec<ParameterValue>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
pub(super) struct Cancel {
    expect_status: Option<String>,
}

fn find(db: &Connection, key: &str) -> Result<Build, Problem> {
    Build::find(db, &id(key)?)?.ok_or_else(Problem::not_found)
}

/// Builds of a deleted workspace can still be read.
fn workspace(db: &Connection, key: &str) -> Result<Workspace, Problem> {
    Workspace::find(db, &id(key)?)?.ok_or_else(Problem::not_found)
}

pub(super) async fn by_id(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let db = state.db.get();
    Ok(Json(render::build(&state, &db, &find(&db, &key)?, Place::ById)?))
}

pub(super) async fn by_number(
    Shared(state): Shared<Arc<ServerState>>,
    Path((user, name, number)): Path<(String, String, String)>,
) -> Answer {
    known_user(&state, &user)?;
    let number: i64 = number.parse().map_err(|_| Problem::invalid("buildnumber", "is not a number"))?;
    let db = state.db.get();
    let workspace = Workspace::find_by_name(&db, &name, false)?.ok_or_else(Problem::not_found)?;
    let build = Build::find_by_number(&db, &workspace.id, number)?.ok_or_else(Problem::not_found)?;
    Ok(Json(render::build(&state, &db, &build, Place::Elsewhere)?))
}

pub(super) async fn list(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(page): Query<Page>,
) -> Answer {
    let page = page.check()?;
    let db = state.db.get();
    let workspace = workspace(&db, &key)?;
    let mut builds = Vec::new();
    for build in page.of(Build::of_workspace(&db, &workspace.id)?) {
        builds.push(render::build(&state, &db, &build, Place::Elsewhere)?);
    }
    Ok(Json(builds.into()))
}

pub(super) async fn parameters(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let build = find(&state.db.get(), &key)?;
    let values: Vec<Value> =
        build.parameters.iter().map(|value| json!({"name": value.name, "value": value.value})).collect();
    Ok(Json(values.into()))
}

/// Queues a build. Whether it makes sense is the client's business: a stop of a stopped workspace, a start of a running
/// one and even a start of a deleted one are all accepted. Only an active build stands in the way.
pub(super) async fn create(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let json = {
        let db = state.db.get();
        let workspace = workspace(&db, &key)?;
        let wanted: BuildBody = body(&bytes)?;
        let build = insert(&db, &workspace, &wanted)?;
        state.changed(&workspace.id);
        render::build(&state, &db, &build, Place::Posted)?
    };
    state.provisioners.queued();
    Ok((StatusCode::CREATED, Json(json)).into_response())
}

fn insert(db: &Connection, workspace: &Workspace, wanted: &BuildBody) -> Result<Build, Problem> {
    let transition = Transition::parse(&wanted.transition).ok_or_else(|| {
        Problem::invalid("transition", format!("\"{}\" is none of start, stop, delete", wanted.transition))
    })?;
    if !wanted.reason.is_empty() && !REASONS.contains(&wanted.reason.as_str()) {
        return Err(Problem::invalid("reason", format!("\"{}\" is not a reason", wanted.reason)));
    }
    let latest = Build::latest(db, &workspace.id)?;
    if matches!(latest.status(), JobStatus::Pending | JobStatus::Running | JobStatus::Canceling) {
        return Err(Problem::active_build());
    }
    let version = version(db, workspace, wanted, &latest)?;
    if workspace.dormant_at.is_some() && transition == Transition::Start {
        let problem = Problem::new(StatusCode::FORBIDDEN, "This build may not be made.");
        return Err(problem.detail("the workspace is dormant"));
    }
    let template = Template::find(db, &workspace.template_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let values = parameters::resolve(
        &version.spec,
        template.classic_parameters,
        &latest.parameters,
        &wanted.rich_parameter_values,
    )?;
    // Only a start keeps the reason that it gives.
    let reason = match transition {
        Transition::Start if !wanted.reason.is_empty() => wanted.reason.as_str(),
        _ => "initiator",
    };
    Ok(Build::insert(
        db,
        &NewBuild { workspace: &workspace.id, transition, version: &version.id, reason, parameters: &values },
    )?)
}

/// The version asked for, or else that of the build before, whatever the active one is.
fn version(
    db: &Connection,
    workspace: &Workspace,
    wanted: &BuildBody,
    latest: &Build,
) -> Result<Version, Problem> {
    let asked = match &wanted.template_version_id {
        Some(key) => id(key)?,
        None => latest.version_id.clone(),
    };
    let version = Version::find(db, &asked)?.ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "There is no such template version.").detail(asked.clone())
    })?;
    if version.template_id != workspace.template_id {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "The version is one of another template.");
        return Err(problem.detail(format!("it belongs to the template {}", version.template_id)));
    }
    Ok(version)
}

pub(super) async fn cancel(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(query): Query<Cancel>,
) -> Answer {
    let refuse = |status, message: &str| Err(Problem::new(status, message));
    let db = state.db.get();
    let build = find(&db, &key)?;
    let expected = match query.expect_status.as_deref() {
        None => None,
        Some("pending") => Some(JobStatus::Pending),
        Some("running") => Some(JobStatus::Running),
        Some(_) => return refuse(StatusCode::BAD_REQUEST, "expect_status can be running or pending."),
    };
    if build.completed_at.is_some() {
        return refuse(StatusCode::BAD_REQUEST, "The build has ended already.");
    }
    if build.canceled_at.is_some() {
        return refuse(StatusCode::BAD_REQUEST, "The build is being canceled already.");
    }
    if expected.is_some_and(|expected| expected != build.status()) {
        return refuse(StatusCode::PRECONDITION_FAILED, "The build is not in the expected state.");
    }
    build.cancel(&db)?;
    state.provisioners.cancel(&build.id);
    state.changed(&build.workspace_id);
    Ok(Json(json!({"message": "The build is being canceled."})))
}
