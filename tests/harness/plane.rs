//! A control plane in memory, on tokio's clock, with one workspace whose world a test sets up.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};
use workspace_recovery::bindings::{
    Agent, AgentState, Build, JobStatus, Parameter, Quota, Refusal, Transition,
};
use workspace_recovery::chat::{Chat, ChatHost};
use workspace_recovery::clock::Clock;
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, Lost, NewBuild, NewTerminal, TemplateParameter, Terminal,
    User, Workspace,
};
use workspace_recovery::driver::{Driver, HostCalls};
use workspace_recovery::engine::Plugin;
use workspace_recovery::limits::ANSWER_NAME_BYTES;
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::simulate::shell::{Notes, Run, Shell};
use workspace_recovery::store::{ChatRecord, Store};

use crate::builders::{ME, NOW, agent, build, build_read, gone_agent, refusal, start, workspace};
use crate::support::engine;

/// After how long a client gives up on an answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(20);
/// The workspace that there is.
pub const WORKSPACE: &str = "w1";

/// The control plane.
#[derive(Clone)]
pub struct Plane(Arc<Mutex<World>>);

/// What a test sets up and looks at; it begins at [`NOW`].
pub struct World {
    /// The workspace; its newest build and agents are kept in `builds` and `agents`.
    pub workspace: Workspace,
    /// Oldest first.
    pub builds: Vec<MadeBuild>,
    /// Of the newest build, once it has succeeded.
    pub agents: Vec<Agent>,
    /// When the agents of the user's other workspaces went.
    pub others_gone: Vec<u64>,
    /// What each agent answers to a terminal; others do not exist.
    pub terminals: Vec<(String, Answers)>,
    /// What every read answers, if it is not the truth.
    pub reads_fail: Option<ApiError>,
    /// Reads of a workspace get no answer, until the client gives up on them.
    pub reads_hang: bool,
    /// What reads answer before `reads_fail` is looked at, in order.
    pub next_reads: Vec<ApiError>,
    /// What the next request for a build meets.
    pub next_post: Post,
    /// Every request for a build is refused for the sake of another one, which is not to be seen.
    pub posts_conflict: bool,
    /// How long the answer to a request for a build is on its way.
    pub answer_takes: Duration,
    /// How long new builds take, and how they end.
    pub new_builds: (Duration, JobStatus),
    /// Declared by every template version.
    pub parameters: Vec<TemplateParameter>,
    /// Of every build.
    pub values: Vec<Parameter>,
    /// Of every build.
    pub log: Vec<LogLine>,
    /// The requests for builds that came.
    pub posts: Vec<NewBuild>,
    /// The terminals that were asked for: agent and session.
    pub opened: Vec<(String, String)>,
    /// What is noted of commands, by agent.
    pub notes: BTreeMap<String, Notes>,
    /// Reads of the workspace that came.
    pub reads: usize,
    begun: Instant,
}

/// A build, whose job ends at a given time.
#[derive(Clone)]
pub struct MadeBuild {
    /// As it is while the job goes on.
    pub read: BuildRead,
    /// When the job ends, and how.
    pub ends: Option<(Instant, JobStatus)>,
}

/// What becomes of a request for a build.
pub enum Post {
    /// It is made.
    Made,
    /// It is made, but the answer is lost.
    MadeUnanswered,
    /// It is made, with an id that no journal takes.
    MadeUnreadably,
    /// It never arrives, and there is no answer.
    Lost,
    /// It is made, the answer is lost, and reads fail from then on.
    MadeThenOutage,
    /// It is refused, because somebody else's stop `f2` was made just before.
    Overtaken,
    /// It is refused.
    Refused(ApiError),
}

/// What an agent answers to a terminal.
#[derive(Clone, PartialEq)]
pub enum Answers {
    /// It runs the command.
    Runs,
    /// It opens and says nothing.
    Silence,
    /// As silence, but only in the first terminal; then as `Runs`.
    SilenceOnce,
    /// The command begins, and then nothing comes any more.
    BeginsOnly,
    /// It does not open.
    Refusal(ApiError),
}

