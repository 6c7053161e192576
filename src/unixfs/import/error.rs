//! Why an import stopped: every variant names the path or the setting that is to blame.

use std::path::PathBuf;

use super::chunk::ChunkerError;
use crate::block::BlockError;
use crate::store::StoreError;

/// Why an import stopped; what was stored before stays as unpinned blocks.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The chunker's text is wrong.
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
    /// Two settings exclude each other, or one is out of its range.
    #[error("{0}")]
    Setting(String),
    /// An ignore rule cannot be parsed, or its file cannot be read.
    #[error("ignore rules: {0}")]
    Ignore(#[from] ignore::Error),
    /// The operating system failed on a file or directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The store can never have room for a file.
    #[error("{}: {source}", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
        /// What the store said.
        source: StoreError,
    },
    /// The content that a caller streams in ended with an error.
    #[error("reading the content of \"{name}\" failed: {source}")]
    Stream {
        /// Which entry.
        name: String,
        /// What the reader said.
        source: std::io::Error,
    },
    /// A device, socket or pipe.
    #[error(
        "{} is a {kind}, which IPFS cannot hold; leave it out with an ignore rule", path.display()
    )]
    Special {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The file was written, replaced or removed between look-up and last byte.
    #[error("{} changed while it was read; add it again when it is quiet", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Following symbolic links came back to a directory that is being walked.
    #[error("{} leads back into itself; add it without following symbolic links", path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// More directories inside each other than `DEPTH_MAX`.
    #[error("\"{path}\" lies more than {max} directories deep")]
    TooDeep {
        /// The path.
        path: String,
        /// The limit.
        max: usize,
    },
    /// No directory may have an entry of this name.
    #[error("\"{path}\" is not a name for an entry of a directory")]
    Name {
        /// The path that holds the name.
        path: String,
    },
    /// The same path twice, or a file where a directory must be.
    #[error("\"{path}\" was given twice")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// Names whose hashes are equal in all bits that the fanout can use.
    #[error("directory \"{path}\" has names whose hashes are equal: it cannot be sharded")]
    HashCollision {
        /// The directory.
        path: String,
    },
    /// A node is over the block limit.
    #[error("a block cannot be made: {0}")]
    Block(#[from] BlockError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started, or died.
    #[error("an import thread failed: {0}")]
    Thread(String),
    /// The progress callback asked to stop.
    #[error("the import was cancelled")]
    Cancelled,
}
