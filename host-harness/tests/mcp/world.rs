//! A local control plane with short times, and the program beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use workspace_recovery::bindings::{AgentState, Transition};
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::control_plane::{ControlPlane, NewBuild, Workspace, is_terminal};
use workspace_recovery::local::{
    AgentCommand, AgentSignal, LocalControlPlane, LocalOptions, LocalTimings, TemplateSpec, VersionSpec,
};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::{CallRow, Listing, Store};

use crate::deployment::Deployment;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_workspace-recovery");
/// By how much all times are shortened: an agent is dialled for 2 s, and restarted when it has been gone for 6 s.
const SHORTENED: u32 = 15;
/// Until then everything has happened that a test waits for, even on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(20);

/// A control plane in a folder of its own.
pub struct World {
    /// None: it is away.
    plane: Option<LocalControlPlane>,
    /// What the program works on, if it is not the local control plane.
    deployment: Option<Deployment>,
    folder: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let mut world = Self::never_served();
        world.come_back().await;
        world
    }

    /// A folder in which there is nothing yet.
    pub fn never_served() -> Self {
        Self { plane: None, deployment: None, folder: tempfile::tempdir().unwrap() }
    }

    /// With the workspace `dev`.
    pub async fn with_a_workspace() -> Self {
        Self::with_a_workspace_of(VersionSpec::default()).await
    }

    /// With the workspace `dev`, of a template like this.
    pub async fn with_a_workspace_of(version: VersionSpec) -> Self {
        let world = Self::new().await;
        world.create("dev", version).await;
        world
    }

    /// With the workspace `dev`, whose agent has been gone for long since the control plane was away: when it went is
    /// only inferred from when it was there last.
    pub async fn with_an_agent_that_nobody_saw_go() -> Self {
        let mut world = Self::with_a_workspace().await;
        world.go_away().await;
        world.come_back().await;
        world.until_gone_for_long().await;
        let agent = &world.workspace("dev").await.agents[0];
        assert_eq!(agent.disconnected, agent.last_connected);
        world
    }

    /// The control plane is a deployment to the program from now on, which answers as a test wants.
    pub async fn at_a_deployment(mut self) -> Self {
        self.deployment = Some(Deployment::of(self.plane().url()).await);
        self
    }

    pub fn deployment(&self) -> &Deployment {
        self.deployment.as_ref().unwrap()
    }

    /// Creates a workspace, and waits for the end of its first build, and for its agents if they come.
    pub async fn create(&self, name: &str, version: VersionSpec) {
        let come = version.agents.iter().all(|agent| agent.connects && !agent.external);
        let template = TemplateSpec { name: format!("of-{name}"), version, ..TemplateSpec::default() };
        let admin = self.plane().admin();
        admin.create_template(&template).await.unwrap();
        admin.create_workspace(name, &template.name, &[]).await.unwrap();
        self.until(name, |workspace| is_terminal(&workspace.latest.build.status)).await;
        let are_there =
            |workspace: &Workspace| workspace.agents.iter().all(|agent| agent.state == AgentState::Connected);
        self.until(name, |workspace| !come || are_there(workspace)).await;
    }

    /// Ends the control plane with its agents.
    pub async fn go_away(&mut self) {
        self.plane.take().unwrap().shutdown().await;
    }

    /// Starts the control plane, as `local serve` does.
    pub async fn come_back(&mut self) {
        let mut options = LocalOptions::new(self.folder(), AgentCommand::new(PROGRAM));
        options.timings = LocalTimings::shortened(SHORTENED);
        options.stop_agents_on_exit = true;
        self.plane = Some(LocalControlPlane::start(options).await.unwrap());
    }

    pub fn plane(&self) -> &LocalControlPlane {
        self.plane.as_ref().unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn client(&self) -> RestClient {
        RestClient::new(self.plane().url(), self.plane().token()).unwrap()
    }

    pub async fn workspace(&self, name: &str) -> Workspace {
        self.client().workspace_by_name(name).await.unwrap()
    }

    /// Waits until a workspace is so.
    pub async fn until(&self, name: &str, is_so: impl Fn(&Workspace) -> bool) {
        let client = self.client();
        let end = Instant::now() + SOON;
        loop {
            let workspace = client.workspace_by_name(name).await.unwrap();
            if is_so(&workspace) {
                return;
            }
            assert!(Instant::now() < end, "{workspace:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the agent of `dev` has been gone for so long that a restart is advised.
    pub async fn until_gone_for_long(&self) {
        let threshold = Timings::shortened(SHORTENED).recover_after;
        self.until("dev", |workspace| {
            let agent = &workspace.agents[0];
            let gone =
                agent.disconnected.zip(workspace.observed).and_then(|(since, now)| now.checked_sub(since));
            agent.state == AgentState::Disconnected
                && gone.is_some_and(|gone| Duration::from_millis(gone) >= threshold)
        })
        .await;
    }

    /// Asks for a build, as somebody else does, and answers at once.
    pub async fn ask_for(&self, name: &str, transition: Transition) {
        let id = self.workspace(name).await.id;
        let request = NewBuild { transition, template_version: None, parameters: Vec::new() };
        self.client().create_build(&id, &request).await.unwrap();
    }

    /// Cancels the newest build of `dev`, as somebody else does.
    pub async fn cancel_build(&self) {
        let build = self.workspace("dev").await.latest.build.id;
        let url = format!("{}/api/v2/workspacebuilds/{build}/cancel", self.plane().url());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.patch(url).header("Coder-Session-Token", self.plane().token());
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Connects the agent of `dev` that runs on another computer, until the task is aborted. It shows that it is there,
    /// and does nothing else.
    pub async fn connect_external_agent(&self) -> JoinHandle<()> {
        let id = self.workspace("dev").await.agents[0].id.clone();
        let db = rusqlite::Connection::open(self.folder().join("control.db")).unwrap();
        let token: String =
            db.query_row("SELECT token FROM agents WHERE id = ?", [id], |row| row.get(0)).unwrap();
        let url = format!("{}/api/local/agent/connect", self.plane().url().replace("http", "ws"));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        // Pings are answered while this reads.
        let connected = tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
        self.until("dev", |workspace| workspace.agents[0].state == AgentState::Connected).await;
        connected
    }

    pub async fn signal(&self, signal: AgentSignal) {
        self.plane().admin().signal_agent("dev", None, signal).await.unwrap();
    }

    /// Lets builds run, or wait in the queue for as long as a test wants.
    pub async fn let_builds_run(&self, run: bool) {
        self.plane().admin().set_provisioners(if run { 3 } else { 0 }).await.unwrap();
    }

    /// What was asked for in the workspace `dev`, oldest first.
    pub async fn transitions(&self) -> Vec<Transition> {
        let builds = self.client().builds(&self.workspace("dev").await.id, 100).await.unwrap();
        builds.into_iter().rev().map(|read| read.build.transition).collect()
    }

    /// The file of the chats and calls. Each deployment has one of its own.
    fn store(&self) -> PathBuf {
        let folder = match &self.deployment {
            Some(Deployment { url, .. }) => {
                self.folder().join("deployments").join(url.replace("http://", "").replace(':', "_"))
            }
            None => self.folder().to_owned(),
        };
        folder.join("chats.db")
    }

    /// All calls that are kept, newest first.
    pub fn calls(&self) -> Vec<CallRow> {
        Store::open(&self.store()).unwrap().calls(Listing::All, 100).unwrap()
    }

    /// Waits until the calls are so.
    pub async fn until_calls(&self, are_so: impl Fn(&[CallRow]) -> bool) {
        let end = Instant::now() + SOON;
        loop {
            let calls = self.calls();
            if are_so(&calls) {
                return;
            }
            assert!(Instant::now() < end, "{calls:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The program, with this folder and nothing of the user's own.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for name in
            ["RUST_LOG", "CODER", "CODER_URL", "CODER_SESSION_TOKEN", "CODER_HEADER", "CODER_HEADER_COMMAND"]
        {
            command.env_remove(name);
        }
        if let Some(deployment) = &self.deployment {
            command.args(["--coder-url", &deployment.url]).env("CODER_SESSION_TOKEN", self.plane().token());
        }
        command
            .args(["--shorten-times", &SHORTENED.to_string()])
            .args(arguments)
            .env("WORKSPACE_RECOVERY_DATA", self.folder())
            // Kept from run to run: compiling the plugin takes longer than most tests.
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end, which has to come soon: one that serves where it should refuse is killed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let child = self.program(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output().unwrap()));
        ended.recv_timeout(SOON).unwrap_or_else(|_| {
            let _ = kill_process(pid, Signal::KILL);
            panic!("it has not ended within {SOON:?}: {arguments:?}")
        })
    }

    /// Runs a command that prints JSON, and answers that.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Ends its agents, and the hosts that were started for it.
    pub async fn end(mut self) {
        kill_hosts(self.folder.path());
        self.go_away().await;
    }
}

/// Kills the hosts in the background, as `kill -9` does.
pub fn kill_hosts(folder: &Path) {
    let ends = OsString::from("host");
    for (pid, arguments) in programs_of(folder) {
        if arguments.last() == Some(&ends) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes that name a folder in their arguments.
fn programs_of(folder: &Path) -> Vec<(Pid, Vec<OsString>)> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let with_arguments = pids.filter_map(|pid| {
        let text = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let arguments = text.split_terminator('\0').map(OsString::from).collect::<Vec<_>>();
        arguments.contains(&folder.as_os_str().to_owned()).then_some((Pid::from_raw(pid)?, arguments))
    });
    with_arguments.collect()
}
