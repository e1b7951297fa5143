//! A call's context, and the dispatch of its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bindings::Build;
use crate::clock::Clock;
use crate::control_plane::{ControlPlane, Watched, Workspace};
use crate::driver::parking::{Parking, Reader, WaitFor};
use crate::driver::{DriveError, Event, EventKind, events};
use crate::journal::{Answer, Request};
use crate::policy::Timings;
use crate::store::{ChatStore, StoreError};

/// Events kept for a listener that lags behind: a few builds' worth of log lines.
const EVENT_BUFFER: usize = 4096;
/// The error code of a build that was refused because its owner has used up his budget.
const QUOTA_ERROR: &str = "INSUFFICIENT_QUOTA";

/// Carries out the requests of calls against a control plane. Cheap to clone.
#[derive(Clone)]
pub struct Performer {
    pub(super) plane: Arc<Watched>,
    pub(super) store: Arc<dyn ChatStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) parking: Arc<Parking>,
    timings: Arc<Timings>,
    calls: Arc<AtomicU64>,
}

/// The context of one call. It is pinned to the workspace that its chat was bound to when it began.
#[derive(Debug)]
pub struct Call {
    id: u64,
    chat: String,
    workspace: Option<String>,
    begun: Instant,
    interrupt: CancellationToken,
    sent: Arc<Sent>,
}

/// A request's answer, ready for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    /// The answer; its variant is that of the request.
    pub answer: Answer,
    /// The control plane's time of it, where it has one.
    pub observed: Option<u64>,
}

impl Performer {
    /// Carries out requests against `plane`, for the chats in `store`.
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        store: Arc<dyn ChatStore>,
        timings: Timings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let plane = Arc::new(Watched::new(plane, timings.read_silence));
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let timings = Arc::new(timings);
        let parking = Arc::new(Parking::new(Reader {
            plane: plane.clone(),
            store: store.clone(),
            events: events.clone(),
            timings: timings.clone(),
        }));
        Self { plane, store, clock, events, parking, timings, calls: Arc::default() }
    }

    /// Begins a call for a chat, pinned to the workspace that the chat is bound to now.
    pub fn begin(&self, chat: &str, interrupt: CancellationToken) -> Result<Call, StoreError> {
        Ok(Call {
            id: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            chat: chat.to_owned(),
            workspace: self.store.chat(chat)?.and_then(|chat| chat.workspace),
            begun: Instant::now(),
            interrupt,
            sent: Arc::default(),
        })
    }

    /// Carries out one request. Fails only where there is no answer that would be true.
    pub async fn perform(&self, call: &Call, request: &Request) -> Result<Performed, DriveError> {
        self.tell(call, EventKind::Requested(request.clone()));
        let mut observed = None;
        let answer = match request {
            Request::LatestBuild { check_start } => {
                let (result, at) = self.latest_build(call, *check_start).await?;
                observed = at;
                Answer::LatestBuild(result)
            }
            Request::AgentStatus => {
                let result = self.agent_status(call).await?;
                observed = result.as_ref().ok().and_then(|agents| agents.observed);
                Answer::AgentStatus(result)
            }
            Request::IssueTransition { to, rests_on, parameters } => {
                Answer::IssueTransition(self.issue_transition(call, to, rests_on, parameters).await?)
            }
            Request::PublishBinding { build } => {
                Answer::PublishBinding(Ok(self.publish_binding(call, build)?))
            }
            Request::WaitForBuild { build, limit_ms } => {
                self.wait(call, WaitFor::build(build, *limit_ms)).await?
            }
            Request::WaitForAgent { build, agent, connect_limit_ms, scripts_limit_ms } => {
                self.wait(call, WaitFor::agent(build, agent, *connect_limit_ms, *scripts_limit_ms)).await?
            }
        };
        self.tell(call, EventKind::Answered(answer.clone()));
        Ok(Performed { answer, observed })
    }

    /// The durations that it keeps to.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// The control plane, and how reads of it have gone.
    pub fn plane(&self) -> &Watched {
        &self.plane
    }

    /// The chats.
    pub fn store(&self) -> &dyn ChatStore {
        &*self.store
    }

    /// The host's wall clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn tell(&self, call: &Call, kind: EventKind) {
        events::tell(&self.events, call.id, &call.chat, kind);
    }

    /// Whether the chat is still bound to the workspace that the call is pinned to.
    pub(super) fn still_bound(&self, call: &Call) -> Result<bool, StoreError> {
        Ok(self.store.chat(&call.chat)?.and_then(|chat| chat.workspace) == call.workspace)
    }

    /// See [`latest`].
    pub(super) async fn latest(&self, workspace: &Workspace) -> Result<Build, StoreError> {
        latest(&self.plane, &*self.store, workspace).await
    }

    /// See [`marked`].
    pub(super) fn marked(&self, build: Build) -> Result<Build, StoreError> {
        marked(&*self.store, build)
    }
}

/// The newest build of a workspace, with what the read itself does not say.
pub(super) async fn latest(
    plane: &Watched,
    store: &dyn ChatStore,
    workspace: &Workspace,
) -> Result<Build, StoreError> {
    let mut latest = marked(store, workspace.latest.build.clone())?;
    if latest.error_code.as_deref() == Some(QUOTA_ERROR) {
        // Only adds to the answer: without it the build's own error still says what happened.
        latest.quota = plane.quota(workspace).await.ok().flatten();
    }
    Ok(latest)
}

/// Adds what only this host knows of a build.
pub(super) fn marked(store: &dyn ChatStore, mut build: Build) -> Result<Build, StoreError> {
    build.ours = store.is_own_build(&build.id)?;
    Ok(build)
}

impl Call {
    /// Counts up within a driver.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The chat that the call is for.
    pub fn chat(&self) -> &str {
        &self.chat
    }

    /// The workspace that the call is pinned to.
    pub fn workspace(&self) -> Option<&str> {
        self.workspace.as_deref()
    }

    /// The deliberate interrupt of this call.
    pub fn interrupt(&self) -> &CancellationToken {
        &self.interrupt
    }

    pub(super) fn sent(&self) -> &Arc<Sent> {
        &self.sent
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }
}

/// Whether a call has sent anything. Sending and being abandoned exclude each other: the first one wins.
#[derive(Debug, Default)]
pub(super) struct Sent(AtomicU8);

const NOTHING: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

impl Sent {
    /// Notes that something is about to be sent. False: the call was abandoned, nothing may be sent.
    pub(super) fn begin(&self) -> bool {
        self.settle(SENT)
    }

    /// Notes that nobody waits for the call any more. False: it has sent something, and goes on.
    pub(super) fn abandon(&self) -> bool {
        self.settle(ABANDONED)
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::SeqCst) == SENT
    }

    fn settle(&self, to: u8) -> bool {
        match self.0.compare_exchange(NOTHING, to, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => true,
            Err(now) => now == to,
        }
    }
}
