//! Block names -> places in hash maps. PURE.
//!
//! Names are hashes already, so one multiplication spreads them; std's own hasher took a
//! third of the writer's time. Clients choose what is hashed, hence the secret per process:
//! without it, prompts could be made that crowd one place of the map.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A secret start, one per map.
#[derive(Clone)]
pub(super) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

pub(super) struct Folded(u64);

impl Hasher for Folded {
    fn write_u64(&mut self, number: u64) {
        /// The golden ratio's fraction: odd, and its bits look random.
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ number) * FACTOR;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
