//! A control plane for tests, of workspaces that have one build each, `build of W`, and one agent, `agent of W`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, once, unfold};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::bindings::{Agent, AgentState, Build, JobStatus, Lifecycle, Parameter, Quota};
use crate::builders::{self, ME, agent, build_read, start};
use crate::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use crate::greeting::GREETING;

#[derive(Clone, Default)]
pub(crate) struct Plane(Arc<Mutex<World>>);

#[derive(Default)]
pub(super) struct World {
    /// The builds that have ended, and the agents that are ready, by workspace. Others go on and start.
    pub(super) ended: Vec<String>,
    /// What reads answer, if it is not the truth.
    pub(super) fail: Option<ApiError>,
    /// The workspace whose reads panic.
    pub(super) panics: Option<String>,
    /// How long a read of a workspace takes.
    pub(super) takes: Duration,
    /// Reads of workspaces that were begun.
    pub(super) reads: Vec<(Instant, String)>,
    /// Reads of single builds that were begun.
    pub(super) builds: Vec<String>,
    /// Reads of workspaces in flight, now and at most.
    pub(super) in_flight: (usize, usize),
    /// Whether there are streams of changes; the first announcement comes at once.
    pub(super) streams: bool,
    /// The streams end without an announcement.
    pub(super) mute: bool,
    /// Streams of changes that are to panic.
    pub(super) bad_streams: u32,
    /// The streams that are open.
    pub(super) open: BTreeMap<String, mpsc::UnboundedSender<()>>,
    /// When streams were opened.
    pub(super) opened: Vec<Instant>,
    /// What the agents answer in terminals.
    pub(super) answers: Answers,
    /// The agents on which terminals were asked for.
    pub(super) terminals: Vec<String>,
    /// The terminals that are open.
    pub(super) open_terminals: usize,
    /// Agents that have lost their connection.
    pub(super) disconnected: bool,
    /// After how long it turns out that the user cannot be read, if it cannot.
    pub(super) silent: Option<Duration>,
}

/// What an agent answers in a terminal.
#[derive(Clone, Debug, Default)]
pub(super) enum Answers {
    /// As a shell that waits for a command.
    #[default]
    Greeting,
    /// Something else.
    Text(&'static str),
    Silence,
    /// It does not open.
    Refusal(ApiError),
}

/// An open terminal.
struct Screen {
    plane: Plane,
    says: Option<String>,
}

#[async_trait]
impl Terminal for Screen {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        match self.says.take() {
            Some(says) => Ok(Some(says.into_bytes())),
            None => std::future::pending().await,
        }
    }

    async fn send(&mut self, _input: &str) -> Result<(), ApiError> {
        unreachable!("no test of a driver's parts runs a command")
    }

    async fn close(&mut self) {}
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.plane.world().open_terminals -= 1;
    }
}

impl Plane {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn end(&self, workspace: &str) {
        self.world().ended.push(workspace.into());
    }

    /// Announces a change of a workspace.
    pub(super) fn announce(&self, workspace: &str) {
        self.world().open[workspace].send(()).unwrap();
    }

    /// The times between the reads of a workspace.
    pub(super) fn intervals(&self, workspace: &str) -> Vec<Duration> {
        let world = self.world();
        let times =
            world.reads.iter().filter(|(_, read)| read == workspace).map(|(at, _)| *at).collect::<Vec<_>>();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

impl World {
    fn build(&self, workspace: &str) -> BuildRead {
        let ended = self.ended.iter().any(|ended| ended == workspace);
        let status = if ended { JobStatus::Succeeded } else { JobStatus::Running };
        build_read(Build { id: format!("build of {workspace}"), ..start(1, status) })
    }

    fn agent(&self, workspace: &str) -> Agent {
        let ended = self.ended.iter().any(|ended| ended == workspace);
        Agent {
            state: match self.disconnected {
                true => AgentState::Disconnected,
                false => AgentState::Connected,
            },
            lifecycle: if ended { Lifecycle::Ready } else { Lifecycle::Starting },
            ..agent(&format!("agent of {workspace}"))
        }
    }
}

/// A read that is in flight, until it is dropped.
struct InFlight(Plane);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.world().in_flight.0 -= 1;
    }
}

#[async_trait]
impl ControlPlane for Plane {
    fn deployment(&self) -> String {
        "memory".into()
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        let takes = {
            let mut world = self.world();
            world.reads.push((Instant::now(), workspace.into()));
            world.in_flight.0 += 1;
            world.in_flight.1 = world.in_flight.1.max(world.in_flight.0);
            world.takes
        };
        let _in_flight = InFlight(self.clone());
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let panics = self.world().panics.as_deref() == Some(workspace);
        assert!(!panics, "a test wants this read to panic");
        let world = self.world();
        if let Some(error) = &world.fail {
            return Err(error.clone());
        }
        let agents = vec![world.agent(workspace)];
        Ok(Workspace {
            name: workspace.into(),
            ..builders::workspace(workspace, world.build(workspace), agents)
        })
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        let mut world = self.world();
        world.builds.push(build.into());
        let mut read = world.build(build);
        read.build.id = build.into();
        Ok(read)
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        let mut world = self.world();
        if !world.streams {
            return None;
        }
        if world.bad_streams > 0 {
            world.bad_streams -= 1;
            return Some(once(async { panic!("a test wants this stream to panic") }).boxed());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        if !world.mute {
            sender.send(()).unwrap();
            world.open.insert(workspace.into(), sender);
        }
        world.opened.push(Instant::now());
        let next = async |mut receiver: mpsc::UnboundedReceiver<()>| Some((receiver.recv().await?, receiver));
        Some(unfold(receiver, next).boxed())
    }

    async fn user(&self) -> Result<User, ApiError> {
        let silent = self.world().silent;
        if let Some(silent) = silent {
            sleep(silent).await;
            return Err(ApiError::Unavailable("no answer".into()));
        }
        Ok(User { id: ME.into(), name: ME.into() })
    }

    async fn workspace_by_name(&self, _name: &str) -> Result<Workspace, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        Ok(Vec::new())
    }

    async fn builds(&self, _workspace: &str, _limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn create_build(&self, _workspace: &str, _build: &NewBuild) -> Result<BuildRead, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn template_parameters(&self, _version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn build_parameters(&self, _build: &str) -> Result<Vec<Parameter>, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn quota(&self, _workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        unreachable!("no test of a driver's parts asks for it")
    }

    async fn build_logs(&self, _build: &str, _after: u64) -> Result<Vec<LogLine>, ApiError> {
        Ok(Vec::new())
    }

    async fn open_terminal(
        &self,
        agent: &str,
        _terminal: &NewTerminal,
    ) -> Result<Box<dyn Terminal>, ApiError> {
        let answers = {
            let mut world = self.world();
            world.terminals.push(agent.into());
            world.answers.clone()
        };
        let says = match answers {
            Answers::Greeting => Some(format!("{GREETING}\r\n")),
            Answers::Text(text) => Some(text.to_owned()),
            Answers::Silence => None,
            Answers::Refusal(error) => return Err(error),
        };
        self.world().open_terminals += 1;
        Ok(Box::new(Screen { plane: self.clone(), says }))
    }
}
