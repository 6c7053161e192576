//! What eviction must leave alone: blocks that are kept, and blocks that someone has begun to use.
//!
//! The store counts epochs. A [`Protection`] and the search for what is kept each begin one, and
//! every use of a block stamps its region with the current one. Eviction takes only what was last
//! used before the search began, and before the oldest protection that was held then: so it never
//! takes a block that a pin, an import or a reader came upon while the search was under way, and
//! that the search may not have seen.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::block::Cid;
use crate::store::key::BlockKey;

/// Counts epochs and knows who holds which.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    now: AtomicU32,
    /// Epochs of the protections that are held, and how many of each.
    held: Mutex<BTreeMap<u32, usize>>,
}

/// As long as this is held, no block that is stored, found or read since it was taken is evicted.
///
/// An import or a pin takes one first and drops it after its root is pinned.
#[derive(Debug)]
#[must_use = "protection ends when this is dropped"]
pub struct Protection {
    epochs: Arc<Epochs>,
    epoch: u32,
}

/// The blocks that eviction must leave alone, collected by whoever knows what is pinned.
///
/// It is good for every eviction until what is pinned *shrinks or grows* by blocks that were here
/// already and were not used since; about 70 bytes of memory per block.
#[derive(Debug)]
pub struct KeepSet {
    keys: HashSet<BlockKey>,
    /// What was used at or after this epoch is not evicted either.
    pub(super) limit: u32,
}

impl Epochs {
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    pub(super) fn protect(self: &Arc<Self>) -> Protection {
        let mut held = self.held.lock();
        let epoch = self.begin();
        *held.entry(epoch).or_default() += 1;
        Protection { epochs: Arc::clone(self), epoch }
    }

    pub(super) fn keep_set(&self) -> KeepSet {
        let held = self.held.lock();
        let begun = self.begin();
        let oldest = held.first_key_value().map_or(begun, |(epoch, _)| *epoch);
        KeepSet { keys: HashSet::new(), limit: oldest.min(begun) }
    }

    fn begin(&self) -> u32 {
        self.now.fetch_add(1, Ordering::AcqRel) + 1
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        let mut held = self.epochs.held.lock();
        if let Some(count) = held.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.epoch);
            }
        }
    }
}

impl KeepSet {
    /// Keeps a block; returns whether it was not kept before, that is, whether what it links to is
    /// still to be walked. Two CIDs of one multihash are one block.
    pub fn insert(&mut self, cid: &Cid) -> bool {
        self.keys.insert(BlockKey::of(cid))
    }

    /// Tells whether a block is kept.
    pub fn contains(&self, cid: &Cid) -> bool {
        self.has(&BlockKey::of(cid))
    }

    /// Returns the number of blocks kept.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Tells whether no block is kept.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn has(&self, key: &BlockKey) -> bool {
        self.keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_goes_back_to_the_oldest_protection_held() {
        let epochs = Arc::new(Epochs::default());
        assert_eq!(epochs.keep_set().limit, 1);
        let first = epochs.protect();
        let second = epochs.protect();
        assert_eq!((first.epoch, second.epoch, epochs.now()), (2, 3, 3));
        assert_eq!(epochs.keep_set().limit, 2);
        drop(first);
        assert_eq!(epochs.keep_set().limit, 3);
        drop(second);
        assert_eq!(epochs.keep_set().limit, 6);
        assert!(epochs.held.lock().is_empty());
    }
}
