//! Chance, in a form that can be repeated: one generator for each concern and place, seeded by hash.
//!
//! What is drawn for one build, agent or request depends on the seed and on its name only, not on what was drawn
//! before. So leaving one event out of a world leaves the luck of all others as it was.

/// Draws for one concern.
pub struct Dice(fastrand::Rng);

impl Dice {
    /// The dice of a concern, for the thing that these numbers name.
    pub fn new(seed: u64, concern: &str, parts: &[u64]) -> Self {
        Self(fastrand::Rng::with_seed(mixed(seed, concern, parts)))
    }

    /// Whether something comes about that does so this many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.0.u64(0..100) < chance
    }

    /// A number between two, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.u64(least..=most.max(least))
    }

    /// One of several.
    pub fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.0.usize(0..N)]
    }
}

/// The seed of a world of a run. The first one has the run's own seed, so that a world can be run alone.
pub fn world_seed(run: u64, world: u64) -> u64 {
    if world == 0 { run } else { mixed(run, "world", &[world]) }
}

/// A seed of its own for each concern: the hash FNV-1a, with its bits spread.
fn mixed(seed: u64, concern: &str, parts: &[u64]) -> u64 {
    let parts = parts.iter().flat_map(|part| part.to_le_bytes());
    let bytes = seed.to_le_bytes().into_iter().chain(concern.bytes()).chain(parts);
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The finaliser of SplitMix64: FNV leaves the high bits of short inputs alike.
    let spread = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let spread = (spread ^ (spread >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    spread ^ (spread >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_concern_has_luck_of_its_own_and_always_the_same() {
        let draw = |concern: &str, part: u64| Dice::new(7, concern, &[part]).between(0, u64::MAX);
        assert_eq!(draw("builds", 1), draw("builds", 1));
        assert_ne!(draw("builds", 1), draw("builds", 2));
        assert_ne!(draw("builds", 1), draw("agents", 1));
    }
}
