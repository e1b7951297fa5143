//! What the demo plays on: a control plane in a folder of its own, one workspace, one chat; and what has been seen.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::bindings::{Agent, AgentState, Build};
use crate::chat::{Execute, ExecuteError, Executed};
use crate::cli::context::{CommandContext, Host, STORE_FILE};
use crate::cli::exit::Exit;
use crate::cli::output::{Output, line};
use crate::control_plane::Workspace;
use crate::control_plane::rest::RestClient;
use crate::describe::gone_for;
use crate::journal::record::CallId;
use crate::local::{
    AgentCommand, AgentSignal, BuildSpec, LocalAdmin, LocalControlPlane, LocalOptions, LocalTimings,
    SignalledAgent, TemplateSpec, VersionSpec,
};
use crate::policy::Timings;
use crate::store::{Listing, Store};

/// By how much every wait is shortened, unless the real ones are asked for.
const SHORTENED: u32 = 15;
/// How long a build takes in the demo: long enough to be seen.
const BUILD_MS: u64 = 800;
/// An agent's longest wait before it looks for the server again, with shortened times.
const MOST_RECONNECT: Duration = Duration::from_secs(4);
/// How often builds are looked for, and how long at most.
const LOOK: Duration = Duration::from_millis(50);
const MOST_WAIT: Duration = Duration::from_secs(60);
const WORKSPACE: &str = "dev";
/// The demo's chat.
pub const CHAT: &str = "demo";

/// The demo's world.
pub struct Stage {
    pub host: Host,
    folder: TempDir,
    options: LocalOptions,
    plane: Option<LocalControlPlane>,
    timings: Timings,
    shortened: u32,
    workspace: String,
}

impl Stage {
    pub async fn set(context: &CommandContext, real_timings: bool, output: Output) -> anyhow::Result<Self> {
        let (timings, local) = timings(real_timings);
        if !output.json {
            print_timings(&timings, real_timings);
        }
        let folder =
            TempDir::with_prefix("workspace-recovery-demo-").context("no folder for the demo can be made")?;
        let mut options = LocalOptions::new(folder.path(), AgentCommand::this_program()?);
        options.timings = local;
        options.stop_agents_on_exit = true;
        let plugin = context.load_plugin_behind()?;
        let store = Store::open(&folder.path().join(STORE_FILE))?;
        let plane = LocalControlPlane::start(options.clone()).await?;
        let endpoint = plane.endpoint();
        let client = RestClient::new(&endpoint.url, &endpoint.token)?;
        let admin = LocalAdmin::new(endpoint);
        let host = Host::new(client, Some(admin), plugin, store, timings.clone());
        Ok(Self {
            host,
            folder,
            options,
            plane: Some(plane),
            timings,
            shortened: if real_timings { 1 } else { SHORTENED },
            workspace: String::new(),
        })
    }

    /// Ends every agent and removes every file.
    pub async fn strike(self) -> anyhow::Result<()> {
        self.host.driver.leave().await?;
        drop(self.host);
        let plane = match self.plane {
            Some(plane) => plane,
            // Interrupted while the control plane was away: only a control plane knows its agents.
            None => LocalControlPlane::start(self.options).await?,
        };
        plane.shutdown().await;
        let path: PathBuf = self.folder.path().to_owned();
        self.folder.close().with_context(|| format!("{} was not removed", path.display()))?;
        Ok(())
    }

    pub async fn create_workspace(&mut self) -> anyhow::Result<()> {
        let build = BuildSpec { duration_ms: Some(BUILD_MS), ..BuildSpec::default() };
        let version = VersionSpec { start: build.clone(), stop: build, ..VersionSpec::default() };
        let template = TemplateSpec { name: "demo".to_owned(), version, ..TemplateSpec::default() };
        self.host.admin()?.create_template(&template).await?;
        let created = self.host.admin()?.create_workspace(WORKSPACE, &template.name, &[]).await?;
        self.workspace.clone_from(&created.id);
        self.host.chats.bind(CHAT, &created.name).await?;
        let result = self.call("start_workspace", "{}").await?;
        if result["started"] != true {
            bail!("the workspace did not start: {result}");
        }
        Ok(())
    }

    pub async fn execute(&self, command: &str) -> Result<Executed, ExecuteError> {
        let command = Execute { command: command.to_owned(), ..Execute::default() };
        self.host.chat(CHAT).await?.execute(&command, &CancellationToken::new()).await
    }

    pub async fn call(&self, tool: &str, arguments: &str) -> anyhow::Result<Value> {
        let called =
            self.host.chat(CHAT).await?.call_tool(tool, arguments, &CancellationToken::new()).await?;
        let result = called.map_err(|error| anyhow::anyhow!("the plugin did not run {tool}: {error:?}"))?;
        Ok(serde_json::from_str(&result.json)?)
    }

    pub async fn signal(&self, signal: AgentSignal) -> anyhow::Result<SignalledAgent> {
        Ok(self.host.admin()?.signal_agent(WORKSPACE, None, signal).await?)
    }

    pub async fn workspace(&self) -> anyhow::Result<Workspace> {
        Ok(self.host.plane.workspace(&self.workspace).await?)
    }

