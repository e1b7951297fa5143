//! Why the control plane could not start, or could not be found.

use std::io;
use std::path::PathBuf;

use super::endpoint::Endpoint;

/// Why the control plane could not start, or could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// Another process serves this data folder.
    #[error("a control plane already serves {}: use it at {} (process {})", data_dir.display(), endpoint.url, endpoint.pid)]
    AlreadyServed {
        /// The folder.
        data_dir: PathBuf,
        /// Where the other one answers.
        endpoint: Endpoint,
    },
    /// A process holds the data folder but does not answer.
    #[error("{} is locked by a process that does not answer: end that process, or use another folder", data_dir.display())]
    Unresponsive {
        /// The folder.
        data_dir: PathBuf,
    },
    /// A file of the data folder could not be used.
    #[error("cannot use {}: {error}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The database could not be used.
    #[error("cannot use the database in {}: {error}", data_dir.display())]
    Database {
        /// The folder.
        data_dir: PathBuf,
        /// What went wrong.
        error: rusqlite::Error,
    },
    /// The port could not be bound.
    #[error("cannot listen on 127.0.0.1:{port}: {error}; choose another port")]
    Bind {
        /// The port; 0 for any.
        port: u16,
        /// What went wrong.
        error: io::Error,
    },
}
