//! Plain files that are referred to rather than copied (`add --nocopy`).
//!
//! An import reads and hashes a file anyway; instead of copying the leaves it says here where they
//! lie. Only raw leaves hashed with sha2-256 can be referred to: their bytes are bytes of the file,
//! and their key alone proves them. The reference is durable before anything that links to the
//! leaves is acknowledged; from then on it is a foreign pack like any other. Nothing here copies a
//! file, or notices by itself that it was changed: reading does.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{FOREIGN_BLOCKS_MAX, ForeignKind, refusal, stamp_of};
use crate::block::Block;
use crate::store::StoreError;
use crate::store::disk::{CopyState, DiskStore};
use crate::store::error::AtPath as _;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::store::pack::index::one_per_key;
use crate::store::pack::source::{Stamp, is_on_cidfs};
use crate::store::pack::{Entry, Pack};

/// Where the leaves of a file lie, collected while it is imported.
#[derive(Debug)]
pub struct FileBlocks {
    path: PathBuf,
    stamp: Stamp,
    /// First byte of the next leaf.
    next: u64,
    entries: Vec<Entry>,
}

impl FileBlocks {
    /// Notes the next leaf of the file: a raw block hashed with sha2-256, or one in its own CID,
    /// which lies nowhere else. Takes 48 bytes of memory.
    ///
    /// # Errors
    /// [`StoreError::Archive`] when the file has more leaves than can be referred to.
    pub fn push(&mut self, leaf: &Block) -> Result<(), StoreError> {
        let (key, start, len) = (BlockKey::of(leaf.cid()), self.next, leaf.data().len());
        self.next += len as u64;
        // A hole is a long run of one leaf.
        let is_known = self.entries.last().is_some_and(|last| last.key == key);
        if is_known || Block::from_identity(leaf.cid()).is_some() {
            return Ok(());
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.entries.push(Entry { key, start, head_len: 0, len, framing: Framing::Bare });
        check_len(&self.path, &self.entries)
    }
}

impl DiskStore {
    /// Begins to collect the leaves of a file, open as `file`, that is to be referred to by the path
    /// that `path` leads to.
    ///
    /// # Errors
    /// [`StoreError::Archive`] when it may not be: it is part of this repository, lies below a mount
    /// of cidfs, was replaced meanwhile, or too many files are used already; [`StoreError::Io`].
    pub fn file_blocks(&self, path: &Path, file: &File) -> Result<FileBlocks, StoreError> {
        let path = path.canonicalize().at(path)?;
        let (metadata, found) = (file.metadata().at(&path)?, path.metadata().at(&path)?);
        let stamp = stamp_of(file, &path)?;
        if (metadata.dev(), metadata.ino()) != (found.dev(), found.ino()) {
            return Err(changed(&path));
        }
        self.check_no_loop(&path)?;
        self.check_count(&path)?;
        Ok(FileBlocks { path, stamp, next: 0, entries: Vec::new() })
    }

    /// Refers to the leaves of a file from now on, durable when this returns. What an older reference
    /// to the file says stays unless the file was changed since; if it says all of this, nothing is
    /// written.
    ///
    /// # Errors
    /// [`StoreError::Archive`] when the file has changed since [`DiskStore::file_blocks`] or has too
    /// many leaves; [`StoreError::Closed`], and [`StoreError::Full`] or [`StoreError::Io`].
    pub fn refer(&self, blocks: FileBlocks) -> Result<(), StoreError> {
        let FileBlocks { path, stamp, mut entries, .. } = blocks;
        let _one_at_a_time = self.referring.lock();
        if Stamp::of(&path.metadata().at(&path)?) != Some(stamp) {
            return Err(changed(&path));
        }
        one_per_key(&mut entries);
        if let Some(old) = self.foreign_at(ForeignKind::File, &path).filter(|old| is_of(old, stamp))
        {
            let has = |new: &Entry| old.find(&new.key).is_some_and(|found| is_good(found, new));
            if entries.iter().all(has) {
                return Ok(());
            }
            entries.extend(only_in(&old, &entries));
            check_len(&path, &entries)?;
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.register(ForeignKind::File, path, stamp, entries).map(drop)
    }

    /// Refuses a file that changes with this repository, or whose bytes would be asked of it.
    fn check_no_loop(&self, path: &Path) -> Result<(), StoreError> {
        let packs = self.files.dir().canonicalize().at(self.files.dir())?;
        if packs.parent().is_some_and(|repository| path.starts_with(repository)) {
            return Err(refusal(path, "it belongs to this repository"));
        }
        if is_on_cidfs(path).at(path)? {
            let reason = "it lies below a mount of cidfs, which would ask for its own content; add it without --nocopy";
            return Err(refusal(path, reason));
        }
        Ok(())
    }
}

fn is_of(pack: &Pack, stamp: Stamp) -> bool {
    pack.source().is_some_and(|source| source.stamp == stamp)
}

/// Tells whether a copy that was found is where the block lies now, and not known to be damaged.
fn is_good((found, state): (Entry, CopyState), new: &Entry) -> bool {
    found == *new && state != CopyState::Damaged
}

/// Returns the copies of an older reference that a newer one, sorted, does not have.
fn only_in(old: &Pack, new: &[Entry]) -> Vec<Entry> {
    let old = old.entries().into_iter().map(|(entry, _)| entry);
    old.filter(|entry| new.binary_search_by_key(&entry.key, |new| new.key).is_err()).collect()
}

fn check_len(path: &Path, entries: &[Entry]) -> Result<(), StoreError> {
    if entries.len() <= FOREIGN_BLOCKS_MAX {
        return Ok(());
    }
    let reason = format!("over {FOREIGN_BLOCKS_MAX} blocks; add it without --nocopy");
    Err(refusal(path, &reason))
}

fn changed(path: &Path) -> StoreError {
    refusal(path, "it was changed while it was read; add it again when it is quiet")
}
