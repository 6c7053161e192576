//! Packs: append-only CARv1 files of blocks, and what is known about each block in them.
//!
//! A [`Pack`] is the in-memory side of one file: open (being written, or refused by the disk; a
//! hash table), sealed (a mapped index file and a small filter), assembled (the same without
//! sections) or foreign (the same beside a file of someone else). All answer the same three
//! questions: where is this key, is its copy still good, what is in here. No I/O on packs happens in
//! this file: `files` opens and reads, `scan` finds sections, `index` and `tombs` are the two
//! sidecars, `source` is the file of a foreign pack. `filter` sorts packs out before they are asked, and `leaves`
//! tells which assembled files are worth asking.

pub(super) mod files;
pub(super) mod filter;
pub(super) mod index;
pub(super) mod leaves;
pub(super) mod open;
pub(super) mod scan;
pub(super) mod section;
pub(super) mod source;
pub(super) mod tombs;
pub(super) mod usage;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use self::filter::Filter;
use self::index::SealedPack;
use self::open::OpenPack;
use self::source::{Lost, Source};
use self::usage::Usage;
use super::extent::{Extent, FileId, PackId};
use super::framing::Framing;
use super::key::BlockKey;

/// One section of a pack: a block and where its parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: BlockKey,
    /// First byte of the section (its length varint).
    pub(super) start: u64,
    /// Bytes of length varint and CID in front of the block; 0 in a file that is no archive.
    pub(super) head_len: u16,
    /// Length of the block in bytes, without its framing.
    pub(super) len: u32,
    /// What is around these bytes in the block.
    pub(super) framing: Framing,
}

impl Entry {
    /// Returns the first byte after the section.
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.head_len) + u64::from(self.len)
    }

    /// Returns the length of the block in bytes.
    pub(super) fn block_len(&self) -> u64 {
        self.framing.block_len(self.len)
    }

    /// Returns the length of the section.
    pub(super) fn section_len(&self) -> u64 {
        self.end() - self.start
    }
}

/// What is known about a stored copy since this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CopyState {
    /// Nothing yet: hash it before serving a part of it.
    Unproved = 0,
    /// It was hashed whole since this start.
    Proved = 1,
    /// It does not match its CID; a put stores a new copy.
    Damaged = 2,
    /// Its tombstone is on the disk; its bytes may be gone.
    Removed = 3,
}

/// A [`CopyState`] that threads share.
#[derive(Debug, Default)]
pub(super) struct StateCell(AtomicU8);

impl StateCell {
    pub(super) fn new(state: CopyState) -> Self {
        Self(AtomicU8::new(state as u8))
    }

    pub(super) fn get(&self) -> CopyState {
        match self.0.load(Ordering::Acquire) {
            0 => CopyState::Unproved,
            1 => CopyState::Proved,
            2 => CopyState::Damaged,
            _ => CopyState::Removed,
        }
    }

    /// Changes the state; a removed copy stays removed, and one that a disk could not read for a while is good
    /// again when it was hashed. Returns whether this removed it.
    pub(super) fn set(&self, state: CopyState) -> bool {
        let is_here = |before| (before != CopyState::Removed as u8).then_some(state as u8);
        let was_here = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, is_here).is_ok();
        was_here && state == CopyState::Removed
    }
}

/// Whether the places of a file that have no entry, because what lies there lies elsewhere in it too,
/// were hashed since this start. Nothing is ever given back there.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<Option<[u8; 32]>>);

impl Repeats {
    /// Notes that the places for which this hash stands were proved; those of one file are remembered.
    pub(super) fn prove(&self, places: [u8; 32]) {
        *self.0.lock() = Some(places);
    }

    /// Lets them be proved again: who verifies the entries does not know of these places.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }

    pub(super) fn are_proved(&self, places: &[u8; 32]) -> bool {
        self.0.lock().as_ref() == Some(places)
    }
}

/// Blocks and their bytes, removed copies not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// The in-memory side of one pack file.
#[derive(Debug)]
pub(super) enum Pack {
    /// Its index is a hash table: it is being written, or no index file could be written for it.
    Open(Arc<OpenPack>),
    /// Its index is a file beside it.
    Sealed(SealedPack),
    /// The same without sections: the leaves of one file, each at its own place in it.
    Assembled(SealedPack),
    /// It is a file of someone else, read where it lies.
    Foreign(ForeignPack),
}

/// A file of someone else and its index, which never changes.
#[derive(Debug)]
pub(super) struct ForeignPack {
    pub(super) source: Arc<Source>,
    /// Sealed, or an open one without entries where the index is lost.
    index: Box<Pack>,
    /// Counted once: a file may hold millions of blocks.
    totals: Totals,
}

impl ForeignPack {
    pub(super) fn new(source: Arc<Source>, index: Pack) -> Self {
        Self { source, totals: index.totals(), index: Box::new(index) }
    }

    /// Finds a key; every copy counts as damaged while the file is out of use.
    fn find(&self, key: &BlockKey) -> Option<(Entry, CopyState)> {
        let (entry, state) = self.index.find(key)?;
        Some((entry, if self.source.lost().is_some() { CopyState::Damaged } else { state }))
    }
}

