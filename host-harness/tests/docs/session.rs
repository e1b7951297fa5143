//! A shell beside a local control plane, as a reader has it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;
use workspace_recovery::local::{AgentCommand, LocalControlPlane, LocalOptions, LocalTimings};

use crate::processes::{as_pid, processes_that_name};

/// By how much all times are divided.
pub const SHORTENED: u32 = 10;
const PROGRAM: &str = env!("CARGO_BIN_EXE_workspace-recovery");
/// Ends the output of a command; its exit code follows.
const END: &str = "\u{1}the end ";

pub struct Session {
    shell: Child,
    typed: ChildStdin,
    shown: BufReader<ChildStdout>,
    plane: LocalControlPlane,
    data: TempDir,
    _work: TempDir,
}

impl Session {
    pub async fn begin() -> Self {
        let (data, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut options = LocalOptions::new(data.path(), AgentCommand::new(PROGRAM));
        options.timings = LocalTimings::shortened(SHORTENED);
        options.stop_agents_on_exit = true;
        let plane = LocalControlPlane::start(options).await.unwrap();
        let bin = data.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        write_program(&bin.join("workspace-recovery"));
        let home = data.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let mut command = Command::new("bash");
        for name in ["RUST_LOG", "CODER_URL", "CODER_SESSION_TOKEN"] {
            command.env_remove(name);
        }
        let mut shell = command
            .args(["--noprofile", "--norc"])
            .current_dir(work.path())
            .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
            .env("HOME", &home)
            .env("WORKSPACE_RECOVERY_DATA", data.path())
            // Kept from run to run: compiling the plugin takes a while.
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut typed, shown) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        // What the shell itself says, too.
        writeln!(typed, "exec 2>&1").unwrap();
        Self { shell, typed, shown: BufReader::new(shown), plane, data, _work: work }
    }

    /// Runs a command; answers what it puts out on both streams, and its exit code. It leaves the shell as a reader's
    /// would be left: with its variables, its folder, and `$?`.
    pub fn run(&mut self, command: &str) -> (String, i32) {
        let end = format!("printf '{END}%s\\n' $code; (exit $code)");
        writeln!(self.typed, "{{ {command}\n}} </dev/null 2>&1; code=$?; {end}").unwrap();
        let mut shown = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.shown.read_line(&mut line).unwrap(), 0, "the shell has ended:\n{shown}");
            match line.split_once(END) {
                Some((last, code)) => return (shown + last, code.trim().parse().unwrap()),
                None => shown += &line,
            }
        }
    }

    pub async fn end(mut self) {
        drop(self.typed);
        self.shell.wait().unwrap();
        self.plane.shutdown().await;
        for pid in processes_that_name(self.data.path()) {
            // It may have ended meanwhile.
            let _ = kill_process(as_pid(pid), Signal::KILL);
        }
    }
}

/// The program as a reader calls it, in a hurry.
fn write_program(path: &Path) {
    std::fs::write(path, format!("#!/bin/sh\nexec '{PROGRAM}' --shorten-times {SHORTENED} \"$@\"\n"))
        .unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
