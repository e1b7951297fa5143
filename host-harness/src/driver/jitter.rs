//! Pauses that differ, so that what began together does not come back together.

use std::time::Duration;

/// How much a pause is longer or shorter at most, in thousandths.
const JITTER: u32 = 100;

/// A pause a little longer or shorter than `pause`: always the same for the same name and count, so that a simulated run can
/// be repeated.
pub(super) fn jittered(pause: Duration, name: &str, count: u32) -> Duration {
    let hash = fnv(name.bytes().chain(count.to_le_bytes()));
    let span = u64::from(2 * JITTER + 1);
    let thousandths = 1000 - JITTER + u32::try_from(hash % span).unwrap_or_default();
    pause * thousandths / 1000
}

/// The hash FNV-1a, which is the same everywhere and always.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
