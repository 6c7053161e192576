//! Files that become durable together.
//!
//! A file of its own costs syncs of its own. Those of many files are asked for side by side, so that the
//! disk does them in one go, and their names are made durable together.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Assembly, CopyState};
use crate::store::StoreError;
use crate::store::disk::DiskStore;
use crate::store::diskio::{DiskIo, sync_parent};
use crate::store::error::AtPath as _;
use crate::store::key::BlockKey;
use crate::store::pack::Pack;
use crate::store::pack::index::{self, SealedPack};
use crate::sys::writeback;

/// Files of a group; each is open until then, and its sidecar while it is written.
const FILES_MAX: usize = 128;
/// Bytes of the files of a group, after which it is not worth waiting for more of them.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Threads that sync, and files that are worth one.
const SYNC_THREADS_MAX: usize = 16;
const SYNCS_PER_THREAD: usize = 4;

/// The keys of leaves that will be in the store when a group is finished.
pub(super) type Pending = Arc<Mutex<HashSet<BlockKey>>>;

/// Assembled files that wait to be made durable; dropping it drops them.
#[derive(Debug)]
pub struct AssemblyGroup {
    store: Arc<DiskStore>,
    waiting: Vec<Assembly>,
    bytes: u64,
    pending: Pending,
}

impl AssemblyGroup {
    /// Returns a group without files.
    pub fn new(store: Arc<DiskStore>) -> Self {
        Self { store, waiting: Vec::new(), bytes: 0, pending: Pending::default() }
    }

    /// Begins to assemble a file that relies on what the group has.
    ///
    /// # Errors
    /// As [`DiskStore::assemble`].
    pub fn begin(&self) -> Result<Assembly, StoreError> {
        let mut assembly = self.store.assemble()?;
        assembly.pending = Arc::clone(&self.pending);
        Ok(assembly)
    }

    /// Takes a file all of whose leaves were pushed, and finishes the group when it is large enough.
    ///
    /// # Errors
    /// As [`AssemblyGroup::finish`]; and [`StoreError::Io`] for one that was begun before the group failed
    /// and may rely on what did.
    pub fn add(&mut self, assembly: Assembly) -> Result<(), StoreError> {
        if !Arc::ptr_eq(&assembly.pending, &self.pending) {
            let failed = io::Error::other("files before it were not stored");
            return Err(StoreError::io(&self.store.files.unfinished(assembly.id), failed));
        }
        if !assembly.has_new {
            return Ok(());
        }
        self.pending.lock().extend(assembly.entries.iter().map(|entry| entry.key));
        self.bytes += assembly.next;
        // The disk has most of it by the time the group is finished.
        if let Err(error) = writeback::start(&assembly.file, 0, assembly.next) {
            tracing::debug!(%error, "the kernel refused to write back early");
        }
        self.waiting.push(assembly);
        if self.waiting.len() >= FILES_MAX || self.bytes >= BYTES_MAX {
            return self.finish();
        }
        Ok(())
    }

    /// Makes the files durable and shows them to readers.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Full`] and [`StoreError::Io`]: their leaves are not here.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        // Leaves that were found may have been put by others a moment ago.
        self.store.written.fetch_add(1, Ordering::AcqRel);
        let mut group = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let shown = self.store.show(&mut group);
        match &shown {
            Ok(_) => self.pending.lock().clear(),
            Err(_) => self.pending = Pending::default(),
        }
        shown.map(drop)
    }
}

impl DiskStore {
    /// Makes files durable and shows them to readers.
    pub(super) fn show(&self, group: &mut [Assembly]) -> Result<Vec<Arc<Pack>>, StoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let packs = self.make_durable(group)?;
        let _writer = self.writer()?;
        let now = self.now();
        for (assembly, pack) in group.iter_mut().zip(&packs) {
            for entry in &assembly.entries {
                drop(pack.usage().enter(entry.start, now));
                // What was hashed is what was written, or is shared.
                pack.mark(entry, CopyState::Proved);
            }
            pack.usage().add_disk_bytes(assembly.counted);
            self.commits.lock().found_again(assembly.entries.iter().map(|entry| &entry.key));
            assembly.is_finished = true;
        }
        self.leaves().add(&packs);
        self.edit_packs(|all| {
            all.extend(packs.iter().map(Arc::clone));
            // Others may have taken a later number and be here already.
            all.sort_unstable_by_key(|pack| pack.id());
        });
        for pack in &packs {
            self.measure(pack);
        }
        Ok(packs)
    }

    fn make_durable(&self, group: &[Assembly]) -> Result<Vec<Arc<Pack>>, StoreError> {
        let (files, disk) = (&self.files, &*self.files.disk);
        let mut written = Vec::with_capacity(2 * group.len());
        for assembly in group {
            let (id, len) = (assembly.id, assembly.next);
            let unfinished = files.unfinished(id);
            disk.set_len(&assembly.file, len).at(&unfinished)?;
            let entries = assembly.entries.clone();
            let sidecar = index::write_new(disk, &files.leaves(id), id, len, entries)?;
            written.push((unfinished, Arc::clone(&assembly.file)));
            written.push(sidecar);
        }
        sync_all(disk, &written)?;
        let rename = |from: &Path, to: &Path| disk.rename(from, to).at(to);
        for ((new, _), assembly) in written.iter().skip(1).step_by(2).zip(group) {
            rename(new, &files.leaves(assembly.id))?;
        }
        sync_parent(disk, &written[0].0)?;
        let open = |assembly: &Assembly| {
            let path = files.leaves(assembly.id);
            SealedPack::open_leaves(&path, assembly.id).map_err(|error| error.at_path(&path))
        };
        let packs = group.iter().map(|assembly| Ok(Arc::new(Pack::Assembled(open(assembly)?))));
        let packs = packs.collect::<Result<Vec<_>, StoreError>>()?;
        for assembly in group {
            rename(&files.unfinished(assembly.id), &files.assembled(assembly.id))?;
        }
        sync_parent(disk, &written[0].0)?;
        Ok(packs)
    }
}

/// Makes the content of files durable, those of many side by side.
fn sync_all(disk: &dyn DiskIo, files: &[(PathBuf, Arc<File>)]) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((path, file)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            disk.sync(file).at(path)?;
        }
        Ok(())
    };
    let threads = (files.len() / SYNCS_PER_THREAD).clamp(1, SYNC_THREADS_MAX);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(mine).chain(joined).collect()
    })
}
