//! The agent process: connects to the control plane, runs the startup script, gives terminals.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::script::StartupScript;
use self::terminals::Terminals;
use super::agent_protocol::{self, AgentConfig, FromAgent};
use super::model::Lifecycle;

mod connection;
mod script;
mod terminals;
mod websocket;

/// How often an agent looks whether its folder still exists.
const LOOK_FOR_FOLDER: Duration = Duration::from_secs(2);

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
    #[error("cannot use the agent folder's {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
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

/// Runs the agent of a folder until it is told to end (SIGTERM), its workspace's build is stopped, or its control
/// plane's data folder is gone. While the control plane is away it waits and tries again. Meant to be a process of its
/// own: it leaves the terminal's session, so that Ctrl-C there does not reach it.
///
/// # Errors
///
/// The folder cannot be used, or another process already runs for it.
pub async fn run(options: AgentOptions) -> Result<(), AgentError> {
    let folder = options.folder;
    let config = Arc::new(read_config(&folder)?);
    let _alive = PidFile::take(&folder)?;
    // Refused to the leader of a process group, which is an agent started by hand in a terminal: it stays there.
    let _ = rustix::process::setsid();
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;

    let (report, reports) = mpsc::unbounded_channel();
    let terminals = Terminals::new(config.clone());
    let script = StartupScript::start(&folder, &config, report.clone());
    let connected = connection::keep(config.clone(), reports, terminals.clone());
    tokio::pin!(connected);
    tokio::select! {
        () = &mut connected => {}
        () = gone(&config.data_dir, &folder) => {}
        _ = terminate.recv() => {
            let farewell = async {
                // Nobody listens any more if sending fails: there is nobody to tell.
                let _ = report.send(FromAgent::Lifecycle { state: Lifecycle::ShuttingDown });
                script.end(config.terminate).await;
                terminals.end();
                let _ = report.send(FromAgent::Lifecycle { state: Lifecycle::Off });
                drop(report);
            };
            let _ = timeout(config.terminate, async { tokio::join!(farewell, connected) }).await;
            return Ok(());
        }
    }
    script.end(config.terminate).await;
    terminals.end();
    Ok(())
}

fn read_config(folder: &Path) -> Result<AgentConfig, AgentError> {
    let path = agent_protocol::config_file(folder);
    std::fs::read(&path)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other))
        .map_err(|error| AgentError::File { path, error })
}

/// Ends when the control plane's data folder or the agent's own is gone: nobody will ever ask for this agent again.
async fn gone(data_dir: &Path, folder: &Path) {
    let mut look = tokio::time::interval(LOOK_FOR_FOLDER);
    loop {
        look.tick().await;
        if !data_dir.exists() || !folder.exists() {
            return;
        }
    }
}

/// The process id in a file that stays locked for as long as this process lives, however it ends.
struct PidFile {
    _file: File,
}

impl PidFile {
    fn take(folder: &Path) -> Result<Self, AgentError> {
        let path = agent_protocol::pid_file(folder);
        let file_error = |error| AgentError::File { path: path.clone(), error };
        let mut file =
            File::options().write(true).create(true).truncate(false).open(&path).map_err(file_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(AgentError::AlreadyRuns { folder: folder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(file_error(error)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(file_error)?;
        Ok(Self { _file: file })
    }
}
