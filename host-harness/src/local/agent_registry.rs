//! The agents that are connected now: their heartbeats, their reports, and the terminals they are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::{Message, WebSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::agent_protocol::{FromAgent, OpenTerminal, ToAgent};
use super::db::agents::Agent;
use super::server_state::ServerState;

#[derive(Debug, Default)]
pub(super) struct AgentRegistry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    agents: HashMap<String, Connected>,
    /// Terminals that wait for their agent, by the id of the attachment.
    waiting: HashMap<String, Waiting>,
    connections: u64,
}

#[derive(Debug)]
struct Connected {
    /// Tells this connection from one that took its place.
    connection: u64,
    send: mpsc::UnboundedSender<ToAgent>,
    leave: CancellationToken,
}

#[derive(Debug)]
struct Waiting {
    agent: String,
    open: OpenTerminal,
    give: oneshot::Sender<WebSocket>,
}

impl AgentRegistry {
    fn enter(&self, agent: &str) -> (u64, mpsc::UnboundedReceiver<ToAgent>, CancellationToken) {
        let mut inner = self.lock();
        inner.connections += 1;
        let connection = inner.connections;
        let (send, outbox) = mpsc::unbounded_channel();
        let leave = CancellationToken::new();
        for waiting in inner.waiting.values().filter(|waiting| waiting.agent == agent) {
            // The other end is right below: it cannot be closed.
            let _ = send.send(ToAgent::Terminal(waiting.open.clone()));
        }
        inner.agents.insert(agent.to_owned(), Connected { connection, send, leave: leave.clone() });
        (connection, outbox, leave)
    }

    /// Whether it was still the agent's connection.
    fn left(&self, agent: &str, connection: u64) -> bool {
        let mut inner = self.lock();
        let current = inner.agents.get(agent).is_some_and(|connected| connected.connection == connection);
        if current {
            inner.agents.remove(agent);
        }
        current
    }

    /// Closes the agent's connection, if it has one.
    pub fn dismiss(&self, agent: &str) {
        if let Some(connected) = self.lock().agents.get(agent) {
            connected.leave.cancel();
        }
    }

    /// Asks the agent for a terminal, now or when it connects. The agent's websocket comes through the receiver.
    pub fn ask_for_terminal(&self, agent: &str, open: OpenTerminal) -> oneshot::Receiver<WebSocket> {
        let (give, take) = oneshot::channel();
        let mut inner = self.lock();
        if let Some(connected) = inner.agents.get(agent) {
            // An agent that is just leaving cannot be asked; it is when it comes back.
            let _ = connected.send.send(ToAgent::Terminal(open.clone()));
        }
        inner.waiting.insert(open.id.clone(), Waiting { agent: agent.to_owned(), open, give });
        take
    }

    pub fn forget_terminal(&self, id: &str) {
        self.lock().waiting.remove(id);
    }

    /// Whether this agent was asked for that terminal.
    pub fn expects(&self, agent: &str, id: &str) -> bool {
        self.lock().waiting.get(id).is_some_and(|waiting| waiting.agent == agent)
    }

    pub fn give_terminal(&self, id: &str, socket: WebSocket) {
        if let Some(waiting) = self.lock().waiting.remove(id) {
            // Who asked may have gone in the meantime: then the socket is dropped.
            let _ = waiting.give.send(socket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves an agent's connection and keeps what is recorded of it. Each heartbeat is recorded first and then asked of the
/// agent; if the one before was not answered the agent is given up. So a hung agent reads as connected for one to two
/// heartbeats.
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
                    Ok(report) => heard(&state, &agent, &report),
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

fn heard(state: &ServerState, agent: &Agent, report: &FromAgent) {
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
