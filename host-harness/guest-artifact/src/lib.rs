//! The guest as a WebAssembly component, built by this crate's build script.
//!
//! The environment variable `GUEST_COMPONENT`, set while building, names a finished component to be used instead.

/// The bytes of the component.
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugin.wasm"));

/// What the component answers to `list-tools`, as JSON: an array of objects with the contract's fields. None if the
/// component was not built together with this crate.
pub const TOOLS: Option<&str> = include!(concat!(env!("OUT_DIR"), "/tools.rs"));
