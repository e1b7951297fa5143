//! The journal of a call: its input, and each request of the plugin with its answer.
//!
//! A call is completely described by its [`Export`] (what was called, with which arguments) and its [`Journal`]. The
//! engine steps through it; the driver appends to it; neither knows where it is kept.

mod cut;
mod intent;
mod messages;
pub mod record;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{ANSWER_BYTES, HOST_CALLS, JOURNAL_BYTES, Limit, REQUEST_BYTES};
pub use messages::{Answer, EffectClass, Export, Output, Request};

use intent::Intent;

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the plugin asked.
    pub request: Request,
    /// What it was told: the answer as it was recorded, cut to the limits.
    pub answer: Answer,
    /// The control plane's time of the answer, in milliseconds since 1970, if known.
    pub observed: Option<u64>,
    /// When it was asked, and what was fixed then.
    pub asked: Asked,
    /// When the answer was there, host's Unix milliseconds.
    pub answered_ms: u64,
}

/// When a request was made, and what was written down before it was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Host's Unix milliseconds.
    pub asked_ms: u64,
    /// Of effects and waits in calls that are kept in a store.
    pub intent: Option<Intent>,
}

/// The requests of a call so far, each with its answer, in order.
///
/// Cloning is cheap: the entries are shared until one of the clones is appended to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    entries: Arc<Vec<Entry>>,
    /// Length of all requests and answers as recorded.
    bytes: usize,
}

/// Why an answer was not recorded. The journal is as it was before.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The answer belongs to another function than the request. This is a mistake of the host.
    #[error("the answer to {request} was one to {answer}: the host mixed them up")]
    WrongAnswer {
        /// The function asked for.
        request: &'static str,
        /// The function that was answered.
        answer: &'static str,
    },
    /// A value that cannot be cut is longer than a plugin may be given.
    #[error(
        "the control plane's answer to {request} cannot be used: its {field} has {size}, the limit is {limit}"
    )]
    Oversized {
        /// The function asked for.
        request: &'static str,
        /// What is too long.
        field: &'static str,
        /// Its size, in bytes or items.
        size: usize,
        /// The most that it may have.
        limit: usize,
    },
    /// The answer cannot be written down, or is read back as something else.
    #[error("the answer to {request} cannot be recorded: {reason}")]
    NotRecordable {
        /// The function asked for.
        request: &'static str,
        /// What the encoder said.
        reason: String,
    },
    /// The journal is full. A step that asks for no more than the journal can hold never leads here.
    #[error(transparent)]
    Full(#[from] Limit),
}

impl Journal {
    /// A journal without entries: the beginning of a call.
    pub fn new() -> Self {
        Self::default()
    }

    /// A journal that was recorded earlier. Its limits were judged then, and are not judged again.
    pub fn recorded(entries: Vec<Entry>) -> Self {
        let bytes =
            entries.iter().map(|entry| encoded_len(&entry.request) + encoded_len(&entry.answer)).sum();
        Self { entries: Arc::new(entries), bytes }
    }

    /// The requests so far, each with its answer.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The length of all requests and answers, as recorded, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records the answer to a request. `observed` is the control plane's time of the answer, if known.
    ///
    /// The answer is cut to the limits first (see [`crate::limits`]). What is kept, and what the plugin gets,
    /// is what the written form reads back as, so that a call cannot see anything that its replay would not.
    pub fn append(
        &mut self,
        request: Request,
        answer: Answer,
        observed: Option<u64>,
    ) -> Result<(), JournalError> {
        self.record(request, answer, observed, Asked::default(), 0)
    }

    /// As [`append`](Self::append), with when it was asked and answered (host's Unix milliseconds).
    pub fn record(
        &mut self,
        request: Request,
        mut answer: Answer,
        observed: Option<u64>,
        asked: Asked,
        answered_ms: u64,
    ) -> Result<(), JournalError> {
        let function = request.function();
        if answer.function() != function {
            return Err(JournalError::WrongAnswer { request: function, answer: answer.function() });
        }
        cut::answer(&mut answer).map_err(|cut::TooLong { field, size, limit }| JournalError::Oversized {
            request: function,
            field,
            size,
            limit,
        })?;
        let not_recordable = |error: serde_json::Error| JournalError::NotRecordable {
            request: function,
            reason: error.to_string(),
        };
        let written = serde_json::to_vec(&answer).map_err(not_recordable)?;
        if written.len() > ANSWER_BYTES {
            let (field, size, limit) = ("recorded form", written.len(), ANSWER_BYTES);
            return Err(JournalError::Oversized { request: function, field, size, limit });
        }
        let answer = serde_json::from_slice(&written).map_err(not_recordable)?;
        let bytes = self.bytes + encoded_len(&request) + written.len();
        if self.entries.len() >= HOST_CALLS {
            return Err(Limit::HostCalls.into());
        }
        if bytes > JOURNAL_BYTES {
            return Err(Limit::Journal.into());
        }
        Arc::make_mut(&mut self.entries).push(Entry { request, answer, observed, asked, answered_ms });
        self.bytes = bytes;
        Ok(())
    }

    /// Whether one more exchange that begins with `request` is sure to fit, however long its answer. Judged before the
    /// request is carried out, so that no effect is ever sent whose answer could not be recorded.
    pub(crate) fn admits(&self, request: &Request) -> Result<(), Limit> {
        if self.entries.len() >= HOST_CALLS {
            return Err(Limit::HostCalls);
        }
        let bytes = encoded_len(request);
        if bytes > REQUEST_BYTES {
            return Err(Limit::Request { bytes });
        }
        if self.bytes + bytes + ANSWER_BYTES > JOURNAL_BYTES {
            return Err(Limit::Journal);
        }
        Ok(())
    }
}

/// The length of a value's recorded form.
fn encoded_len(value: &impl Serialize) -> usize {
    struct Counter(usize);

    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter(0);
    // Counting cannot fail, and requests and answers are made of strings, numbers and enums, which JSON can hold.
    serde_json::to_writer(&mut counter, value).map_or(usize::MAX / 4, |()| counter.0)
}