impl Plane {
    /// A workspace with a succeeded start and one connected agent, `a1`, which runs commands.
    pub fn running() -> Self {
        let begun = Instant::now();
        let first = build_read(start(1, JobStatus::Succeeded));
        let workspace = Workspace {
            active_version: Some("v2".into()),
            ..workspace(WORKSPACE, first.clone(), Vec::new())
        };
        Self(Arc::new(Mutex::new(World {
            others_gone: Vec::new(),
            workspace,
            builds: vec![MadeBuild { read: first, ends: None }],
            agents: vec![agent("a1")],
            terminals: vec![("a1".into(), Answers::Runs)],
            reads_fail: None,
            reads_hang: false,
            next_reads: Vec::new(),
            next_post: Post::Made,
            posts_conflict: false,
            answer_takes: Duration::ZERO,
            new_builds: (Duration::from_secs(5), JobStatus::Succeeded),
            parameters: Vec::new(),
            values: Vec::new(),
            log: Vec::new(),
            posts: Vec::new(),
            opened: Vec::new(),
            notes: BTreeMap::new(),
            reads: 0,
            begun,
        })))
    }

    /// The world, to look at or to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Adds a build that somebody else asked for; it goes on until the test ends it.
    pub fn foreign_build(&self, id: &str, transition: Transition, status: JobStatus) {
        self.world().foreign_build(id, transition, status);
    }

    /// A chat host for it, with chat `ana` bound to the workspace.
    pub fn host(&self) -> Host {
        let host = self.host_with(Arc::new(self.clone()), Store::in_memory());
        host.change_chat("ana", |chat| chat.bind(Some(WORKSPACE)));
        host
    }

    /// A chat host on this store that sees the control plane through `seen`.
    pub fn host_with(&self, seen: Arc<dyn ControlPlane>, store: Store) -> Host {
        self.host_of(plugin(), seen, store, Timings::default())
    }

    /// The same with a plugin and times of the caller's.
    pub fn host_of(
        &self,
        plugin: Plugin,
        seen: Arc<dyn ControlPlane>,
        store: Store,
        timings: Timings,
    ) -> Host {
        let clock = Arc::new(TokioClock { begun: self.world().begun });
        let driver = Driver::with_clock(plugin, seen, store.clone(), timings, clock);
        Host { plane: self.clone(), store, chats: ChatHost::new(driver.clone()), driver }
    }
}

/// Everything that is under test, around one plane.
pub struct Host {
    /// The control plane.
    pub plane: Plane,
    /// The chats' store.
    pub store: Store,
    /// The chats.
    pub chats: ChatHost,
    /// The driver.
    pub driver: Driver,
}

impl Host {
    /// Changes what is remembered of a chat.
    pub fn change_chat(&self, name: &str, change: impl FnOnce(&mut ChatRecord) + Send + 'static) {
        self.store.update(name, change).now_or_never().expect("a store in memory answers at once").unwrap();
    }

    /// The chat `ana` with the plugin's tools and one to ask the user.
    pub fn chat(&self) -> Chat {
        self.chats.chat("ana", tools())
    }

    /// What carries out requests.
    pub fn host_calls(&self) -> &HostCalls {
        self.driver.host_calls()
    }
}

/// The tools of a chat.
pub fn tools() -> ChatTools {
    let names = ["stop_workspace", "start_workspace", "restart_workspace", "ask_user"].map(str::to_owned);
    ChatTools { names: names.into(), ask_user: Some("ask_user".into()), create: None }
}

/// The built component, loaded once.
pub fn plugin() -> Plugin {
    static PLUGIN: std::sync::LazyLock<Plugin> =
        std::sync::LazyLock::new(|| engine().load(guest_artifact::COMPONENT).unwrap());
    PLUGIN.clone()
}

/// A failure of the control plane's own, in its words.
pub fn failed(message: &str, detail: Option<&str>) -> ApiError {
    let said = Refusal { detail: detail.map(str::to_owned), ..refusal(message) };
    ApiError::UnknownOutcome(Lost::Failed { status: "500 Internal Server Error".into(), refusal: Some(said) })
}

/// The control plane did not answer.
pub fn unavailable() -> ApiError {
    ApiError::Unavailable("down".into())
}

