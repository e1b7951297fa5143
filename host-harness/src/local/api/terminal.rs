//! The terminal of an agent, for a user.
//!
//! How it fails is part of its behaviour. An agent that is not connected by its status is refused with 502 and a page
//! of HTML. One that reads as connected but is dead or hung gives an open socket and silence, until the server gives up
//! and closes it. An open terminal whose agent dies stays open and silent. The end of the command is the bare end of
//! the connection, without a close frame and without the exit code.

use std::sync::Arc;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, interval_at, sleep_until};

use super::super::agent_protocol::{OpenTerminal, TerminalInput};
use super::super::db::agents::Agent;
use super::super::db::new_id;
use super::super::server_state::ServerState;
use super::super::status::Connection;
use super::problem::{Problem, id};
use super::{has_token, render};

#[derive(Deserialize)]
pub(super) struct TerminalQuery {
    #[serde(default)]
    reconnect: String,
    #[serde(default)]
    command: String,
    #[serde(default = "default_height")]
    height: u16,
    #[serde(default = "default_width")]
    width: u16,
}

fn default_height() -> u16 {
    24
}

fn default_width() -> u16 {
    80
}

pub(super) async fn open(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
    Query(wanted): Query<TerminalQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    if has_token(&state, &headers).is_err() {
        return Err(Problem::not_found());
    }
    let Ok(key) = id(&key) else {
        return Ok(page(StatusCode::INTERNAL_SERVER_ERROR, "this is not the id of an agent"));
    };
    let Some(agent) = Agent::find(&state.db.get(), &key)? else {
        return Ok(page(StatusCode::NOT_FOUND, "there is no such agent"));
    };
    let reconnect = uuid::Uuid::parse_str(&wanted.reconnect)
        .map_err(|_| Problem::invalid("reconnect", "has to be a UUID that the client chooses"))?;
    if render::agent_status(&state, &agent).connection != Connection::Connected {
        return Ok(page(StatusCode::BAD_GATEWAY, "the agent is not connected"));
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) => return Ok((StatusCode::UPGRADE_REQUIRED, "This is a websocket.\n").into_response()),
    };
    let open = OpenTerminal {
        id: new_id(),
        reconnect: reconnect.to_string(),
        command: wanted.command,
        height: wanted.height,
        width: wanted.width,
    };
    Ok(upgrade.on_upgrade(async move |client| {
        let attachment = open.id.clone();
        let agent_side = state.agents.ask_for_terminal(&agent.id, open);
        serve(&state, client, agent_side).await;
        state.agents.forget_terminal(&attachment);
    }))
}

fn page(status: StatusCode, sentence: &str) -> Response {
    let html = format!("<!doctype html>\n<title>{status}</title>\n<p>{sentence}</p>\n");
    (status, Html(html)).into_response()
}

async fn serve(state: &ServerState, mut client: WebSocket, agent_side: oneshot::Receiver<WebSocket>) {
    let Some(agent_side) = wait_for_agent(state, &mut client, agent_side).await else { return };
    // None once the agent has died.
    let mut agent_side = Some(agent_side);
    let every = state.options.timings.stream_ping;
    let mut ping = interval_at(Instant::now() + every, every);
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            _ = ping.tick() => {
                if client.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
            }
            input = client.recv() => match check_input(&mut client, input).await {
                Input::Data(data) => {
                    if let Some(agent) = &mut agent_side
                        && agent.send(Message::Binary(data)).await.is_err()
                    {
                        agent_side = None;
                    }
                }
                Input::Nothing => {}
                Input::End => return,
            },
            output = receive(&mut agent_side) => match output {
                Some(Ok(Message::Binary(bytes))) => {
                    if client.send(Message::Binary(bytes)).await.is_err() {
                        return;
                    }
                }
                // The command has ended: so does the connection, without a word.
                Some(Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => agent_side = None,
            },
        }
    }
}

/// The agent's websocket. None: it did not come in time, and the client was told so; or the client has gone.
async fn wait_for_agent(
    state: &ServerState,
    client: &mut WebSocket,
    mut agent_side: oneshot::Receiver<WebSocket>,
) -> Option<WebSocket> {
    let until = Instant::now() + state.options.timings.terminal_dial;
    let mut early = Vec::new();
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return None,
            () = sleep_until(until) => {
                close(client, close_code::AWAY, "Ping failed").await;
                return None;
            }
            agent = &mut agent_side => {
                let mut agent = agent.ok()?;
                for data in early {
                    agent.send(Message::Binary(data)).await.ok()?;
                }
                return Some(agent);
            }
            input = client.recv() => match check_input(client, input).await {
                Input::Data(data) => early.push(data),
                Input::Nothing => {}
                Input::End => return None,
            },
        }
    }
}

enum Input {
    Data(axum::body::Bytes),
    Nothing,
    End,
}

/// Only binary frames of JSON are taken. A text frame is answered, anything else that is wrong ends the connection.
async fn check_input(client: &mut WebSocket, input: Option<Result<Message, axum::Error>>) -> Input {
    match input {
        Some(Ok(Message::Binary(data))) => match serde_json::from_slice::<TerminalInput>(&data) {
            Ok(_) => Input::Data(data),
            Err(_) => Input::End,
        },
        Some(Ok(Message::Text(_))) => {
            close(client, close_code::UNSUPPORTED, "input has to come in binary frames").await;
            Input::End
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Input::End,
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Input::Nothing,
    }
}

async fn close(client: &mut WebSocket, code: u16, reason: &'static str) {
    // A client that has gone need not be told.
    let _ = client.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

async fn receive(socket: &mut Option<WebSocket>) -> Option<Result<Message, axum::Error>> {
    match socket {
        Some(socket) => socket.recv().await,
        None => std::future::pending().await,
    }
}
