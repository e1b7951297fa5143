//! Why a call came to no result of the plugin's.

use std::sync::Arc;

use crate::engine::StepError;
use crate::journal::JournalError;
use crate::journal::record::{CallId, Failure};
use crate::store::StoreError;

/// Why a call came to no result of the plugin's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriveError {
    /// The call has ended so, for everybody.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The plugin could not be stepped. Of a kept call: on this host, now; it is tried again.
    #[error("the plugin could not go on: {0}")]
    Step(Arc<StepError>),
    /// An answer could not be recorded.
    #[error("an answer could not be recorded: {0}")]
    Journal(Arc<JournalError>),
    /// The store could not be used. A kept call is carried on when it can.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key was given before, with something else.
    #[error("the key \"{key}\" was given before, for another request (call {call}): use a new one")]
    KeyTaken {
        /// The key.
        key: String,
        /// The call that has it.
        call: CallId,
    },
    /// The store has no such call.
    #[error("there is no call {call} in this store; `calls --all` lists those that there are")]
    UnknownCall {
        /// The number given.
        call: CallId,
    },
    /// The call was made to judge a failed connection. It has a verdict, and no tool's result.
    #[error("call {call} is a verdict, and no tool's call: `show {call}` prints it")]
    NoTool {
        /// Its number.
        call: CallId,
    },
    /// The call cannot go on on this host.
    #[error("the call cannot go on here: {why}")]
    Stranded {
        /// Why not.
        why: String,
    },
    /// This host was stopped.
    #[error("this host was stopped; another one that shares its store carries the call on")]
    Halted,
}
