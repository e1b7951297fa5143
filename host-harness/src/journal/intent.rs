//! What was going to be done, as it is written down before it is done.

use serde::{Deserialize, Serialize};

use crate::bindings::Transition;

/// What was fixed before a request was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "kebab-case")]
pub enum Intent {
    /// A build is going to be asked for.
    Build(BuildIntent),
    /// A wait ends at this time at the latest, whatever happens to the host (host's Unix milliseconds).
    Wait {
        /// For an agent: the end of the wait for its connection.
        deadline_ms: u64,
        /// For an agent: the end of the wait for its scripts, at the latest. Else the same as `deadline_ms`.
        last_ms: u64,
    },
}

/// A request for a build, with what makes the build recognisable if its answer is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildIntent {
    /// The workspace.
    pub workspace: String,
    /// What the build is to do.
    pub transition: Transition,
    /// The user who asks for it.
    pub user: String,
    /// The template version that is named in the request.
    pub names_version: Option<String>,
    /// The template version that the build will have.
    pub version: Option<String>,
    /// The build that the decision rests on.
    pub rests_on: String,
    /// Its number: the build asked for has a higher one.
    pub rests_on_number: u32,
    /// Whether it is a stop. A start after a stop that was made here, too, is a restart.
    #[serde(default)]
    pub after_stop: bool,
    /// The control plane's time directly before sending, Unix milliseconds.
    pub observed: Option<u64>,
}
