//! host
pub mod bindings;
pub mod engine;
pub mod journal;
