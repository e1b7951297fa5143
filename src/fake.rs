//! A host that follows a script, for tests: each request takes the next answer, which has to be one for it.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::builders::{agent, agents_of, snapshot};
use crate::contract::{
    Agent, AgentWait, Agents, Binding, Build, BuildWait, Parameter, Probe, ReadError, Transition,
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

pub fn status(build: Build, agents: Vec<Agent>) -> Answer {
    Answer::Agents(Ok(agents_of(build, agents)))
}

/// The two answers of a readiness check that finds everything well.
pub fn ready(build: Build) -> [Answer; 2] {
    let waited = agent_probed(WaitEnd::Reached, Some(agent("a1")), Some(Probe::Answered));
    [status(build, vec![agent("a1")]), waited]
}
