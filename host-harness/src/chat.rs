//! Chats and their workspaces: run a command, and learn what to do when the workspace cannot be reached.
//!
//! A command lives in the workspace, and is followed over a terminal of its own, or as many as it takes. What is kept
//! from call to call (the *connection*) is which agent answered last: a chat that knows it dials it at once, without
//! looking it up. Within a [`ChatHost`] that connection is checked before it is used again; across processes the
//! store's binding serves as a hint that is never judged before it was dialled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bindings::{CallError, Policy, ToolResult};
use crate::control_plane::{ApiError, ControlPlane, Workspace};
use crate::driver::{CallContext, DriveError, Driver};
use crate::policy::ChatTools;
use crate::store::{ChatRecord, StoreError};

mod agent_choice;
mod connect;
mod dial;
mod execution;
mod from_inside;
mod known_dead;
mod output;
mod session;
mod together;

#[cfg(feature = "cli")]
pub(crate) use agent_choice::choose_agent;
pub use execution::{Began, Execute, ExecuteError, Executed, MAX_TYPED_BYTES, Unreachable};
pub use output::MAX_OUTPUT_BYTES;

use session::{Attended, Session};

/// Terminals in a row that were cut before anything was heard from them, after which a command is given up. Each was
/// reached and greeted, so this is no matter of the agent; something on the way ends what is written to.
const MAX_CUT_IN_A_ROW: u32 = 6;

/// How often a command is sent again that arrived as something else.
const MAX_GARBLED: u32 = 2;

/// The chats of one control plane. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct ChatHost {
    driver: Driver,
    states: States,
}

/// One chat of a [`ChatHost`]. Cheap to clone.
#[derive(Clone)]
pub struct Chat {
    driver: Driver,
    name: String,
    tools: ChatTools,
    states: States,
}

/// By the names of chats.
type States = Arc<Mutex<HashMap<String, Arc<ChatState>>>>;

/// Why a chat could not be bound.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BindError {
    /// The workspace could not be read.
    #[error("workspace \"{workspace}\": {error}")]
    Workspace {
        /// As it was named.
        workspace: String,
        /// Why not.
        error: ApiError,
    },
    /// The chat store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ChatHost {
    /// The chats of the driver's store.
    pub fn new(driver: Driver) -> Self {
        Self { driver, states: States::default() }
    }

    /// What runs the plugin's calls.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Binds a chat to a workspace: `name`, `owner/name` or an id. The chat is made if it is not known.
    pub async fn bind(&self, chat: &str, workspace: &str) -> Result<ChatRecord, BindError> {
        Ok(self.bind_to(chat, &self.workspace(workspace).await?).await?)
    }

    /// As [`bind`](Self::bind), to a workspace that was read already.
    pub async fn bind_to(&self, chat: &str, workspace: &Workspace) -> Result<ChatRecord, StoreError> {
        let id = workspace.id.clone();
        self.driver.host_calls().store().update(chat, move |record| record.bind(Some(&id))).await
    }

    /// Reads a workspace that a chat is to be bound to.
    pub async fn workspace(&self, name: &str) -> Result<Workspace, BindError> {
        let read = self.driver.host_calls().plane().workspace_by_name(name).await;
        read.map_err(|error| BindError::Workspace { workspace: name.to_owned(), error })
    }

    /// A chat, for a model that has these tools. Whether it is bound is looked at when it is used.
    pub fn chat(&self, name: &str, tools: ChatTools) -> Chat {
        Chat { driver: self.driver.clone(), name: name.to_owned(), tools, states: self.states.clone() }
    }
}

impl Chat {
    /// Runs a command in the chat's workspace.
    ///
    /// If its agent cannot be reached within the dial window, the plugin's verdict says what to do. Concurrent calls of
    /// a chat share one dial, and its failure counts once.
    pub async fn execute(
        &self,
        execute: &Execute,
        interrupt: &CancellationToken,
    ) -> Result<Executed, ExecuteError> {
        let call = self.driver.host_calls().begin(&self.name, interrupt.clone())?;
        self.execute_as(&call, execute, &|| true).await
    }

