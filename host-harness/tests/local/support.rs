//! A control plane in a temporary folder, and a client that sees exactly what it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use workspace_recovery::local::{
    AgentCommand, AgentSignal, AgentSpec, LocalAdmin, LocalControlPlane, LocalOptions, LocalTimings,
    TemplateSpec, VersionSpec,
};

/// How much shorter than real the intervals are.
pub const FACTOR: u32 = 15;
/// For what should come at once, on a machine that does other things too.
pub const SOON: Duration = Duration::from_secs(15);

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub fn timings() -> LocalTimings {
    LocalTimings::shortened(FACTOR)
}

pub fn program() -> AgentCommand {
    AgentCommand::new(env!("CARGO_BIN_EXE_workspace-recovery"))
}

pub fn options(folder: &Path) -> LocalOptions {
    let mut options = LocalOptions::new(folder, program());
    options.timings = timings();
    options.stop_agents_on_exit = true;
    options
}

/// A status and a body.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Value,
}

pub struct Plane {
    folder: TempDir,
    plane: Option<LocalControlPlane>,
    http: reqwest::Client,
}

/// After a failed test: hung agents are woken, so that they see that their folder is gone and end themselves.
impl Drop for Plane {
    fn drop(&mut self) {
        for agent in std::fs::read_dir(self.folder().join("agents")).into_iter().flatten().flatten() {
            let pid = std::fs::read_to_string(agent.path().join("pid")).unwrap_or_default();
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::CONT);
            }
        }
    }
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut LocalOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        change(&mut options);
        let plane = LocalControlPlane::start(options).await.unwrap();
        Self { folder, plane: Some(plane), http: client() }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn running(&self) -> &LocalControlPlane {
        self.plane.as_ref().unwrap()
    }

    pub fn admin(&self) -> LocalAdmin {
        self.running().admin()
    }

    /// The server goes away; the agents stay.
    pub async fn away(&mut self) {
        self.plane.take().unwrap().shutdown().await;
    }

    pub async fn back(&mut self, change: impl FnOnce(&mut LocalOptions)) {
        let mut options = options(self.folder.path());
        change(&mut options);
        self.plane = Some(LocalControlPlane::start(options).await.unwrap());
    }

    pub async fn end(mut self) {
        self.away().await;
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, Some(self.running().token())).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Some(body.to_string()), Some(self.running().token())).await
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<String>, token: Option<&str>) -> Reply {
        let mut request = self.http.request(method, format!("{}{path}", self.running().url()));
        if let Some(token) = token {
            request = request.header("Coder-Session-Token", token);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get("content-type")
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Reply { status, content_type, body }
    }

    pub async fn websocket(&self, path: &str) -> Result<Socket, u16> {
        let url = format!("{}{path}", self.running().url().replace("http", "ws"));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("Coder-Session-Token", self.running().token().parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Makes a template from a version.
    pub async fn template(&self, version: VersionSpec) -> String {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let spec = TemplateSpec { name, version, ..TemplateSpec::default() };
        self.admin().create_template(&spec).await.unwrap().id
    }

    /// Makes a workspace and waits until its first build has ended.
    pub async fn workspace(&self, template: &str) -> String {
        let name = format!("w{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let created = self.admin().create_workspace(&name, template, &[]).await.unwrap();
        self.ended(&created.build_id).await;
        created.id
    }

    /// A workspace of one agent, which is connected and ready.
    pub async fn ready_workspace(&self) -> String {
        let workspace = self.workspace("shell").await;
        self.agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready").await;
        workspace
    }

    pub async fn read(&self, workspace: &str) -> Value {
        let reply = self.get(&format!("/api/v2/workspaces/{workspace}")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    }

    /// Queues a build that has to be accepted.
    pub async fn build(&self, workspace: &str, transition: &str) -> String {
        let reply = self
            .post(&format!("/api/v2/workspaces/{workspace}/builds"), json!({"transition": transition}))
            .await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.body["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a build.
    pub async fn ended(&self, build: &str) -> Value {
        until("the build ends", SOON, async || {
            let build = self.get(&format!("/api/v2/workspacebuilds/{build}")).await.body;
            build["job"]["completed_at"].is_string().then_some(build)
        })
        .await
    }

    pub async fn built(&self, workspace: &str, transition: &str) -> Value {
        let build = self.build(workspace, transition).await;
        self.ended(&build).await
    }

    /// The workspace's first agent.
    pub async fn agent(&self, workspace: &str) -> Value {
        agents_of(&self.read(workspace).await).swap_remove(0)
    }

    pub async fn agent_until(&self, workspace: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        until(what, SOON, async || {
            let agent = agents_of(&self.read(workspace).await).into_iter().next()?;
            good(&agent).then_some(agent)
        })
        .await
    }

    pub async fn signal(&self, workspace: &str, signal: AgentSignal) -> u32 {
        self.admin().signal_agent(workspace, None, signal).await.unwrap().pid
    }

    /// Starts a killed agent's process again, by hand.
    pub fn restart_agent(&self, agent: &str) -> std::process::Child {
        let program = program();
        std::process::Command::new(program.program)
            .args(program.args)
            .arg(self.folder().join("agents").join(agent))
            .spawn()
            .unwrap()
    }

    pub async fn terminal(&self, agent: &str, reconnect: &str, command: &str) -> Result<Socket, u16> {
        let mut path = reqwest::Url::parse("http://x").unwrap();
        path.set_path(&format!("/api/v2/workspaceagents/{agent}/pty"));
        path.query_pairs_mut()
            .append_pair("reconnect", reconnect)
            .append_pair("command", command)
            .append_pair("height", "24")
            .append_pair("width", "80");
        self.websocket(path.as_str().strip_prefix("http://x").unwrap()).await
    }
}

/// How a terminal's connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The bare end of the connection.
    Bare,
    /// A close frame.
    Closed(u16, String),
}

/// Everything that a terminal shows until its connection ends.
pub async fn read_to_end(socket: &mut Socket) -> (String, End) {
    let mut shown = Vec::new();
    let end = timeout(SOON, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => shown.extend_from_slice(&bytes),
                Some(Ok(Message::Close(frame))) => {
                    let frame = frame.unwrap();
                    return End::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End::Bare,
            }
        }
    })
    .await
    .expect("the terminal's connection ends");
    (String::from_utf8(shown).unwrap(), end)
}

/// Reads until the terminal has shown `text`.
pub async fn read_until(socket: &mut Socket, text: &str) -> String {
    let mut shown = String::new();
    timeout(SOON, async {
        while !shown.contains(text) {
            match socket.next().await {
                Some(Ok(Message::Binary(bytes))) => shown.push_str(std::str::from_utf8(&bytes).unwrap()),
                Some(Ok(_)) => {}
                other => panic!("ended with {other:?} before {text:?} was shown, after {shown:?}"),
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{text:?} is shown"));
    shown
}

pub async fn send_input(socket: &mut Socket, json: Value) {
    socket.send(Message::binary(json.to_string())).await.unwrap();
}

/// The next text message, as JSON.
pub async fn next_json(socket: &mut Socket) -> Value {
    timeout(SOON, async {
        loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    })
    .await
    .expect("a message comes")
}

pub fn new_reconnect() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// All agents of the latest build, in the order of the answer.
pub fn agents_of(workspace: &Value) -> Vec<Value> {
    let resources = workspace["latest_build"]["resources"].as_array().unwrap();
    resources.iter().filter_map(|resource| resource["agents"].as_array()).flatten().cloned().collect()
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks again and again for a while, and wants the same each time.
pub async fn throughout(what: &str, span: Duration, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        assert!(look().await, "throughout {span:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the process lives: a zombie does not.
pub fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

pub fn pid_of(plane: &Plane, agent: &str) -> u32 {
    let path: PathBuf = plane.folder().join("agents").join(agent).join("pid");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Seconds and fractions since 1970.
pub fn seconds(time: &Value) -> f64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_microsecond() as f64 / 1e6
}

pub fn agent(name: &str) -> AgentSpec {
    AgentSpec { name: name.to_owned(), ..AgentSpec::default() }
}

pub fn version(agents: Vec<AgentSpec>) -> VersionSpec {
    VersionSpec { agents, ..VersionSpec::default() }
}

fn client() -> reqwest::Client {
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap()
}
