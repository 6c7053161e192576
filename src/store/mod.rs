//! Blocks on this disk, and what cannot be rebuilt: pins.
//!
//! The promise: [`BlockStore::get`] gives proved bytes or an error; after [`BlockStore::commit`]
//! returns, no crash and no power cut loses what was put before it. This layer knows no files,
//! directories or peers, and never waits for anything but the disk.

use std::fmt::Debug;
use std::ops::Range;

use bytes::Bytes;

use crate::block::{Block, Cid};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes on this disk no longer match the CID they were stored under.
    #[error(
        "the stored bytes of {cid} are damaged ({place}); `cidfs repo verify` lists all such blocks"
    )]
    Corrupt {
        /// The block.
        cid: Box<Cid>,
        /// File and offset.
        place: String,
    },
    /// The disk is full.
    #[error("no space left on the disk of {path}")]
    Full {
        /// The file that could not grow.
        path: std::path::PathBuf,
    },
    /// The operating system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file concerned.
        path: std::path::PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// Blocks by multihash: the codec and version of a CID are only how bytes are read (spec 01 §1).
///
/// All calls are synchronous and wait for the disk at most. Identity CIDs are answered from
/// themselves and never stored.
pub trait BlockStore: Debug + Send + Sync + 'static {
    /// Returns the length in bytes of a stored block, `None` when it is not here.
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError>;

    /// Returns a block, hashed again on its way from the disk; `None` when it is not here.
    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Returns bytes of a block without the whole block being read each time: its range is hashed
    /// whole at the first use after a start, then trusted. `range` is cut at the block's end.
    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;

    /// Stores blocks; those already here cost a look-up. Durable only after
    /// [`BlockStore::commit`].
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError>;

    /// Makes everything put before this call durable; concurrent calls share one `fsync`.
    fn commit(&self) -> Result<(), StoreError>;

    /// Forgets a block; returns whether it was here. The caller has checked that nothing pins it.
    fn remove(&self, cid: &Cid) -> Result<bool, StoreError>;
}
