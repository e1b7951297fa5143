//! Why the store could not be used.

use crate::journal::record::CallId;

/// Why the store could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error("the store {path} cannot be used: {reason}; check that the file and its folder are writable")]
    Unusable {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// There is no room for what was to be written; nothing of it was.
    #[error("the store {path} is full: the disk has no room; free some, nothing was lost")]
    Full {
        /// The file.
        path: String,
    },
    /// The file is not a store, or is one no more.
    #[error(
        "the store {path} is damaged or is no store ({reason}): move it away, a new one is made then; \
         its calls and bindings are lost with it unless it can be repaired"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The file was written by a newer version of this program.
    #[error(
        "the store {path} has format {found}, this program knows {known}: use a newer program or another file"
    )]
    Newer {
        /// The file.
        path: String,
        /// The format found.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// A row cannot be read.
    #[error("the store's call {call} cannot be read: {reason}")]
    Unreadable {
        /// The call.
        call: CallId,
        /// What is wrong with it.
        reason: String,
    },
    /// This host's lease has run out: it may not write any more, and others may have taken its calls over.
    #[error("another host may have taken over: this one was out of touch for longer than its lease")]
    LeaseLost,
    /// One call has ended, or is not this host's. Says nothing about the host's other calls.
    #[error("call {call} has ended, or another host has it")]
    NotHeld {
        /// The call.
        call: CallId,
    },
}
