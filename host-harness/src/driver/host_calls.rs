//! A call's context, and the dispatch of its requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bindings::Build;
use crate::clock::Clock;
use crate::control_plane::watched::Watched;
use crate::control_plane::{ApiError, ControlPlane, Workspace};
use crate::driver::builds;
use crate::driver::call_number::{UNSTORED, stored_id};
use crate::driver::error::DriveError;
use crate::driver::events::EventKind;
use crate::driver::events::Listeners;
use crate::driver::parking::{Parking, Reader, WaitFor};
use crate::journal::record::{CallId, CallRecord, Intent, Pinned};
use crate::journal::{Answer, Request};
use crate::policy::Timings;
use crate::store::{Admission, CallRow, Store, StoreError};

/// Carries out the requests of calls against a control plane. Cheap to clone.
#[derive(Clone)]
pub struct HostCalls {
    pub(super) plane: Arc<Watched>,
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: Listeners,
    pub(super) parking: Arc<Parking>,
    timings: Arc<Timings>,
    unstored: Arc<AtomicU64>,
    user: Arc<OnceLock<String>>,
}

/// The context of one call. It is pinned to the workspace that its chat was bound to when it began.
#[derive(Debug)]
pub struct CallContext {
    /// The call's number in the store, or one from [`UNSTORED`] on.
    number: u64,
    chat: String,
    workspace: Option<String>,
    /// Host's Unix milliseconds.
    created_ms: u64,
    interrupt: CancellationToken,
    sent: AtomicBool,
    read_by: Mutex<Option<Instant>>,
}

/// Where requests are written down before they are carried out.
#[async_trait]
pub trait IntentLog: Send + Sync {
    /// Makes what is going to be done durable. The answer says whether it may be done.
    async fn intend(&self, request: &Request, intent: Intent) -> Result<Admission, StoreError>;

    /// Whether whoever is about to send something may still do so. Asked directly before the bytes go out.
    fn may_send(&self) -> bool;
}

/// For a host that keeps no journals: what is under way when it ends is lost.
#[derive(Clone, Copy, Debug)]
pub struct NoIntentLog;

#[async_trait]
impl IntentLog for NoIntentLog {
    async fn intend(&self, _: &Request, _: Intent) -> Result<Admission, StoreError> {
        Ok(Admission::Granted)
    }

    fn may_send(&self) -> bool {
        true
    }
}

/// A request's answer, ready for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer; its variant is that of the request.
    pub answer: Answer,
    /// The control plane's time of it, where it has one.
    pub observed: Option<u64>,
}

impl HostCalls {
    /// Carries out requests against `plane`, for the chats in `store`.
    pub fn new(plane: Arc<dyn ControlPlane>, store: Store, timings: Timings, clock: Arc<dyn Clock>) -> Self {
        let plane = Arc::new(Watched::new(plane, timings.read_silence));
        let events = Listeners::default();
        let timings = Arc::new(timings);
        let parking = Arc::new(Parking::new(Reader {
            plane: plane.clone(),
            store: store.clone(),
            events: events.clone(),
            timings: timings.clone(),
        }));
        let unstored = Arc::new(AtomicU64::new(UNSTORED));
        Self { plane, store, clock, events, parking, timings, unstored, user: Arc::default() }
    }

    /// Begins a call for a chat that is kept nowhere, pinned to the workspace that the chat is bound to now.
    pub fn begin(&self, chat: &str, interrupt: CancellationToken) -> Result<CallContext, StoreError> {
        Ok(self.begin_in(chat, self.store.chat(chat)?.and_then(|chat| chat.workspace), interrupt))
    }

    /// As [`begin`](Self::begin), pinned to the workspace that the chat was bound to when the caller looked.
    pub fn begin_in(
        &self,
        chat: &str,
        workspace: Option<String>,
        interrupt: CancellationToken,
    ) -> CallContext {
        CallContext {
            number: self.unstored.fetch_add(1, Ordering::Relaxed),
            chat: chat.to_owned(),
            workspace,
            created_ms: self.clock.now_ms(),
            interrupt,
            sent: AtomicBool::new(false),
            read_by: Mutex::default(),
        }
    }

    /// The context of a call that is kept.
    pub(super) fn context(&self, row: &CallRow, interrupt: CancellationToken) -> CallContext {
        CallContext {
            number: row.id,
            chat: row.chat.clone(),
            workspace: row.pinned.workspace.clone(),
            created_ms: row.created_ms,
            interrupt,
            sent: AtomicBool::new(row.sent),
            read_by: Mutex::default(),
        }
    }

