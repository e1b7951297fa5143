//! What only this control plane can do.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rusqlite::Connection;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;

use super::super::admin::{AgentSignal, SignalledAgent};
use super::super::db::agents::Agent;
use super::super::db::workspaces::Workspace;
use super::super::db::{Template, Version};
use super::super::model::{TemplateSpec, VersionSpec};
use super::super::processes;
use super::super::server_state::ServerState;
use super::problem::{Answer, Problem, body};
use super::templates::template_json;
use super::workspaces::Dormant;

#[derive(Deserialize)]
pub(super) struct Activate {
    #[serde(default)]
    activate: bool,
}

#[derive(Deserialize)]
struct SendSignal {
    signal: AgentSignal,
    agent: Option<String>,
}

#[derive(Deserialize)]
struct Provisioners {
    count: usize,
}

pub(super) async fn create_template(
    Shared(state): Shared<Arc<ServerState>>,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let spec: TemplateSpec = body(&bytes)?;
    if spec.name.is_empty() {
        return Err(Problem::invalid("name", "is required"));
    }
    let inserted = Template::insert(&mut state.db.get(), &spec)?;
    let template = inserted.ok_or_else(|| {
        let message = format!("A template named \"{}\" exists already.", spec.name);
        Problem::new(StatusCode::CONFLICT, message).field("name", "has to be unique")
    })?;
    Ok((StatusCode::CREATED, Json(template_json(&state, &template))).into_response())
}

pub(super) async fn template(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let template = find_template(&state.db.get(), &key)?;
    Ok(Json(template_json(&state, &template)))
}

pub(super) async fn add_version(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(query): Query<Activate>,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let spec: VersionSpec = body(&bytes)?;
    let db = state.db.get();
    let template = find_template(&db, &key)?;
    let version = Version::insert(&db, &template.id, &spec)?;
    if query.activate {
        template.activate(&db, &version)?;
    }
    Ok((StatusCode::CREATED, Json(json!({"id": version}))).into_response())
}

pub(super) async fn signal_agent(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    bytes: Bytes,
) -> Result<Json<SignalledAgent>, Problem> {
    let wanted: SendSignal = body(&bytes)?;
    let agent = {
        let db = state.db.get();
        let workspace = find_workspace(&db, &key)?;
        one_agent(Agent::current(&db, &workspace.id)?, wanted.agent.as_deref())?
    };
    let signal = match wanted.signal {
        AgentSignal::Kill => Signal::KILL,
        AgentSignal::Stop => Signal::STOP,
        AgentSignal::Cont => Signal::CONT,
    };
    let pid = processes::send_signal(&state, &agent, signal).ok_or_else(|| {
        let message = format!("The agent \"{}\" has no process that lives.", agent.spec.name);
        Problem::new(StatusCode::CONFLICT, message)
    })?;
    Ok(Json(SignalledAgent {
        id: agent.id,
        name: agent.spec.name,
        pid: pid.as_raw_nonzero().get().cast_unsigned(),
    }))
}

fn one_agent(mut agents: Vec<Agent>, name: Option<&str>) -> Result<Agent, Problem> {
    let several = agents.len() > 1 && name.is_none();
    if let Some(name) = name {
        agents.retain(|agent| agent.spec.name == name);
    }
    match agents.pop() {
        Some(_) if several => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "The workspace has several agents: name one."))
        }
        Some(agent) => Ok(agent),
        None => Err(Problem::new(StatusCode::NOT_FOUND, "The workspace has no such agent now.")),
    }
}

pub(super) async fn set_dormant(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    bytes: Bytes,
) -> Answer {
    let wanted: Dormant = body(&bytes)?;
    let db = state.db.get();
    let workspace = find_workspace(&db, &key)?;
    workspace.set_dormant(&db, wanted.dormant)?;
    state.changed(&workspace.id);
    Ok(Json(json!({"id": workspace.id, "dormant": wanted.dormant})))
}

pub(super) async fn set_provisioners(Shared(state): Shared<Arc<ServerState>>, bytes: Bytes) -> Answer {
    let wanted: Provisioners = body(&bytes)?;
    state.provisioners.set_count(wanted.count);
    Ok(Json(json!({"count": wanted.count})))
}

/// By name or id.
fn find_template(db: &Connection, key: &str) -> Result<Template, Problem> {
    Template::find(db, key)?
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("There is no template \"{key}\".")))
}

/// By name or id.
fn find_workspace(db: &Connection, key: &str) -> Result<Workspace, Problem> {
    let found = match Workspace::find(db, key)? {
        Some(workspace) if !workspace.deleted => Some(workspace),
        _ => Workspace::find_by_name(db, key, false)?,
    };
    found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("There is no workspace \"{key}\".")))
}
