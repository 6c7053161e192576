//! The file of a foreign pack, an archive or any other: where it lies, how a changed one is told, and
//! the record (`NNNNNNNNNN.ref`) that remembers both.
//!
//! The file belongs to someone else, who may change, move or delete it at any time: it is opened
//! for reading only, compared with the record at every opening and after every read, and out of use
//! from the first difference on. Nothing here ever writes to it.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, IoSlice};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::store::StoreError;
use crate::store::diskio::{DiskIo, replace};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::sys::disk::is_shortage;
use crate::sys::mount::{FS_TYPE, mount_of};

const MAGIC: [u8; 8] = *b"cidfsref";
/// Version of the record's format.
const VERSION: u16 = 1;
/// Bytes in front of the path: magic, version, kind, nanoseconds, pack id, length, seconds.
const HEAD_LEN: usize = 8 + 2 + 2 + 4 + 8 + 8 + 8;
/// Bytes behind the path.
const CHECK_LEN: usize = 4;

/// What the blocks of a foreign pack lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignKind {
    /// An archive, whose sections name their blocks (`store add-pack`).
    Archive = 0,
    /// Any other file, whose ranges are raw blocks (`add --nocopy`).
    File = 1,
}

impl ForeignKind {
    /// Returns the command that reads such a file anew.
    pub(in crate::store) fn command(self) -> &'static str {
        match self {
            Self::Archive => "store add-pack",
            Self::File => "add --nocopy",
        }
    }

    fn of(number: u16) -> Option<Self> {
        [Self::Archive, Self::File].into_iter().find(|kind| *kind as u16 == number)
    }
}

impl fmt::Display for ForeignKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Archive => "archive",
            Self::File => "file",
        })
    }
}

/// What a file is told apart by from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Stamp {
    pub(in crate::store) len: u64,
    /// Time of the last change, in seconds since 1970.
    seconds: i64,
    nanoseconds: u32,
}

impl Stamp {
    /// Returns the stamp of a regular file, `None` for anything else.
    pub(in crate::store) fn of(metadata: &Metadata) -> Option<Self> {
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).ok()?;
        let stamp = Self { len: metadata.len(), seconds: metadata.mtime(), nanoseconds };
        metadata.is_file().then_some(stamp)
    }
}

/// Why a file is out of use; completes "the file …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Lost {
    #[error("is not there any more")]
    Missing,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("was changed since it was added")]
    Changed,
    #[error("has no index any more")]
    NoIndex,
    #[error("lies below a mount of cidfs, which would ask for its own content")]
    OnCidfs,
}

impl Lost {
    /// Returns what an error says of the file, `None` when it says something of this process.
    fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            _ if is_shortage(error) => None,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Some(Self::Missing),
            _ => Some(Self::Unreadable(error.to_string())),
        }
    }
}

/// A file that is read where it lies.
#[derive(Debug)]
pub(in crate::store) struct Source {
    pub(in crate::store) id: PackId,
    pub(in crate::store) kind: ForeignKind,
    /// Absolute, without symbolic links when it was added.
    pub(in crate::store) path: PathBuf,
    pub(in crate::store) stamp: Stamp,
    lost: OnceLock<Lost>,
}

impl Source {
    pub(in crate::store) fn new(
        id: PackId,
        kind: ForeignKind,
        path: PathBuf,
        stamp: Stamp,
    ) -> Self {
        Self { id, kind, path, stamp, lost: OnceLock::new() }
    }

    /// Returns why the file is out of use in this run.
    pub(in crate::store) fn lost(&self) -> Option<&Lost> {
        self.lost.get()
    }

    /// Puts the file out of use; only the first reason counts.
    pub(in crate::store) fn lose(&self, lost: Lost) {
        if self.lost.set(lost.clone()).is_ok() {
            tracing::error!(file = %self.path.display(), why = %lost,
                "a file that is used in place is out of use; `cidfs {}` reads it anew, `cidfs store rm-pack` forgets it",
                self.kind.command());
        }
    }

    /// Opens the file; `None` when it is out of use.
    pub(in crate::store) fn open(&self) -> Result<Option<File>, StoreError> {
        if is_on_cidfs(&self.path).at(&self.path)? {
            self.lose(Lost::OnCidfs);
            return Ok(None);
        }
        match open_archive(&self.path) {
            Ok(file) => Ok(self.is_unchanged(&file)?.then_some(file)),
            Err(error) => self.fail(error).map(|()| None),
        }
    }

    /// Tells whether an open file is what was added; from the first change on it is out of use.
    pub(in crate::store) fn is_unchanged(&self, file: &File) -> Result<bool, StoreError> {
        match file.metadata() {
            Ok(metadata) if Stamp::of(&metadata) == Some(self.stamp) => {}
            Ok(_) => self.lose(Lost::Changed),
            Err(error) => self.fail(error)?,
        }
        Ok(self.lost().is_none())
    }

    /// Puts the file out of use because of an error.
    ///
    /// # Errors
    /// The error itself when the file cannot help it.
    pub(in crate::store) fn fail(&self, error: io::Error) -> Result<(), StoreError> {
        let lost = Lost::of(&error).ok_or_else(|| StoreError::io(&self.path, error))?;
        self.lose(lost);
        Ok(())
    }

