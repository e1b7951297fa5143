//! The states of a job, and which of them are its end: what plugin and host have to hold alike. The contract's
//! `job-status` defines it.
//!
//! Compiled twice, with the plugin's types and with the host's. Whoever includes this file has a module `types` beside
//! it.

use super::types::JobStatus;

/// Every state, and whether it is an end.
pub fn all() -> [(JobStatus, bool); 7] {
    [
        (JobStatus::Pending, false),
        (JobStatus::Running, false),
        (JobStatus::Canceling, false),
        (JobStatus::Succeeded, true),
        (JobStatus::Failed, true),
        (JobStatus::Canceled, true),
        (JobStatus::Unknown("napping".into()), false),
    ]
}
