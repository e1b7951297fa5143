//! Agents: read by users, and the two websockets that agents themselves open.

use std::sync::Arc;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use rusqlite::Connection;

use super::super::agent_connections;
use super::super::db::agents::Agent;
use super::super::server_state::ServerState;
use super::problem::{Answer, Problem, id};
use super::render;

pub(super) fn find(db: &Connection, key: &str) -> Result<Agent, Problem> {
    Agent::find(db, &id(key)?)?.ok_or_else(Problem::not_found)
}

pub(super) async fn by_id(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let db = state.db.get();
    Ok(Json(render::agent(&state, &db, &find(&db, &key)?)?))
}

/// An agent connects. 401 and 410 tell it that nobody will ever want it: it ends itself.
pub(super) async fn connect(
    Shared(state): Shared<Arc<ServerState>>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let agent = by_token(&state, &headers)?;
    Ok(upgrade.on_upgrade(move |socket| agent_connections::serve_agent(state, agent, socket)))
}

/// An agent brings a terminal that it was asked for.
pub(super) async fn terminal(
    Shared(state): Shared<Arc<ServerState>>,
    Path(terminal): Path<String>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let agent = by_token(&state, &headers)?;
    if !state.agents.expects(&agent.id, &terminal) {
        return Err(Problem::not_found());
    }
    Ok(upgrade.on_upgrade(async move |socket| state.agents.give_terminal(&terminal, socket)))
}

fn by_token(state: &ServerState, headers: &HeaderMap) -> Result<Agent, Problem> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let agent = match token {
        Some(token) => Agent::find_by_token(&state.db.get(), token)?,
        None => None,
    };
    let agent = agent.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "No agent has this token."))?;
    if agent.retired {
        return Err(Problem::new(StatusCode::GONE, "The workspace has no use for this agent any more."));
    }
    Ok(agent)
}
