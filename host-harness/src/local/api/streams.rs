//! Streams over websockets: a workspace watched, logs followed. The logs can also be read in one piece.

use std::sync::Arc;

use axum::Json;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval_at};

use super::super::db::builds::Build;
use super::super::db::workspaces::Workspace;
use super::super::server_state::ServerState;
use super::problem::{Problem, id};
use super::render::{self, Place};
use super::{agents, workspaces};

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

#[derive(Deserialize)]
pub(super) struct Logs {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    after: i64,
}

/// What a stream says next.
struct Step {
    messages: Vec<Value>,
    /// Nothing will follow.
    ended: bool,
}

/// The workspace as it is now, and again whenever something of it changes. A change that comes with time alone, such as
/// an agent that turns disconnected for want of heartbeats, is not one: watchers have to look for themselves as well.
pub(super) async fn watch(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let workspace = workspaces::visible(&state.db.get(), &key, false)?;
    Ok(stream(state, workspace.id.clone(), upgrade, Pings::Message, move |state| {
        let db = state.db.get();
        let found = Workspace::find(&db, &workspace.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let data = render::workspace(state, &db, &found, Place::Elsewhere)?;
        Ok(Step { messages: vec![json!({"type": "data", "data": data})], ended: false })
    }))
}

pub(super) async fn build_logs(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(query): Query<Logs>,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let build = Build::find(&state.db.get(), &id(&key)?)?.ok_or_else(Problem::not_found)?;
    let mut after = query.after;
    let workspace = build.workspace_id.clone();
    let mut step = move |state: &ServerState| {
        let db = state.db.get();
        let lines = Build::logs(&db, &build.id, after)?;
        after = lines.last().map_or(after, |line| line.id);
        let ended = Build::find(&db, &build.id)?.is_none_or(|build| build.completed_at.is_some());
        Ok(Step { messages: lines.iter().map(render::build_log).collect(), ended })
    };
    if query.follow {
        return Ok(stream(state, workspace, upgrade, Pings::Frame, step));
    }
    let lines = step(&state).map_err(|error: rusqlite::Error| Problem::from(error))?.messages;
    Ok(Json(lines).into_response())
}

pub(super) async fn agent_logs(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(query): Query<Logs>,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let agent = agents::find(&state.db.get(), &key)?;
    if query.after < 0 {
        return Err(Problem::invalid("after", "has to be a number from 0 on"));
    }
    if !query.follow {
        return Ok(Json(render::agent_logs(&state.db.get(), &agent, query.after)?).into_response());
    }
    let mut after = query.after;
    Ok(stream(state, agent.workspace_id.clone(), upgrade, Pings::Frame, move |state| {
        let lines = render::agent_logs(&state.db.get(), &agent, after)?;
        after = lines.last().and_then(|line| line["id"].as_i64()).unwrap_or(after);
        // Followed as lists of lines, unlike a build's.
        let messages = if lines.is_empty() { Vec::new() } else { vec![Value::from(lines)] };
        Ok(Step { messages, ended: false })
    }))
}

/// How a stream shows that it lives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pings {
    /// By ping frames.
    Frame,
    /// By ping frames, and by a first message of its own kind.
    Message,
}

fn stream(
    state: Arc<ServerState>,
    workspace: String,
    upgrade: Upgrade,
    pings: Pings,
    step: impl FnMut(&ServerState) -> rusqlite::Result<Step> + Send + 'static,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) => return (StatusCode::UPGRADE_REQUIRED, "This is a websocket.\n").into_response(),
    };
    upgrade.on_upgrade(async move |socket| send_steps(&state, &workspace, socket, pings, step).await)
}

async fn send_steps(
    state: &ServerState,
    workspace: &str,
    mut socket: WebSocket,
    pings: Pings,
    mut step: impl FnMut(&ServerState) -> rusqlite::Result<Step> + Send,
) {
    // Before the first look, so that no change falls between.
    let mut changes = state.changes.subscribe();
    let every = state.options.timings.stream_ping;
    let mut ping = interval_at(Instant::now() + every, every);
    if pings == Pings::Message && !send(&mut socket, &json!({"type": "ping", "data": null})).await {
        return;
    }
    loop {
        let next = match step(state) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!("a stream of workspace {workspace} ends: {error}");
                return;
            }
        };
        for message in &next.messages {
            if !send(&mut socket, message).await {
                return;
            }
        }
        if next.ended {
            let done = CloseFrame { code: close_code::NORMAL, reason: "done".into() };
            // A client that has gone need not be told.
            let _ = socket.send(Message::Close(Some(done))).await;
            return;
        }
        loop {
            tokio::select! {
                () = state.stop.cancelled() => return,
                changed = next_change(&mut changes, workspace) => {
                    if !changed { return }
                    break;
                }
                _ = ping.tick() => {
                    if socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                        return;
                    }
                }
                message = socket.recv() => match message {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
            }
        }
    }
}

/// Waits for a change of the workspace, or for so many of all that some were missed. False: there will be none.
async fn next_change(changes: &mut Receiver<String>, workspace: &str) -> bool {
    loop {
        match changes.recv().await {
            Ok(changed) if changed == workspace => return true,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

async fn send(socket: &mut WebSocket, json: &Value) -> bool {
    socket.send(Message::text(json.to_string())).await.is_ok()
}
