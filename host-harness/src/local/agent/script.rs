//! The startup script of an agent, and what is reported of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::agent_protocol::{AgentConfig, FromAgent, LogLevel, script_file};
use super::super::model::Lifecycle;

type Reports = UnboundedSender<FromAgent>;

/// A startup script that runs, or has ended.
pub(super) struct StartupScript {
    /// The leader of its process group, while it may live.
    group: Option<Pid>,
    follow: Option<JoinHandle<()>>,
}

impl StartupScript {
    /// Starts it and reports `starting`, its output, and how it ended. Without a script the agent is ready at once.
    pub fn start(folder: &Path, config: &AgentConfig, reports: Reports) -> Self {
        lifecycle(&reports, Lifecycle::Starting);
        if config.startup_script.is_empty() {
            lifecycle(&reports, Lifecycle::Ready);
            return Self { group: None, follow: None };
        }
        match spawn(&script_file(folder), config) {
            Ok(child) => {
                let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                let limit = Duration::from_secs(config.script_timeout_seconds.into());
                Self { group, follow: Some(tokio::spawn(follow(child, limit, reports))) }
            }
            Err(error) => {
                log(&reports, LogLevel::Error, format!("cannot run the startup script: {error}"));
                lifecycle(&reports, Lifecycle::StartError);
                Self { group: None, follow: None }
            }
        }
    }

    /// Ends it with SIGTERM, and with SIGKILL if it takes longer than half of `limit`.
    pub async fn end(mut self, limit: Duration) {
        let (Some(group), Some(follow)) = (self.group, self.follow.as_mut()) else { return };
        if follow.is_finished() {
            return;
        }
        // It may have ended by itself in this moment, which is as good.
        let _ = kill_process_group(group, Signal::TERM);
        if timeout(limit / 2, &mut *follow).await.is_err() {
            let _ = kill_process_group(group, Signal::KILL);
            follow.abort();
        }
    }
}

/// The script keeps a locked file as its standard input, by which it is found after its agent has died. To the script
/// it looks empty.
fn spawn(found_by: &Path, config: &AgentConfig) -> io::Result<Child> {
    let mut found = File::options().read(true).write(true).create(true).truncate(true).open(found_by)?;
    found.lock()?;
    let child = Command::new("/bin/sh")
        .args(["-c", &config.startup_script])
        .current_dir(&config.home)
        .envs(config.variables.iter().map(|(name, value)| (name, value)))
        .stdin(found.try_clone()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    // Shared with the script: what is written here is behind its position too.
    write!(found, "{}", child.id().unwrap_or_default())?;
    Ok(child)
}

/// Passes the output on, and reports the end, or that the end is late. A late script goes on.
async fn follow(mut child: Child, limit: Duration, reports: Reports) {
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(lines(stdout, LogLevel::Info, reports.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(lines(stderr, LogLevel::Error, reports.clone()));
    }
    let ended = if limit.is_zero() {
        child.wait().await
    } else if let Ok(ended) = timeout(limit, child.wait()).await {
        ended
    } else {
        lifecycle(&reports, Lifecycle::StartTimeout);
        child.wait().await
    };
    let good = ended.is_ok_and(|status| status.success());
    lifecycle(&reports, if good { Lifecycle::Ready } else { Lifecycle::StartError });
}

async fn lines(stream: impl AsyncRead + Unpin, level: LogLevel, reports: Reports) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log(&reports, level, line);
    }
}

// A report that cannot be queued has no reader any more: the agent is ending.

fn lifecycle(reports: &Reports, state: Lifecycle) {
    let _ = reports.send(FromAgent::Lifecycle { state });
}

fn log(reports: &Reports, level: LogLevel, output: String) {
    let _ = reports.send(FromAgent::Log { level, output });
}