impl World {
    /// The control plane's time.
    pub fn now(&self) -> u64 {
        NOW + u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    /// Makes the agent disconnected, recorded, since so long before the beginning of the test.
    pub fn disconnect(&mut self, before: Duration) {
        let agent = self.agents[0].id.clone();
        self.agents[0] = gone_agent(&agent, u64::try_from(before.as_millis()).unwrap());
        self.answers(&agent, Answers::Refusal(unavailable()));
    }

    /// What an agent answers.
    fn answers_of(&self, agent: &str) -> Option<Answers> {
        self.terminals.iter().find(|(known, _)| known == agent).map(|(_, answers)| answers.clone())
    }

    /// Sets what an agent answers.
    pub fn answers(&mut self, agent: &str, answers: Answers) {
        self.terminals.retain(|(known, _)| known != agent);
        self.terminals.push((agent.into(), answers));
    }

    /// Adds a build that somebody else asked for.
    pub fn foreign_build(&mut self, id: &str, transition: Transition, status: JobStatus) {
        let number = u32::try_from(self.builds.len()).unwrap() + 1;
        let build = Build { id: id.into(), ..build(number, transition, status) };
        let (created, initiator) = (Some(self.now()), Some("somebody else".into()));
        let read = BuildRead { created, initiator, ..build_read(build) };
        self.builds.push(MadeBuild { read, ends: None });
    }

    fn read(&mut self) -> Result<(), ApiError> {
        if !self.next_reads.is_empty() {
            return Err(self.next_reads.remove(0));
        }
        self.reads_fail.clone().map_or(Ok(()), Err)
    }

    fn builds_now(&self) -> Vec<BuildRead> {
        self.builds
            .iter()
            .map(|made| {
                let mut read = made.read.clone();
                if let Some((at, status)) = &made.ends
                    && Instant::now() >= *at
                {
                    read.build.status = status.clone();
                }
                read
            })
            .collect()
    }

    fn post(&mut self, wanted: &NewBuild) -> Result<BuildRead, ApiError> {
        self.posts.push(wanted.clone());
        if self.posts_conflict {
            return Err(ApiError::Conflict(refusal("active")));
        }
        match std::mem::replace(&mut self.next_post, Post::Made) {
            Post::Made => Ok(self.make(wanted)),
            Post::MadeUnreadably => {
                let mut made = self.make(wanted);
                made.build.id = "b".repeat(ANSWER_NAME_BYTES + 1);
                Ok(made)
            }
            Post::MadeUnanswered => {
                self.make(wanted);
                Err(ApiError::no_answer("reset"))
            }
            Post::MadeThenOutage => {
                self.make(wanted);
                self.reads_fail = Some(unavailable());
                Err(ApiError::no_answer("reset"))
            }
            Post::Overtaken => {
                self.foreign_build("f2", Transition::Stop, JobStatus::Running);
                Err(ApiError::Conflict(refusal("active")))
            }
            Post::Lost => Err(ApiError::no_answer("reset")),
            Post::Refused(error) => Err(error),
        }
    }

    fn make(&mut self, wanted: &NewBuild) -> BuildRead {
        let number = u32::try_from(self.builds.len()).unwrap() + 1;
        let mut read = build_read(build(number, wanted.transition.clone(), JobStatus::Running));
        read.created = Some(self.now());
        if let Some(version) = &wanted.template_version {
            read.build.template_version = Some(version.clone());
        }
        let (takes, status) = self.new_builds.clone();
        self.builds.push(MadeBuild { read: read.clone(), ends: Some((Instant::now() + takes, status)) });
        self.agents = if wanted.transition == Transition::Start {
            let new = format!("a{number}");
            self.answers(&new, Answers::Runs);
            vec![agent(&new)]
        } else {
            Vec::new()
        };
        read
    }
}

#[async_trait]
impl ControlPlane for Plane {
    fn deployment(&self) -> String {
        "memory".into()
    }

