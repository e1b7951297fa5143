//! One poll of a workspace, on behalf of all who wait for something of it.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::wait::WorkspaceKey;
use crate::bindings::{Agent, Build};
use crate::control_plane::watched::Watched;
use crate::control_plane::{ApiError, ControlPlane, LogLine, Workspace};
use crate::driver::builds::{latest, marked};
use crate::driver::events::EventKind;
use crate::driver::events::Listeners;
use crate::policy::Timings;
use crate::store::{Store, StoreError};

/// What readings are made with.
pub(in crate::driver) struct Reader {
    pub(in crate::driver) plane: Arc<Watched>,
    pub(in crate::driver) store: Store,
    pub(in crate::driver) events: Listeners,
    pub(in crate::driver) timings: Arc<Timings>,
}

/// A look that is to be taken.
pub(super) struct Poll {
    pub(super) workspace: WorkspaceKey,
    /// Counts up over all polls.
    pub(super) number: u64,
    /// The builds that are waited for, with the line after which each one's log is wanted.
    pub(super) builds: BTreeMap<Arc<str>, u64>,
}

/// What was seen.
pub(super) struct Reading {
    pub(super) workspace: WorkspaceKey,
    pub(super) number: u64,
    /// The control plane's time of it.
    pub(super) observed: Option<u64>,
    /// Somebody listens for the lines of a build's log, which come with readings only.
    pub(super) logged: bool,
    /// `None`: no workspace is known that could be read.
    seen: Option<Result<AgentSnapshot, ApiError>>,
    builds: BTreeMap<Arc<str>, Result<Arc<Build>, ApiError>>,
    logs: BTreeMap<Arc<str>, Vec<LogLine>>,
}

struct AgentSnapshot {
    build: String,
    agents: Vec<Arc<Agent>>,
}

impl Reader {
    pub(super) fn emit(&self, call: u64, chat: &str, kind: EventKind) {
        self.events.emit(call, chat, kind);
    }

    /// Makes a poll. One that panics is one that failed: others wait elsewhere, and those who wait here have deadlines.
    pub(super) async fn read(&self, poll: Poll) -> Reading {
        let (workspace, number) = (poll.workspace.clone(), poll.number);
        AssertUnwindSafe(self.read_all(poll)).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a read on behalf of waits came to a bad end: please report the panic above");
            let failed = ApiError::Unavailable("the read came to a bad end".to_owned());
            Reading { seen: Some(Err(failed)), ..Reading::new(workspace, number) }
        })
    }

    /// Reads the workspace once, and then each build that is not its newest one.
    async fn read_all(&self, poll: Poll) -> Reading {
        let Poll { workspace, number, builds } = poll;
        let read = match &workspace {
            Some(id) => Some(self.plane.workspace(id).await),
            None => None,
        };
        let mut reading = Reading::new(workspace, number);
        reading.observed = read.as_ref().and_then(|read| read.as_ref().ok()?.observed);
        for (build, after) in builds {
            let found = self.read_build(read.as_ref(), &build).await;
            if found.is_ok() && self.events.are_there() {
                reading.logged = true;
                reading.logs.insert(build.clone(), self.read_log(&build, after).await);
            }
            reading.builds.insert(build, found.map(Arc::new));
        }
        reading.seen = read.map(|read| {
            read.map(|read| AgentSnapshot {
                build: read.latest.build.id,
                agents: read.agents.into_iter().map(Arc::new).collect(),
            })
        });
        reading
    }

    /// A build, given the workspace as just read. That alone knows of provisioners, but only of its newest build's.
    async fn read_build(
        &self,
        workspace: Option<&Result<Workspace, ApiError>>,
        build: &str,
    ) -> Result<Build, ApiError> {
        match workspace {
            Some(Ok(read)) if read.latest.build.id == build => {
                latest(&self.plane, &self.store, read).await.map_err(unmarked)
            }
            // The build may well be readable still.
            None | Some(Ok(_) | Err(ApiError::Gone | ApiError::NotFound)) => {
                marked(&self.store, self.plane.build(build).await?.build).map_err(unmarked)
            }
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// The lines of a log that are new. A log that cannot be read is nobody's failure, and nobody is held up by it.
    async fn read_log(&self, build: &str, after: u64) -> Vec<LogLine> {
        let lines = timeout(self.timings.poll, self.plane.build_logs(build, after)).await;
        lines.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl Reading {
    /// Nothing has been seen yet.
    fn new(workspace: WorkspaceKey, number: u64) -> Self {
        Self {
            workspace,
            number,
            observed: None,
            logged: false,
            seen: None,
            builds: BTreeMap::new(),
            logs: BTreeMap::new(),
        }
    }

    /// What is known of a build. `None`: it was not asked for.
    pub(super) fn build(&self, build: &str) -> Option<Result<&Arc<Build>, ApiError>> {
        self.builds.get(build).map(|read| read.as_ref().map_err(Clone::clone))
    }

    pub(super) fn log(&self, build: &str) -> &[LogLine] {
        self.logs.get(build).map_or(&[], Vec::as_slice)
    }

    /// An agent of the newest build, which has to be the one given. `None`: it is not there.
    pub(super) fn agent(&self, build: &str, agent: &str) -> Result<Option<&Arc<Agent>>, ApiError> {
        match &self.seen {
            Some(Ok(seen)) if seen.build == build => Ok(seen.agents.iter().find(|found| found.id == agent)),
            Some(Ok(_)) | None => Ok(None),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// Whether the agents of the workspace were read.
    pub(super) fn has_agents(&self) -> bool {
        matches!(self.seen, Some(Ok(_)))
    }

    /// Before when nothing is to be read, where the control plane said so.
    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        let errors = self.seen.iter().filter_map(|read| read.as_ref().err());
        let errors = errors.chain(self.builds.values().filter_map(|read| read.as_ref().err()));
        errors.filter_map(ApiError::retry_after).max().and_then(|pause| now.checked_add(pause))
    }
}

/// A build that was read but not looked up in the store says as little as one that was not read.
fn unmarked(error: StoreError) -> ApiError {
    tracing::warn!("a build that is waited for cannot be looked up: {error}");
    ApiError::Unavailable(error.to_string())
}
