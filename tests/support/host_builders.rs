//! The values of `builders`, and those that only a host knows.
//!
//! Whoever includes this file has the host's modules `control_plane` and `policy` beside it, and `bindings` as `types`.

#![allow(dead_code, reason = "whoever includes it uses a part of it")]

use super::control_plane::{BuildRead, Workspace};
use super::policy::{ChatTools, Timings};
use super::types::{self, Agent, Build, Policy};

#[path = "builders.rs"]
mod contract;

pub use contract::*;

/// The user whom hosts act for.
pub const ME: &str = "user-1";

/// A build that this user asked for.
pub fn build_read(build: Build) -> BuildRead {
    BuildRead { build, created: Some(NOW), initiator: Some(ME.into()), reason: Some("initiator".into()) }
}

/// The workspace `dev` of the user `ana`.
pub fn workspace(id: &str, latest: BuildRead, agents: Vec<Agent>) -> Workspace {
    Workspace {
        id: id.into(),
        name: "dev".into(),
        owner: "ana".into(),
        organization: "org".into(),
        template: Some("t1".into()),
        active_version: None,
        requires_active_version: false,
        classic_parameters: false,
        dormant: false,
        latest,
        agents,
        observed: Some(NOW),
    }
}

/// The policy that hosts give a chat with the usual tools.
pub fn default_policy() -> Policy {
    let names =
        ["execute", "start_workspace", "stop_workspace", "restart_workspace"].map(ToOwned::to_owned).to_vec();
    Timings::default().policy(&ChatTools { names, ..ChatTools::default() })
}
