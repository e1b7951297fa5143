//! Serves the agents' connections: their heartbeats, their reports.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use tokio::time::{Instant, interval_at};

use super::agent_protocol::FromAgent;
use super::db::agents::Agent;
use super::server_state::ServerState;

/// Serves an agent's connection and keeps what is recorded of it. Each heartbeat is recorded first and then asked of
/// the agent; if the one before was not answered the agent is given up. So a hung agent reads as connected for one to
/// two heartbeats.
pub(super) async fn serve_agent(state: Arc<ServerState>, agent: Agent, mut socket: WebSocket) {
    let (connection, mut outbox, leave) = state.agents.enter(&agent.id);
    record(&state, &agent, Agent::connected);
    let heartbeat = state.options.timings.heartbeat;
    let mut tick = interval_at(Instant::now() + heartbeat, heartbeat);
    let mut unanswered = false;
    loop {
        tokio::select! {
            // Not a disconnect of the agent's: nothing is recorded.
            () = state.stop.cancelled() => return,
            () = leave.cancelled() => break,
            _ = tick.tick() => {
                if unanswered {
                    break;
                }
                record(&state, &agent, Agent::heartbeat);
                unanswered = true;
                if socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                    break;
                }
            }
            Some(message) = outbox.recv() => {
                let Ok(text) = serde_json::to_string(&message) else { break };
                if socket.send(Message::text(text)).await.is_err() {
                    break;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Pong(_))) => unanswered = false,
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(report) => handle_report(&state, &agent, &report),
                    Err(error) => tracing::warn!("agent {} says what nobody understands: {error}", agent.id),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    if state.agents.left(&agent.id, connection) {
        record(&state, &agent, Agent::disconnected);
    }
}

fn handle_report(state: &ServerState, agent: &Agent, report: &FromAgent) {
    record(state, agent, |agent, db| match report {
        FromAgent::Lifecycle { state } => agent.report(db, *state),
        FromAgent::Log { level, output } => agent.log(db, level.as_str(), output),
    });
}

fn record(
    state: &ServerState,
    agent: &Agent,
    what: impl FnOnce(&Agent, &rusqlite::Connection) -> rusqlite::Result<()>,
) {
    let done = what(agent, &state.db.get());
    if let Err(error) = done {
        tracing::error!("cannot record the state of agent {}: {error}", agent.id);
    }
    state.changed(&agent.workspace_id);
}
