//! What a build's state means, and how to speak of it.

use crate::contract::{Build, JobStatus, Provisioner, ReadError, Transition};

/// The job has not ended. A status that is not known counts as that, as the contract's `job-status` has it.
pub fn in_progress(build: &Build) -> bool {
    !matches!(build.status, JobStatus::Succeeded | JobStatus::Failed | JobStatus::Canceled)
}

/// Did all of its work.
pub fn succeeded(build: &Build) -> bool {
    build.status == JobStatus::Succeeded
}

/// Ended early because somebody asked for it, whichever way its job ended.
pub fn was_canceled(build: &Build) -> bool {
    match build.status {
        JobStatus::Canceled => true,
        JobStatus::Failed => build.cancel_requested,
        _ => false,
    }
}

/// The workspace is stopped: the newest build is a stop, and it did its work.
pub fn is_stopped(build: &Build) -> bool {
    build.transition == Transition::Stop && succeeded(build)
}

/// The workspace is started, which says nothing of its agent.
pub fn is_started(build: &Build) -> bool {
    build.transition == Transition::Start && succeeded(build)
}

/// `start build 7`, for sentences.
pub fn name(build: &Build) -> String {
    format!("{} build {}", transition_name(&build.transition), build.number)
}

/// The control plane's word for a transition.
pub fn transition_name(transition: &Transition) -> &str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Delete => "delete",
        Transition::Unknown(other) => other,
    }
}

/// How a build that did not succeed ended.
pub fn failure(build: &Build) -> String {
    let name = name(build);
    match &build.error {
        _ if was_canceled(build) => format!("{name} was canceled."),
        Some(error) if !error.trim().is_empty() => format!("{name} failed: {error}"),
        _ => format!("{name} failed without saying why."),
    }
}

/// Why a build that is still in progress has not ended, and that it may yet.
pub fn unfinished(build: &Build) -> String {
    let name = name(build);
    match (&build.status, build.provisioner, build.queue_position) {
        (JobStatus::Pending, Provisioner::Missing, _) => {
            format!(
                "{name} waits in the queue because no provisioner is there to take it; \
                 it may still run when one appears."
            )
        }
        (JobStatus::Pending, _, Some(position)) => {
            format!("{name} is still in the queue, at place {position}, and may still run.")
        }
        (JobStatus::Pending, _, None) => format!("{name} is still in the queue and may still run."),
        (JobStatus::Canceling, ..) => format!("{name} is being canceled and has not ended yet."),
        (JobStatus::Unknown(word), ..) => format!("{name} {}.", unknown_status(word)),
        _ => format!("{name} is still running and may still end well."),
    }
}

/// What can be said of a build whose status is not known, to follow its name: a sentence's end without the full stop.
pub fn unknown_status(word: &str) -> String {
    format!("has the status \"{word}\", which is not known here, so that nobody can tell whether it goes on")
}

/// When to try again, to follow a sentence: in so many milliseconds, if the control plane has said it.
pub fn later(pause: Option<u32>) -> String {
    let when = pause.map_or("later".into(), |pause| format!("in {} s", pause.div_ceil(1000)));
    format!(" Try again {when}.")
}

/// Why a read gave nothing, to follow a colon: a sentence's end.
pub fn read_failure(error: &ReadError) -> String {
    match error {
        ReadError::Unauthorized => {
            "the control plane does not accept the token: log in again and use a new one.".into()
        }
        ReadError::Forbidden => "this user may not read it.".into(),
        ReadError::NotFound => "it does not exist, or is hidden from this user.".into(),
        ReadError::Unavailable(pause) => {
            format!("the control plane cannot be reached or cannot answer.{}", later(*pause))
        }
        ReadError::Other(text) if text.trim().is_empty() => "the control plane does not say why.".into(),
        ReadError::Other(text) => full_stop(text),
    }
}

/// The text, so that a sentence can follow: what others say may end with a full stop or without.
pub fn full_stop(text: &str) -> String {
    let text = text.trim_end();
    let ends = text.is_empty() || text.ends_with(['.', '!', '?', '…']);
    format!("{text}{}", if ends { "" } else { "." })
}

#[cfg(test)]
use crate::contract as types;

#[cfg(test)]
#[path = "../tests/support/job_statuses.rs"]
mod job_statuses;

#[cfg(test)]
mod tests {
    use super::{in_progress, job_statuses};

    #[test]
    fn a_job_is_in_progress_until_it_is_known_to_have_ended() {
        for (status, ended) in job_statuses::all() {
            assert_eq!(in_progress(&crate::builders::start(1, status.clone())), !ended, "{status:?}");
        }
    }
}
