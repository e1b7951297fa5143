//! Runs calls of the plugin: step, carry out the one request that it makes, record the answer, step again.
//!
//! Tool calls are kept: what they did is in the [`Store`], so that this host or another one can carry them on after a
//! crash; they take turns at their workspace; while they wait they are an entry in a table. The other exports run at
//! once and are gone when the host is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{OnceCell, broadcast};
use tokio_util::sync::CancellationToken;

use crate::arguments::as_meant;
use crate::bindings::{CallError, Policy, Tool, ToolResult, TransitionError};
use crate::clock::{Clock, SystemClock};
use crate::control_plane::{ApiError, ControlPlane, refusal};
use crate::engine::{Limit, Plugin, Step, StepError};
use crate::journal::record::{CallId, CallRecord, FORMAT, Outcome, Pinned};
use crate::journal::{Answer, Asked, EffectClass, Export, Journal, Output, Request};
use crate::policy::Timings;
use crate::store::{CallRow, Interrupted, NewCall, SelfEnding, Store, StoreError};

mod activation;
mod builds;
mod call_number;
mod error;
mod events;
mod handle;
mod host_calls;
mod inside;
mod jitter;
mod parking;
#[cfg(test)]
pub(crate) mod plane;
mod reads;
mod scheduler;
mod transition;
mod waits;

pub use error::DriveError;
pub use events::{Event, EventKind};
pub use handle::CallHandle;
pub use host_calls::{Answered, CallContext, HostCalls, IntentLog, NoIntentLog};
pub use inside::Inside;

use scheduler::Scheduler;

/// Runs calls. Cheap to clone; clones are one host.
#[derive(Clone)]
pub struct Driver {
    plugin: Plugin,
    host_calls: HostCalls,
    scheduler: Scheduler,
    /// See [`schemas`](Self::schemas).
    schemas: Arc<OnceCell<BTreeMap<String, Value>>>,
}

impl Driver {
    /// A driver with the system's clock.
    pub fn new(plugin: Plugin, plane: Arc<dyn ControlPlane>, store: Store, timings: Timings) -> Self {
        Self::with_clock(plugin, plane, store, timings, Arc::new(SystemClock))
    }

    /// A driver with a clock of the caller's.
    pub fn with_clock(
        plugin: Plugin,
        plane: Arc<dyn ControlPlane>,
        store: Store,
        timings: Timings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let host_calls = HostCalls::new(plane, store, timings, clock);
        let scheduler = Scheduler::new(host_calls.clone(), plugin.clone(), None);
        Self { plugin, host_calls, scheduler, schemas: Arc::default() }
    }

    /// For a process that runs in this workspace: it takes over no call that would end it. To be said before the first
    /// call.
    pub fn running_in(self, inside: Option<Inside>) -> Self {
        let scheduler = Scheduler::new(self.host_calls.clone(), self.plugin.clone(), inside);
        Self { scheduler, ..self }
    }

