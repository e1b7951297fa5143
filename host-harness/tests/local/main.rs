//! The local control plane, with real agent processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod agents;
mod builds;
mod conformance;
mod operations;
mod outages;
mod scenarios;
mod support;
mod terminals;
mod waits;
