//! A command to run in a chat's workspace, and what can become of it.

use std::time::Duration;

use crate::bindings::Verdict;
use crate::control_plane::ApiError;
use crate::driver::DriveError;
use crate::greeting::no_shell;
use crate::journal::record::CallId;
use crate::store::StoreError;

/// Limit of what is typed for one command: the command and its input, in bytes as they are sent, in which each control
/// character and each byte of what is not ASCII takes up to five. So at least 400 KiB of whatever it is, and nearly 2
/// MiB of plain text. A shell reads them byte by byte, about half a million a second.
pub const MAX_TYPED_BYTES: usize = 2 << 20;

/// A command to run in the chat's workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Execute {
    /// For bash, or for `sh` where there is no bash, in the environment that the login shell of the workspace's user
    /// makes. Its length is limited: see [`MAX_TYPED_BYTES`].
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
    /// most [`MAX_OUTPUT_BYTES`](super::MAX_OUTPUT_BYTES); of longer output the middle is left out and a line says how
    /// much.
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
        /// Whether the command, or something that it has left, may still be running: it could not be told to end, or
        /// did not.
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
