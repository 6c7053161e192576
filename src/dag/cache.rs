//! Values by key, bounded in bytes, the least recently used dropped first.
//!
//! Not a map of unbounded entries with a counter beside it: every value comes with its weight, and
//! what is too heavy for the whole bound is not kept at all.

use std::hash::Hash;

use lru::LruCache;

/// What an entry takes besides its value: a multihash twice (128 digest bytes and its table), two
/// list pointers, the allocation. Counted so that tiny values stay within the bound too.
const ENTRY_BYTES: usize = 256;

/// A cache whose entries weigh at most `bytes_max` bytes together.
#[derive(Debug)]
pub(super) struct ByteLru<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V: Clone> ByteLru<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.entries.get(key).map(|(value, _)| value.clone())
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((_, weight)) = self.entries.pop(key) {
            self.bytes -= weight;
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) {
        let weight = bytes.saturating_add(ENTRY_BYTES);
        if weight > self.bytes_max {
            return;
        }
        if let Some((_, replaced)) = self.entries.put(key, (value, weight)) {
            self.bytes -= replaced;
        }
        self.bytes += weight;
        while self.bytes > self.bytes_max {
            let Some((_, (_, dropped))) = self.entries.pop_lru() else { break };
            self.bytes -= dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = ByteLru::new(3 * (100 + ENTRY_BYTES));
        for key in 1..=3 {
            cache.insert(key, (), 100);
        }
        assert_eq!(cache.get(&1), Some(()));
        cache.insert(4, (), 100);
        let kept: Vec<_> = (1..=4).filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(kept, [1, 3, 4]);
    }

    #[test]
    fn replacing_counts_once_and_the_too_heavy_is_not_kept() {
        let mut cache = ByteLru::new(1000);
        for _ in 0..10 {
            cache.insert("a", (), 400);
        }
        assert_eq!(cache.bytes, 400 + ENTRY_BYTES);
        cache.insert("b", (), 1000);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(()), None));
        cache.insert("c", (), 500);
        assert_eq!((cache.get(&"a"), cache.get(&"c")), (None, Some(())));
        assert_eq!(cache.bytes, 500 + ENTRY_BYTES);
        cache.remove(&"c");
        assert_eq!((cache.get(&"c"), cache.bytes), (None, 0));
    }
}
