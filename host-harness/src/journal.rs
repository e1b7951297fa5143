//! The journal of a call: its input, and each request of the plugin with its answer.
//!
//! A call is completely described by its [`Export`] (what was called, with which arguments) and its [`Journal`]. The
//! engine steps through it; the driver appends to it; neither knows where it is kept.

mod cut;
pub mod record;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bindings::{
    AgentWait, Agents, Binding, Build, BuildWait, CallError, Connection, Evidence, Parameter, Policy,
    ReadError, Tool, ToolResult, Transition, TransitionError, Verdict,
};
use crate::engine::limits::{ANSWER_BYTES, HOST_CALLS, JOURNAL_BYTES, Limit, REQUEST_BYTES};
use record::Intent;

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

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the plugin asked.
    pub request: Request,
    /// What it was told: the answer as it was recorded, cut to the limits.
    pub answer: Answer,
    /// The control plane's time of the answer, in milliseconds since 1970, if known.
    pub observed: Option<u64>,
    /// When it was asked, and what was fixed then.
    pub asked: Asked,
    /// When the answer was there, host's Unix milliseconds.
    pub answered_ms: u64,
}

/// When a request was made, and what was written down before it was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Host's Unix milliseconds.
    pub asked_ms: u64,
    /// Of effects and waits in calls that are kept in a store.
    pub intent: Option<Intent>,
}

/// The requests of a call so far, each with its answer, in order.
///
/// Cloning is cheap: the entries are shared until one of the clones is appended to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    entries: Arc<Vec<Entry>>,
    /// Length of all requests and answers as recorded.
    bytes: usize,
}

/// Why an answer was not recorded. The journal is as it was before.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The answer belongs to another function than the request. This is a mistake of the host.
    #[error("the answer to {request} was one to {answer}: the host mixed them up")]
    WrongAnswer {
        /// The function asked for.
        request: &'static str,
        /// The function that was answered.
        answer: &'static str,
    },
    /// A value that cannot be cut is longer than a plugin may be given.
    #[error(
        "the control plane's answer to {request} cannot be used: its {field} has {size}, the limit is {limit}"
    )]
    Oversized {
        /// The function asked for.
        request: &'static str,
        /// What is too long.
        field: &'static str,
        /// Its size, in bytes or items.
        size: usize,
        /// The most that it may have.
        limit: usize,
    },
    /// The answer cannot be written down, or is read back as something else.
    #[error("the answer to {request} cannot be recorded: {reason}")]
    NotRecordable {
        /// The function asked for.
        request: &'static str,
        /// What the encoder said.
        reason: String,
    },
    /// The journal is full. A step that asks for no more than the journal can hold never leads here.
    #[error(transparent)]
    Full(#[from] Limit),
}

impl Journal {
    /// A journal without entries: the beginning of a call.
    pub fn new() -> Self {
        Self::default()
    }

    /// A journal that was recorded earlier. Its limits were judged then, and are not judged again.
    pub fn recorded(entries: Vec<Entry>) -> Self {
        let bytes =
            entries.iter().map(|entry| encoded_len(&entry.request) + encoded_len(&entry.answer)).sum();
        Self { entries: Arc::new(entries), bytes }
    }

    /// The requests so far, each with its answer.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The length of all requests and answers, as recorded, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records the answer to a request. `observed` is the control plane's time of the answer, if known.
    ///
    /// The answer is cut to the limits first (see [`crate::engine::limits`]). What is kept, and what the plugin gets,
    /// is what the written form reads back as, so that a call cannot see anything that its replay would not.
    pub fn append(
        &mut self,
        request: Request,
        answer: Answer,
        observed: Option<u64>,
    ) -> Result<(), JournalError> {
        self.record(request, answer, observed, Asked::default(), 0)
    }

    /// As [`append`](Self::append), with when it was asked and answered (host's Unix milliseconds).
    pub fn record(
        &mut self,
        request: Request,
        mut answer: Answer,
        observed: Option<u64>,
        asked: Asked,
        answered_ms: u64,
    ) -> Result<(), JournalError> {
        let function = request.function();
        if answer.function() != function {
            return Err(JournalError::WrongAnswer { request: function, answer: answer.function() });
        }
        cut::answer(&mut answer).map_err(|cut::TooLong { field, size, limit }| JournalError::Oversized {
            request: function,
            field,
            size,
            limit,
        })?;
        let not_recordable = |error: serde_json::Error| JournalError::NotRecordable {
            request: function,
            reason: error.to_string(),
        };
        let written = serde_json::to_vec(&answer).map_err(not_recordable)?;
        if written.len() > ANSWER_BYTES {
            let (field, size, limit) = ("recorded form", written.len(), ANSWER_BYTES);
            return Err(JournalError::Oversized { request: function, field, size, limit });
        }
        let answer = serde_json::from_slice(&written).map_err(not_recordable)?;
        let bytes = self.bytes + encoded_len(&request) + written.len();
        if self.entries.len() >= HOST_CALLS {
            return Err(Limit::HostCalls.into());
        }
        if bytes > JOURNAL_BYTES {
            return Err(Limit::Journal.into());
        }
        Arc::make_mut(&mut self.entries).push(Entry { request, answer, observed, asked, answered_ms });
        self.bytes = bytes;
        Ok(())
    }

    /// Whether one more exchange that begins with `request` is sure to fit, however long its answer. Judged before the
    /// request is carried out, so that no effect is ever sent whose answer could not be recorded.
    pub(crate) fn admits(&self, request: &Request) -> Result<(), Limit> {
        if self.entries.len() >= HOST_CALLS {
            return Err(Limit::HostCalls);
        }
        let bytes = encoded_len(request);
        if bytes > REQUEST_BYTES {
            return Err(Limit::Request { bytes });
        }
        if self.bytes + bytes + ANSWER_BYTES > JOURNAL_BYTES {
            return Err(Limit::Journal);
        }
        Ok(())
    }
}

/// The length of a value's recorded form.
fn encoded_len(value: &impl Serialize) -> usize {
    struct Counter(usize);

    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter(0);
    // Counting cannot fail, and requests and answers are made of strings, numbers and enums, which JSON can hold.
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX / 4, |()| counter.0)
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
