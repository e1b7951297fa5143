//! The guest: tools that stop, start and restart a chat's workspace, and a verdict for each failed connection.
//!
//! It is a pure function of its input and of what the [`host`] answers: no clock, no randomness, no files, no network,
//! and nothing kept between two calls. `wit/` is the contract; [`contract`] is the only file that knows the code
//! generated from it. Everything compiles natively too, where the tests run against a scripted host.

pub mod agent_select;
pub mod build;
pub mod contract;
pub mod host;
pub mod recovery;
pub mod tools;

#[cfg(target_arch = "wasm32")]
mod arena;

#[cfg(test)]
use contract as types;

#[cfg(test)]
#[path = "../tests/support/builders.rs"]
mod builders;
#[cfg(test)]
mod fake;