    /// Writes the record, durable when this returns.
    pub(in crate::store) fn write(&self, disk: &dyn DiskIo, path: &Path) -> Result<(), StoreError> {
        replace(disk, path, &mut [IoSlice::new(&self.encode())]).map(drop)
    }

    /// Reads the record of pack `id`; `None` when it is damaged.
    pub(in crate::store) fn read(path: &Path, id: PackId) -> Result<Option<Self>, StoreError> {
        let bytes = std::fs::read(path).at(path)?;
        match decode(&bytes) {
            Some(Ok(source)) => Ok(source.filter(|source| source.id == id)),
            Some(Err(found)) => {
                let path = path.to_owned();
                Err(StoreError::Version { path, found, known: VERSION.into() })
            }
            None => Ok(None),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.kind as u16).to_le_bytes());
        bytes.extend(self.stamp.nanoseconds.to_le_bytes());
        bytes.extend(self.id.0.to_le_bytes());
        bytes.extend(self.stamp.len.to_le_bytes());
        bytes.extend(self.stamp.seconds.to_le_bytes());
        bytes.extend(self.path.as_os_str().as_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

/// Opens a file by its path without symbolic links. It may be anything by now: a pipe must not make
/// this wait, and a link must not lead to where [`is_on_cidfs`] was not asked.
pub(in crate::store) fn open_archive(path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        match openat2(AT_FDCWD, path, how).map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Ok(done?.into()),
        }
    }
}

/// Tells whether a path without symbolic links lies below a mount of cidfs. To read such a file may
/// be to wait for oneself, so the file itself is not asked.
pub(in crate::store) fn is_on_cidfs(path: &Path) -> io::Result<bool> {
    Ok(mount_of(path)?.is_some_and(|mount| mount.fs_type == FS_TYPE))
}

/// Returns what a whole record says, or its version and kind if those are not known here.
fn decode(bytes: &[u8]) -> Option<Result<Option<Source>, String>> {
    let (content, check) = bytes.split_last_chunk::<CHECK_LEN>()?;
    if !content.starts_with(&MAGIC) || crc32fast::hash(content) != u32::from_le_bytes(*check) {
        return None;
    }
    let (head, path) = content.split_first_chunk::<HEAD_LEN>()?;
    let version = u16::from_le_bytes(*head[8..].first_chunk()?);
    let number = u16::from_le_bytes(*head[10..].first_chunk()?);
    let Some(kind) = ForeignKind::of(number).filter(|_| version == VERSION) else {
        return Some(Err(format!("{version} (kind {number})")));
    };
    let stamp = Stamp {
        nanoseconds: u32::from_le_bytes(*head[12..].first_chunk()?),
        len: u64::from_le_bytes(*head[24..].first_chunk()?),
        seconds: i64::from_le_bytes(*head[32..].first_chunk()?),
    };
    let id = PackId(u64::from_le_bytes(*head[16..].first_chunk()?));
    let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
    Some(Ok(path.is_absolute().then(|| Source::new(id, kind, path, stamp))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::diskio::RealDisk;

    fn source(path: &Path) -> Source {
        let stamp = Stamp::of(&std::fs::metadata(path).unwrap()).unwrap();
        Source::new(PackId(7), ForeignKind::File, path.to_owned(), stamp)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_any_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, record) = (dir.path().join("a\u{e9}.car"), dir.path().join("x.ref"));
        std::fs::write(&archive, b"some").unwrap();
        let written = source(&archive);
        written.write(&RealDisk, &record).unwrap();
        let read = Source::read(&record, PackId(7)).unwrap().unwrap();
        assert_eq!((read.id, &read.path, read.stamp), (PackId(7), &archive, written.stamp));
        assert_eq!(read.kind, ForeignKind::File);
        assert!(Source::read(&record, PackId(8)).unwrap().is_none(), "of another pack");
        let good = std::fs::read(&record).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&record, &bad).unwrap();
            assert!(Source::read(&record, PackId(7)).unwrap().is_none(), "byte {at}");
            std::fs::write(&record, &good[..at]).unwrap();
            assert!(Source::read(&record, PackId(7)).unwrap().is_none(), "cut to {at}");
        }
    }

    #[test]
    fn a_later_version_or_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("x.ref");
        for at in [8, 10] {
            std::fs::write(&record, b"any file").unwrap();
            let mut bytes = source(&record).encode();
            bytes.truncate(bytes.len() - CHECK_LEN);
            bytes[at] = 2;
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            std::fs::write(&record, &bytes).unwrap();
            let refused = Source::read(&record, PackId(7)).map(drop).unwrap_err();
            assert!(matches!(refused, StoreError::Version { .. }), "{refused}");
        }
    }

    #[test]
    fn a_pipe_in_its_place_is_a_change_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.car");
        std::fs::write(&path, b"some").unwrap();
        let source = source(&path);
        assert!(source.open().unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(source.open().unwrap().is_none());
        assert_eq!(source.lost(), Some(&Lost::Changed));
    }
}
