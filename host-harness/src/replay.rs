//! Runs a recorded call again, offline.

use thiserror::Error;

use crate::engine::{Plugin, Step, StepError};
use crate::journal::record::{Failure, Outcome, Recording};
use crate::journal::{Journal, Request};

/// How a replay agreed with the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The requests that were made again.
    pub requests: usize,
    /// How the call ended, here as there. `None`: it had not ended when it was recorded.
    pub outcome: Option<Outcome>,
}

/// How a replay did not agree with the recording.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A request was another one, or the plugin could not be stepped.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The requests were the same, the end was not.
    #[error("the requests are the same, but the call ended otherwise than recorded")]
    Outcome {
        /// What was recorded.
        expected: Box<Expected>,
        /// What came.
        got: Box<Step>,
    },
}

/// What a recording says comes after its last answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// The end of the call.
    Outcome(Outcome),
    /// This request, which had no answer yet.
    Request(Request),
}

/// Runs a recorded call again: every request must be the recorded one, and the end must have the recorded bytes.
/// Nothing is asked of any control plane.
pub fn replay(plugin: &Plugin, recording: &Recording) -> Result<Replayed, ReplayError> {
    let journal = Journal::recorded(recording.entries.clone());
    let requests = recording.entries.len();
    let outcome = recording.outcome.clone();
    let expected = match (&recording.outcome, &recording.open) {
        // The host ended it: the plugin would have gone on, or could not.
        (Some(Outcome::Failed(failure)), _) => {
            return match (plugin.step(&recording.call.call, &journal), failure) {
                (Err(error @ StepError::Diverged { .. }), _) => Err(error.into()),
                (Err(error), Failure::Plugin { reason }) if error.to_string() == *reason => {
                    Ok(Replayed { requests, outcome })
                }
                (Err(error), _) => Err(error.into()),
                (Ok(_), _) => Ok(Replayed { requests, outcome }),
            };
        }
        (Some(done), _) => Expected::Outcome(done.clone()),
        (None, Some(open)) => Expected::Request(open.request.clone()),
        (None, None) => {
            plugin.step(&recording.call.call, &journal)?;
            return Ok(Replayed { requests, outcome });
        }
    };
    let got = plugin.step(&recording.call.call, &journal)?;
    let same = match (&expected, &got) {
        (Expected::Outcome(Outcome::Done { result }), Step::Done(output)) => result == output,
        (Expected::Request(open), Step::Request(request)) => open == request,
        _ => false,
    };
    if same {
        Ok(Replayed { requests, outcome })
    } else {
        Err(ReplayError::Outcome { expected: Box::new(expected), got: Box::new(got) })
    }
}
