//! A control plane with workspaces that are all alike, and host processes that run a call in one of them.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use workspace_recovery::local::{AgentSignal, BuildSpec, VersionSpec};
use workspace_recovery::store::Store;

use crate::child::{CHAT, Fault, ORDERS, Orders, Report};
use crate::support::{Plane, SOON, seconds, until};

/// How long the builds of the tests take: long enough to be waited for.
const BUILD_MS: u64 = 150;
/// How long somebody else's build takes: a host has begun to wait for it by then.
const FOREIGN_BUILD_MS: u64 = 1000;

/// What is called, and what its workspace is like then.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    pub tool: &'static str,
    pub arguments: &'static str,
    pub workspace: Before,
}

/// What a workspace is like before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Running,
    Stopped,
    /// Running, with an agent that was killed.
    AgentDead,
    /// Somebody else's start goes on.
    Starting,
}

/// All scenes of one control plane.
pub struct World {
    pub plane: Plane,
    template: String,
    slow: String,
}

/// A workspace with a store of its own, in which the chat is bound to it.
pub struct Case<'a> {
    pub world: &'a World,
    pub scene: Scene,
    pub workspace: String,
    pub name: String,
    pub folder: TempDir,
    /// Builds that there were before the call.
    builds_before: usize,
}

/// How a host process ended.
pub struct Ended {
    pub status: ExitStatus,
    /// What it reported, if it came to that.
    pub report: Option<Report>,
    pub output: String,
}

impl World {
    pub async fn new() -> Self {
        let plane = Plane::start().await;
        let version =
            |start| VersionSpec { start: takes(start), stop: takes(BUILD_MS), ..VersionSpec::default() };
        let template = plane.template(version(BUILD_MS)).await;
        let slow = plane.template(version(FOREIGN_BUILD_MS)).await;
        Self { plane, template, slow }
    }

    /// Prepares everything for a call.
    pub async fn case(&self, scene: Scene) -> Case<'_> {
        let starting = scene.workspace == Before::Starting;
        let template = if starting { &self.slow } else { &self.template };
        let name = format!("w{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let created = self.plane.admin().create_workspace(&name, template, &[]).await.unwrap();
        let workspace = created.id;
        if !starting {
            self.plane.ended(&created.build_id).await;
        }
        match scene.workspace {
            Before::Running => {
                self.plane
                    .agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready")
                    .await;
            }
            Before::Stopped => {
                self.plane.built(&workspace, "stop").await;
            }
            Before::AgentDead => {
                self.plane
                    .agent_until(&workspace, "ready", |agent| agent["lifecycle_state"] == "ready")
                    .await;
                self.plane.signal(&workspace, AgentSignal::Kill).await;
                // Ages are known to the second only.
                let gone = |agent: &Value| {
                    agent["status"] == "disconnected" && now() - seconds(&agent["disconnected_at"]) > 2.0
                };
                self.plane.agent_until(&workspace, "disconnected for long enough", gone).await;
            }
            Before::Starting => {}
        }
        let folder = tempfile::tempdir().unwrap();
        let bound = workspace.clone();
        let store = Store::open(&folder.path().join("store.db")).unwrap();
        store.update(CHAT, move |chat| chat.bind(Some(&bound))).await.unwrap();
        let builds_before = self.builds(&workspace).await.len();
        Case { world: self, scene, workspace, name, folder, builds_before }
    }

    /// The builds of a workspace, oldest first.
    pub async fn builds(&self, workspace: &str) -> Vec<Value> {
        let reply = self.plane.get(&format!("/api/v2/workspaces/{workspace}/builds")).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let mut builds = reply.body.as_array().unwrap().clone();
        builds.sort_by_key(|build| build["build_number"].as_u64());
        builds
    }

    pub async fn end(self) {
        self.plane.end().await;
    }
}

impl Case<'_> {
    pub fn store(&self) -> Store {
        Store::open(&self.folder.path().join("store.db")).unwrap()
    }

    /// A host process for the call: it begins it, or carries it on if it was begun.
    pub fn spawn(&self, name: &str, fault: Option<Fault>) -> (tokio::process::Child, PathBuf) {
        let report = self.folder.path().join(name);
        let orders = Orders {
            url: self.world.plane.running().url().to_owned(),
            token: self.world.plane.running().token().to_owned(),
            store: self.folder.path().join("store.db"),
            cache: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            tool: self.scene.tool.to_owned(),
            arguments: self.scene.arguments.to_owned(),
            fault,
            report: report.clone(),
        };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child::host", "--exact", "--ignored", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        (child, report)
    }

    /// Runs a host process to its end.
    pub async fn run(&self, name: &str, fault: Option<Fault>) -> Ended {
        let (child, report) = self.spawn(name, fault);
        ended(child, report).await
    }

    /// The transitions of the builds made since the case began.
    pub async fn transitions(&self) -> Vec<String> {
        let builds = self.world.builds(&self.workspace).await.split_off(self.builds_before);
        builds.iter().map(|build| build["transition"].as_str().unwrap().to_owned()).collect()
    }

    /// A result, with builds and the workspace named as in every other case.
    pub async fn normal(&self, result: &Result<Value, String>) -> Value {
        let value = match result {
            Ok(value) => value.clone(),
            Err(error) => json!({ "none": error }),
        };
        let mut text = value.to_string().replace(&self.name, "WORKSPACE");
        for build in self.world.builds(&self.workspace).await {
            text = text.replace(build["id"].as_str().unwrap(), &format!("build {}", build["build_number"]));
        }
        serde_json::from_str(&text).unwrap()
    }
}

impl Ended {
    /// The report of a host that was not struck.
    pub fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("{}: {}", self.status, self.output))
    }
}

pub async fn ended(child: tokio::process::Child, report: PathBuf) -> Ended {
    let pid = pid(&child);
    let mut output = std::pin::pin!(child.wait_with_output());
    let in_time = timeout(SOON * 4, &mut output).await;
    if in_time.is_err() {
        kill_process(pid, Signal::KILL).unwrap();
    }
    let output = match in_time {
        Ok(output) => output.unwrap(),
        Err(_) => output.await.unwrap(),
    };
    let report = std::fs::read(&report).ok().map(|json| serde_json::from_slice(&json).unwrap());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ended { status: output.status, report, output: text.into_owned() }
}

pub fn pid(child: &tokio::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap()
}

/// Waits until a process is suspended. `false`: it has ended without having been.
pub async fn suspended(pid: Pid) -> bool {
    until("the host is suspended", SOON * 4, async || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        match stat.rsplit(')').next()?.trim_start().chars().next()? {
            'T' => Some(true),
            'Z' => Some(false),
            _ => None,
        }
    })
    .await
}

fn takes(ms: u64) -> BuildSpec {
    BuildSpec { duration_ms: Some(ms), ..BuildSpec::default() }
}

fn now() -> f64 {
    jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}
