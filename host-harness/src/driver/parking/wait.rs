//! One wait: what is waited for, and what becomes of the answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::journal::Answer;

/// The workspace that waits belong to. `None`: their chat has none; builds can be read all the same.
pub(super) type WorkspaceKey = Option<Arc<str>>;

/// A wait, as it is parked. Texts that many waits have in common may be shared.
pub(in crate::driver) struct Wait {
    /// The call that waits. A call has one wait at a time: parking another drops the one before.
    pub(in crate::driver) call: u64,
    /// Its chat, for listeners.
    pub(in crate::driver) chat: Arc<str>,
    /// The workspace that the call is pinned to.
    pub(in crate::driver) workspace: Option<Arc<str>>,
    /// What it waits for.
    pub(in crate::driver) what: WaitFor,
    /// Since when it waits; may lie before this process began.
    pub(in crate::driver) begun: Instant,
}

/// What is waited for. A deadline may have passed: one read is made all the same.
pub(in crate::driver) enum WaitFor {
    /// That the build's job is terminal.
    Build {
        /// The build.
        build: Arc<str>,
        /// How long.
        deadline: Instant,
    },
    /// That the agent is connected, then that its startup scripts have ended, then that a command can run on it.
    Agent {
        /// The build that the agent is of. It must stay the newest one.
        build: Arc<str>,
        /// The agent.
        agent: Arc<str>,
        /// How long it may take to connect.
        connect_deadline: Instant,
        /// How long it may take until a probe is answered, from when its scripts were seen to have ended.
        probe_limit: Duration,
        /// How long its scripts may take from when it was seen connected. Zero: they are not waited for.
        scripts_limit: Duration,
        /// When the wait ends whatever was seen.
        last_deadline: Instant,
    },
}

/// What becomes of the answer.
pub(in crate::driver) enum ReplyTo {
    /// It goes to the scheduler, which carries the call on.
    Scheduler(mpsc::UnboundedSender<EndedWait>),
    /// It goes to one that waits for it. Dropped if the wait is dropped.
    Caller(oneshot::Sender<Answer>),
}

/// A call whose wait has ended.
#[derive(Debug)]
pub(in crate::driver) struct EndedWait {
    /// The call.
    pub(in crate::driver) call: u64,
    /// What the wait's request is answered with.
    pub(in crate::driver) answer: Answer,
    /// The control plane's time of the read that ended the wait, if one did and it has one.
    pub(in crate::driver) observed: Option<u64>,
}

impl WaitFor {
    /// A build, from now on for so long.
    pub(in crate::driver) fn build(build: &str, limit_ms: u32) -> Self {
        Self::Build { build: build.into(), deadline: Instant::now() + Duration::from_millis(limit_ms.into()) }
    }

    /// An agent, from now on for so long, and for its scripts as long as allowed at most.
    pub(in crate::driver) fn agent(
        build: &str,
        agent: &str,
        connect_limit_ms: u32,
        scripts_limit_ms: u32,
    ) -> Self {
        let connect_limit = Duration::from_millis(connect_limit_ms.into());
        let connect_deadline = Instant::now() + connect_limit;
        let scripts_limit = Duration::from_millis(scripts_limit_ms.into());
        Self::Agent {
            build: build.into(),
            agent: agent.into(),
            connect_deadline,
            probe_limit: connect_limit,
            scripts_limit,
            last_deadline: connect_deadline + scripts_limit,
        }
    }
}
