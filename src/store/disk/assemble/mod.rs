//! Assembled files: the leaves of one file, each at its own place in it, in a file of ours that is
//! that file.
//!
//! It is a pack without sections: leaves hashed with sha2-256, which their keys alone prove, those of
//! dag-pb without what frames their content (`store/framing.rs`), and beside it a sidecar that says where each lies and cannot be made anew from the file. A leaf that
//! is here already stays where it is and leaves a hole, unless the disk shares the bytes of both
//! files anyway. Nobody sees it before it is whole and durable; until then its name says so, and the
//! next start removes it.

mod fill;
mod gather;
mod group;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

pub use self::gather::Gathered;
pub use self::group::AssemblyGroup;
use self::group::Pending;
use super::recover::{apply, side_by_side};
use super::writer::start_writeback;
use super::{CopyState, DiskStore};
use crate::block::Block;
use crate::store::StoreError;
use crate::store::diskio::{remove_if_there, set_aside, sync_parent, with_suffix, write_all};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::store::pack::files::{Names, PackFiles};
use crate::store::pack::index::{IndexError, SealedPack};
use crate::store::pack::tombs;
use crate::store::pack::{Entry, Pack};

/// Bytes of what the system counts as a block of a file (stat(2)).
const SECTOR_LEN: u64 = 512;

/// Most leaves of one file, a terabyte of leaves of 256 KiB: its sidecar is 200 MB then, and it takes
/// as much memory while it is assembled, five bytes for each later. More lie in packs.
const LEAVES_MAX: usize = 4 * 1024 * 1024;

/// A file that is being assembled; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Assembly {
    store: Arc<DiskStore>,
    id: PackId,
    file: Arc<File>,
    /// All bytes are here from the beginning, shared with the file that is added.
    is_clone: bool,
    /// First byte of the next leaf.
    next: u64,
    entries: Vec<Entry>,
    /// Leaves that will be here when others are finished.
    pending: Pending,
    /// A leaf is not anywhere else.
    has_new: bool,
    /// Bytes of disk counted so far.
    counted: u64,
    written_back: u64,
    is_finished: bool,
}

impl DiskStore {
    /// Returns the length in bytes from which on a file is worth to be one here.
    pub fn assemble_min_bytes(&self) -> u64 {
        self.options.assemble_min_bytes
    }

    /// Begins to assemble a file.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Full`] and [`StoreError::Io`].
    pub fn assemble(self: &Arc<Self>) -> Result<Assembly, StoreError> {
        let id = self.take_number()?;
        let path = self.files.unfinished(id);
        let file = Arc::new(self.files.disk.create(&path).at(&path)?);
        Ok(Assembly {
            store: Arc::clone(self),
            id,
            file,
            is_clone: false,
            next: 0,
            entries: Vec::new(),
            pending: Pending::default(),
            has_new: false,
            counted: 0,
            written_back: 0,
            is_finished: false,
        })
    }
}

impl Assembly {
    /// Shares the bytes of `from`, a file of `len` bytes that is about to be pushed, where the disk can
    /// and the cap has room for them. Returns these bytes as they will stay.
    ///
    /// # Errors
    /// [`StoreError::OverCap`] when what the file takes on its disk is more than the cap, and [`StoreError::Io`].
    pub fn share(&mut self, from: &File, len: u64) -> Result<Option<Arc<File>>, StoreError> {
        // Holes take no room, here neither.
        let taken = from.metadata().map_or(len, |found| found.blocks().saturating_mul(SECTOR_LEN));
        self.store.space.check_alone(len.min(taken))?;
        let (disk, path) = (&*self.store.files.disk, self.store.files.unfinished(self.id));
        if self.store.space.check(len, 0).is_err() || disk.clone_file(from, &self.file).is_err() {
            return Ok(None);
        }
        if self.file.metadata().at(&path)?.len() != len {
            disk.set_len(&self.file, 0).at(&path)?;
            return Ok(None);
        }
        self.is_clone = true;
        self.count(len);
        Ok(Some(Arc::clone(&self.file)))
    }

    /// Takes the next leaf of the file, which holds `len` bytes of it. Returns whether it is, or will
    /// be, in the store by that; if not, there is no room for it here, or it is none that can lie so: a
    /// raw block or a dag-pb one that follows from its content, hashed with sha2-256.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn push(&mut self, leaf: &Block, len: u64) -> Result<bool, StoreError> {
        let (key, start) = (BlockKey::of(leaf.cid()), self.next);
        self.next += len;
        // A hole is a long run of one leaf, which is kept once.
        let is_last = self.entries.last().is_some_and(|last| last.key == key);
        if is_last || Block::from_identity(leaf.cid()).is_some() {
            return Ok(true);
        }
        if self.entries.len() >= LEAVES_MAX {
            return Ok(false);
        }
        let Some((framing, content)) = content_of(leaf, &key, len) else { return Ok(false) };
        let is_here = self.pending.lock().contains(&key) || self.store.has_good(&key, leaf)?;
        if !self.is_clone {
            if is_here {
                return Ok(true);
            }
            match self.write(&content, start) {
                Err(StoreError::Full { .. } | StoreError::CapReached { .. }) => return Ok(false),
                done => done?,
            }
        }
        self.has_new |= !is_here;
        self.add(key, start, framing, &content);
        Ok(true)
    }

    fn add(&mut self, key: BlockKey, start: u64, framing: Framing, content: &[u8]) {
        let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { key, start, head_len: 0, len, framing });
    }

    /// Makes the file durable and shows it to readers. One without a leaf of its own is left out.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Full`] and [`StoreError::Io`]: its leaves are not here.
    pub fn finish(mut self) -> Result<(), StoreError> {
        // Leaves that were found may have been put by others a moment ago.
        self.store.written.fetch_add(1, Ordering::AcqRel);
        if self.has_new { self.show().map(drop) } else { Ok(()) }
    }

    fn show(&mut self) -> Result<Vec<Arc<Pack>>, StoreError> {
        Arc::clone(&self.store).show(std::slice::from_mut(self))
    }

    fn write(&mut self, data: &[u8], at: u64) -> Result<(), StoreError> {
        self.store.space.check(data.len() as u64, 1)?;
        let disk = &*self.store.files.disk;
        write_all(disk, &self.file, &mut [IoSlice::new(data)], at)
            .at(&self.store.files.unfinished(self.id))?;
        let end = at + data.len() as u64;
        self.count(data.len() as u64);
        start_writeback(&self.file, &mut self.written_back, end);
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.store.space.change(0, bytes);
        self.counted += bytes;
    }
}

