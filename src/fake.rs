//! A host that follows a script, for tests: each request takes the next answer, which has to be one for it.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::contract::{
    Agent, AgentState, AgentWait, Agents, Binding, Build, BuildWait, JobStatus, KnownDead, Lifecycle,
    NeverConnected, Parameter, Policy, Probe, Provisioner, ReadError, Refusal, Snapshot, Transition,
    TransitionError, WaitEnd,
};
use crate::host::Host;

/// The answer to one request.
#[derive(Debug)]
pub enum Answer {
    Latest(Result<Binding, ReadError>),
    Agents(Result<Agents, ReadError>),
    Issued(Result<Build, TransitionError>),
    Published(Result<bool, ReadError>),
    Waited(Result<BuildWait, ReadError>),
    AgentWaited(Result<AgentWait, ReadError>),
}

/// The answers that are left, and the requests that came.
pub struct Fake {
    script: RefCell<VecDeque<Answer>>,
    requests: RefCell<Vec<String>>,
}

impl Fake {
    pub fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        Self { script: RefCell::new(script.into_iter().collect()), requests: RefCell::default() }
    }

    /// The requests so far. Every answer of the script has to be used by now.
    pub fn requests(&self) -> Vec<String> {
        let left = self.script.borrow();
        assert!(left.is_empty(), "answers left over: {left:?}, after {:?}", self.requests.borrow());
        self.requests.borrow().clone()
    }

    fn next(&self, request: String) -> Answer {
        self.requests.borrow_mut().push(request);
        let answer = self.script.borrow_mut().pop_front();
        answer.unwrap_or_else(|| panic!("no answer left for the last of {:?}", self.requests.borrow()))
    }
}

macro_rules! answer {
    ($self:ident, $kind:ident, $($request:tt)+) => {{
        let request = format!($($request)+);
        match $self.next(request.clone()) {
            Answer::$kind(answer) => answer,
            other => panic!("{request} got {other:?}, after {:?}", $self.requests.borrow()),
        }
    }};
}

impl Host for Fake {
    fn latest_build(&self, check_start: bool) -> Result<Binding, ReadError> {
        answer!(self, Latest, "{}", if check_start { "latest-build with check" } else { "latest-build" })
    }

    fn agent_status(&self) -> Result<Agents, ReadError> {
        answer!(self, Agents, "agent-status")
    }

    fn issue_transition(
        &self,
        to: Transition,
        rests_on: &str,
        parameters: &[Parameter],
    ) -> Result<Build, TransitionError> {
        let given: String = parameters.iter().map(|one| format!(" {}={}", one.name, one.value)).collect();
        answer!(self, Issued, "{} on {rests_on}{given}", crate::build::transition_name(&to))
    }

    fn publish_binding(&self, build: &str) -> Result<bool, ReadError> {
        answer!(self, Published, "publish {build}")
    }

    fn wait_for_build(&self, build: &str, limit_ms: u32) -> Result<BuildWait, ReadError> {
        answer!(self, Waited, "wait for {build} {limit_ms}")
    }

    fn wait_for_agent(
        &self,
        build: &str,
        agent: &str,
        connect_limit_ms: u32,
        scripts_limit_ms: u32,
    ) -> Result<AgentWait, ReadError> {
        answer!(self, AgentWaited, "wait for agent {agent} of {build} {connect_limit_ms} {scripts_limit_ms}")
    }
}

/// The policy of an ordinary deployment and a chat with all tools.
pub fn policy() -> Policy {
    Policy {
        recover_after_ms: 90_000,
        dial_timeout_ms: 30_000,
        never_connected: NeverConnected::AskUser,
        known_dead: Some(KnownDead { after_ms: 120_000, dial_ms: 5_000 }),
        max_restarts: 2,
        build_limit_ms: 600_000,
        restart_stop_limit_ms: 3_600_000,
        connect_limit_ms: 120_000,
        scripts_limit_ms: 600_000,
        conflict_rounds: 3,
        tools: ["stop_workspace", "start_workspace", "restart_workspace", "ask_user", "create_workspace"]
            .map(String::from)
            .to_vec(),
        ask_user_tool: Some("ask_user".into()),
        create_tool: Some("create_workspace".into()),
    }
}

