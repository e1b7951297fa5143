//! What is said over the plugin's boundary: the export that is called and its output, the plugin's requests and their
//! answers.

use serde::{Deserialize, Serialize};

use crate::bindings::{
    AgentWait, Agents, Binding, Build, BuildWait, CallError, Connection, Evidence, Parameter, Policy,
    ReadError, Tool, ToolResult, Transition, TransitionError, Verdict,
};

/// What a call runs: one export of the plugin with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "export", rename_all = "kebab-case")]
pub enum Export {
    /// `tools.list-tools`
    ListTools,
    /// `tools.call-tool`
    CallTool {
        /// The tool's name.
        name: String,
        /// A JSON object, as text.
        arguments: String,
        /// The rules that the call runs under.
        policy: Policy,
    },
    /// `recovery.classify-failure`
    ClassifyFailure {
        /// What the host saw.
        evidence: Evidence,
        /// The rules that the verdict is made under.
        policy: Policy,
    },
    /// `recovery.check-connection`
    CheckConnection {
        /// The agent that the cached connection leads to.
        cached: String,
    },
}

impl Export {
    /// What is called: the tool's name, or the export's.
    pub fn name(&self) -> &str {
        match self {
            Self::CallTool { name, .. } => name,
            Self::ListTools => "list-tools",
            Self::ClassifyFailure { .. } => "classify-failure",
            Self::CheckConnection { .. } => "check-connection",
        }
    }

    /// Its arguments, in the form in which equal ones are equal.
    pub fn arguments(&self) -> &str {
        match self {
            Self::CallTool { arguments, .. } => arguments,
            Self::CheckConnection { cached } => cached,
            Self::ListTools | Self::ClassifyFailure { .. } => "",
        }
    }
}

/// What a finished call gave. The variant is that of its [`Export`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "export", content = "output", rename_all = "kebab-case")]
pub enum Output {
    /// The tools, in the plugin's order.
    ListTools(Vec<Tool>),
    /// What the tool answered, or why it was not run.
    CallTool(Result<ToolResult, CallError>),
    /// The verdict.
    ClassifyFailure(Verdict),
    /// Whether the cached connection may be used.
    CheckConnection(Connection),
}

/// One request of the plugin to the host: an imported function and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "function", rename_all = "kebab-case")]
pub enum Request {
    /// `workspace.latest-build`
    LatestBuild {
        /// Whether to say what would refuse a start.
        check_start: bool,
    },
    /// `workspace.agent-status`
    AgentStatus,
    /// `workspace.issue-transition`
    IssueTransition {
        /// The transition wanted.
        to: Transition,
        /// The newest build when the decision was made.
        rests_on: String,
        /// Parameters of a start.
        parameters: Vec<Parameter>,
    },
    /// `workspace.publish-binding`
    PublishBinding {
        /// The build to bind the chat to.
        build: String,
    },
    /// `waits.wait-for-build`
    WaitForBuild {
        /// The build waited for.
        build: String,
        /// Limit in milliseconds.
        limit_ms: u32,
    },
    /// `waits.wait-for-agent`
    WaitForAgent {
        /// The build that has the agent.
        build: String,
        /// The agent waited for.
        agent: String,
        /// Limit until it is connected, in milliseconds.
        connect_limit_ms: u32,
        /// Limit until its startup scripts ended, in milliseconds.
        scripts_limit_ms: u32,
    },
}

/// What a request may do to the world, which decides what a host may do with one that has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectClass {
    /// Changes nothing; may be repeated at will.
    Read,
    /// Changes nothing; has a deadline that is fixed when it begins.
    Wait,
    /// Changes something; doing it twice is doing it once.
    IdempotentWrite,
    /// Changes something each time it is done: never repeated without a look.
    Effect,
}

/// The host's answer to a [`Request`]. The variant is that of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "function", content = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// `workspace.latest-build`
    LatestBuild(Result<Binding, ReadError>),
    /// `workspace.agent-status`
    AgentStatus(Result<Agents, ReadError>),
    /// `workspace.issue-transition`
    IssueTransition(Result<Build, TransitionError>),
    /// `workspace.publish-binding`
    PublishBinding(Result<bool, ReadError>),
    /// `waits.wait-for-build`
    WaitForBuild(Result<BuildWait, ReadError>),
    /// `waits.wait-for-agent`
    WaitForAgent(Result<AgentWait, ReadError>),
}

impl Answer {
    /// `interface/function`, as in the contract.
    pub fn function(&self) -> &'static str {
        match self {
            Self::LatestBuild(_) => "workspace/latest-build",
            Self::AgentStatus(_) => "workspace/agent-status",
            Self::IssueTransition(_) => "workspace/issue-transition",
            Self::PublishBinding(_) => "workspace/publish-binding",
            Self::WaitForBuild(_) => "waits/wait-for-build",
            Self::WaitForAgent(_) => "waits/wait-for-agent",
        }
    }
}

impl Request {
    /// `interface/function`, as in the contract.
    pub fn function(&self) -> &'static str {
        match self {
            Self::LatestBuild { .. } => "workspace/latest-build",
            Self::AgentStatus => "workspace/agent-status",
            Self::IssueTransition { .. } => "workspace/issue-transition",
            Self::PublishBinding { .. } => "workspace/publish-binding",
            Self::WaitForBuild { .. } => "waits/wait-for-build",
            Self::WaitForAgent { .. } => "waits/wait-for-agent",
        }
    }

    /// What carrying it out may do to the world.
    pub fn effect_class(&self) -> EffectClass {
        match self {
            Self::LatestBuild { .. } | Self::AgentStatus => EffectClass::Read,
            Self::IssueTransition { .. } => EffectClass::Effect,
            Self::PublishBinding { .. } => EffectClass::IdempotentWrite,
            Self::WaitForBuild { .. } | Self::WaitForAgent { .. } => EffectClass::Wait,
        }
    }
}
