//! Runs the program, and a control plane for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{arguments, as_pid, processes_that_name};
use serde_json::Value;
use tempfile::TempDir;
use workspace_recovery::bindings::Transition;
use workspace_recovery::control_plane::ControlPlane;
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::local::{AgentCommand, LocalControlPlane, LocalOptions, LocalTimings};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspace-recovery");
/// The variable for the token.
pub const TOKEN: &str = "CODER_SESSION_TOKEN";
/// By how much the control plane's builds and reconnects are shortened.
const SHORTENED: u32 = 20;
/// By how much a host's waits are shortened where a test waits for one of them, such as for a lease to run out.
pub const SHORTEN_TIMES: [&str; 2] = ["--shorten-times", "10"];
/// Until then everything has happened that a test waits for, even on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(20);

/// A control plane in a folder of its own.
pub struct World {
    background: Background,
    pub plane: LocalControlPlane,
    /// What the program is started with besides.
    environment: Environment,
    folder: TempDir,
}

/// Variables for the program, by name.
type Environment = Vec<(&'static str, String)>;

/// The hosts in the background that were started for a folder. Killed when dropped.
struct Background(PathBuf);

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let background = Background(folder.path().to_owned());
        Self { background, plane: serve(folder.path(), None).await, environment: Vec::new(), folder }
    }

    /// The same folder, served at another port from now on.
    pub async fn served_at(self, port: u16) -> Self {
        let Self { background, plane, environment, folder } = self;
        plane.shutdown().await;
        Self { background, plane: serve(folder.path(), Some(port)).await, environment, folder }
    }

    /// With the workspace `dev`, and the chat `talk` in it.
    pub async fn with_a_workspace() -> Self {
        let world = Self::new().await;
        assert_eq!(world.run(&["workspace", "create", "dev"]).code, 0);
        assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
        world
    }

    /// The control plane is a deployment to the program from now on, and the program has its token.
    pub fn at_a_deployment(mut self) -> Self {
        let url = self.plane.url().to_owned();
        self.environment = vec![("CODER_URL", url), (TOKEN, self.plane.token().to_owned())];
        self
    }

    pub fn begin(&self, arguments: &[&str]) -> Program {
        Program::with_environment(self.folder.path(), &self.environment, arguments)
    }

    /// As [`begin`](Self::begin), with something piped to the program.
    pub fn begin_with_input(&self, arguments: &[&str], input: &[u8]) -> Program {
        let mut program = Program::start(self.folder.path(), &self.environment, arguments, Stdio::piped());
        let mut stdin = program.child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may refuse to read all of it.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        program
    }

    /// Kills the workspace's agent, and starts it again, as a supervisor does.
    pub fn restart_agent(&self) {
        for pid in processes_that_name(self.folder()).into_iter().filter(|pid| is_agent(*pid)) {
            kill_process(as_pid(pid), Signal::KILL).unwrap();
        }
        let agents = std::fs::read_dir(self.folder().join("agents")).unwrap();
        for agent in agents {
            let mut agent = Command::new(PROGRAM).arg("agent").arg(agent.unwrap().path()).spawn().unwrap();
            std::thread::spawn(move || agent.wait());
        }
    }

    /// As [`begin`](Self::begin), and everything is logged that can be.
    pub fn begin_logging_everything(&self, arguments: &[&str]) -> Program {
        let mut environment = self.environment.clone();
        environment.push(("RUST_LOG", "trace".to_owned()));
        Program::with_environment(self.folder.path(), &environment, arguments)
    }

    /// As [`begin`](Self::begin), for a program that the agent of the workspace `dev` has started.
    pub fn begin_inside(&self, arguments: &[&str]) -> Program {
        let name = |name, value: &str| (name, value.to_owned());
        let mut environment = self.environment.clone();
        environment.push(name("CODER", "true"));
        environment.push(name("CODER_WORKSPACE_NAME", "dev"));
        environment.push(name("CODER_WORKSPACE_OWNER_NAME", "owner"));
        Program::with_environment(self.folder.path(), &environment, arguments)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).end()
    }

    /// Runs a command that prints JSON, and answers that.
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat()).json()
    }

    /// Lets builds run, or wait in the queue for as long as a test wants.
    pub async fn let_builds_run(&self, run: bool) {
        self.plane.admin().set_provisioners(if run { 3 } else { 0 }).await.unwrap();
    }

    /// What the control plane was asked for in the workspace `dev`, oldest first.
    pub async fn transitions(&self) -> Vec<Transition> {
        let client = RestClient::new(self.plane.url(), self.plane.token()).unwrap();
        let workspace = client.workspace_by_name("dev").await.unwrap();
        let builds = client.builds(&workspace.id, 100).await.unwrap();
        builds.into_iter().rev().map(|read| read.build.transition).collect()
    }

    /// Begins a restart of `dev`, whose stop build waits in the queue when this returns. With its call's number.
    pub async fn begin_restart(&self, options: &[&str]) -> (Program, String) {
        self.let_builds_run(false).await;
        let mut call = self.begin(&[options, &["call", "talk", "restart_workspace"]].concat());
        call.wait_for_stderr("stop build 2: pending");
        (call, self.json(&["calls"])[0]["call"].to_string())
    }

    /// The hosts in the background.
    pub fn hosts(&self) -> Vec<Pid> {
        self.background.hosts()
    }

    /// Kills them, as `kill -9` does.
    pub fn kill_hosts(&self) {
        self.background.kill();
    }

    /// Ends its agents too.
    pub async fn end(self) {
        let Self { background, plane, folder, .. } = self;
        background.kill();
        plane.shutdown().await;
        drop(folder);
    }
}

