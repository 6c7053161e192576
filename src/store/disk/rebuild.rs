//! Building everything anew from the packs alone: every block is hashed, every index rewritten.
//!
//! A pack with damage inside is copied without it into a new pack; the old one is set aside under
//! a name that is never opened. It runs on a repository that nobody has open.

use std::fs::File;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::check::{Damage, Progress, name_damage};
use super::recover::{cut_and_index, log_gaps};
use crate::store::StoreError;
use crate::store::diskio::{DiskIo, remove_if_there, set_aside, sync_parent, write_all};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::pack::Entry;
use crate::store::pack::files::PackFiles;
use crate::store::pack::index::SealedPack;
use crate::store::pack::scan::{Gap, Scan, scan};
use crate::store::pack::section::PACK_HEADER;
use crate::store::pack::tombs;

/// Packs that are hashed and wait to be indexed: their entries take a few MB each.
const SCANNED_AHEAD: usize = 2;

/// What a rebuild found and did.
#[derive(Debug, Default)]
pub struct RebuildReport {
    /// Packs read.
    pub packs: u64,
    /// Whole blocks found.
    pub blocks: u64,
    /// Bytes of whole blocks.
    pub bytes: u64,
    /// What is damaged and was left out.
    pub damaged: Vec<Damage>,
    /// Damaged packs, under the names they have now.
    pub set_aside: Vec<PathBuf>,
}

/// A pack and what is in it.
struct Scanned {
    id: PackId,
    file: Arc<File>,
    found: Scan,
}

/// Rebuilds all packs in `dir`; `progress` may break off between two packs, which loses nothing.
///
/// Packs are hashed one after the other, each on all processors, and indexed by the calling thread
/// meanwhile.
pub(in crate::store) fn rebuild(
    dir: &Path,
    disk: Arc<dyn DiskIo>,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<RebuildReport, StoreError> {
    let files = PackFiles::new(dir, disk);
    let names = files.names()?;
    let (ids, mut next_id) = (names.ids("car"), names.unused_id());
    let mut report = RebuildReport::default();
    std::thread::scope(|scope| {
        let (scanned, packs) = sync_channel(SCANNED_AHEAD);
        let files = &files;
        scope.spawn(move || {
            // The receiver is gone when this breaks off.
            ids.iter().try_for_each(|id| scanned.send(scan_pack(files, *id)))
        });
        for pack in packs {
            let pack = pack?;
            report.packs += 1;
            report.blocks += pack.found.entries.len() as u64;
            report.bytes +=
                pack.found.entries.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
            index_pack(files, &pack, &mut next_id, &mut report)?;
            let done = Progress {
                packs_done: report.packs,
                packs: ids.len() as u64,
                blocks: report.blocks,
                bytes: report.bytes,
            };
            if progress(&done).is_break() {
                break;
            }
        }
        Ok(report)
    })
}

fn scan_pack(files: &PackFiles, id: PackId) -> Result<Scanned, StoreError> {
    let path = files.pack(id);
    let file = files.file(id)?;
    let len = file.metadata().at(&path)?.len();
    let mut found = scan(&file, 0, len, &tombs::load(&files.tombs(id))?).at(&path)?;
    if let Ok(sealed) = SealedPack::open(&files.index(id), id) {
        // What an index covers was durable, so it is not torn but damaged.
        found.cut_nothing_below(sealed.pack_len.min(len));
    }
    log_gaps(&path, &found);
    Ok(Scanned { id, file, found })
}

fn index_pack(
    files: &PackFiles,
    pack: &Scanned,
    next_id: &mut u64,
    report: &mut RebuildReport,
) -> Result<(), StoreError> {
    let Scanned { id, file, found } = pack;
    let path = files.pack(*id);
    for gap in found.damaged.iter().chain(&found.torn) {
        name_damage(&mut report.damaged, damage(&path, gap));
    }
    if found.damaged.is_empty() {
        return cut_and_index(files, *id, file, found.end, &found.entries).map(drop);
    }
    let new = PackId(*next_id);
    *next_id += 1;
    salvage(files, new, file, &found.entries).inspect_err(|_| files.discard(new))?;
    report.set_aside.push(retire(files, *id)?);
    Ok(())
}

fn damage(path: &Path, gap: &Gap) -> Damage {
    Damage { cid: gap.cid, place: format!("{}, offset {}", path.display(), gap.start) }
}

/// Copies whole sections into a new pack and indexes it.
fn salvage(
    files: &PackFiles,
    id: PackId,
    from: &File,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let (path, file) = (files.pack(id), files.create(id)?);
    write_all(&*files.disk, &file, &mut [IoSlice::new(&PACK_HEADER)], 0).at(&path)?;
    let mut at = PACK_HEADER.len() as u64;
    let mut moved = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut section = vec![0; usize::try_from(entry.end() - entry.start).unwrap_or(0)];
        from.read_exact_at(&mut section, entry.start).at(&path)?;
        write_all(&*files.disk, &file, &mut [IoSlice::new(&section)], at).at(&path)?;
        moved.push(Entry { start: at, ..*entry });
        at += section.len() as u64;
    }
    sync_parent(&*files.disk, &path)?;
    cut_and_index(files, id, &file, at, &moved).map(drop)
}

/// Sets a damaged pack aside; its index and tombstones mean nothing without it.
fn retire(files: &PackFiles, id: PackId) -> Result<PathBuf, StoreError> {
    for sidecar in [files.index(id), files.tombs(id)] {
        remove_if_there(&*files.disk, &sidecar)?;
    }
    set_aside(&*files.disk, &files.pack(id))
}
