//! Opening the packs: after a clean stop nothing but checking index files; after any other stop
//! the bytes that no index covers are hashed, and what is whole gets an index.
//!
//! Hashing them is what lets a put rely on them: a block that a power cut damaged must not pass
//! for a stored copy. What an index covers was durable before the index was.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::StoreError;
use crate::store::diskio::{set_aside, sync_parent};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::pack::files::{Names, PackFiles};
use crate::store::pack::index::{self, IndexError, SealedPack};
use crate::store::pack::open::OpenPack;
use crate::store::pack::scan::{Gap, Scan, scan};
use crate::store::pack::tombs::{self, Tomb};
use crate::store::pack::usage::Usage;
use crate::store::pack::{CopyState, Entry, Pack};

/// Most threads that open packs: more would make one disk seek between them.
const THREADS_MAX: usize = 4;

/// Opens all packs; returns them together with the `assembled` files, oldest first.
pub(super) fn open_packs(
    files: &PackFiles,
    names: &Names,
    assembled: Vec<Arc<Pack>>,
) -> Result<Vec<Arc<Pack>>, StoreError> {
    let ids = names.ids("car");
    for id in names.ids("idx") {
        if ids.binary_search(id).is_err() {
            let aside = set_aside(&*files.disk, &files.index(*id))?;
            tracing::error!(pack = %files.pack(*id).display(), index = %aside.display(),
                "a pack is missing, and its blocks with it; its index is set aside");
        }
    }
    let mut packs = side_by_side(ids, |id| open_pack(files, *id).map(Arc::new))?;
    packs.extend(assembled);
    packs.sort_unstable_by_key(|pack| pack.id());
    Ok(packs)
}

/// Does a piece of work for each of `wanted` on several threads; the results have no order. What has no index
/// is hashed, and one processor hashes slower than a disk reads.
pub(super) fn side_by_side<T: Sync, R: Send>(
    wanted: &[T],
    work: impl Fn(&T) -> Result<R, StoreError> + Sync,
) -> Result<Vec<R>, StoreError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let wanted = std::iter::from_fn(|| wanted.get(next.fetch_add(1, Ordering::Relaxed)));
        wanted.map(&work).collect::<Result<Vec<_>, _>>()
    };
    let done = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads_for(wanted.len())).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(mine).chain(joined).collect::<Result<Vec<_>, _>>()
    });
    Ok(done?.into_iter().flatten().collect())
}

