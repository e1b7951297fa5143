//! host
pub mod bindings;
pub mod chat;
pub mod clock;
pub mod control_plane;
pub mod driver;
pub mod engine;
pub mod journal;
pub mod policy;
pub mod store;
