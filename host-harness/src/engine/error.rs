//! Why an engine could not be set up, or a plugin not be loaded.

use thiserror::Error;

use super::check::{self, Refused};

/// Why an engine could not be set up.
#[derive(Debug, Error)]
#[error("the WebAssembly engine cannot be set up on this machine: {reason}")]
pub struct EngineError {
    reason: String,
}

/// Why a plugin was not loaded.
#[derive(Clone, Debug, Error)]
pub enum PluginError {
    /// It is no plugin, or none for this host.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It has the right functions, but they take or give other types than the contract says.
    #[error(
        "the plugin's functions do not match contract {}: {reason}; build it against that contract",
        check::CONTRACT_VERSION
    )]
    Mismatch {
        /// What the linker found.
        reason: String,
    },
    /// It is valid, but could not be compiled or would not fit into the engine's limits.
    #[error("the plugin cannot be compiled within this host's limits: {reason}")]
    NotCompiled {
        /// What the compiler said.
        reason: String,
    },
}

impl From<wasmtime::Error> for EngineError {
    fn from(error: wasmtime::Error) -> Self {
        Self { reason: one_line(&error) }
    }
}

/// An error with its causes, in one line.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    let parts: Vec<String> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    parts.join(": ")
}
