//! Runs the program, and a control plane for it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use workspace_recovery::local::{AgentCommand, LocalControlPlane, LocalOptions, LocalTimings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspace-recovery");
/// By how much the control plane's builds and reconnects are shortened.
const SHORTENED: u32 = 20;

/// A control plane in a folder of its own.
pub struct World {
    pub plane: LocalControlPlane,
    folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = LocalOptions::new(folder.path(), AgentCommand::new(PROGRAM));
        options.timings.build = LocalTimings::shortened(SHORTENED).build;
        options.stop_agents_on_exit = true;
        Self { plane: LocalControlPlane::start(options).await.unwrap(), folder }
    }

    /// With the workspace `dev`, and the chat `talk` in it.
    pub async fn with_a_workspace() -> Self {
        let world = Self::new().await;
        assert_eq!(world.run(&["workspace", "create", "dev"]).code, 0);
        assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
        world
    }

    pub fn begin(&self, arguments: &[&str]) -> Program {
        Program::in_folder(self.folder.path(), arguments)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).end()
    }

    /// Ends its agents too.
    pub async fn end(self) {
        self.plane.shutdown().await;
    }
}

/// The program while it runs. Killed when dropped.
pub struct Program {
    child: Child,
    /// None: nobody reads it.
    stdout: Option<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    seen: Ended,
}

/// What the program left.
#[derive(Default)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// With this data folder.
    pub fn in_folder(data: &Path, arguments: &[&str]) -> Self {
        Self::with_temporary_folder(data, &std::env::temp_dir(), arguments)
    }

    /// With this data folder, and this one for temporary files.
    pub fn with_temporary_folder(data: &Path, temporary: &Path, arguments: &[&str]) -> Self {
        Self::spawn(data, temporary, arguments, None)
    }

    /// With this data folder, and everything logged that can be.
    pub fn logging_everything(data: &Path, arguments: &[&str]) -> Self {
        Self::spawn(data, &std::env::temp_dir(), arguments, Some("trace"))
    }

    fn spawn(data: &Path, temporary: &Path, arguments: &[&str], log: Option<&str>) -> Self {
        let mut command = Command::new(PROGRAM);
        command.env_remove("RUST_LOG");
        if let Some(log) = log {
            command.env("RUST_LOG", log);
        }
        let mut child = command
            .args(arguments)
            .env("WORKSPACE_RECOVERY_DATA", data)
            .env("XDG_CACHE_HOME", data)
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (stdout, stderr) = (Some(BufReader::new(stdout)), BufReader::new(stderr));
        Self { child, stdout, stderr, seen: Ended::default() }
    }

    pub fn wait_for_stdout(&mut self, part: &str) {
        wait_for(self.stdout.as_mut().unwrap(), &mut self.seen.stdout, part);
    }

    /// Goes away as a reader, as `head` does.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub fn wait_for_stderr(&mut self, part: &str) {
        wait_for(&mut self.stderr, &mut self.seen.stderr, part);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn end(mut self) -> Ended {
        let mut seen = std::mem::take(&mut self.seen);
        let stderr = &mut self.stderr;
        let stdout = &mut self.stdout;
        // Both at once: a full pipe would hold the program up.
        std::thread::scope(|scope| {
            scope.spawn(|| stderr.read_to_string(&mut seen.stderr).unwrap());
            if let Some(stdout) = stdout {
                stdout.read_to_string(&mut seen.stdout).unwrap();
            }
        });
        seen.code = self.child.wait().unwrap().code().expect("it ends by itself, not by a signal");
        seen
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already, unless its test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its standard output, one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

fn wait_for(from: &mut impl BufRead, seen: &mut String, part: &str) {
    let begun = seen.len();
    while !seen[begun..].contains(part) {
        assert_ne!(from.read_line(seen).unwrap(), 0, "it ended without saying {part:?}: {seen}");
    }
}

/// The processes that name a folder in their arguments, as agents do.
pub fn processes_that_name(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(folder)
    })
    .collect()
}
