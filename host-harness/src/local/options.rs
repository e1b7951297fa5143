//! How the embedded control plane runs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How the embedded control plane runs.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The folder that holds everything: database, token, agents and their home folders. Made if it is missing.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1. None: the one used last time on this folder if it is free, else any free one.
    pub port: Option<u16>,
    /// How to start an agent process.
    pub agent_command: AgentCommand,
    /// How many builds can run at a time. 0: builds wait, as without any provisioner.
    pub provisioners: usize,
    /// What the workspaces that run may cost together. None: no limit.
    pub quota_budget: Option<i64>,
    /// Intervals and limits.
    pub timings: LocalTimings,
    /// End all agent processes at shutdown. Without it they live on and wait for the server to come back.
    pub stop_agents_on_exit: bool,
}

impl LocalOptions {
    /// Options with the defaults of a lasting server: three provisioners, no quota, real timings, agents live on.
    pub fn new(data_dir: impl Into<PathBuf>, agent_command: AgentCommand) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            agent_command,
            provisioners: 3,
            quota_budget: None,
            timings: LocalTimings::default(),
            stop_agents_on_exit: false,
        }
    }
}

/// The program that runs [`agent::run`](super::agent::run), to which the agent's folder is appended as the last
/// argument.
#[derive(Clone, Debug)]
pub struct AgentCommand {
    /// The program's path.
    pub program: PathBuf,
    /// Arguments before the folder.
    pub args: Vec<OsString>,
}

impl AgentCommand {
    /// `PROGRAM agent FOLDER`, which is what the program `workspace-recovery` understands.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: vec!["agent".into()] }
    }

    /// The program that is running now.
    ///
    /// # Errors
    ///
    /// The path of the running program cannot be found.
    pub fn this_program() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }
}

/// Intervals and limits. The default is that of a real deployment; tests and demonstrations shorten them.
#[derive(Clone, Copy, Debug)]
pub struct LocalTimings {
    /// How often the server notes that an agent is there and pings it. 15 s.
    pub heartbeat: Duration,
    /// An agent without a heartbeat for longer is called disconnected. 30 s.
    pub inactive: Duration,
    /// How long a new terminal waits for its agent before it is closed. 30 s.
    pub terminal_dial: Duration,
    /// How often open terminals and watchers are pinged. 15 s.
    pub stream_ping: Duration,
    /// How long a build takes whose template says nothing about it. 2 s.
    pub build: Duration,
    /// After this time a canceled build that goes on is given up. 20 s (a real deployment waits 10 minutes).
    pub force_cancel: Duration,
    /// From SIGTERM to SIGKILL for an agent whose workspace is stopped. 5 s.
    pub terminate: Duration,
    /// An agent's first wait before it connects again; doubled each time. 50 ms.
    pub reconnect_first: Duration,
    /// An agent's longest wait before it connects again. 10 s.
    pub reconnect_most: Duration,
}

impl Default for LocalTimings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            inactive: Duration::from_secs(30),
            terminal_dial: Duration::from_secs(30),
            stream_ping: Duration::from_secs(15),
            build: Duration::from_secs(2),
            force_cancel: Duration::from_secs(20),
            terminate: Duration::from_secs(5),
            reconnect_first: Duration::from_millis(50),
            reconnect_most: Duration::from_secs(10),
        }
    }
}

impl LocalTimings {
    /// The default with every interval divided by `factor`, except the time that an agent has to end itself.
    pub fn shortened(factor: u32) -> Self {
        let real = Self::default();
        Self {
            heartbeat: real.heartbeat / factor,
            inactive: real.inactive / factor,
            terminal_dial: real.terminal_dial / factor,
            stream_ping: real.stream_ping / factor,
            build: real.build / factor,
            force_cancel: real.force_cancel / factor,
            terminate: real.terminate,
            reconnect_first: real.reconnect_first,
            reconnect_most: real.reconnect_most / factor,
        }
    }
}
