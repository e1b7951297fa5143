//! Chats and their workspaces: run a command, and learn what to do when the workspace cannot be reached.
//!
//! A command lives in the workspace, and is followed over a terminal of its own, or as many as it takes. What is kept from
//! call to call (the *connection*) is which agent answered last: a chat that knows it dials it at once, without looking it
//! up. Within a [`ChatHost`] that connection is checked before it is used again; across processes the store's binding
//! serves as a hint that is never judged before it was dialled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::bindings::{CallError, Policy, ToolResult, Verdict};
use crate::control_plane::{ApiError, ControlPlane, Workspace};
use crate::driver::{Call, DriveError, Driver};
use crate::greeting::no_shell;
use crate::journal::record::CallId;
use crate::policy::ChatTools;
use crate::store::{ChatRecord, StoreError};

mod agent_choice;
mod connect;
mod dial;
mod from_inside;
mod known_dead;
mod output;
mod session;
mod together;

#[cfg(feature = "cli")]
pub(crate) use agent_choice::choose_agent;
pub use output::MAX_OUTPUT_BYTES;
pub use session::MAX_TYPED_BYTES;

use session::{Attended, Session};

/// Terminals in a row that were cut before anything was heard from them, after which a command is given up. Each was reached
/// and greeted, so this is no matter of the agent; something on the way ends what is written to.
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

/// A command to run in the chat's workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Execute {
    /// For bash, or for `sh` where there is no bash, in the environment that the login shell of the workspace's user makes.
    /// Its length is limited: see [`MAX_TYPED_BYTES`].
    pub command: String,
    /// Where to run it; `~` is the home folder. `None`: where the agent starts.
    pub workdir: Option<String>,
    /// Its standard input, limited together with the command. `None`: it finds nothing there.
    pub input: Option<Vec<u8>>,
    /// For how long it may run. `None`: `Timings::command_limit`.
    pub timeout: Option<Duration>,
}

/// A command that was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Executed {
    /// Standard output and error in the order in which they came, lines ending in `\n`, without escape sequences. At
    /// most [`MAX_OUTPUT_BYTES`]; of longer output the middle is left out and a line says how much.
    pub output: String,
    /// `None` if it did not end within its time; it was ended then, with all that it had left in its process group.
    pub exit_code: Option<i32>,
    /// Whether the middle of the output was left out.
    pub truncated: bool,
    /// Whether something of a command that took too long could not be ended, even with SIGKILL.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub left_running: bool,
}

/// Whether a command has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// It has not, and will not.
    No,
    /// It was handed over, and nothing was heard since.
    Unknown,
    /// It has.
    Yes,
}

impl Began {
    /// Whether it has, as data tell it: nothing if that is not known.
    pub fn known(self) -> Option<bool> {
        match self {
            Self::No => Some(false),
            Self::Unknown => None,
            Self::Yes => Some(true),
        }
    }
}

/// Why a command gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The caller gave up.
    #[error("interrupted{}", if *.running { "; the command had begun, and may still be running" } else { "" })]
    Interrupted {
        /// Whether the command, or something that it has left, may still be running: it could not be told to end, or did
        /// not.
        running: bool,
    },
    /// A terminal cannot be typed so much. Nothing was run.
    #[error(
        "the command, with its input, is too long: it takes {bytes} bytes to send, and {MAX_TYPED_BYTES} can be sent; do \
         it in several commands, for example by writing a long file piece by piece"
    )]
    TooLong {
        /// Its length as it is sent.
        bytes: usize,
    },
    /// No program can be given such a command. Nothing was run.
    #[error("the command or its folder has a NUL character, which no shell can be given: leave it out")]
    Nul,
    /// The chat has no workspace.
    #[error("the chat \"{chat}\" is not bound to a workspace{}", making(.create))]
    Unbound {
        /// Its name.
        chat: String,
        /// The tool that makes a workspace, if the chat has one.
        create: Option<String>,
    },
    /// The agent could not be reached, and this is what to do.
    #[error("{}", unreachable_text(.0))]
    Unreachable(Box<Unreachable>),
    /// The dial failed in a way that waiting cannot cure.
    #[error("the workspace cannot be reached: {0}")]
    Failed(ApiError),
    /// A terminal opens, and something else answers in it than a shell. Nothing was run.
    #[error("the workspace is there, but no shell runs commands in it: {}", no_shell(.said))]
    NoShell {
        /// What its terminal said, if anything.
        said: String,
    },
    /// The workspace lacks what it takes to run a command. Nothing was run.
    #[error("the workspace is there, but commands cannot be run in it: {0}")]
    Refused(String),
    /// The agent can be reached, but what became of the command is not known.
    #[error("{}", lost_text(*.began))]
    Lost {
        /// Whether it has begun.
        began: Began,
        /// What it had put out, as far as that is known.
        output: String,
    },
    /// The plugin could not be asked.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The chat store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An agent that could not be reached.
