//! The ways in which a step can end.

use std::time::Duration;

use thiserror::Error;

use crate::journal::{Output, Request};
use crate::limits::Limit;

/// How a step ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The plugin asks for something that has no answer yet. Carry it out, append the answer, step again.
    Request(Request),
    /// The call is complete.
    Done(Output),
}

/// How a step ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// The plugin did not do what it did when the journal was written: it is another plugin, or the journal is not
    /// that of this call. Nothing can be concluded from such a step.
    #[error("the plugin diverged from its journal at entry {index}: {}", diverged(.expected, .got))]
    Diverged {
        /// The entry, counted from 0.
        index: usize,
        /// The request recorded there.
        expected: Box<Request>,
        /// What the plugin did instead: another request, or coming to its end with entries left over.
        got: Box<Step>,
    },
    /// The call reached a limit. Final: every host that steps through this journal comes to the same end.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// The plugin trapped, or handed over something that is no value of the contract. Final.
    #[error("the plugin failed: {reason}")]
    PluginFault {
        /// What it did, in words.
        reason: String,
        /// Its functions, innermost first, where a second run could show them.
        backtrace: Option<String>,
    },
    /// The host could not run the step, three times in a row. Says nothing about the call, which can be stepped later.
    #[error("this host could not run the plugin: {0}")]
    HostFault(HostFault),
}

/// What kept the host from running a step.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostFault {
    /// The step was still running after [`EngineOptions::step_deadline`](super::EngineOptions::step_deadline).
    #[error("a step was not finished within {0:?}")]
    Deadline(Duration),
    /// Memory or another resource of the machine was short.
    #[error("{0}")]
    Resources(String),
    /// The plugin, which was [compiled behind](super::Engine::load_behind), could not be.
    #[error("{0}")]
    NotLoaded(String),
}

/// A divergence in words: the function first, and the arguments only where the function is the same.
fn diverged(expected: &Request, got: &Step) -> String {
    match got {
        Step::Done(_) => format!("{} was recorded, but the call ended without it", expected.function()),
        Step::Request(got) if got.function() == expected.function() => {
            format!("{} was recorded with {expected:?}, now it is {got:?}", expected.function())
        }
        Step::Request(got) => format!("{} was recorded, now it is {}", expected.function(), got.function()),
    }
}