/// The build `b<number>`.
pub fn build(number: u32, transition: Transition, status: JobStatus) -> Build {
    Build {
        id: format!("b{number}"),
        number,
        transition,
        status,
        cancel_requested: false,
        ours: false,
        queue_position: None,
        provisioner: Provisioner::Unknown,
        error: None,
        error_code: None,
        quota: None,
        template_version: Some("v1".into()),
        reason: None,
    }
}

pub fn start(number: u32, status: JobStatus) -> Build {
    build(number, Transition::Start, status)
}

pub fn stop(number: u32, status: JobStatus) -> Build {
    build(number, Transition::Stop, status)
}

pub fn snapshot(latest: Build) -> Snapshot {
    Snapshot {
        workspace_name: "dev".into(),
        template: Some("t1".into()),
        dormant: false,
        latest,
        start_refusal: None,
    }
}

/// The workspace reads as having this newest build.
pub fn latest(build: Build) -> Answer {
    Answer::Latest(Ok(Binding::Bound(snapshot(build))))
}

pub fn binding(binding: Binding) -> Answer {
    Answer::Latest(Ok(binding))
}

pub fn issued(build: Build) -> Answer {
    Answer::Issued(Ok(build))
}

pub fn refused(error: TransitionError) -> Answer {
    Answer::Issued(Err(error))
}

pub fn published() -> Answer {
    Answer::Published(Ok(true))
}

/// The wait for a build comes to its end.
pub fn reached(build: Build) -> Answer {
    waited(WaitEnd::Reached, Some(build))
}

pub fn waited(end: WaitEnd, build: Option<Build>) -> Answer {
    Answer::Waited(Ok(BuildWait { end, waited_ms: 1000, build }))
}

pub fn agent_waited(end: WaitEnd, agent: Option<Agent>) -> Answer {
    agent_probed(end, agent, None)
}

pub fn agent_probed(end: WaitEnd, agent: Option<Agent>, probe: Option<Probe>) -> Answer {
    Answer::AgentWaited(Ok(AgentWait { end, waited_ms: 1000, agent, probe }))
}

/// A root agent that is connected and ready.
pub fn agent(id: &str) -> Agent {
    Agent {
        id: id.into(),
        parent: None,
        name: "main".into(),
        order: 0,
        external: false,
        state: AgentState::Connected,
        lifecycle: Lifecycle::Ready,
        created: 1_000,
        first_connected: Some(2_000),
        last_connected: Some(900_000),
        disconnected: None,
        process: None,
    }
}

/// A root agent that was seen to go so long before [`NOW`].
pub fn gone_agent(id: &str, for_ms: u64) -> Agent {
    Agent {
        state: AgentState::Disconnected,
        last_connected: Some(NOW - for_ms - 5_000),
        disconnected: Some(NOW - for_ms),
        ..agent(id)
    }
}

/// The control plane's time in every status here.
pub const NOW: u64 = 1_000_000;

pub fn agents_of(build: Build, agents: Vec<Agent>) -> Agents {
    Agents { build, observed: Some(NOW), readable_for_ms: 600_000, agents }
}

pub fn status(build: Build, agents: Vec<Agent>) -> Answer {
    Answer::Agents(Ok(agents_of(build, agents)))
}

/// The two answers of a readiness check that finds everything well.
pub fn ready(build: Build) -> [Answer; 2] {
    let waited = agent_probed(WaitEnd::Reached, Some(agent("a1")), Some(Probe::Answered));
    [status(build, vec![agent("a1")]), waited]
}

pub fn refusal(message: &str) -> Refusal {
    Refusal { message: message.into(), detail: None, validations: vec![], template: None }
}
