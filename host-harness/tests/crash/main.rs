//! Hosts that die or are suspended in the middle of calls, as real processes on a shared store.
//!
//! Where they do is generated from what a host asks of the control plane when nothing happens to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod child;
mod killed;
#[expect(dead_code, reason = "shared with the tests of the control plane, each of which uses its part")]
#[path = "../local/support.rs"]
mod support;
mod suspended;
mod world;