    /// Another process of this program, which works with the same control plane, chats and calls.
    pub fn another_host(&self, arguments: &[&str]) -> anyhow::Result<tokio::process::Child> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = tokio::process::Command::new(program);
        command.arg("--data").arg(self.folder.path()).args(["--shorten-times", &self.shortened.to_string()]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true).spawn().context("another process of this program cannot be started")
    }

    /// The newest call that has not ended.
    pub fn unended_call(&self) -> anyhow::Result<CallId> {
        let rows = self.host.store.calls(Listing::Unended, 1)?;
        Ok(rows.first().context("there is no call that has not ended")?.id)
    }

    /// Waits for a call's end, whoever carries it.
    pub async fn follow(&self, call: CallId) -> anyhow::Result<Value> {
        let followed = self.host.driver.follow(call, &CancellationToken::new()).await?;
        let result = followed.map_err(|error| anyhow::anyhow!("the plugin did not run it: {error:?}"))?;
        Ok(serde_json::from_str(&result.json)?)
    }

    /// Waits until the workspace has so many builds.
    pub async fn wait_for_builds(&self, count: usize) -> anyhow::Result<()> {
        let made = async {
            while self.builds().await?.len() < count {
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(MOST_WAIT, made)
            .await
            .with_context(|| format!("waited {MOST_WAIT:?} in vain until the workspace had {count} builds"))?
    }

    /// All builds of the workspace so far, oldest first, as the control plane has them.
    pub async fn builds(&self) -> anyhow::Result<Vec<Build>> {
        let mut builds: Vec<_> =
            self.host.plane.builds(&self.workspace, 100).await?.into_iter().map(|read| read.build).collect();
        builds.reverse();
        Ok(builds)
    }

    /// Until the agent has been gone for as long as a restart takes.
    pub async fn wait_until_gone_long_enough(&self) -> anyhow::Result<()> {
        self.wait_until_gone_for(self.recover_after()).await
    }

    /// Until the agent has been gone for so long that it is known to be dead.
    pub async fn wait_until_known_dead(&self) -> anyhow::Result<()> {
        self.wait_until_gone_for(self.timings.known_dead_after).await
    }

    async fn wait_until_gone_for(&self, threshold: Duration) -> anyhow::Result<()> {
        self.wait_until("the agent reads as gone for long enough", |workspace, agent| {
            gone_for(workspace, agent).is_some_and(|gone| Duration::from_millis(gone) >= threshold)
        })
        .await
    }

    pub async fn wait_until_connected(&self) -> anyhow::Result<()> {
        self.wait_until("the agent is connected", |_, agent| agent.state == AgentState::Connected).await
    }

    /// The server dies, the agent lives on; later the server comes back, on the same folder and port.
    pub async fn control_plane_dies_for_a_while(&mut self) -> anyhow::Result<Duration> {
        // Dropped, not shut down: the way of a server that is killed.
        drop(self.plane.take());
        let away = self.recover_after() + self.options.timings.inactive;
        tokio::time::sleep(away).await;
        self.plane = Some(LocalControlPlane::start(self.options.clone()).await?);
        Ok(away)
    }

    pub fn recover_after(&self) -> Duration {
        self.timings.recover_after
    }

    pub fn dial_timeout(&self) -> Duration {
        self.timings.dial_timeout
    }

    async fn wait_until(&self, what: &str, holds: impl Fn(&Workspace, &Agent) -> bool) -> anyhow::Result<()> {
        let waited = async {
            loop {
                let workspace = self.workspace().await?;
                if workspace.agents.first().is_some_and(|agent| holds(&workspace, agent)) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(self.timings.poll).await;
            }
        };
        let limit = 3 * self.recover_after();
        tokio::time::timeout(limit, waited)
            .await
            .with_context(|| format!("waited {limit:?} in vain until {what}"))?
    }
}

/// The times of host and control plane, which have to fit each other.
fn timings(real: bool) -> (Timings, LocalTimings) {
    if real {
        return (Timings::default(), LocalTimings::default());
    }
    let mut local = LocalTimings::shortened(SHORTENED);
    // As rare as with the real times, seen from a dial: an agent must not be back before anybody has looked.
    local.reconnect_most = MOST_RECONNECT;
    (Timings::shortened(SHORTENED), local)
}

/// What has been claimed, and whether it was seen.
pub struct Claims {
    output: Output,
    claims: Vec<(String, bool)>,
}

impl Claims {
    pub fn new(output: Output) -> Self {
        Self { output, claims: Vec::new() }
    }

    /// Whether the story is left out, because only the outcome is wanted, as data.
    pub fn quiet(&self) -> bool {
        self.output.json
    }

    pub fn scene(&self, title: &str) {
        if !self.quiet() {
            line(&format!("\n{title}"));
        }
    }

    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet() {
            line(&format!("   {}", text.as_ref().replace('\n', "\n   ")));
        }
    }

    /// Records a claim that was just looked up.
    pub fn seen(&mut self, claim: &str, seen: bool) {
        if !self.quiet() {
            line(&format!(" {} {claim}", if seen { "\u{2713}" } else { "\u{2717} NOT SEEN:" }));
        }
        self.claims.push((claim.to_owned(), seen));
    }

    /// Sums up. Done only if every claim was seen.
    pub fn report(self, elapsed: Duration) -> anyhow::Result<Exit> {
        let seen = self.claims.iter().filter(|(_, seen)| *seen).count();
        let claims: Vec<_> =
            self.claims.iter().map(|(claim, seen)| json!({ "claim": claim, "seen": seen })).collect();
        let value = json!({ "claims": claims, "seen": seen, "seconds": elapsed.as_secs_f64() });
        self.output.print(&value, |_| {
            format!("\n{seen} of {} claims were seen, in {:.0} s", claims.len(), elapsed.as_secs_f64())
        })?;
        Ok(if seen == claims.len() { Exit::Done } else { Exit::Failed })
    }
}

fn print_timings(timings: &Timings, real: bool) {
    let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f32());
    line(&format!(
        "times: an agent is dialled for {}, and must be gone for {} before a restart is advised{}",
        seconds(timings.dial_timeout),
        seconds(timings.recover_after),
        if real {
            String::new()
        } else {
            format!(" (the real ones, divided by {SHORTENED}; --real-timings uses those)")
        }
    ));
}
