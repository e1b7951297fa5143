//! A call as it is kept: who asked for what, each request with its answer, and how it ended.
//!
//! The [`CallRecord`] is written before the call's first step and never changed. An [`Open`] request is one that was
//! written down *before* it was carried out, with what is needed to go on from there after a crash; its [`Entry`]
//! takes its place when it is answered. An exported call is these values, one JSON object a line.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Entry;
pub use super::intent::{BuildIntent, Intent};
use super::messages::{Export, Output, Request};

/// The version of what this module writes. A newer one is refused, older ones are read.
pub const FORMAT: u32 = 1;

/// Names a call within its store. Calls that come later have greater numbers.
pub type CallId = u64;

/// What a call is: everything that it was begun with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// The asker's own name for the request: the same key in the same chat is the same call.
    pub key: Option<String>,
    /// The chat that it is for.
    pub chat: String,
    /// The control plane, the user there and the workspace that the call is pinned to.
    #[serde(flatten)]
    pub pinned: Pinned,
    /// What is called, with its arguments and the policy.
    pub call: Export,
    /// Version of the contract that the plugin was built against.
    pub contract: String,
    /// SHA-256 of the component, in hexadecimal. A call ends on the component that it began with.
    pub component: String,
    /// The engine and its limits, for diagnosis only.
    pub engine: String,
    /// When the call was begun, host's Unix milliseconds.
    pub created_ms: u64,
}

/// What a call is pinned to from its beginning. Only a host with the same identity may carry it on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Names the control plane, as its client does.
    pub deployment: String,
    /// The user's id there. `None`: it could not be read when the call began, so no other host may carry the call on.
    pub user: Option<String>,
    /// The workspace's id. `None`: the chat had none.
    pub workspace: Option<String>,
}

/// A request that was written down before it was carried out, and has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What the plugin asked.
    pub request: Request,
    /// What is needed to find out, or to go on, after a crash.
    pub intent: Intent,
    /// When it was written down, host's Unix milliseconds.
    pub asked_ms: u64,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum Outcome {
    /// The plugin came to its end.
    Done {
        /// What it gave.
        result: Output,
    },
    /// The plugin was not let to its end.
    Failed(Failure),
}

/// Why a call ended without a result of the plugin's.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "kebab-case")]
pub enum Failure {
    /// Interrupted while it waited for its turn.
    #[error(
        "interrupted before it began: nothing was changed; make the same call again if it is still wanted"
    )]
    Interrupted,
    /// Other calls hold the workspace: too many wait already, or it waited its time.
    #[error("busy: {holder} holds the workspace; try again when it has ended")]
    Busy {
        /// The call whose turn it is.
        holder: Holder,
    },
    /// The plugin could not be stepped.
    #[error("the plugin could not go on: {reason}")]
    Plugin {
        /// What was wrong, in words.
        reason: String,
    },
    /// An answer could not be recorded.
    #[error("an answer could not be recorded: {reason}")]
    Answer {
        /// What was wrong, in words.
        reason: String,
    },
    /// A build was asked for, and the answer to that could not be recorded: the call cannot go on, the build does.
    #[error("a build was asked for, but the answer could not be recorded: {reason}; look at the workspace")]
    Unrecorded {
        /// What was wrong, in words.
        reason: String,
    },
    /// A build was asked for, whether it was made is not known, and the control plane could not be read to find out.
    #[error(
        "a build was asked for, but {}; whether it was made could not be found out: look at the workspace",
        .lost.as_deref().unwrap_or("no answer came")
    )]
    Unresolved {
        /// What came of the request instead of an answer, as a part of a sentence, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<String>,
    },
    /// Its host is gone, and nobody knows for whom it acted, so that no other may carry it on.
    #[error(
        "its host is gone, and the control plane could not be read when the call began, so that no other host may \
         carry it on: nothing was changed, call the tool again"
    )]
    Unidentified,
    /// No host was there that could carry it on.
    #[error("abandoned: for {hours} hours no host was there that could carry it on; look at the workspace")]
    Abandoned {
        /// For how long, in hours.
        hours: u64,
    },
}

/// A call that has its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The call.
    pub call: CallId,
    /// Its chat.
    pub chat: String,
    /// Its tool.
    pub tool: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of chat \"{}\" (call {})", self.tool, self.chat, self.call)
    }
}

/// A call as kept: complete once `outcome` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// What it is.
    pub call: CallRecord,
    /// Its requests with their answers, in order.
    pub entries: Vec<Entry>,
    /// The request that is being carried out, if it was written down before.
    pub open: Option<Open>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// One line of an exported call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
enum Line {
    Call(CallRecord),
    Entry(Entry),
    Open(Open),
    Outcome(Outcome),
}

/// Why a file is not an exported call.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// A line is not one of an exported call.
    #[error("line {line} is not one of an exported call: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It does not begin with the call itself.
    #[error("the first line has to be the call itself, as `export` writes it")]
    NoCall,
    /// It was written by a newer version.
    #[error("it has format {found}, this program reads formats up to {FORMAT}: use a newer program")]
    Newer {
        /// The format found.
        found: u32,
    },
}

impl Recording {
    /// As JSON, one object a line: the call, its entries, what is open, and the outcome.
    pub fn to_json_lines(&self) -> Result<String, serde_json::Error> {
        let lines = std::iter::once(Line::Call(self.call.clone()))
            .chain(self.entries.iter().cloned().map(Line::Entry))
            .chain(self.open.clone().map(Line::Open))
            .chain(self.outcome.clone().map(Line::Outcome));
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Reads what [`to_json_lines`](Self::to_json_lines) wrote, in this version or an earlier one.
    pub fn from_json_lines(text: &str) -> Result<Self, RecordingError> {
        let mut recording: Option<Self> = None;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = number + 1;
            let wrong = |reason: String| RecordingError::Line { line: number, reason };
            match (serde_json::from_str(line).map_err(|error| wrong(unreadable(&error)))?, &mut recording) {
                (Line::Call(call), None) if call.format > FORMAT => {
                    return Err(RecordingError::Newer { found: call.format });
                }
                (Line::Call(call), recording @ None) => {
                    *recording = Some(Self { call, entries: Vec::new(), open: None, outcome: None });
                }
                (Line::Call(_), Some(_)) => return Err(wrong("a second call begins here".to_owned())),
                (_, None) => return Err(RecordingError::NoCall),
                (_, Some(Self { outcome: Some(_), .. })) => {
                    return Err(wrong("the call has ended before it".to_owned()));
                }
                (Line::Entry(entry), Some(recording)) => recording.entries.push(entry),
                (Line::Open(open), Some(recording)) => recording.open = Some(open),
                (Line::Outcome(outcome), Some(recording)) => recording.outcome = Some(outcome),
            }
        }
        recording.ok_or(RecordingError::NoCall)
    }
}

/// What is wrong with a line. The place that the parser names counts lines of its own.
fn unreadable(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it is cut off".to_owned();
    }
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
