//! What a caller may say about an import beyond the profile, and what the import says back.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ImportError;
use super::profile::Profile;
use crate::block::{Cid, HashFn};
use crate::codec::node::Metadata;
use crate::codec::unixfs::{MODE_MASK, Mtime};
use crate::store::DiskStore;

/// Nanoseconds beyond a second (spec 03 §3).
const NANOS_MAX: u32 = 999_999_999;

/// Which symbolic links are replaced by what they lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Follow {
    /// None: links are stored as links.
    #[default]
    Never,
    /// Those given as arguments (`--dereference-args`).
    Arguments,
    /// All (`--dereference-symlinks`).
    Always,
}

/// Which files of a real tree are taken.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names with a leading dot too (`--hidden`); an argument itself is always taken.
    pub hidden: bool,
    /// gitignore patterns (`--ignore`), matched against the path below each argument.
    pub ignore: Vec<String>,
    /// A file of gitignore patterns (`--ignore-rules-path`).
    pub ignore_rules: Option<PathBuf>,
    /// Which symbolic links are followed.
    pub follow: Follow,
}

/// Which modes and times are stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetadataRules {
    /// Store the modes of files and directories (`--preserve-mode`).
    pub preserve_mode: bool,
    /// Store modification times (`--preserve-mtime`).
    pub preserve_mtime: bool,
    /// Store this mode for every file and directory (`--mode`).
    pub mode: Option<u32>,
    /// Store this time for every entry (`--mtime`, `--mtime-nsecs`).
    pub mtime: Option<Mtime>,
}

impl MetadataRules {
    /// Tells whether anything is stored, which turns raw leaves off (see
    /// [`AddressFlags`](super::AddressFlags)).
    pub fn any(&self) -> bool {
        self.preserve_mode || self.preserve_mtime || self.mode.is_some() || self.mtime.is_some()
    }

    /// Returns what is stored for a file or directory whose own metadata is `own`. As in kubo a
    /// mode of 0 is not stored; nor is a time that a reader would take for malformed.
    pub(super) fn of(&self, own: Metadata) -> Metadata {
        let mode = self.mode.or(own.mode.filter(|_| self.preserve_mode));
        Metadata {
            mode: mode.map(|mode| mode & MODE_MASK).filter(|&mode| mode != 0),
            mtime: self
                .mtime
                .or(own.mtime.filter(|time| self.preserve_mtime && time.nanos <= NANOS_MAX)),
        }
    }

    /// Tells whether permissions that were to be kept are not, because they are 0.
    pub(super) fn loses_mode(&self, own: Metadata) -> bool {
        self.preserve_mode
            && self.mode.is_none()
            && own.mode.is_some_and(|mode| mode & MODE_MASK == 0)
    }

    /// Checks what the caller gave.
    ///
    /// # Errors
    /// [`ImportError::Setting`] names the range.
    pub(super) fn check(&self) -> Result<(), ImportError> {
        match self.mtime {
            Some(Mtime { nanos, .. }) if nanos > NANOS_MAX => {
                Err(ImportError::Setting(format!("--mtime-nsecs is at most {NANOS_MAX}")))
            }
            _ => Ok(()),
        }
    }

    /// The same for a symlink, which has a time but no mode.
    pub(super) fn of_symlink(&self, own: Metadata) -> Metadata {
        Metadata { mode: None, ..self.of(own) }
    }
}

/// Where the content of big files goes; what is shorter is stored block by block.
#[derive(Debug, Clone, Default)]
pub enum BigFiles {
    /// Into packs, block by block.
    #[default]
    Packed,
    /// Into a file of its own, in the order in which it is read later, if it has more than one leaf, they
    /// are hashed with sha2-256, and it is no shorter than the store says.
    Assembled(Arc<DiskStore>),
    /// If over [`CHUNK_LEN_MAX`](super::CHUNK_LEN_MAX) bytes, nowhere: it is referred to where it lies (`--nocopy`), and a stream is stored block by block.
    Referred(Arc<DiskStore>),
}

/// Everything that a caller may say about an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What decides the CIDs.
    pub profile: Profile,
    /// Which files of a real tree are taken.
    pub selection: Selection,
    /// Which modes and times are stored.
    pub metadata: MetadataRules,
    /// Leave out directories without entries (`--empty-dirs=false`); an argument itself is kept.
    pub skip_empty_dirs: bool,
    /// Put everything into one directory without a name (`-w`).
    pub wrap: bool,
    /// Threads that read and hash; 0 means one for each processor.
    pub threads: usize,
    /// Where the content of big files goes.
    pub big_files: BigFiles,
}

impl ImportOptions {
    /// Checks every range, and that what is to be referred to can be.
    ///
    /// # Errors
    /// [`ImportError::Setting`] and [`ImportError::Chunker`].
    pub(super) fn check(&self) -> Result<(), ImportError> {
        self.profile.check()?;
        self.metadata.check()?;
        if self.has_bare_leaves() || !matches!(self.big_files, BigFiles::Referred(_)) {
            return Ok(());
        }
        Err(ImportError::Setting(
            "--nocopy needs raw leaves and the hash sha2-256, so that a leaf is bytes of the file; \
             add --raw-leaves, and leave out --hash and stored modes and times"
                .to_owned(),
        ))
    }

    /// Tells whether a leaf is bytes of the file and its key alone proves them.
    fn has_bare_leaves(&self) -> bool {
        self.profile.raw_leaves && self.has_provable_leaves()
    }

    /// Tells whether the key of a leaf alone proves it.
    pub(super) fn has_provable_leaves(&self) -> bool {
        self.profile.hash == HashFn::SHA2_256
    }
}

/// What happens during an import.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// More content was read.
    Read {
        /// The file, relative to the directory that holds the argument; empty for a stream
        /// without a name.
        name: &'a [u8],
        /// Bytes of this file so far.
        file_bytes: u64,
        /// Bytes of all files so far.
        total_bytes: u64,
    },
    /// The permissions of an entry were to be kept and are none at all, which cannot be stored.
    ModeLost {
        /// The entry, as above.
        name: &'a [u8],
    },
    /// An entry is complete; a directory comes after all that is in it.
    Added {
        /// The entry, as in `Read`; empty for the wrapping directory.
        name: &'a [u8],
        /// Its root.
        cid: &'a Cid,
        /// Cumulative size in bytes of its blocks.
        dag_size: u64,
    },
}

/// Hears of progress, on the thread that called the import; `Break` cancels it.
pub type ProgressFn<'a> = &'a dyn Fn(Progress<'_>) -> ControlFlow<()>;

/// The root of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedRoot {
    /// Its name: the last segment of the argument, the CID of a stream without a name, empty for
    /// a wrapping directory.
    pub name: Vec<u8>,
    /// Its address.
    pub cid: Cid,
    /// Cumulative size in bytes of its blocks.
    pub dag_size: u64,
}
