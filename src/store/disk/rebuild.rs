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

use super::check::{Damage, Progress, name_damage};
use super::recover::{cut_and_index, log_gaps};
use crate::store::StoreError;
use crate::store::diskio::{DiskIo, remove_if_there, set_aside, sync_parent, write_all};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::pack::Entry;
use crate::store::pack::files::PackFiles;
use crate::store::pack::scan::{Gap, Scan, scan};
use crate::store::pack::section::PACK_HEADER;
use crate::store::pack::tombs;

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

/// Rebuilds all packs in `dir`; `progress` may break off between two packs, which loses nothing.
pub(in crate::store) fn rebuild(
    dir: &Path,
    disk: Arc<dyn DiskIo>,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<RebuildReport, StoreError> {
    let files = PackFiles::new(dir, disk);
    let ids = files.ids("car")?;
    let mut next_id = files.unused_id()?;
    let mut report = RebuildReport::default();
    for &id in &ids {
        let found = rebuild_pack(&files, id, &mut next_id, &mut report)?;
        report.packs += 1;
        report.blocks += found.entries.len() as u64;
        report.bytes += found.entries.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
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
}

fn rebuild_pack(
    files: &PackFiles,
    id: PackId,
    next_id: &mut u64,
    report: &mut RebuildReport,
) -> Result<Scan, StoreError> {
    let path = files.pack(id);
    let file = files.file(id)?;
    let len = file.metadata().at(&path)?.len();
    let found = scan(&file, 0, len, &tombs::load(&files.tombs(id))?).at(&path)?;
    log_gaps(&path, &found);
    for gap in found.damaged.iter().chain(&found.torn) {
        name_damage(&mut report.damaged, damage(&path, gap));
    }
    if found.damaged.is_empty() {
        cut_and_index(files, id, &file, found.end, &found.entries)?;
    } else {
        let new = PackId(*next_id);
        *next_id += 1;
        salvage(files, new, &file, &found.entries).inspect_err(|_| files.discard(new))?;
        report.set_aside.push(retire(files, id)?);
    }
    Ok(found)
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
