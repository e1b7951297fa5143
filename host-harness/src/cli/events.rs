//! Shows what a call does while somebody waits for it.

use std::collections::BTreeSet;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use super::output::Progress;
use crate::describe::describe_event;
use crate::driver::{Driver, Event, EventKind};
use crate::journal::record::CallId;

/// Shows the events of a driver until it is dropped.
pub struct Shown(JoinHandle<()>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Which calls are shown.
pub enum CallFilter {
    /// All of them.
    All,
    /// Those of what a chat does that is kept nowhere, as a command is.
    Chat(String),
    /// Those of this call. A host carries on the calls of others, too: that it does is told, and not what they do.
    Call(CallId),
}

/// Begins to show what the driver's calls do from now on, as soon as it is known which calls are asked for.
pub fn show(driver: &Driver, filter: impl Future<Output = CallFilter> + Send + 'static) -> Shown {
    let mut events = driver.subscribe();
    Shown(tokio::spawn(async move {
        let filter = filter.await;
        let mut progress = Progress::new();
        let mut others = BTreeSet::new();
        while let Some(event) = next(&mut events).await {
            let shown = match &filter {
                CallFilter::All => true,
                CallFilter::Chat(chat) => event.call.is_none() && event.chat == *chat,
                CallFilter::Call(call) => event.call == Some(*call),
            };
            if shown {
                render(&mut progress, &event.kind);
            } else if let Some(other) = event.call.filter(|other| others.insert(*other)) {
                let chat = &event.chat;
                progress.status(format!(
                    "call {other} of chat {chat}, whose own host is gone, is carried on here, too"
                ));
            }
        }
    }))
}

async fn next(events: &mut broadcast::Receiver<Event>) -> Option<Event> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event),
            // Only what is shown is lost: a later event has the newest state.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

fn render(progress: &mut Progress, kind: &EventKind) {
    match (kind, describe_event(kind)) {
        (EventKind::BuildLog { line, .. }, _) => progress.log(line),
        (_, Some(text)) => progress.status(text),
        (_, None) => {}
    }
}
