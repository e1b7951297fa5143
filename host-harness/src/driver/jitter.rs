//! Pauses that differ, so that what began together does not come back together.

use std::hash::Hasher;
use std::time::Duration;

use fnv::FnvHasher;

/// How much a pause is longer or shorter at most, in thousandths.
const JITTER: u32 = 100;

/// A pause a little longer or shorter than `pause`: always the same for the same name and count, so that a simulated
/// run can be repeated.
pub(super) fn jittered(pause: Duration, name: &str, count: u32) -> Duration {
    // The same everywhere and always, as hashes of the standard library need not be.
    let mut hasher = FnvHasher::default();
    hasher.write(name.as_bytes());
    hasher.write(&count.to_le_bytes());
    let span = u64::from(2 * JITTER + 1);
    let thousandths = 1000 - JITTER + u32::try_from(hasher.finish() % span).unwrap_or_default();
    pause * thousandths / 1000
}