/// Returns how many threads do so many pieces of work.
fn threads_for(pieces: usize) -> usize {
    if pieces < 2 {
        return pieces;
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.min(THREADS_MAX).min(pieces)
}

fn open_pack(files: &PackFiles, id: PackId) -> Result<Pack, StoreError> {
    let path = files.pack(id);
    let len = std::fs::metadata(&path).at(&path)?.len();
    let tombs = tombs::load(&files.tombs(id))?;
    let sealed = open_index(files, id, len)?;
    if let Some(sealed) = sealed.as_ref().filter(|sealed| sealed.pack_len < len) {
        tracing::info!(pack = %path.display(), bytes = len - sealed.pack_len, "checking unindexed bytes");
    }
    let pack = match sealed {
        Some(sealed) if sealed.pack_len == len => Pack::Sealed(sealed),
        older => repair(files, id, older, &tombs)?,
    };
    apply(&pack, &tombs);
    Ok(pack)
}

/// Opens an index file; one that is no good is set aside.
fn open_index(files: &PackFiles, id: PackId, len: u64) -> Result<Option<SealedPack>, StoreError> {
    let path = files.index(id);
    let damaged = match SealedPack::open(&path, id) {
        Ok(sealed) if sealed.pack_len <= len => return Ok(Some(sealed)),
        Ok(sealed) => {
            tracing::error!(index = %path.display(), bytes = sealed.pack_len - len,
                "a pack was cut short, and the blocks in what is missing are lost");
            format!("covers {} bytes of a pack of {len}", sealed.pack_len)
        }
        Err(IndexError::Missing) => return Ok(None),
        Err(IndexError::Damaged(why)) => why.to_owned(),
        Err(IndexError::Store(error)) => return Err(error),
    };
    let aside = set_aside(&*files.disk, &path)?;
    tracing::warn!(index = %aside.display(), damaged, "an index file is set aside and made anew");
    Ok(None)
}

/// Scans what no index covers, cuts a torn end off, and writes an index of all of it.
fn repair(
    files: &PackFiles,
    id: PackId,
    older: Option<SealedPack>,
    tombs: &HashSet<Tomb>,
) -> Result<Pack, StoreError> {
    let (path, file) = (files.pack(id), files.file(id)?);
    let len = file.metadata().at(&path)?.len();
    let (from, mut entries) = older.map_or((0, Vec::new()), |sealed| {
        let entries = sealed.entries().into_iter().map(|(entry, _)| entry).collect();
        (sealed.pack_len, entries)
    });
    let found = scan(&file, from, len, tombs).at(&path)?;
    log_gaps(&path, &found);
    entries.extend_from_slice(&found.entries);
    if found.is_unreadable {
        tracing::error!(pack = %path.display(),
            "the disk cannot read a part of a pack; the blocks there are missing until it can at a start");
        make_durable(files, id, &file)?;
        return Ok(without_index(id, found.end, &entries));
    }
    cut_and_index(files, id, &file, found.end, &entries)
}

/// Returns a pack whose index is in memory until the next start.
fn without_index(id: PackId, end: u64, entries: &[Entry]) -> Pack {
    let entries = entries.iter().map(|entry| (*entry, CopyState::Unproved));
    Pack::Open(Arc::new(OpenPack::new(id, end, entries, Arc::new(Usage::new(end)))))
}

fn make_durable(files: &PackFiles, id: PackId, file: &File) -> Result<(), StoreError> {
    let path = files.pack(id);
    files.disk.sync(file).at(&path)?;
    // Whoever made the pack may not have lived to sync its name.
    sync_parent(&*files.disk, &path)
}

/// Cuts a pack at `end`, makes it durable and gives it an index file.
///
/// A disk too full for the index leaves the pack readable, with its index in memory.
pub(super) fn cut_and_index(
    files: &PackFiles,
    id: PackId,
    file: &File,
    end: u64,
    entries: &[Entry],
) -> Result<Pack, StoreError> {
    let path = files.pack(id);
    if file.metadata().at(&path)?.len() > end {
        files.disk.set_len(file, end).at(&path)?;
    }
    make_durable(files, id, file)?;
    let index = files.index(id);
    let sealed = index::write(&*files.disk, &index, id, end, entries.to_vec())
        .and_then(|()| SealedPack::open(&index, id).map_err(|error| error.at_path(&index)));
    match sealed {
        Ok(sealed) => Ok(Pack::Sealed(sealed)),
        Err(error) => {
            tracing::warn!(%error, "a pack has no index file until the next start");
            Ok(without_index(id, end, entries))
        }
    }
}

pub(super) fn apply(pack: &Pack, tombs: &HashSet<Tomb>) {
    for tomb in tombs {
        if let Some((entry, _)) = pack.find(&tomb.key)
            && entry.start == tomb.start
        {
            pack.mark(&entry, CopyState::Removed);
        }
    }
}

/// Names everything that is not whole.
pub(super) fn log_gaps(pack: &Path, found: &Scan) {
    let name = |gap: &Gap| gap.cid.map_or_else(|| "unknown".to_owned(), |cid| cid.to_string());
    for gap in &found.damaged {
        tracing::error!(pack = %pack.display(), offset = gap.start, bytes = gap.end - gap.start,
            cid = name(gap), "damaged bytes are skipped");
    }
    for gap in &found.torn {
        tracing::warn!(pack = %pack.display(), offset = gap.start, bytes = gap.end - gap.start,
            cid = name(gap), "the torn end of a pack is cut off");
    }
}
