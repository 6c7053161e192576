//! A pack whose index is a hash table: the one being written, or one the disk refused an index for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::usage::Usage;
use super::{CopyState, Entry, StateCell, Totals};
use crate::store::extent::PackId;
use crate::store::key::BlockKey;

/// A pack with its index in memory, about 100 bytes per block.
#[derive(Debug)]
pub(in crate::store) struct OpenPack {
    pub(in crate::store) id: PackId,
    pub(in crate::store) usage: Arc<Usage>,
    copies: RwLock<HashMap<BlockKey, Copy>>,
    /// The first so many bytes of the file survive a power cut.
    durable_len: AtomicU64,
    /// A sync failed: the kernel may have dropped what was written, and would not say so again.
    refused: AtomicBool,
}

#[derive(Debug)]
struct Copy {
    entry: Entry,
    state: StateCell,
}

impl OpenPack {
    /// Returns a pack with `entries`, none of them removed, all of them in its first `durable_len`
    /// bytes; adds them to `usage`, which is new.
    pub(in crate::store) fn new(
        id: PackId,
        durable_len: u64,
        entries: impl IntoIterator<Item = (Entry, CopyState)>,
        usage: Arc<Usage>,
    ) -> Self {
        let copies = entries
            .into_iter()
            .map(|(entry, state)| (entry.key, Copy { entry, state: StateCell::new(state) }))
            .collect::<HashMap<_, _>>();
        usage.add_live(copies.values().map(|copy| copy.entry.section_len()).sum());
        Self {
            id,
            usage,
            copies: RwLock::new(copies),
            durable_len: durable_len.into(),
            refused: AtomicBool::new(false),
        }
    }

    /// Adds sections that were just written; a newer copy takes the place of an older one.
    pub(in crate::store) fn add(&self, entries: &[Entry]) {
        let mut copies = self.copies.write();
        for entry in entries {
            let new = Copy { entry: *entry, state: StateCell::default() };
            self.usage.add_live(entry.section_len());
            if let Some(old) = copies.insert(entry.key, new)
                && old.state.get() != CopyState::Removed
            {
                self.usage.sub_live(old.entry.section_len());
            }
        }
    }

    pub(in crate::store) fn set_durable(&self, len: u64) {
        self.durable_len.fetch_max(len, Ordering::AcqRel);
    }

    pub(super) fn durable_len(&self) -> u64 {
        self.durable_len.load(Ordering::Acquire)
    }

    pub(in crate::store) fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    pub(in crate::store) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Forgets what lies beyond the durable length and returns its keys.
    pub(in crate::store) fn forget_undurable(&self) -> Vec<BlockKey> {
        let durable_len = self.durable_len();
        let lost = self
            .copies
            .write()
            .extract_if(|_, copy| copy.entry.end() > durable_len)
            .collect::<Vec<_>>();
        lost.into_iter().map(|(key, _)| key).collect()
    }

    pub(super) fn find(&self, key: &BlockKey) -> Option<(Entry, CopyState)> {
        self.copies.read().get(key).map(|copy| (copy.entry, copy.state.get()))
    }

    pub(super) fn mark(&self, entry: &Entry, state: CopyState) -> bool {
        let copies = self.copies.read();
        let copy = copies.get(&entry.key).filter(|copy| copy.entry.start == entry.start);
        copy.is_some_and(|copy| copy.state.set(state))
    }

    pub(in crate::store) fn entries(&self) -> Vec<(Entry, CopyState)> {
        self.copies.read().values().map(|copy| (copy.entry, copy.state.get())).collect()
    }

    pub(super) fn totals(&self) -> Totals {
        let copies = self.copies.read();
        let live = copies.values().filter(|copy| copy.state.get() != CopyState::Removed);
        live.fold(Totals::default(), |sum, copy| Totals {
            blocks: sum.blocks + 1,
            bytes: sum.bytes + copy.entry.block_len(),
        })
    }
}