async fn serve(folder: &Path, port: Option<u16>) -> LocalControlPlane {
    let mut options = LocalOptions::new(folder, AgentCommand::new(PROGRAM));
    options.port = port;
    options.timings.build = LocalTimings::shortened(SHORTENED).build;
    options.stop_agents_on_exit = true;
    LocalControlPlane::start(options).await.unwrap()
}

impl Background {
    fn hosts(&self) -> Vec<Pid> {
        let hosts =
            processes_that_name(&self.0).into_iter().filter(|pid| arguments(*pid).ends_with("\0host\0"));
        hosts.map(as_pid).collect()
    }

    fn kill(&self) {
        wait_until("the hosts in the background are gone", || {
            let hosts = self.hosts();
            for host in &hosts {
                // It may have ended meanwhile.
                let _ = kill_process(*host, Signal::KILL);
            }
            hosts.is_empty()
        });
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for host in self.hosts() {
            let _ = kill_process(host, Signal::KILL);
        }
    }
}

/// The program while it runs. Killed when dropped.
pub struct Program {
    child: Child,
    /// None: nobody reads it.
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<BufReader<ChildStderr>>,
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
        Self::with_environment(data, &[], arguments)
    }

    /// With this data folder and these variables. Nothing of the user's own has a say.
    pub fn with_environment(data: &Path, environment: &[(&'static str, String)], arguments: &[&str]) -> Self {
        Self::start(data, environment, arguments, Stdio::null())
    }

    fn start(data: &Path, environment: &[(&'static str, String)], arguments: &[&str], stdin: Stdio) -> Self {
        let mut command = Command::new(PROGRAM);
        for name in ["RUST_LOG", "CODER_URL", TOKEN] {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .env("WORKSPACE_RECOVERY_DATA", data)
            .env("CODER_CONFIG_DIR", data.join("coder"))
            // Kept from run to run: compiling the plugin takes longer than most tests.
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (stdout, stderr) = (Some(BufReader::new(stdout)), Some(BufReader::new(stderr)));
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
        wait_for(self.stderr.as_mut().unwrap(), &mut self.seen.stderr, part);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(as_pid(self.child.id()), signal).unwrap();
    }

    /// Kills it, as `kill -9` does: dropping it does so.
    pub fn kill(self) {}

    /// Goes away as a reader of what it has to say, as a terminal does that is closed.
    pub fn close_stderr(&mut self) {
        self.stderr = None;
    }

    /// Waits until it has ended.
    pub fn end(mut self) -> Ended {
        let Self { child, stdout, stderr, seen } = &mut self;
        let mut seen = std::mem::take(seen);
        let mut in_time = true;
        // Both at once: a full pipe would hold the program up.
        std::thread::scope(|scope| {
            if let Some(stderr) = stderr {
                scope.spawn(|| stderr.read_to_string(&mut seen.stderr).unwrap());
            }
            if let Some(stdout) = stdout {
                scope.spawn(|| stdout.read_to_string(&mut seen.stdout).unwrap());
            }
            let end = Instant::now() + SOON;
            while in_time && child.try_wait().unwrap().is_none() {
                std::thread::sleep(LOOK);
                in_time = Instant::now() < end;
            }
            if !in_time {
                child.kill().unwrap();
            }
        });
        assert!(in_time, "it has not ended within {SOON:?}: {} {}", seen.stdout, seen.stderr);
        seen.code = child.wait().unwrap().code().expect("it ends by itself, not by a signal");
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

/// The built-in plugin, except that the result of its restart has a key of another name.
pub fn another_plugin() -> Vec<u8> {
    let (name, other) = (b"restarted", b"resTarted");
    let mut plugin = workspace_recovery::PLUGIN.to_vec();
    let places: Vec<_> =
        (0..plugin.len() - name.len()).filter(|at| plugin[*at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    for at in places {
        plugin[at..at + name.len()].copy_from_slice(other);
    }
    plugin
}

fn is_agent(pid: u32) -> bool {
    arguments(pid).split('\0').nth(1) == Some("agent")
}

/// Waits for what nobody announces.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "within {SOON:?}: {what}");
        std::thread::sleep(LOOK);
    }
}
