//! What server and agent say to each other.
//!
//! An agent holds one websocket to `/api/local/agent/connect`, with its token. Messages are JSON text frames. The
//! server pings; the agent's answers are its heartbeats. For each terminal that the server asks for, the agent opens
//! another websocket to `/api/local/agent/terminals/{id}`: binary frames with the terminal's bytes to the server,
//! binary frames with a JSON [`TerminalInput`] to the agent. A close frame from the agent means that the command has
//! ended; an end without one means that the agent is gone.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::model::Lifecycle;

/// What an agent process is given: `config.json` in its folder, readable by its owner only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AgentConfig {
    pub agent_id: String,
    /// What it tells all that it starts of where that runs.
    #[serde(default)]
    pub variables: Vec<(String, String)>,
    pub token: String,
    /// The control plane's data folder, where `server.json` says how to reach it.
    pub data_dir: PathBuf,
    /// Where scripts and terminals begin.
    pub home: PathBuf,
    pub startup_script: String,
    pub script_timeout_seconds: u32,
    pub reconnect_first: Duration,
    pub reconnect_most: Duration,
    /// How long children may take to end after SIGTERM.
    pub terminate: Duration,
}

/// From agent to server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum FromAgent {
    Lifecycle { state: Lifecycle },
    Log { level: LogLevel, output: String },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogLevel {
    Info,
    Error,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Error => "error",
        }
    }
}

/// From server to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub(super) enum ToAgent {
    /// Attach a terminal.
    Terminal(OpenTerminal),
}

/// A terminal asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OpenTerminal {
    /// Of this attachment: names the websocket to open.
    pub id: String,
    /// Of the terminal: a known one is attached to, with its output so far; a new one is made.
    pub reconnect: String,
    /// Empty: an interactive shell.
    pub command: String,
    pub height: u16,
    pub width: u16,
}

/// What the user of a terminal types or changes.
#[derive(Debug, Deserialize)]
pub(super) struct TerminalInput {
    #[serde(default)]
    pub data: String,
    pub height: Option<u16>,
    pub width: Option<u16>,
}

/// Where an agent's folder keeps its configuration.
pub(super) fn config_file(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

/// Locked by the agent process for as long as it lives; holds its process id.
pub(super) fn pid_file(folder: &Path) -> PathBuf {
    folder.join("pid")
}

/// Locked by the startup script for as long as it lives, even without its agent; holds the id of its process group.
pub(super) fn script_file(folder: &Path) -> PathBuf {
    folder.join("script")
}

/// The process id in a file, if a process still keeps the file locked. The lock goes with the process, so an id that
/// the system has given to somebody else is never taken for it.
pub(super) fn locked_pid(path: &Path) -> Option<Pid> {
    match File::open(path).ok()?.try_lock() {
        Err(TryLockError::WouldBlock) => Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}
