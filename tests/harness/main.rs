//! The harness tests: plugins, the real one and hostile ones, run through the library.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![expect(clippy::duplicate_mod, reason = "what the plugin's tests share exists with two sets of types")]

mod bindings;
#[path = "../support/host_builders.rs"]
mod builders;
mod cache;
mod chat;
mod checks;
mod crashes;
mod driver;
mod features;
mod journal;
mod known_dead;
mod plane;
mod queues;
mod recordings;
mod sandbox;
mod support;
mod surface;
mod tools;
mod transition;
mod upgrades;
mod verdicts;
mod waits;

use workspace_recovery::{bindings as types, control_plane, policy};