/// Returns how a leaf that holds `len` bytes of a file lies in it, and these; `None` when it cannot.
fn content_of(leaf: &Block, key: &BlockKey, len: u64) -> Option<(Framing, Bytes)> {
    let (framing, content) = Framing::of_leaf(leaf).filter(|_| !key.derived)?;
    (content.len() as u64 == len).then_some((framing, content))
}

impl Drop for Assembly {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.store.space.change(self.counted, 0);
        if let Err(error) = remove_files(&self.store.files, self.id) {
            tracing::warn!(%error, "a file that was not finished stays until the next start");
        }
    }
}

/// Removes an assembled file: its name first tells that it counts no more, so that a crash in between
/// leaves nothing that looks lost. Tombstones are left alone.
pub(super) fn remove_files(files: &PackFiles, id: PackId) -> Result<(), StoreError> {
    let (disk, path, unfinished) = (&*files.disk, files.assembled(id), files.unfinished(id));
    match disk.rename(&path, &unfinished) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => {
            renamed.at(&path)?;
            sync_parent(disk, &path)?;
        }
    }
    remove_if_there(disk, &files.leaves(id))?;
    remove_if_there(disk, &unwritten(files, id))?;
    sync_parent(disk, &path)?;
    remove_if_there(disk, &unfinished)
}

/// Returns the path of a sidecar that is not in its place yet.
fn unwritten(files: &PackFiles, id: PackId) -> PathBuf {
    with_suffix(&files.leaves(id), "new")
}

/// Opens the assembled files, and removes what a crash left of others.
pub(super) fn open_files(files: &PackFiles, names: &Names) -> Result<Vec<Arc<Pack>>, StoreError> {
    let unfinished = names.ids("file.new");
    for id in unfinished {
        remove_files(files, *id)?;
    }
    for id in names.ids("leaves.new") {
        remove_if_there(&*files.disk, &unwritten(files, *id))?;
    }
    let known = |ids: &[PackId], id: &PackId| ids.binary_search(id).is_ok();
    for id in names.ids("leaves") {
        if !known(names.ids("file"), id) && !known(unfinished, id) {
            lose(files, &files.assembled(*id), &files.leaves(*id), "it is missing")?;
        }
    }
    let opened = side_by_side(names.ids("file"), |id| open_file(files, *id))?;
    Ok(opened.into_iter().flatten().map(Arc::new).collect())
}

fn open_file(files: &PackFiles, id: PackId) -> Result<Option<Pack>, StoreError> {
    let (path, sidecar) = (files.assembled(id), files.leaves(id));
    let why = match SealedPack::open_leaves(&sidecar, id) {
        Ok(sealed) => {
            cut_off(files, &path, sealed.pack_len)?;
            let pack = Pack::Assembled(sealed);
            apply(&pack, &tombs::load(&files.tombs(id))?);
            return Ok(Some(pack));
        }
        Err(IndexError::Store(error)) => return Err(error),
        Err(IndexError::Missing) => "its sidecar is missing",
        Err(IndexError::Damaged(why)) => {
            lose(files, &path, &sidecar, why)?;
            "its sidecar is damaged"
        }
    };
    lose(files, &path, &path, why)?;
    Ok(None)
}

/// Cuts off what somebody appended. One that is too short is told leaf by leaf.
fn cut_off(files: &PackFiles, path: &Path, len: u64) -> Result<(), StoreError> {
    let found = std::fs::metadata(path).at(path)?.len();
    if found != len {
        tracing::error!(file = %path.display(), found, should_be = len,
            "an assembled file was cut or made longer");
    }
    if found > len {
        let file = OpenOptions::new().write(true).open(path).at(path)?;
        files.disk.set_len(&file, len).at(path)?;
    }
    Ok(())
}

fn lose(files: &PackFiles, path: &Path, broken: &Path, why: &str) -> Result<(), StoreError> {
    let aside = set_aside(&*files.disk, broken)?;
    tracing::error!(file = %path.display(), aside = %aside.display(), why,
        "an assembled file is lost, and its blocks with it; add the file again");
    Ok(())
}
