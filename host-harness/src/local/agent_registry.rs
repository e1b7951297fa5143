//! The agents that are connected now, how they are spoken to, and the terminals that they are asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::ws::WebSocket;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::agent_protocol::{OpenTerminal, ToAgent};

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
    pub(super) fn enter(&self, agent: &str) -> (u64, mpsc::UnboundedReceiver<ToAgent>, CancellationToken) {
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
    pub(super) fn left(&self, agent: &str, connection: u64) -> bool {
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
