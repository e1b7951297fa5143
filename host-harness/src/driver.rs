//! Runs calls of the plugin: step, carry out the one request that it makes, record the answer, step again.
//!
//! A call that waits holds its journal and a place in the parking, nothing else. Calls of tools take turns at their workspace; the
//! other exports run at once. The driver knows neither where journals are kept nor what a control plane speaks.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::bindings::{CallError, Policy, Tool, ToolResult};
use crate::clock::{Clock, SystemClock};
use crate::control_plane::ControlPlane;
use crate::engine::{Plugin, Step, StepError};
use crate::journal::{EffectClass, Export, Journal, JournalError, Output};
use crate::policy::Timings;
use crate::store::{ChatStore, StoreError};

mod call;
mod events;
mod lane;
mod parking;
mod reads;
mod running;
mod transition;

pub use call::{Call, Performed, Performer};
pub use events::{Event, EventKind};
pub use lane::Holder;

use lane::Lanes;
use running::{Attended, Key, Running};

/// Runs calls. Cheap to clone; clones share lanes, events and the record of how reads went.
#[derive(Clone)]
pub struct Driver {
    plugin: Plugin,
    performer: Performer,
    lanes: Arc<Lanes>,
    running: Arc<Running>,
}

/// Why a call came to no result of the plugin's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriveError {
    /// Interrupted while it waited for its turn; nothing was read or sent.
    #[error("interrupted before it began: nothing was changed")]
    Interrupted,
    /// Other calls hold the workspace: too many wait already, or it waited its time.
    #[error("busy: {holder} holds the workspace; try again when it has ended")]
    Busy {
        /// The call whose turn it is.
        holder: Holder,
    },
    /// The plugin could not be stepped.
    #[error("the plugin could not go on: {0}")]
    Step(Arc<StepError>),
    /// An answer could not be recorded.
    #[error("an answer could not be recorded: {0}")]
    Journal(Arc<JournalError>),
    /// A build was asked for, and the answer to that could not be recorded: the call cannot go on, the build does.
    #[error("a build was asked for, but the answer could not be recorded: {0}; look at the workspace")]
    Unrecorded(Arc<JournalError>),
    /// The chat store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A build was asked for, no answer came, and the control plane could not be read to find out.
    #[error(
        "a build was asked for and no answer came; whether it was made could not be found out: look at the workspace"
    )]
    Unresolved,
    /// The host ended while the call ran.
    #[error("the host ended while the call ran")]
    Aborted,
}

impl Driver {
    /// A driver with the system's clock.
    pub fn new(
        plugin: Plugin,
        plane: Arc<dyn ControlPlane>,
        store: Arc<dyn ChatStore>,
        timings: Timings,
    ) -> Self {
        Self::with_clock(plugin, plane, store, timings, Arc::new(SystemClock))
    }

    /// A driver with a clock of the caller's.
    pub fn with_clock(
        plugin: Plugin,
        plane: Arc<dyn ControlPlane>,
        store: Arc<dyn ChatStore>,
        timings: Timings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let performer = Performer::new(plane, store, timings, clock);
        Self { plugin, performer, lanes: Arc::default(), running: Arc::default() }
    }

    /// What happens in all calls from now on. A listener that does not keep up misses the oldest events.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.performer.events.subscribe()
    }

    /// The tools that the plugin offers.
    pub async fn list_tools(&self) -> Result<Vec<Tool>, DriveError> {
        match self.run("", &Export::ListTools, &CancellationToken::new()).await? {
            Output::ListTools(tools) => Ok(tools),
            other => unreachable!("the engine answered {other:?} to list-tools"),
        }
    }

    /// Runs a tool for a chat, in turn with the other calls at the chat's workspace.
    ///
    /// `interrupt` is the deliberate interrupt: nothing is sent after it. *Dropping* the future is another thing: a
    /// call that has sent nothing yet is interrupted, one that has goes on to its end by itself, and the same call (chat,
    /// tool, arguments) made again meanwhile joins it.
    pub async fn call_tool(
        &self,
        chat: &str,
        name: &str,
        arguments: &str,
        policy: Policy,
        interrupt: &CancellationToken,
    ) -> Result<Result<ToolResult, CallError>, DriveError> {
        let key = Key { chat: chat.to_owned(), tool: name.to_owned(), arguments: arguments.to_owned() };
        let attended = match self.running.sent(&key) {
            Some(attended) => attended,
            None => {
                let export =
                    Export::CallTool { name: key.tool.clone(), arguments: key.arguments.clone(), policy };
                self.spawn(key, export)?
            }
        };
        match attended.output(interrupt).await? {
            Output::CallTool(result) => Ok(result),
            other => unreachable!("the engine answered {other:?} to call-tool"),
        }
    }

    /// Runs an export for a chat at once, without waiting for a turn: for exports that change nothing.
    pub async fn run(
        &self,
        chat: &str,
        export: &Export,
        interrupt: &CancellationToken,
    ) -> Result<Output, DriveError> {
        let call = self.performer.begin(chat, interrupt.clone())?;
        self.drive(&call, export).await
    }

    /// The part that carries out requests.
    pub fn performer(&self) -> &Performer {
        &self.performer
    }

    /// Starts a tool call as a task of its own, so that it outlives whoever waits for it.
    fn spawn(&self, key: Key, export: Export) -> Result<Attended, DriveError> {
        let call = self.performer.begin(&key.chat, CancellationToken::new())?;
        let (attended, finish) = self.running.enter(key.clone(), &call);
        let driver = self.clone();
        tokio::spawn(async move {
            let output = driver.run_in_turn(&call, &key.tool, &export).await;
            finish.with(output);
        });
        Ok(attended)
    }

    async fn run_in_turn(&self, call: &Call, tool: &str, export: &Export) -> Result<Output, DriveError> {
        let _turn = match call.workspace() {
            None => None,
            Some(workspace) => {
                let holder = Holder { call: call.id(), chat: call.chat().to_owned(), tool: tool.to_owned() };
                let wait = |holder| self.performer.tell(call, EventKind::WaitingForTurn { holder });
                let limit = self.performer.timings().turn_limit;
                Some(self.lanes.turn(workspace, holder, limit, call.interrupt(), wait).await?)
            }
        };
        self.performer.tell(call, EventKind::Started { tool: tool.to_owned() });
        let output = self.drive(call, export).await;
        self.performer.tell(call, EventKind::Ended);
        output
    }

    /// The whole of a call: its journal grows by one answer per step until the plugin is done.
    pub(crate) async fn drive(&self, call: &Call, export: &Export) -> Result<Output, DriveError> {
        let mut journal = Journal::new();
        loop {
            let step =
                self.plugin.step(export, &journal).map_err(|error| DriveError::Step(Arc::new(error)))?;
            match step {
                Step::Done(output) => return Ok(output),
                Step::Request(request) => {
                    let Performed { answer, observed } = self.performer.perform(call, &request).await?;
                    let unrecorded = match request.effect_class() {
                        EffectClass::Effect => DriveError::Unrecorded,
                        EffectClass::Read | EffectClass::Wait | EffectClass::IdempotentWrite => {
                            DriveError::Journal
                        }
                    };
                    journal.append(request, answer, observed).map_err(|error| unrecorded(Arc::new(error)))?;
                }
            }
        }
    }
}
