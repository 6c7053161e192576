//! Why the store could not do it: one enum for the layer.

use std::io;
use std::path::{Path, PathBuf};

use crate::block::Cid;

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
    /// The only good copy of a block lies in a file of someone else that is out of use.
    #[error(
        "{cid} lies in {path}, which {why}; `cidfs {again}` reads that file anew, `cidfs store rm-pack` forgets it"
    )]
    ForeignLost {
        /// The block.
        cid: Box<Cid>,
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
        /// The command that reads it anew.
        again: &'static str,
    },
    /// A block cannot be removed because it lies in a file that is used in place.
    #[error(
        "{cid} lies in {path}, which is used in place; `cidfs store rm-pack` forgets that file and all its blocks"
    )]
    InForeignPack {
        /// The block.
        cid: Box<Cid>,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be used in place.
    #[error("{path} cannot be used in place: {reason}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The disk is full.
    #[error("no space left on the disk of {path}")]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// The packs may not grow any more, and nothing was evicted yet or can be.
    #[error(
        "the store is at its limit of {} MiB (`store.cache_max_bytes`), and what is in it is pinned or in use; raise the limit or unpin something",
        max >> 20
    )]
    CapReached {
        /// The limit in bytes.
        max: u64,
    },
    /// Something is longer than the packs together may be.
    #[error(
        "this takes {} MiB, more than the limit of the store, {} MiB (`store.cache_max_bytes`); raise the limit",
        bytes >> 20, max >> 20
    )]
    OverCap {
        /// What it takes, in bytes.
        bytes: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The operating system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The disk refused to make blocks durable that had been put; they are forgotten.
    #[error(
        "the disk failed to keep {count} blocks that were written to {path}; add them again, and look at the disk"
    )]
    NotDurable {
        /// The pack whose `fdatasync` failed.
        path: PathBuf,
        /// How many blocks are lost and were not put again since.
        count: usize,
    },
    /// The store was stopped; its lock may belong to another process by now.
    #[error("the store is closed")]
    Closed,
    /// Another process has the repository open.
    #[error("the repository {path} is in use by {holder}")]
    Locked {
        /// The repository.
        path: PathBuf,
        /// Process id and command of the holder.
        holder: String,
    },
    /// There is no repository at this path.
    #[error("there is no repository at {path}; `cidfs init` makes one")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a repository at this path already.
    #[error("there is a repository at {path} already")]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// The file was written by another version of cidfs.
    #[error("{path} has format version {found}, and this cidfs knows version {known} only")]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program writes.
        known: u32,
    },
    /// The directory is no safe home for a repository.
    #[error("{path} cannot hold a repository: {reason}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The journal is gone, and pins with it.
    #[error(
        "the journal {path} {why}, and the pins are gone with it; restore it from a backup, or write `no pins` into a file of that name to go on without pins"
    )]
    NoJournal {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong; completes "the journal …".
        why: &'static str,
    },
    /// A direct pin was asked for a CID that has a recursive one.
    #[error("{cid} is already pinned recursively")]
    PinnedRecursively {
        /// The pinned CID.
        cid: Box<Cid>,
    },
    /// The name of a pin is too long.
    #[error("a pin name of {len} bytes is over the limit of {max} bytes")]
    PinName {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

impl StoreError {
    /// Returns the error for a failed call on `path`; a full disk or quota is [`Self::Full`].
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) { Self::Full { path } } else { Self::Io { path, source } }
    }
}

/// Tells whether a call failed because the disk or a quota is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Adds the path to an I/O error.
pub(super) trait AtPath<T> {
    /// Turns the error into a [`StoreError`] that names `path`.
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(path, source))
    }
}

impl<T> AtPath<T> for nix::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|errno| StoreError::io(path, errno.into()))
    }
}
