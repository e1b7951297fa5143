//! The harness tests: plugins, the real one and hostile ones, run through the library.

mod cache;
mod checks;
mod features;
mod journal;
mod sandbox;
mod support;
