//! Tells a client that waits what happens meanwhile, if it wants to know.

use std::future::pending;

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext, RoleServer};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::driver::{Driver, Event};
use crate::words::describe_event;

/// The progress of one request.
pub(super) struct Progress(Option<Told>);

struct Told {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    /// How many notifications were sent: progress has to grow, and nobody knows how much there will be.
    sent: u32,
    events: Receiver<Event>,
}

impl Progress {
    /// Listens from now on. Without a token in the request nothing is told.
    pub(super) fn new(driver: &Driver, context: &RequestContext<RoleServer>) -> Self {
        Self(context.meta.get_progress_token().map(|token| Told {
            peer: context.peer.clone(),
            token,
            sent: 0,
            events: driver.subscribe(),
        }))
    }

    /// Tells of the events that are the request's, as they come, for ever.
    pub(super) async fn tell(&mut self, is_ours: impl Fn(&Event) -> bool) {
        let Some(told) = &mut self.0 else { return pending().await };
        loop {
            match told.events.recv().await {
                Ok(event) => told.of(&event, &is_ours).await,
                // A later event has the newest state.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return pending().await,
            }
        }
    }

    /// Tells of those that came before the end: after the answer it would be too late.
    pub(super) async fn rest(mut self, is_ours: impl Fn(&Event) -> bool) {
        let Some(told) = &mut self.0 else { return };
        loop {
            match told.events.try_recv() {
                Ok(event) => told.of(&event, &is_ours).await,
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

impl Told {
    async fn of(&mut self, event: &Event, is_ours: &impl Fn(&Event) -> bool) {
        let Some(text) =
            Some(event).filter(|event| is_ours(event)).and_then(|event| describe_event(&event.kind))
        else {
            return;
        };
        self.sent += 1;
        let param =
            ProgressNotificationParam::new(self.token.clone(), f64::from(self.sent)).with_message(text);
        if let Err(error) = self.peer.notify_progress(param).await {
            tracing::debug!(%error, "progress was not told");
        }
    }
}
