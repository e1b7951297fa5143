//! The agent process: connects to the control plane, runs the startup script, gives terminals.

use std::path::PathBuf;
use std::io;

/// What an agent process is started with.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The agent's folder, made by the control plane.
    pub folder: PathBuf,
}

/// Why an agent process could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file of its folder could not be used.
    #[error("cannot use the agent folder's {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A process already runs for this folder.
    #[error("an agent process already runs for {}", folder.display())]
    AlreadyRuns {
        /// The folder.
        folder: PathBuf,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}