    /// The context of a call that is kept, from what it began with.
    pub(super) fn resume(
        &self,
        id: CallId,
        record: &CallRecord,
        sent: bool,
        interrupt: CancellationToken,
    ) -> CallContext {
        CallContext {
            number: id,
            chat: record.chat.clone(),
            workspace: record.pinned.workspace.clone(),
            created_ms: record.created_ms,
            interrupt,
            sent: AtomicBool::new(sent),
            read_by: Mutex::default(),
        }
    }

    /// What a call for this chat is pinned to now.
    pub(super) async fn pin(&self, chat: &str) -> Result<Pinned, StoreError> {
        Ok(self.pin_to(self.store.chat(chat)?.and_then(|chat| chat.workspace)).await)
    }

    /// What a call for this workspace is pinned to.
    pub(super) async fn pin_to(&self, workspace: Option<String>) -> Pinned {
        Pinned { deployment: self.plane.deployment(), user: self.user().await.ok(), workspace }
    }

    /// The id of the user whose credentials are used, if it has been asked for.
    pub(super) fn known_user(&self) -> Option<String> {
        self.user.get().cloned()
    }

    /// The id of the user whose credentials are used. It is asked for until it is known, and never changes. Those who
    /// need it before that ask side by side: waiting for one another would add up while the control plane is away.
    pub(super) async fn user(&self) -> Result<String, ApiError> {
        if let Some(user) = self.known_user() {
            return Ok(user);
        }
        let read = self.plane.user().await?.id;
        Ok(self.user.get_or_init(|| read).clone())
    }

    /// Carries out one request. Fails only where there is no answer that would be true.
    pub async fn answer(
        &self,
        call: &CallContext,
        request: &Request,
        intents: &dyn IntentLog,
    ) -> Result<Answered, DriveError> {
        self.emit(call, EventKind::Requested(request.clone()));
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
            Request::IssueTransition { .. } => {
                Answer::IssueTransition(self.issue_transition(call, request, intents).await?)
            }
            Request::PublishBinding { build } => {
                Answer::PublishBinding(Ok(self.publish_binding(call, build).await?))
            }
            Request::WaitForBuild { build, limit_ms } => {
                self.wait(call, WaitFor::build(build, *limit_ms)).await?
            }
            Request::WaitForAgent { build, agent, connect_limit_ms, scripts_limit_ms } => {
                self.wait(call, WaitFor::agent(build, agent, *connect_limit_ms, *scripts_limit_ms)).await?
            }
        };
        self.emit(call, EventKind::Answered(answer.clone()));
        Ok(Answered { answer, observed })
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
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The host's wall clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The host's wall clock, to be kept.
    pub(super) fn shared_clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub(crate) fn emit(&self, call: &CallContext, kind: EventKind) {
        self.announce(call.number, &call.chat, kind);
    }

    /// Tells listeners of a call by its number and chat.
    pub(super) fn announce(&self, number: u64, chat: &str, kind: EventKind) {
        self.events.emit(number, chat, kind);
    }

    /// Where calls sleep.
    pub(super) fn parking(&self) -> &Parking {
        &self.parking
    }

    /// Whether the chat is still bound to the workspace that the call is pinned to.
    pub(super) fn still_bound(&self, call: &CallContext) -> Result<bool, StoreError> {
        Ok(self.store.chat(&call.chat)?.and_then(|chat| chat.workspace) == call.workspace)
    }

    /// See [`builds::latest`].
    pub(super) async fn latest(&self, workspace: &Workspace) -> Result<Build, StoreError> {
        builds::latest(&self.plane, &self.store, workspace).await
    }

    /// See [`builds::marked`].
    pub(super) fn marked(&self, build: Build) -> Result<Build, StoreError> {
        builds::marked(&self.store, build)
    }
}

impl CallContext {
    /// Its number in the store, if it is kept there.
    pub fn id(&self) -> Option<CallId> {
        stored_id(self.number)
    }

    /// Tells it apart from all other calls of this host: its events have it.
    pub fn number(&self) -> u64 {
        self.number
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

    /// From now on the workspace counts as unreadable for this call when it has not been read by then, however long a
    /// request may otherwise take.
    pub(crate) fn read_until(&self, by: Instant) {
        *self.read_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
    }

    pub(super) fn read_by(&self) -> Option<Instant> {
        *self.read_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request for a build was written down, so that one may have been sent.
    pub(super) fn has_sent(&self) -> bool {
        self.sent.load(Ordering::SeqCst)
    }

    pub(super) fn note_sent(&self) {
        self.sent.store(true, Ordering::SeqCst);
    }

    /// When it was begun, host's Unix milliseconds.
    pub(super) fn created_ms(&self) -> u64 {
        self.created_ms
    }
}