    /// What happens in all calls from now on. A listener that does not keep up misses the oldest events.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.host_calls.events.subscribe()
    }

    /// The plugin that this host's calls begin on.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The tools that the plugin offers.
    pub async fn list_tools(&self) -> Result<Vec<Tool>, DriveError> {
        self.plugin.list_tools().await.map_err(|error| DriveError::Step(Arc::new(error)))
    }

    /// The calls that would end this process, if it [runs in a workspace](Self::running_in).
    pub async fn self_ending(&self) -> Result<Option<SelfEnding>, ApiError> {
        self.scheduler.self_ending().await
    }

    /// Runs a tool for a chat, in turn with the other calls at the chat's workspace.
    ///
    /// The same call (chat, tool, arguments) that has not ended, and that nobody has interrupted, is joined, if it has
    /// sent something, or if nothing else was asked for at the workspace since.
    ///
    /// `interrupt` is the deliberate interrupt: nothing is sent after it. *Dropping* the future is another thing: a
    /// call that has sent nothing yet, and that nobody else on its host waits for, is interrupted; one that has goes on
    /// to its end by itself.
    pub async fn call_tool(
        &self,
        chat: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
        interrupt: &CancellationToken,
    ) -> Result<Result<ToolResult, CallError>, DriveError> {
        let record = self.tool_call(chat, name, arguments, policy, None).await?;
        let call = self.scheduler.begin_unless(record, interrupt).await?;
        let outcome = self.follow(call.id(), interrupt).await;
        call.release();
        outcome
    }

    /// Begins a tool call and answers its number. It goes on by itself; [`follow`](Self::follow) waits for its end.
    ///
    /// `key` is the asker's own name for the request: given again in the same chat it is the same call, also after its
    /// end, for as long as that is kept.
    pub async fn begin(
        &self,
        chat: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
        key: Option<&str>,
    ) -> Result<CallId, DriveError> {
        let record = self.tool_call(chat, name, arguments, policy, key).await?;
        self.scheduler.begin(record).await
    }

    /// As [`begin`](Self::begin), for an asker who may go away at any time: dropped, the future begins nothing, or
    /// abandons what it has begun. The call is for this workspace, which the chat was bound to when the asker looked:
    /// if it is bound elsewhere by now, the call does nothing and says so.
    pub async fn begin_with_handle(
        &self,
        chat: &str,
        workspace: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
    ) -> Result<CallHandle, DriveError> {
        let call = self.export(name, arguments, policy).await;
        let pinned = self.host_calls.pin_to(Some(workspace.to_owned())).await;
        self.scheduler.begin_with_handle(self.record(chat, None, call, pinned)).await
    }

    /// Why the plugin refuses a call as it stands: there is no such tool, or its arguments are no good. Asks nothing
    /// of the control plane, and keeps nothing.
    pub async fn refusal(&self, name: &str, arguments: &str, policy: Policy) -> Option<CallError> {
        let call = self.export(name, arguments, policy).await;
        self.settled().await;
        match self.plugin.step(&call, &Journal::new()) {
            Ok(Step::Done(Output::CallTool(Err(refusal)))) => Some(refusal),
            Err(StepError::Limit(limit @ Limit::Input { .. })) => {
                Some(CallError::InvalidArguments(limit.to_string()))
            }
            // A plugin that fails is no refusal: the call is made, and kept to be looked into.
            Ok(_) | Err(_) => None,
        }
    }

    /// As [`begin`](Self::begin), but leaves the call to a host that stands by: this one does nothing more for it.
    pub async fn submit(
        &self,
        chat: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
        key: Option<&str>,
    ) -> Result<CallId, DriveError> {
        let record = self.tool_call(chat, name, arguments, policy, key).await?;
        self.scheduler.submit(record).await
    }

    /// A tool call as it is going to be kept.
    async fn tool_call(
        &self,
        chat: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
        key: Option<&str>,
    ) -> Result<CallRecord, StoreError> {
        let call = self.export(name, arguments, policy).await;
        Ok(self.record(chat, key, call, self.host_calls.pin(chat).await?))
    }

    /// A call of a tool, with its arguments as they are meant and in one form however they were written, so that equal
    /// ones are equal bytes. What is no object stays as it is: the plugin has a sentence for it.
    async fn export(&self, tool: &str, arguments: &str, policy: Policy) -> Export {
        let schemas = self.schemas().await;
        let arguments = match serde_json::from_str(arguments) {
            Ok(Value::Object(given)) => {
                let schema = schemas.get(tool).unwrap_or(&Value::Null);
                let mut meant = Value::Object(as_meant(schema, given));
                meant.sort_all_objects();
                meant.to_string()
            }
            Ok(Value::Null) => "{}".to_owned(),
            Ok(_) | Err(_) => arguments.to_owned(),
        };
        Export::CallTool { name: tool.to_owned(), arguments, policy }
    }

    /// The schemas of the tools' arguments. None where the tools cannot be listed: that the plugin cannot be used is
    /// for the call to say.
    async fn schemas(&self) -> &BTreeMap<String, Value> {
        self.schemas
            .get_or_init(|| async {
                let of =
                    |tool: Tool| (tool.name, serde_json::from_str(&tool.input_schema).unwrap_or_default());
                self.list_tools().await.unwrap_or_default().into_iter().map(of).collect()
            })
            .await
    }

    fn record(&self, chat: &str, key: Option<&str>, call: Export, pinned: Pinned) -> CallRecord {
        CallRecord {
            format: FORMAT,
            key: key.map(str::to_owned),
            chat: chat.to_owned(),
            pinned,
            call,
            contract: self.plugin.report().contract.clone(),
            component: self.plugin.report().sha256.clone(),
            engine: crate::limits::description(),
            created_ms: self.host_calls.clock.now_ms(),
        }
    }

    /// Waits for a call's end, whichever host carries it. An interrupt is passed on to it, and its end is still waited
    /// for: it knows what was done. Dropping the future changes nothing.
    pub async fn follow(
        &self,
        call: CallId,
        interrupt: &CancellationToken,
    ) -> Result<Result<ToolResult, CallError>, DriveError> {
        let mut subscription = self.scheduler.subscribe_to_end(call);
        let mut told = false;
        let news = self.host_calls.timings().news;
        loop {
            let outcome = match self.host_calls.store.ended(call)? {
                None => return Err(DriveError::UnknownCall { call }),
                Some(Some(outcome)) => outcome,
                Some(None) => tokio::select! {
                    biased;
                    ended = subscription.ended() => match ended {
                        Some(outcome) => outcome?,
                        None => {
                            subscription = self.scheduler.subscribe_to_end(call);
                            continue;
                        }
                    },
                    () = interrupt.cancelled(), if !told => {
                        told = true;
                        self.interrupt(call).await?;
                        continue;
                    }
                    // Another host may carry it.
                    () = tokio::time::sleep(news) => continue,
                },
            };
            return match outcome {
                Outcome::Done { result: Output::CallTool(result) } => Ok(result),
                Outcome::Done { .. } => Err(DriveError::NoTool { call }),
                Outcome::Failed(failure) => Err(failure.into()),
            };
        }
    }

    /// Interrupts a call deliberately, whichever host carries it: no build is asked for after it.
    pub async fn interrupt(&self, call: CallId) -> Result<Interrupted, DriveError> {
        let interrupted = self.host_calls.store.interrupt(call).await?;
        self.scheduler.interrupt(call).await;
        Ok(interrupted)
    }

    /// From now on carries the calls of hosts that are gone, too. A driver that has begun a call does so anyway.
    pub async fn stand_by(&self) -> Result<(), DriveError> {
        self.scheduler.stand_by().await
    }

    /// Whether calls wait for a host to carry them on, and this one may: it acts for the same user of the same control
    /// plane, or cannot ask yet for whom it acts, and they would not end its own process.
    pub async fn has_orphans(&self) -> Result<bool, StoreError> {
        let now_ms = self.host_calls.clock.now_ms();
        self.host_calls.store.end_leases_of_the_gone(now_ms).await?;
        let mut orphans = self.host_calls.store.orphans(now_ms)?;
        let deployment = self.host_calls.plane.deployment();
        orphans.retain(|row| row.pinned.deployment == deployment);
        if orphans.is_empty() {
            return Ok(false);
        }
        let me = self.host_calls.user().await.ok();
        let self_ending = self.self_ending().await.ok().flatten();
        orphans.retain(|row| self_ending.as_ref().is_none_or(|self_ending| !self_ending.matches(row)));
        // One of which nobody knows for whom it acts is ended by any host of its control plane.
        let may = |row: &CallRow| me.is_none() || row.pinned.user.is_none() || row.pinned.user == me;
        Ok(orphans.iter().any(may))
    }

    /// Whether this host carries a call: it has begun it or taken it over, and the call has not ended.
    pub fn carries(&self, call: CallId) -> bool {
        self.scheduler.carries(call)
    }

    /// How many calls this host carries.
    pub fn unended(&self) -> usize {
        self.scheduler.unended()
    }

    /// How many of them sleep until something happens at the control plane.
    pub fn parked(&self) -> usize {
        self.host_calls.parking().len()
    }

    /// Has a plugin at hand that calls may have begun on, so that it need not be loaded from the store.
    #[cfg(feature = "simulate")]
    pub(crate) fn know(&self, plugin: Plugin) {
        self.scheduler.know(plugin);
    }

    /// Stops this host's calls where they are, as a crash would. They are carried on when its lease has run out.
    pub fn halt(&self) {
        self.scheduler.halt();
    }

    /// Lets this host's calls come to their next wait, for some seconds at most, and leaves them to other hosts.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.scheduler.leave().await
    }

    /// Runs an export for a chat at once, without waiting for a turn and without keeping it: for exports that change
    /// nothing.
    pub async fn run(
        &self,
        chat: &str,
        export: &Export,
        interrupt: &CancellationToken,
    ) -> Result<Output, DriveError> {
        let call = self.host_calls.begin(chat, interrupt.clone())?;
        self.drive(&call, export).await
    }

    /// The part that carries out requests.
    pub fn host_calls(&self) -> &HostCalls {
        &self.host_calls
    }

    /// The whole of a call that is kept nowhere.
    pub(crate) async fn drive(&self, call: &CallContext, export: &Export) -> Result<Output, DriveError> {
        Ok(self.drive_to_end(call, export).await?.0)
    }

    /// As [`drive`](Self::drive), and keeps the call when it has ended, so that it can be looked into.
    pub(crate) async fn drive_and_keep(
        &self,
        call: &CallContext,
        export: Export,
    ) -> Result<(Output, Option<CallId>), DriveError> {
        let (output, journal) = self.drive_to_end(call, &export).await?;
        let pinned = self.host_calls.pin_to(call.workspace().map(str::to_owned)).await;
        let record = self.record(call.chat(), None, export, pinned);
        let new = NewCall {
            record,
            component: self.plugin.component().clone(),
            detached: true,
            interrupt: CancellationToken::new(),
        };
        let outcome = Outcome::Done { result: output.clone() };
        let entries = journal.entries().to_vec();
        let kept = self.host_calls.store.keep(new, entries, outcome, self.host_calls.clock.now_ms()).await;
        // A verdict that cannot be looked into later is a verdict all the same.
        let kept = kept.inspect_err(|error| tracing::warn!(%error, "a verdict is not kept")).ok();
        Ok((output, kept))
    }

    /// Steps and answers: the journal grows by one answer per step until the plugin is done.
    async fn drive_to_end(
        &self,
        call: &CallContext,
        export: &Export,
    ) -> Result<(Output, Journal), DriveError> {
        let mut journal = Journal::new();
        self.settled().await;
        loop {
            let step =
                self.plugin.step(export, &journal).map_err(|error| DriveError::Step(Arc::new(error)))?;
            match step {
                Step::Done(output) => return Ok((output, journal)),
                Step::Request(request) => {
                    let asked = Asked { asked_ms: self.host_calls.clock.now_ms(), intent: None };
                    let Answered { answer, observed } = self.answer(call, &request).await?;
                    let now = self.host_calls.clock.now_ms();
                    journal
                        .record(request, answer, observed, asked, now)
                        .map_err(|error| DriveError::Journal(Arc::new(error)))?;
                }
            }
        }
    }

    /// Waits until the plugin can be stepped, or never will: that is for the step to say.
    async fn settled(&self) {
        let _ = self.plugin.ready().await;
    }

    /// Carries out a request of an export that has no business changing anything.
    async fn answer(&self, call: &CallContext, request: &Request) -> Result<Answered, DriveError> {
        if request.effect_class() == EffectClass::Effect {
            let refused = TransitionError::Policy(refusal("Only tools may ask for builds."));
            return Ok(Answered { answer: Answer::IssueTransition(Err(refused)), observed: None });
        }
        self.host_calls.answer(call, request, &NoIntentLog).await
    }
}
