//! Regular files of this machine, read by several threads, with a check that they stood still.

use std::fs::{File, Metadata as Stat, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek64};

use super::chunk::CHUNK_LEN_MAX;
use super::error::ImportError;
use super::nodes::{Made, Nodes};
use crate::block::Buffers;
use crate::store::{Assembly, AssemblyGroup, DiskStore, FileBlocks, StoreError};

/// Bytes of a file that are read, cut and hashed as one job, unless one chunk is longer.
pub(super) const PIECE_LEN: usize = 1024 * 1024;
/// Leaves of a hole that one job stands for: they cost next to nothing, but their list does.
const HOLE_LEAVES_MAX: usize = 1024;
/// Unit in bytes of `st_blocks`, whatever the filesystem (stat(2)).
const STAT_BLOCK_LEN: u64 = 512;

/// What must not differ between look-up and last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    len: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.dev(),
            ino: stat.ino(),
            len: stat.len(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            ctime: (stat.ctime(), stat.ctime_nsec()),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// An open regular file.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    path: PathBuf,
    before: Stamp,
    sparse: bool,
    shared: Option<Arc<File>>,
}

impl Source {
    /// Opens the file that was looked up before; whatever else is at `path` by now is refused.
    pub(super) fn open(path: PathBuf, before: Stamp, follow: bool) -> Result<Self, ImportError> {
        // Without O_NONBLOCK a pipe that took the file's place would hang the import.
        let mut flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if !follow {
            flags |= OFlag::O_NOFOLLOW;
        }
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path);
        let file = opened.map_err(|source| io_error(&path, source))?;
        let stat = file.metadata().map_err(|source| io_error(&path, source))?;
        if Stamp::of(&stat) != before {
            return Err(ImportError::Changed { path });
        }
        let sparse = stat.blocks().saturating_mul(STAT_BLOCK_LEN) < stat.len();
        Ok(Self { file, path, before, sparse, shared: None })
    }

    /// Returns the whole content of a file of at most [`CHUNK_LEN_MAX`] bytes.
    pub(super) fn read_whole(&self) -> Result<Bytes, ImportError> {
        let mut data = Vec::with_capacity(usize::try_from(self.before.len).unwrap_or_default());
        let limit = CHUNK_LEN_MAX as u64 + 1;
        (&self.file).take(limit).read_to_end(&mut data).map_err(|error| self.error(error))?;
        if data.len() > CHUNK_LEN_MAX {
            return Err(self.changed());
        }
        self.check_unchanged()?;
        Ok(data.into())
    }

    /// Begins to collect where its leaves lie.
    pub(super) fn blocks_in(&self, store: &DiskStore) -> Result<FileBlocks, ImportError> {
        Ok(store.file_blocks(&self.path, &self.file)?)
    }

    /// Returns its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.before.len
    }

    /// Begins to assemble the file; where its bytes are shared, these are read from now on.
    pub(super) fn assemble_in(&mut self, group: &AssemblyGroup) -> Result<Assembly, ImportError> {
        let mut assembly = group.begin()?;
        self.shared =
            assembly.share(&self.file, self.before.len).map_err(|source| match source {
                StoreError::OverCap { .. } => {
                    ImportError::TooBig { path: self.path.clone(), source }
                }
                other => other.into(),
            })?;
        Ok(assembly)
    }

    /// Returns what is read: the file itself, or bytes that it shared and that do not change any more.
    fn content(&self) -> &File {
        self.shared.as_deref().unwrap_or(&self.file)
    }

    /// Fails unless the file is as it was when it was looked up.
    pub(super) fn check_unchanged(&self) -> Result<(), ImportError> {
        let stat = self.file.metadata().map_err(|error| self.error(error))?;
        if Stamp::of(&stat) == self.before { Ok(()) } else { Err(self.changed()) }
    }

    pub(super) fn error(&self, source: io::Error) -> ImportError {
        io_error(&self.path, source)
    }

    fn changed(&self) -> ImportError {
        ImportError::Changed { path: self.path.clone() }
    }

    fn read_at(&self, data: &mut [u8], offset: u64) -> Result<(), ImportError> {
        self.content().read_exact_at(data, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => self.error(error),
        })
    }

    /// Returns where data begins at or after `offset`: holes need not be read. A filesystem that
    /// does not tell has none.
    fn data_from(&self, offset: u64) -> u64 {
        let Ok(from) = i64::try_from(offset) else { return offset };
        match lseek64(self.content(), from, Whence::SeekData) {
            Ok(at) => u64::try_from(at).unwrap_or(offset),
            Err(Errno::ENXIO) => self.before.len,
            Err(_) => offset,
        }
    }
}

