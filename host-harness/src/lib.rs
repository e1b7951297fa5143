//! host
pub mod bindings;
pub mod journal;
