//! Commands in real terminals, with real shells: what runs, how often, and what is said of it when connections are cut.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../../../tests/support/host_builders.rs"]
mod builders;
mod cuts;
mod desk;
mod ends;
mod shells;

use workspace_recovery::{bindings as types, control_plane, policy};
