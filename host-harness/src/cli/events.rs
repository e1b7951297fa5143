//! Shows what a call does while somebody waits for it.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use super::output::Progress;
use crate::driver::{Driver, EventKind};
use crate::words::describe_event;
pub use crate::words::{describe_build, lifecycle_word, state_word, transition_word};

/// Shows the events of a driver until it is dropped.
pub struct Shown(JoinHandle<()>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to show what the driver's calls do.
pub fn show(driver: &Driver) -> Shown {
    let mut events = driver.subscribe();
    Shown(tokio::spawn(async move {
        let mut progress = Progress::new();
        while let Some(kind) = next(&mut events).await {
            render(&mut progress, &kind);
        }
    }))
}

async fn next(events: &mut broadcast::Receiver<crate::driver::Event>) -> Option<EventKind> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event.kind),
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
