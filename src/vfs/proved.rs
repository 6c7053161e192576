//! Pieces of listings whose links were seen to tell the truth.
//!
//! A file that is one block has the length that its link says, or never had it: once seen, that need not be
//! looked up again, also when the block is no longer here.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use super::child::Child;
use crate::block::Cid;
use crate::unixfs::DirEntry;

/// Pieces that are remembered, of some 200 bytes each; those that were listed longest ago go first.
const PIECES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is over 0");

/// What one call lists of a directory: the places of its first and its last name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Piece {
    dir: Cid,
    first: u64,
    last: u64,
}

impl Piece {
    /// Returns the piece of `dir` that has these names; `None` if there are none.
    pub(super) fn of(dir: Cid, names: &[(u64, DirEntry)]) -> Option<Self> {
        let (first, last) = (names.first()?.0, names.last()?.0);
        Some(Self { dir, first, last })
    }
}

/// The pieces of which every file that a link can tell about was as its link says.
#[derive(Debug)]
pub(super) struct ProvedLinks(Mutex<LruCache<Piece, ()>>);

impl Default for ProvedLinks {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PIECES_MAX)))
    }
}

impl ProvedLinks {
    /// Tells whether the links of the piece were seen to tell the truth.
    pub(super) fn has(&self, piece: &Piece) -> bool {
        self.0.lock().get(piece).is_some()
    }

    /// Takes note of what was found, if all links told the truth.
    pub(super) fn note(&self, piece: Piece, names: &[(u64, DirEntry)], children: &[Child]) {
        let is_true = |(_, entry): &(u64, DirEntry), child: &Child| match Child::as_linked(entry) {
            Some(linked) => matches!(child, Child::Proved(stat) if *stat == linked),
            None => true,
        };
        if names.iter().zip(children).all(|(name, child)| is_true(name, child)) {
            self.0.lock().put(piece, ());
        }
    }
}
