//! The guest as a WebAssembly component, built by this crate's build script.
//!
//! The environment variable `GUEST_COMPONENT`, set while building, names a finished component to be used instead.

/// The bytes of the component.
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plugin.wasm"));
