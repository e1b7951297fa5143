//! What the host reads from an agent's times, by the plugin's own code: the two never differ in it.

use crate::bindings::Agent;

#[path = "../../src/recovery/gone.rs"]
mod gone;

pub use gone::{gone_for_ms, is_inferred, is_known_dead};