#[derive(Clone, Debug)]
pub struct Unreachable {
    /// What the model should do now.
    pub verdict: Verdict,
    /// The call in the store that came to this verdict, so that it can be looked into. `None`: it could not be kept.
    pub call: Option<CallId>,
    /// For how long it was tried.
    pub tried: Duration,
    /// The agent that was dialled last, if there was one to dial.
    pub agent: Option<String>,
    /// Why the last attempt failed, or why there was nobody to dial.
    pub last_error: String,
    /// Whether the command had begun before the agent was lost: whoever runs it again should know that.
    pub began: Began,
    /// What it had put out, as far as that is known.
    pub output: String,
}

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
    /// If its agent cannot be reached within the dial window, the plugin's verdict says what to do. Concurrent calls of a
    /// chat share one dial, and its failure counts once.
    pub async fn execute(
        &self,
        execute: &Execute,
        interrupt: &CancellationToken,
    ) -> Result<Executed, ExecuteError> {
        let call = self.driver.host_calls().begin(&self.name, interrupt.clone())?;
        self.execute_as(&call, execute, &|| true).await
    }

    /// As [`execute`](Self::execute), as a call that was begun for this chat: its number tells which events are the
    /// command's. `may_begin` is asked once, when the agent was reached and before anything of the command is sent to it; if it
    /// says no, nothing is, as after an interrupt.
    pub async fn execute_as(
        &self,
        call: &Call,
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
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The agent that answered last.
    connection: Option<String>,
    /// Dials that have failed, and the last of these failures.
    failed: u64,
    last_failure: Option<Unreachable>,
}

impl ChatState {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure of a dial that ended since.
    fn failure_since(&self, failed_before: u64) -> Option<Unreachable> {
        let kept = self.kept();
        (kept.failed > failed_before).then(|| kept.last_failure.clone()).flatten()
    }
}

impl Kept {
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

fn making(create: &Option<String>) -> String {
    create.as_ref().map(|tool| format!("; {tool} makes one")).unwrap_or_default()
}

fn lost_text(began: Began) -> &'static str {
    match began {
        Began::No => {
            "the command did not begin: each connection to the workspace was cut as soon as it was used"
        }
        Began::Unknown => {
            "the connection was cut while the command was handed over, and again each time it was asked for: whether it \
             began is not known"
        }
        Began::Yes => {
            "the command had begun, but how it ended is not known: it was killed from outside together with what watched \
             it, or the workspace has lost its notes; it may still be running, or may not have finished"
        }
    }
}

fn unreachable_text(unreachable: &Unreachable) -> String {
    let what = match unreachable.began {
        Began::No => "the workspace cannot be reached",
        Began::Unknown => {
            "the connection was lost while the command was handed over, so it may have begun, and the workspace cannot be \
             reached"
        }
        Began::Yes => {
            "the connection was lost while the command ran, which may still be running or may not have finished, and \
             the workspace cannot be reached"
        }
    };
    match unreachable.verdict.message.as_str() {
        "" => format!("{what}: {}", unreachable.last_error),
        message => format!("{what}: {message}"),
    }
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