impl Pack {
    pub(super) fn id(&self) -> PackId {
        match self {
            Self::Open(pack) => pack.id,
            Self::Sealed(pack) | Self::Assembled(pack) => pack.id,
            Self::Foreign(pack) => pack.source.id,
        }
    }

    /// Tells whether its index is only in memory.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Returns the leaves of an assembled file.
    pub(super) fn as_assembled(&self) -> Option<&SealedPack> {
        match self {
            Self::Assembled(pack) => Some(pack),
            Self::Open(_) | Self::Sealed(_) | Self::Foreign(_) => None,
        }
    }

    /// Returns the file of a foreign pack.
    pub(super) fn source(&self) -> Option<&Arc<Source>> {
        match self {
            Self::Foreign(pack) => Some(&pack.source),
            Self::Open(_) | Self::Sealed(_) | Self::Assembled(_) => None,
        }
    }

    /// Returns the file of a foreign pack that is out of use, and why it is.
    pub(super) fn lost(&self) -> Option<(&Source, &Lost)> {
        let source = self.source()?;
        Some((source, source.lost()?))
    }

    /// Returns the file that holds the blocks.
    pub(super) fn file(&self) -> FileId {
        match self {
            Self::Open(_) | Self::Sealed(_) => FileId::Pack(self.id()),
            Self::Assembled(_) => FileId::Assembled(self.id()),
            Self::Foreign(pack) => FileId::Foreign(Arc::clone(&pack.source)),
        }
    }

    /// Returns where a block itself lies.
    pub(super) fn extent(&self, entry: &Entry) -> Extent {
        let offset = entry.start + u64::from(entry.head_len);
        Extent { file: self.file(), offset, len: entry.len, framing: entry.framing }
    }

    /// Returns how many bytes of the file are durable and in the index.
    pub(super) fn covered_len(&self) -> u64 {
        match self {
            Self::Open(pack) => pack.durable_len(),
            Self::Sealed(pack) | Self::Assembled(pack) => pack.pack_len,
            Self::Foreign(pack) => pack.source.stamp.len,
        }
    }

    /// Returns what sorts out most keys that are not in this pack; it lets all pass where there is none.
    pub(super) fn filter(&self) -> Filter {
        match self {
            Self::Open(_) | Self::Assembled(_) => Filter::default(),
            Self::Sealed(pack) => Filter::clone(&pack.filter),
            Self::Foreign(pack) => pack.index.filter(),
        }
    }

    /// Returns the last copy of a block in this pack, removed ones included.
    pub(super) fn find(&self, key: &BlockKey) -> Option<(Entry, CopyState)> {
        match self {
            Self::Open(pack) => pack.find(key),
            Self::Sealed(pack) | Self::Assembled(pack) => pack.find(key),
            Self::Foreign(pack) => pack.find(key),
        }
    }

    /// Returns how the pack is used.
    pub(super) fn usage(&self) -> &Arc<Usage> {
        match self {
            Self::Open(pack) => &pack.usage,
            Self::Sealed(pack) | Self::Assembled(pack) => &pack.usage,
            Self::Foreign(pack) => pack.index.usage(),
        }
    }

    /// Notes what was learnt about a copy; returns whether it was removed by this call.
    pub(super) fn mark(&self, entry: &Entry, state: CopyState) -> bool {
        let removed = match self {
            Self::Open(pack) => pack.mark(entry, state),
            Self::Sealed(pack) | Self::Assembled(pack) => pack.mark(entry, state),
            Self::Foreign(pack) => pack.index.mark(entry, state),
        };
        if removed {
            self.usage().sub_live(entry.section_len());
        }
        removed
    }

    /// Tells whether this very copy is here and not removed.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        self.find(&entry.key)
            .is_some_and(|(now, state)| now.start == entry.start && state != CopyState::Removed)
    }

    /// Returns all copies that are removed.
    pub(super) fn removed(&self) -> Vec<Entry> {
        let removed = |(entry, state)| (state == CopyState::Removed).then_some(entry);
        self.all_entries().into_iter().filter_map(removed).collect()
    }

    fn all_entries(&self) -> Vec<(Entry, CopyState)> {
        match self {
            Self::Open(pack) => pack.entries(),
            Self::Sealed(pack) | Self::Assembled(pack) => pack.entries(),
            Self::Foreign(pack) => pack.index.all_entries(),
        }
    }

    /// Returns all copies that are not removed, in file order.
    pub(super) fn entries(&self) -> Vec<(Entry, CopyState)> {
        let mut entries = self.all_entries();
        entries.retain(|(_, state)| *state != CopyState::Removed);
        entries.sort_unstable_by_key(|(entry, _)| entry.start);
        entries
    }

    pub(super) fn totals(&self) -> Totals {
        match self {
            Self::Open(pack) => pack.totals(),
            Self::Sealed(pack) | Self::Assembled(pack) => pack.totals(),
            Self::Foreign(pack) => pack.totals,
        }
    }
}
