//! The agent's connection to the control plane, kept up for as long as the agent lives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_tungstenite::tungstenite::Message;

use super::super::agent_protocol::{AgentConfig, FromAgent, ToAgent};
use super::super::model::Lifecycle;
use super::terminals::Terminals;
use super::websocket::{End, Socket, dial};

/// Connects again and again, and passes on what the agent reports, until the agent has said all or is not wanted.
pub(super) async fn keep(
    config: Arc<AgentConfig>,
    mut reports: UnboundedReceiver<FromAgent>,
    terminals: Terminals,
) {
    let mut unsent = Unsent::default();
    let mut wait = config.reconnect_first;
    loop {
        let end = match dial(&config, "/api/local/agent/connect").await {
            Ok(socket) => {
                wait = config.reconnect_first;
                session(socket, &mut reports, &mut unsent, &terminals).await
            }
            Err(end) => end,
        };
        match end {
            End::Retired | End::Said => return,
            End::Lost => {}
        }
        if !pause(wait, &mut reports, &mut unsent).await {
            return;
        }
        wait = (wait * 2).min(config.reconnect_most);
    }
}

/// Waits before the next attempt. False: the agent is ending, and there is nobody to tell.
async fn pause(wait: Duration, reports: &mut UnboundedReceiver<FromAgent>, unsent: &mut Unsent) -> bool {
    let paused = tokio::time::sleep(wait);
    tokio::pin!(paused);
    loop {
        tokio::select! {
            () = &mut paused => return true,
            report = reports.recv() => match report {
                Some(report) => unsent.add(report),
                None => return false,
            },
        }
    }
}

/// What the server may not have heard yet.
#[derive(Default)]
struct Unsent {
    queue: VecDeque<FromAgent>,
    /// Said again on each connection: the last report may have been lost with the one before.
    lifecycle: Option<Lifecycle>,
}

impl Unsent {
    fn add(&mut self, report: FromAgent) {
        if let FromAgent::Lifecycle { state } = report {
            self.lifecycle = Some(state);
        }
        self.queue.push_back(report);
    }
}

async fn session(
    mut socket: Socket,
    reports: &mut UnboundedReceiver<FromAgent>,
    unsent: &mut Unsent,
    terminals: &Terminals,
) -> End {
    let waits = unsent.queue.iter().any(|report| matches!(report, FromAgent::Lifecycle { .. }));
    if let (Some(state), false) = (unsent.lifecycle, waits) {
        unsent.queue.push_front(FromAgent::Lifecycle { state });
    }
    loop {
        while let Some(report) = unsent.queue.front() {
            let Ok(text) = serde_json::to_string(report) else { return End::Said };
            if socket.send(Message::text(text)).await.is_err() {
                return End::Lost;
            }
            unsent.queue.pop_front();
        }
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => unsent.add(report),
                None => {
                    // The process ends right after: whether the server took leave makes no difference.
                    let _ = socket.close(None).await;
                    return End::Said;
                }
            },
            // Pings are answered by the library while this reads.
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Ok(ToAgent::Terminal(open)) = serde_json::from_str(&text) {
                        tokio::spawn(terminals.clone().attach(open));
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End::Lost,
            },
        }
    }
}
