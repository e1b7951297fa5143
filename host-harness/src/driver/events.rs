//! What listeners hear of calls.

use std::time::Duration;

use tokio::sync::broadcast;

use crate::bindings::{Agent, Build};
use crate::control_plane::LogLine;
use crate::driver::Holder;
use crate::journal::{Answer, Request};

/// Something that happened in a call.
#[derive(Clone, Debug)]
pub struct Event {
    /// Counts up within a driver; names the call.
    pub call: u64,
    /// The chat of the call.
    pub chat: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The call waits for its turn at the workspace.
    WaitingForTurn {
        /// The call that has it.
        holder: Holder,
    },
    /// A tool began.
    Started {
        /// Its name.
        tool: String,
    },
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
        /// Attempts made before in this dial.
        attempts: u32,
        /// Since when this dial goes on.
        elapsed: Duration,
    },
}

/// Tells listeners, if there are any.
pub(super) fn tell(listeners: &broadcast::Sender<Event>, call: u64, chat: &str, kind: EventKind) {
    let event = Event { call, chat: chat.to_owned(), kind };
    tracing::debug!(?event);
    // An error means that nobody listens.
    let _ = listeners.send(event);
}
