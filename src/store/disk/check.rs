//! What is in the store, and whether it is still what it was.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::DiskStore;
use super::retire::RETIRED_AT_ONCE;
use crate::block::{Block, Cid};
use crate::store::StoreError;
use crate::store::diskio::disk_usage;
use crate::store::extent::{Extent, PackId};
use crate::store::key::BlockKey;
use crate::store::pack::section::parse_head;
use crate::store::pack::{CopyState, Entry, Pack};

/// Most damaged blocks that a report names; all of them are in the log.
const DAMAGED_NAMED_MAX: usize = 10_000;

/// What the packs hold, foreign ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Stored copies of blocks (a healed block may count twice).
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Bytes of disk that packs, index files and what was set aside take; of foreign packs only the
    /// index is ours.
    pub disk_bytes: u64,
}

/// Bytes on the disk that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The block concerned, when its name can still be read.
    pub cid: Option<Cid>,
    /// File and offset.
    pub place: String,
}

/// What a copy turned out to be.
#[derive(Debug)]
pub(super) enum Copy {
    Good(Block),
    Damaged(Damage),
    Removed,
}

/// How far a pass over the packs has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packs that are finished.
    pub packs_done: u64,
    /// All packs.
    pub packs: u64,
    /// Blocks read.
    pub blocks: u64,
    /// Bytes of blocks read.
    pub bytes: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// What was read.
    pub done: Progress,
    /// Number of damaged copies.
    pub damaged_count: u64,
    /// The first 10,000 of them.
    pub damaged: Vec<Damage>,
    /// The callback broke off before the end.
    pub stopped: bool,
}

impl VerifyReport {
    pub(super) fn add(&mut self, damage: Damage) {
        self.damaged_count += 1;
        name_damage(&mut self.damaged, damage);
    }
}

impl DiskStore {
    /// Returns what the packs hold.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn stats(&self) -> Result<DiskStats, StoreError> {
        let list = Arc::clone(&self.packs.read());
        let mut stats = DiskStats::default();
        for totals in list.packs.iter().chain(&list.foreign).map(|pack| pack.totals()) {
            stats.packs += 1;
            stats.blocks += totals.blocks;
            stats.bytes += totals.bytes;
        }
        stats.disk_bytes = disk_usage(self.files.dir())?;
        Ok(stats)
    }

    /// Returns the numbers of our own packs, oldest first.
    pub(in crate::store) fn pack_ids(&self) -> Vec<PackId> {
        self.packs.read().packs.iter().map(|pack| pack.id()).collect()
    }

    /// Reads and hashes every block of one pack, adding to `report`; a damaged copy is not served
    /// from then on, and the next put of the block heals it. That of a block that was healed is given up
    /// and does not count. A foreign file that is out of use counts as one damage. Breaks off when
    /// `progress` says so.
    pub(in crate::store) fn verify_pack(
        &self,
        id: PackId,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let Some(pack) = self.pack_now(id) else { return Ok(ControlFlow::Continue(())) };
        if let Pack::Assembled(file) = &*pack {
            file.repeats.forget();
        }
        if self.verify_copies(&pack, report, progress)?.is_break() {
            report.stopped = true;
            return Ok(ControlFlow::Break(()));
        }
        // It may have gone with its last copy.
        if let Some(pack) = self.pack_now(id) {
            report.damaged_count += u64::from(self.has_other_length(&pack, &mut report.damaged));
        }
        if let Some((source, why)) = pack.lost() {
            let place = format!("{}, which {why}", source.path.display());
            report.add(Damage { cid: None, place });
        }
        report.done.packs_done += 1;
        Ok(ControlFlow::Continue(()))
    }

    fn verify_copies(
        &self,
        pack: &Pack,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut damaged = Vec::new();
        for (entry, _) in pack.entries() {
            let copy = self.read_copy(pack.id(), &entry)?;
            if pack.lost().is_some() {
                break;
            }
            if let Copy::Damaged(damage) = copy {
                damaged.push((entry, damage));
            }
            report.done.blocks += 1;
            report.done.bytes += entry.block_len();
            let flow = progress(&report.done);
            if flow.is_break() || damaged.len() >= RETIRED_AT_ONCE {
                self.sort_out(pack, &mut damaged, report)?;
            }
            if flow.is_break() {
                return Ok(flow);
            }
        }
        self.sort_out(pack, &mut damaged, report)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Names an assembled file that is not as long as it was; returns whether it is. One that lacks nothing
    /// but what is not looked for in it any more is good enough.
    fn has_other_length(&self, pack: &Pack, named: &mut Vec<Damage>) -> bool {
        if !matches!(pack, Pack::Assembled(_)) {
            return false;
        }
        let path = self.files.path(&pack.file());
        let found = std::fs::metadata(&path).map(|metadata| metadata.len());
        let should_be = pack.covered_len();
        let has_all = |len| pack.entries().iter().all(|(entry, _)| entry.end() <= len);
        let place = match found {
            Ok(len) if len == should_be || (len < should_be && has_all(len)) => return false,
            Ok(len) => format!("{}, which has {len} bytes, not {should_be}", path.display()),
            Err(error) => format!("{}: {error}; add the file again", path.display()),
        };
        name_damage(named, Damage { cid: None, place });
        true
    }

    /// Reads one copy and notes whether it is what it should be.
    pub(super) fn read_copy(&self, id: PackId, entry: &Entry) -> Result<Copy, StoreError> {
        let Some(listed) = self.pack_now(id) else { return Ok(Copy::Removed) };
        let _in_use = listed.usage().visit(entry.start);
        let Some(pack) = self.pack_now(id).filter(|pack| pack.holds(entry)) else {
            return Ok(Copy::Removed);
        };
        let whole = Extent {
            file: pack.file(),
            offset: entry.start,
            len: u32::from(entry.head_len) + entry.len,
            framing: entry.framing,
        };
        let bytes = self.files.read(&whole, 0, whole.block_len())?.unwrap_or_default();
        let cid = name_of(entry, &bytes);
        let data = || bytes.slice(usize::from(entry.head_len)..);
        if let Some(block) = cid.and_then(|cid| Block::verify(cid, data()).ok()) {
            pack.mark(entry, CopyState::Proved);
            return Ok(Copy::Good(block));
        }
        let place = format!("{}, offset {}", self.files.path(&whole.file).display(), entry.start);
        if pack.lost().is_none() {
            pack.mark(entry, CopyState::Damaged);
            let cid = cid.as_ref().map(tracing::field::display);
            tracing::error!(cid, place, "stored bytes do not match their CID");
        }
        Ok(Copy::Damaged(Damage { cid, place }))
    }
}

/// Returns the CID of a copy: what stands in front of it, or that of a leaf when nothing does.
fn name_of(entry: &Entry, section: &[u8]) -> Option<Cid> {
    if entry.head_len == 0 {
        return entry.key.leaf_cid(entry.framing);
    }
    let head = parse_head(section).filter(|head| BlockKey::of(&head.cid) == entry.key);
    head.map(|head| head.cid)
}

/// Adds to the damage that is named, up to its bound.
pub(super) fn name_damage(named: &mut Vec<Damage>, damage: Damage) {
    if named.len() < DAMAGED_NAMED_MAX {
        named.push(damage);
    }
}
