//! Blocks on this disk, and what cannot be rebuilt: pins.
//!
//! The promise: [`BlockStore::get`] gives proved bytes or an error; after [`BlockStore::commit`]
//! returns, no crash and no power cut loses what was put before it. This layer knows no files,
//! directories or peers, and never waits for anything but the disk. `docs/FORMAT.md` describes
//! every byte it writes.

mod disk;
mod diskio;
mod error;
mod extent;
#[cfg(any(test, feature = "testkit"))]
pub mod faults;
mod framing;
mod held;
mod journal;
mod key;
mod lock;
mod memory;
mod meta;
mod pace;
mod pack;
mod pins;
mod repository;

use std::fmt::Debug;
use std::ops::Range;

use bytes::Bytes;
use tokio::sync::watch;

use crate::block::{Block, Cid};

pub use self::disk::{
    AddProgress, AddedPack, Assembly, AssemblyGroup, Damage, DiskOptions, DiskStats, DiskStore,
    FileBlocks, FileRange, FileState, ForeignKind, ForeignStat, Gathered, KeepSet, Progress,
    Protection, RebuildReport, SpaceReport, VerifyReport, WholeFile,
};
pub use self::diskio::{DiskIo, RealDisk};
pub use self::error::StoreError;
pub use self::memory::MemoryStore;
pub use self::pins::{PIN_NAME_LEN_MAX, Pin, PinMode, Pins};
pub use self::repository::{OpenMode, RepoStat, Repository};

/// Bytes of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRange {
    /// The bytes.
    pub bytes: Bytes,
    /// Length in bytes of the whole block.
    pub block_len: u64,
}

impl BlockRange {
    /// Cuts `range` out of a block; its end may be beyond the block's.
    pub fn of(block: &Block, range: Range<u64>) -> Self {
        Self { bytes: block.slice(range), block_len: block.data().len() as u64 }
    }
}

/// Blocks by multihash: the codec and version of a CID are only how bytes are read (spec 01 §1).
///
/// All calls are synchronous and wait for the disk at most. Identity CIDs are answered from
/// themselves and never stored.
pub trait BlockStore: Debug + Send + Sync + 'static {
    /// Returns the length in bytes of a stored block, `None` when it is not here.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when every copy is known to be damaged, [`StoreError::ForeignLost`]
    /// when the file with the only copy, used in place, is out of use.
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError>;

    /// Returns a block, hashed again on its way from the disk; `None` when it is not here.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::ForeignLost`] until a [`BlockStore::put`] of the same
    /// block heals it.
    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError>;

    /// Returns bytes of a block, `range` cut at its end. All of it is hashed each time; for a part the
    /// whole block is read and hashed at its first use after a start only, then trusted.
    ///
    /// # Errors
    /// As [`BlockStore::get`].
    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<BlockRange>, StoreError>;

    /// Returns a block's bytes, for those who hash them themselves: a store may do so at their first use
    /// after a start only.
    ///
    /// # Errors
    /// As [`BlockStore::get`].
    fn read_trusted(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(cid)?.map(Block::into_data))
    }

    /// Looks whether `blocks`, the leaves of a file in order and without gaps, lie on this disk as one
    /// file; hashes what was not proved since the start, at most `unproved_max` bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn whole_file(&self, blocks: &[FileRange], unproved_max: u64) -> Result<FileState, StoreError>;

    /// Returns the length in bytes of a block that is here and not known to be damaged. Nothing of it is
    /// read, and it is no use of the block.
    fn peek_len(&self, cid: &Cid) -> Option<u64>;

    /// Stores blocks; those already here are compared and not stored again, but a copy in a foreign
    /// pack is someone else's and does not count. They can be read at once, and are durable only after
    /// [`BlockStore::commit`]. One call with many blocks is cheaper than many calls.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::CapReached`] and [`StoreError::Io`]: some of `blocks` may
    /// have been stored.
    fn put(&self, blocks: &[Block]) -> Result<(), StoreError>;

    /// Makes everything put before this call durable; concurrent calls share one `fdatasync`.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] as long as a block that the disk failed to keep was not put
    /// again, whoever had put it; the first caller to meet the failure gets the error itself.
    fn commit(&self) -> Result<(), StoreError>;

    /// Forgets a block, durably; returns whether it was here. The caller has checked that nothing
    /// pins it.
    ///
    /// # Errors
    /// [`StoreError::InForeignPack`] and nothing is removed; [`StoreError::Full`] and
    /// [`StoreError::Io`]: the block is gone until the next start, and may be back then.
    fn remove(&self, cid: &Cid) -> Result<bool, StoreError>;

    /// Returns a receiver that is told after blocks came to be here, now and then when none did.
    fn subscribe(&self) -> watch::Receiver<()>;
}
