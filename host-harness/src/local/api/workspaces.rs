//! Workspaces: read, search, create.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;

use super::super::db::builds::{Build, NewBuild, ParameterValue};
use super::super::db::workspaces::Workspace;
use super::super::db::{Template, Version};
use super::super::model::Transition;
use super::super::server_state::ServerState;
use super::problem::{Answer, Problem, body, id};
use super::render::{self, Place};
use super::search::{Page, Search};
use super::{known_user, parameters};

#[derive(Deserialize)]
pub(super) struct WithDeleted {
    #[serde(default)]
    include_deleted: bool,
}

#[derive(Deserialize)]
pub(super) struct NewWorkspace {
    #[serde(default)]
    name: String,
    template_id: Option<String>,
    template_version_id: Option<String>,
    #[serde(default)]
    rich_parameter_values: Vec<ParameterValue>,
}

#[derive(Deserialize)]
pub(super) struct Dormant {
    pub dormant: bool,
}

#[derive(Deserialize)]
pub(super) struct List {
    #[serde(default)]
    q: String,
}

/// A workspace that can be seen by its id: 410 if it was deleted, unless deleted ones are asked for.
pub(super) fn visible(db: &Connection, key: &str, include_deleted: bool) -> Result<Workspace, Problem> {
    let workspace = Workspace::find(db, &id(key)?)?.ok_or_else(Problem::not_found)?;
    if workspace.deleted && !include_deleted {
        let message = format!("The workspace {key} was deleted; add include_deleted=true to see it.");
        return Err(Problem::new(StatusCode::GONE, message));
    }
    Ok(workspace)
}

pub(super) async fn by_id(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(query): Query<WithDeleted>,
) -> Answer {
    let db = state.db.get();
    let workspace = visible(&db, &key, query.include_deleted)?;
    Ok(Json(render::workspace(&state, &db, &workspace, Place::Elsewhere)?))
}

pub(super) async fn by_name(
    Shared(state): Shared<Arc<ServerState>>,
    Path((user, name)): Path<(String, String)>,
    Query(query): Query<WithDeleted>,
) -> Answer {
    known_user(&state, &user)?;
    let db = state.db.get();
    let found = Workspace::find_by_name(&db, &name, query.include_deleted)?;
    let workspace = found.ok_or_else(Problem::not_found)?;
    Ok(Json(render::workspace(&state, &db, &workspace, Place::Elsewhere)?))
}

pub(super) async fn list(
    Shared(state): Shared<Arc<ServerState>>,
    Query(query): Query<List>,
    Query(page): Query<Page>,
) -> Answer {
    let search = Search::parse(&query.q)?;
    let page = page.check()?;
    let db = state.db.get();
    let mut found = Vec::new();
    for workspace in Workspace::all(&db)? {
        let json = render::workspace(&state, &db, &workspace, Place::Elsewhere)?;
        if search.matches(&json) {
            found.push(json);
        }
    }
    let count = found.len();
    Ok(Json(json!({"workspaces": page.of(found), "count": count})))
}

pub(super) async fn create(
    Shared(state): Shared<Arc<ServerState>>,
    Path(user): Path<String>,
    bytes: Bytes,
) -> Result<Response, Problem> {
    known_user(&state, &user)?;
    let new: NewWorkspace = body(&bytes)?;
    if !is_name(&new.name) {
        let detail = "needs 1 to 32 letters, digits or single hyphens, and no hyphen at either end";
        return Err(Problem::invalid("name", detail));
    }
    let json = {
        let mut db = state.db.get();
        let (template, version) = template_and_version(&db, &new)?;
        if Workspace::find_by_name(&db, &new.name, false)?.is_some() {
            let message = format!("A workspace named \"{}\" exists already.", new.name);
            return Err(Problem::new(StatusCode::CONFLICT, message).field("name", "has to be unique"));
        }
        let values =
            parameters::resolve(&version.spec, template.classic_parameters, &[], &new.rich_parameter_values)?;
        let transaction = db.transaction()?;
        let workspace = Workspace::insert(&transaction, &new.name, &template.id)?;
        let first = NewBuild {
            workspace: &workspace.id,
            transition: Transition::Start,
            version: &version.id,
            reason: "initiator",
            parameters: &values,
        };
        Build::insert(&transaction, &first)?;
        transaction.commit()?;
        render::workspace(&state, &db, &workspace, Place::Posted)?
    };
    state.provisioners.queued();
    Ok((StatusCode::CREATED, Json(json)).into_response())
}

fn template_and_version(db: &Connection, new: &NewWorkspace) -> Result<(Template, Version), Problem> {
    let version = match &new.template_version_id {
        Some(key) => Version::find(db, &id(key)?)?,
        None => None,
    };
    let template = match (&version, &new.template_id) {
        (Some(version), _) => Template::find(db, &version.template_id)?,
        (None, Some(key)) => Template::find(db, &id(key)?)?,
        (None, None) => return Err(Problem::invalid("template_id", "is required")),
    };
    let template = template.ok_or_else(|| Problem::invalid("template_id", "there is no such template"))?;
    let version = match version {
        Some(version) => Some(version),
        None => Version::find(db, &template.active_version_id)?,
    };
    Ok((template, version.ok_or_else(Problem::not_found)?))
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.split('-').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

pub(super) async fn set_dormant(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    bytes: Bytes,
) -> Answer {
    let wanted: Dormant = body(&bytes)?;
    let db = state.db.get();
    let workspace = visible(&db, &key, false)?;
    workspace.set_dormant(&db, wanted.dormant)?;
    state.changed(&workspace.id);
    let workspace = visible(&db, &key, false)?;
    Ok(Json(render::workspace(&state, &db, &workspace, Place::Elsewhere)?))
}