impl Read for &Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content().read(buffer)
    }
}

fn io_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Io { path: path.to_owned(), source }
}

/// Some leaves of a file, in order, as one job for a thread.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes that were read and cut already.
    Chunks(Vec<Bytes>),
    /// A range to be read and cut into equal chunks.
    Range { source: Arc<Source>, buffers: Buffers, offset: u64, len: usize, chunk_len: usize },
    /// The same leaf again and again.
    Repeat { made: Box<Made>, count: usize },
}

impl Piece {
    pub(super) fn leaves(self, nodes: &Nodes) -> Result<Vec<Made>, ImportError> {
        match self {
            Self::Chunks(chunks) => chunks.into_iter().map(|chunk| nodes.leaf(chunk)).collect(),
            Self::Range { source, buffers, offset, len, chunk_len } => {
                let mut rest = buffers.filled(len, |data| source.read_at(data, offset))?;
                let mut leaves = Vec::with_capacity(len.div_ceil(chunk_len));
                while !rest.is_empty() {
                    leaves.push(nodes.leaf(rest.split_to(chunk_len.min(rest.len())))?);
                }
                Ok(leaves)
            }
            Self::Repeat { made, count } => Ok(vec![*made; count]),
        }
    }
}

/// A big file cut into equal chunks, none of which has to be read to know where it is.
#[derive(Debug)]
pub(super) struct Ranges {
    source: Arc<Source>,
    nodes: Nodes,
    buffers: Buffers,
    chunk_len: usize,
    at: u64,
    zeros: Option<Made>,
}

impl Ranges {
    pub(super) fn new(
        source: Arc<Source>,
        nodes: Nodes,
        buffers: Buffers,
        chunk_len: usize,
    ) -> Self {
        Self { source, nodes, buffers, chunk_len, at: 0, zeros: None }
    }

    pub(super) fn next(&mut self) -> Result<Option<Piece>, ImportError> {
        let end = self.source.before.len;
        if self.at >= end {
            return Ok(None);
        }
        if self.source.sparse {
            let hole = self.source.data_from(self.at).min(end).saturating_sub(self.at);
            let count = at_most(HOLE_LEAVES_MAX, hole / self.chunk_len as u64);
            if count > 0 {
                self.at += (count * self.chunk_len) as u64;
                return Ok(Some(Piece::Repeat { made: Box::new(self.zeros()?), count }));
            }
        }
        let chunk_len = self.chunk_len;
        let len = at_most(chunk_len * (PIECE_LEN / chunk_len).max(1), end - self.at);
        let offset = self.at;
        self.at += len as u64;
        let (source, buffers) = (Arc::clone(&self.source), self.buffers.clone());
        Ok(Some(Piece::Range { source, buffers, offset, len, chunk_len }))
    }

    fn zeros(&mut self) -> Result<Made, ImportError> {
        if let Some(made) = &self.zeros {
            return Ok(made.clone());
        }
        let made = self.nodes.leaf(vec![0; self.chunk_len].into())?;
        self.zeros = Some(made.clone());
        Ok(made)
    }
}

fn at_most(max: usize, value: u64) -> usize {
    usize::try_from(value).map_or(max, |value| value.min(max))
}