    /// As [`execute`](Self::execute), as a call that was begun for this chat: its number tells which events are the
    /// command's. `may_begin` is asked once, when the agent was reached and before anything of the command is sent to
    /// it; if it says no, nothing is, as after an interrupt.
    pub async fn execute_as(
        &self,
        call: &CallContext,
        execute: &Execute,
        may_begin: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Executed, ExecuteError> {
        let timings = self.driver.host_calls().timings();
        let limit = execute.timeout.unwrap_or(timings.command_limit);
        let mut session = Session::new(execute, limit, timings)?;
        let (mut cut_in_a_row, mut garbled, mut is_first) = (0, 0, true);
        loop {
            let terminal = match self.connect(call).await {
                Ok(terminal) => terminal,
                Err(error) => return Err(with_what_is_known(error, &session)),
            };
            if std::mem::take(&mut is_first) && !may_begin() {
                return Err(ExecuteError::Interrupted { running: false });
            }
            match session.attend(terminal, call.interrupt(), timings).await {
                Attended::Over(executed) => return Ok(executed),
                Attended::Interrupted { running } => return Err(ExecuteError::Interrupted { running }),
                Attended::Refused(why) => return Err(ExecuteError::Refused(why)),
                Attended::Garbled if garbled >= MAX_GARBLED => {
                    let why = "what is typed into its terminals arrives as something else, each time";
                    return Err(ExecuteError::Refused(why.to_owned()));
                }
                Attended::Garbled => garbled += 1,
                Attended::Lost => return Err(lost(&session)),
                Attended::Cut { heard } => {
                    cut_in_a_row = if heard && !session.is_over_time() { 0 } else { cut_in_a_row + 1 };
                    if cut_in_a_row >= MAX_CUT_IN_A_ROW {
                        return Err(lost(&session));
                    }
                    // An interrupt is seen by whoever connects.
                    sleep(timings.first_retry * cut_in_a_row).await;
                }
            }
        }
    }

    /// Runs one of the plugin's tools for this chat; see [`Driver::call_tool`].
    pub async fn call_tool(
        &self,
        name: &str,
        arguments: &str,
        interrupt: &CancellationToken,
    ) -> Result<Result<ToolResult, CallError>, DriveError> {
        self.driver.call_tool(&self.name, name, arguments, self.policy(), interrupt).await
    }

    /// The rules that this chat's calls run under.
    pub fn policy(&self) -> Policy {
        self.driver.host_calls().timings().policy(&self.tools)
    }

    /// The chat's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is remembered of the chat, if it is known.
    pub fn record(&self) -> Result<Option<ChatRecord>, StoreError> {
        self.driver.host_calls().store().chat(&self.name)
    }

    /// What its calls at a workspace share. Only they ask for it: names of chats come from clients, and what would be
    /// made for any name is never removed.
    fn state(&self, workspace: &str) -> Arc<ChatState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry(self.name.clone()).or_default();
        if state.workspace != workspace {
            // Calls that go on in the one before keep what they share.
            *state = Arc::new(ChatState { workspace: workspace.to_owned(), ..ChatState::default() });
        }
        state.clone()
    }
}

/// What calls of a chat share while the host lives, in the workspace that the chat is bound to.
#[derive(Default)]
struct ChatState {
    /// Its id.
    workspace: String,
    /// Held while a dial goes on.
    dialing: tokio::sync::Mutex<()>,
    connection_state: Mutex<ConnectionState>,
}

#[derive(Default)]
struct ConnectionState {
    /// The agent that answered last.
    connection: Option<String>,
    /// Dials that have failed, and the last of these failures.
    failed: u64,
    last_failure: Option<Unreachable>,
}

impl ChatState {
    fn connection_state(&self) -> MutexGuard<'_, ConnectionState> {
        self.connection_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure of a dial that ended since.
    fn failure_since(&self, failed_before: u64) -> Option<Unreachable> {
        let state = self.connection_state();
        (state.failed > failed_before).then(|| state.last_failure.clone()).flatten()
    }
}

impl ConnectionState {
    fn note_failure(&mut self, failure: Unreachable) {
        self.failed += 1;
        self.last_failure = Some(failure);
    }
}

/// An error of connecting, with what is known of the command.
fn with_what_is_known(error: ExecuteError, session: &Session) -> ExecuteError {
    let began = session.began();
    match error {
        ExecuteError::Unreachable(unreachable) => ExecuteError::Unreachable(Box::new(Unreachable {
            began,
            output: session.output(),
            ..*unreachable
        })),
        ExecuteError::Interrupted { .. } => ExecuteError::Interrupted { running: began != Began::No },
        // Whatever keeps it from being followed, it was handed over.
        error if began == Began::No => error,
        _ => lost(session),
    }
}

fn lost(session: &Session) -> ExecuteError {
    ExecuteError::Lost { began: session.began(), output: session.output() }
}

#[cfg(all(test, feature = "plugin"))]
mod tests {
    use super::*;
    use crate::driver::plane::Plane;
    use crate::engine::{Engine, EngineOptions};
    use crate::policy::Timings;
    use crate::store::Store;

    #[tokio::test]
    async fn nothing_is_kept_of_a_chat_that_has_no_workspace() {
        let plugin = Engine::new(EngineOptions::default()).unwrap().load(crate::PLUGIN).unwrap();
        let driver = Driver::new(plugin, Arc::new(Plane::default()), Store::in_memory(), Timings::default());
        let chats = ChatHost::new(driver);
        for number in 0..10 {
            let chat = chats.chat(&format!("any name {number}"), ChatTools::default());
            let executed = chat.execute(&Execute::default(), &CancellationToken::new()).await;
            assert!(matches!(executed, Err(ExecuteError::Unbound { .. })), "{executed:?}");
        }
        assert!(chats.states.lock().unwrap().is_empty());
    }
}