    async fn user(&self) -> Result<User, ApiError> {
        self.world().read()?;
        Ok(User { id: ME.into(), name: "ana".into() })
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        if self.world().reads_hang {
            sleep(CLIENT_LIMIT).await;
            return Err(unavailable());
        }
        let mut world = self.world();
        world.reads += 1;
        world.read()?;
        if workspace != WORKSPACE {
            return Err(ApiError::NotFound);
        }
        let latest = world.builds_now().pop().unwrap();
        let agents =
            if latest.build.status == JobStatus::Succeeded { world.agents.clone() } else { Vec::new() };
        Ok(Workspace { latest, agents, observed: Some(world.now()), ..world.workspace.clone() })
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.workspace(if name == "dev" { WORKSPACE } else { name }).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        let own = self.workspace(WORKSPACE).await?;
        let gone = self.world().others_gone.clone();
        let others = gone.into_iter().enumerate().map(|(index, at)| {
            let mut other = Workspace { id: format!("other-{index}"), ..own.clone() };
            for agent in &mut other.agents {
                (agent.state, agent.disconnected) = (AgentState::Disconnected, Some(at));
            }
            other
        });
        Ok(others.chain([own.clone()]).collect())
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        let mut world = self.world();
        world.read()?;
        world.builds_now().into_iter().find(|read| read.build.id == build).ok_or(ApiError::NotFound)
    }

    async fn builds(&self, _workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        let mut world = self.world();
        world.read()?;
        Ok(world.builds_now().into_iter().rev().take(limit as usize).collect())
    }

    async fn create_build(&self, _workspace: &str, wanted: &NewBuild) -> Result<BuildRead, ApiError> {
        let (answer, takes) = {
            let mut world = self.world();
            (world.post(wanted), world.answer_takes)
        };
        sleep(takes).await;
        answer
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        let mut world = self.world();
        world.read()?;
        Ok(if version == "v2" { world.parameters.clone() } else { Vec::new() })
    }

    async fn build_parameters(&self, _build: &str) -> Result<Vec<Parameter>, ApiError> {
        let mut world = self.world();
        world.read()?;
        Ok(world.values.clone())
    }

    async fn quota(&self, _workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        Ok(Some(Quota { credits_consumed: 10, budget: 10 }))
    }

    async fn build_logs(&self, _build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        Ok(self.world().log.iter().filter(|line| line.id > after).cloned().collect())
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        let mut world = self.world();
        world.opened.push((agent.into(), wanted.session.clone()));
        match world.answers_of(agent) {
            None => Err(ApiError::NotFound),
            Some(Answers::Refusal(error)) => Err(error),
            Some(answers) => {
                let silent = matches!(answers, Answers::Silence | Answers::SilenceOnce);
                if answers == Answers::SilenceOnce {
                    world.answers(agent, Answers::Runs);
                }
                let shown = if silent { String::new() } else { Shell::greeting() };
                let (agent, shell) = (agent.into(), Shell::default());
                Ok(Box::new(Screen { plane: self.clone(), agent, shell, shown }))
            }
        }
    }
}

/// A terminal in which a shell answers, as long as its agent does.
struct Screen {
    plane: Plane,
    agent: String,
    shell: Shell,
    shown: String,
}

#[async_trait]
impl Terminal for Screen {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        if self.shown.is_empty() {
            // A dead agent's terminal stays open.
            return std::future::pending().await;
        }
        Ok(Some(std::mem::take(&mut self.shown).into_bytes()))
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        let mut world = self.plane.world();
        let run: &mut dyn FnMut(&str, &str) -> Run = match world.answers_of(&self.agent) {
            Some(Answers::Runs) => &mut run,
            Some(Answers::BeginsOnly) => &mut |_, _| Run { output: String::new(), code: None },
            _ => return Ok(()),
        };
        let notes = world.notes.entry(self.agent.clone()).or_default();
        self.shown.push_str(&self.shell.typed(input, notes, run));
        Ok(())
    }

    async fn close(&mut self) {}
}

/// Runs a command to its end, in no time.
fn run(command: &str, folder: &str) -> Run {
    let mut shell = Command::new("/bin/sh");
    if !folder.is_empty() {
        shell.current_dir(folder);
    }
    let ran = shell.arg("-c").arg(format!("exec 2>&1; {command}")).output().unwrap();
    Run { output: String::from_utf8(ran.stdout).unwrap(), code: ran.status.code() }
}

/// A wall clock that goes with tokio's.
struct TokioClock {
    begun: Instant,
}

impl Clock for TokioClock {
    fn now_ms(&self) -> u64 {
        // Away from the control plane's time, with which it must never be mixed.
        NOW / 2 + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }
}
