//! The local control plane, with real agent processes.

mod agents;
mod builds;
mod conformance;
mod operations;
mod outages;
mod support;
mod terminals;
