//! What listeners hear of calls.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::broadcast;

use super::call_number::stored_id;
use crate::bindings::{Agent, Build};
use crate::control_plane::LogLine;
use crate::journal::record::CallId;
use crate::journal::{Answer, Request};
use crate::store::Turn;

/// Something that happened in a call.
#[derive(Clone, Debug)]
pub struct Event {
    /// Tells the call apart from all others of this host, also from those that are kept nowhere.
    pub number: u64,
    /// The call, if it is kept.
    pub call: Option<CallId>,
    /// The chat of the call.
    pub chat: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The call waits for its turn at the workspace: at first, and whenever what is ahead of it changes.
    WaitingForTurn(Turn),
    /// A tool began.
    Started {
        /// Its name.
        tool: String,
    },
    /// A tool is carried on that began earlier: on this host after a wait, or on another host.
    Resumed,
    /// A tool came to its end.
    Ended,
    /// The plugin asked for this; it is being carried out.
    Requested(Request),
    /// This was answered.
    Answered(Answer),
    /// The chat was bound to a build.
    BindingPublished {
        /// The workspace of the chat.
        workspace: String,
        /// The build.
        build: String,
    },
    /// A build was read while waiting for it: at first, and whenever its status, queue or provisioners changed.
    Build(Build),
    /// A line of that build's log.
    BuildLog {
        /// The build.
        build: String,
        /// The line.
        line: LogLine,
    },
    /// An agent was read while waiting for it: at first, and whenever its state or lifecycle changed.
    Agent(Agent),
    /// An agent is being dialled.
    Dialing {
        /// Its id.
        agent: String,
        /// Attempts before in this dial that nobody answered.
        attempts: u32,
        /// Since when this dial goes on.
        elapsed: Duration,
    },
}

/// Events kept for a listener that lags behind: a few builds' worth of log lines.
const BUFFER: usize = 4096;

/// Who listens. The buffer is made for the first one: most hosts in tests and simulations have none. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::driver) struct Listeners(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Listeners {
    /// What happens from now on.
    pub(in crate::driver) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.get_or_init(|| broadcast::channel(BUFFER).0).subscribe()
    }

    /// Whether somebody listens.
    pub(in crate::driver) fn are_there(&self) -> bool {
        self.0.get().is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Tells them of a call by its number, if there are any.
    pub(in crate::driver) fn emit(&self, number: u64, chat: &str, kind: EventKind) {
        let event = Event { number, call: stored_id(number), chat: chat.to_owned(), kind };
        tracing::debug!(?event);
        if let Some(sender) = self.0.get() {
            // An error means that nobody listens any more.
            let _ = sender.send(event);
        }
    }
}
