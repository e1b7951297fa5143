//! host
pub mod bindings;
pub mod journal;
#[cfg(feature = "local")]
pub mod local;
