//! A small filter per sealed pack: says at once that a key is not in it.
//!
//! Ten bits per block in words of 64 bits, four bits of one word per key: about 3 of 100 absent
//! keys get past it, and one probe touches one word. The words of different packs do not depend on
//! each other, so the processor asks a thousand packs in a few microseconds, where following a
//! thousand pack structures takes a hundred.

use std::sync::Arc;

use crate::store::key::BlockKey;

/// Bits of filter per block; more would cost memory, fewer would send more look-ups into a pack.
const BITS_PER_KEY: usize = 10;

/// The words of a filter; none at all lets every key pass.
pub(in crate::store) type Filter = Arc<[u64]>;

/// What a key asks of every filter.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Probe {
    place: u64,
    bits: u64,
}

impl Probe {
    /// Takes bytes of the digest that the position table and the prints do not use.
    pub(in crate::store) fn of(digest: &[u8; 32]) -> Self {
        let [.., p0, p1, p2, p3, a, b, c, d] = *digest;
        let bits = [a, b, c, d].into_iter().fold(0, |bits, byte| bits | 1 << (byte & 63));
        Self { place: u32::from_le_bytes([p0, p1, p2, p3]).into(), bits }
    }

    /// Tells whether the pack of this filter may have the key.
    pub(in crate::store) fn passes(&self, filter: &[u64]) -> bool {
        filter.is_empty() || filter[self.word(filter.len())] & self.bits == self.bits
    }

    fn word(&self, words: usize) -> usize {
        usize::try_from((self.place * words as u64) >> 32).unwrap_or(0)
    }
}

/// Returns the filter of `count` keys.
pub(super) fn build(keys: impl Iterator<Item = BlockKey>, count: usize) -> Filter {
    let mut words = vec![0; (count * BITS_PER_KEY).div_ceil(64).max(1)];
    for key in keys {
        let probe = Probe::of(&key.digest);
        let word = probe.word(words.len());
        words[word] |= probe.bits;
    }
    words.into()
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn key(n: u32) -> BlockKey {
        BlockKey { digest: sha2::Sha256::digest(n.to_le_bytes()).into(), derived: false }
    }

    #[test]
    fn what_is_in_passes_and_little_else() {
        for count in [0_u32, 1, 7, 1000, 65_536] {
            let filter = build((0..count).map(key), count as usize);
            assert!((0..count).all(|n| Probe::of(&key(n).digest).passes(&filter)));
            let absent = count..count + 10_000;
            let passed = absent.filter(|n| Probe::of(&key(*n).digest).passes(&filter)).count();
            assert!(passed < 600, "{passed} of 10,000 pass a filter of {count}");
        }
        assert!(Probe::of(&key(1).digest).passes(&[]), "an open pack has no filter");
    }
}
