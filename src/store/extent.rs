//! Where a block lives: a range of a file.
//!
//! Every read of block bytes goes through an [`Extent`], so that a block can have another home than
//! a pack without any reader knowing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::framing::Framing;
use super::pack::source::Source;

/// The number of a pack, and the front of its file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PackId(pub(super) u64);

impl fmt::Display for PackId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:010}", self.0)
    }
}

/// A file that holds block bytes.
#[derive(Debug, Clone)]
pub(super) enum FileId {
    /// An append-only pack.
    Pack(PackId),
    /// A file of ours that holds the leaves of one file, each at its own place in it.
    Assembled(PackId),
    /// A file of someone else, which is only read.
    Foreign(Arc<Source>),
}

/// The home of a block: these bytes of this file, and what frames them.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) file: FileId,
    /// First of its bytes in the file.
    pub(super) offset: u64,
    /// Bytes of it that are in the file.
    pub(super) len: u32,
    /// What is around them.
    pub(super) framing: Framing,
}

impl Extent {
    /// Returns the length of the block in bytes.
    pub(super) fn block_len(&self) -> u64 {
        self.framing.block_len(self.len)
    }

    /// Cuts a range of the block at the block's end.
    pub(super) fn clip(&self, range: Range<u64>) -> Range<u64> {
        let len = self.block_len();
        let start = range.start.min(len);
        start..range.end.clamp(start, len)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            FileId::Pack(id) => write!(out, "pack {id}")?,
            FileId::Assembled(id) => write!(out, "file {id}")?,
            FileId::Foreign(source) => write!(out, "{} {}", source.kind, source.path.display())?,
        }
        write!(out, ", offset {}, {} bytes", self.offset, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_end() {
        let extent =
            Extent { file: FileId::Pack(PackId(1)), offset: 5, len: 10, framing: Framing::Bare };
        assert_eq!(extent.clip(2..4), 2..4);
        assert_eq!(extent.clip(8..99), 8..10);
        assert_eq!(extent.clip(20..u64::MAX), 10..10);
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not panic")]
        let reversed = extent.clip(7..3);
        assert_eq!(reversed, 7..7);
    }
}
