//! Making room: what was used longest ago goes first, and what is kept or in use never goes.
//!
//! The unit of age is a region of a pack. Its copies are declared removed in memory, while nobody
//! is in the region; then their tombstones are made durable, many at a time; only then their pages
//! are given back. If a tombstone fails, the copy stays removed in this run: whether it comes back
//! at the next start is open, so nobody may rely on it. Pages are given back inside payloads only,
//! so a pack of many small blocks, or of many dead ones, is emptied by moving what still lives in it
//! to the newest pack ([`DiskStore::empty_pack`]); a pack in which nothing lives is deleted.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::check::Copy;
use super::{CopyState, DiskStore, Hit, KeepSet};
use crate::block::Block;
use crate::store::StoreError;
use crate::store::diskio::{remove_if_there, sync_parent};
use crate::store::extent::PackId;
use crate::store::key::BlockKey;
use crate::store::pack::tombs::{self, Tomb};
use crate::store::pack::usage::REGION_LEN;
use crate::store::pack::{Entry, Pack};

/// Regions that are evicted with one sync per pack: 64 MiB at most, so that a batch is over in
/// well under a second and at most this much is evicted in vain.
const BATCH_REGIONS_MAX: usize = 64;
/// Bytes of blocks that are moved with one commit; they are in memory meanwhile.
const MOVE_LEN_MAX: u64 = 8 * 1024 * 1024;
/// A pack is emptied when at least this share of its file is dead, and of its disk bytes too: so at
/// most three bytes are copied for one that is won.
const DEAD_SHARE_MIN: u64 = 4;

/// What making room did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceReport {
    /// Copies of blocks removed.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub bytes: u64,
    /// Copies of blocks moved to another pack.
    pub moved: u64,
    /// Packs deleted.
    pub packs: u64,
    /// Bytes of disk that packs and sidecars take now.
    pub disk_bytes: u64,
    /// The goal was met; if not, everything that is left is kept or in use, or the callback broke
    /// off.
    pub enough: bool,
}

/// What an eviction is to reach.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// At most so many bytes of disk in use.
    DiskBytes(u64),
    /// Nothing left that is not kept or in use.
    Everything,
}

/// A callback that may break off.
type OnStep<'a> = &'a mut dyn FnMut(&SpaceReport) -> ControlFlow<()>;

impl Hit {
    /// Tells whether this is the copy `entry` of pack `id`.
    pub(super) fn is(&self, id: PackId, entry: &Entry) -> bool {
        self.pack.id() == id && self.entry.start == entry.start
    }
}

impl DiskStore {
    /// Evicts what was used longest ago until `more` bytes of disk are free below the cap, or, if
    /// that is more, a sixteenth of it; without a cap, until `more` bytes were given back.
    ///
    /// Reading and writing go on. `step` is called after each batch and may break off. Runs for
    /// long; belongs on a thread of its own.
    ///
    /// # Errors
    /// [`StoreError::Closed`], and [`StoreError::Full`] or [`StoreError::Io`] when tombstones
    /// cannot be written.
    pub fn make_room(
        &self,
        keep: &KeepSet,
        more: u64,
        step: OnStep<'_>,
    ) -> Result<SpaceReport, StoreError> {
        let goal = self.space.target().min(self.space.room_for(more));
        self.evict(keep, Goal::DiskBytes(goal), step)
    }

    /// Removes everything that is not kept and was not used since `keep` was begun, and gives back
    /// all space that is worth its copying.
    ///
    /// # Errors
    /// As [`DiskStore::make_room`].
    pub fn sweep(&self, keep: &KeepSet, step: OnStep<'_>) -> Result<SpaceReport, StoreError> {
        self.evict(keep, Goal::Everything, step)
    }

    /// Returns what [`DiskStore::sweep`] would remove; `disk_bytes` is what is in use now.
    pub fn sweep_dry_run(&self, keep: &KeepSet) -> SpaceReport {
        let list = Arc::clone(&self.packs.read());
        let mut report = SpaceReport { enough: true, ..SpaceReport::default() };
        for pack in &list.packs {
            let usage = pack.usage();
            let free: HashSet<_> = usage.unused_since(keep.limit).map(|(_, at)| at).collect();
            for (entry, _) in pack.entries() {
                if free.contains(&usage.region_of(entry.start)) && !keep.has(&entry.key) {
                    report.blocks += 1;
                    report.bytes += u64::from(entry.len);
                }
            }
        }
        report.disk_bytes = self.disk_bytes();
        report
    }

    fn evict(
        &self,
        keep: &KeepSet,
        goal: Goal,
        step: OnStep<'_>,
    ) -> Result<SpaceReport, StoreError> {
        let _one_at_a_time = self.evicting.lock();
        if let Err(error) = self.group_commit() {
            tracing::warn!(%error, "blocks that are not durable are not evicted");
        }
        let mut report = SpaceReport::default();
        let regions = self.regions_by_age(keep);
        let mut rest = &regions[..];
        while !rest.is_empty() {
            let missing = self.missing(goal, self.reclaimable());
            if missing == 0 {
                break;
            }
            let count = usize::try_from(missing.div_ceil(REGION_LEN)).unwrap_or(usize::MAX);
            let (batch, later) = rest.split_at(count.min(BATCH_REGIONS_MAX).min(rest.len()));
            rest = later;
            for (id, regions) in by_pack(batch) {
                self.evict_regions(id, &regions, keep, &mut report)?;
            }
            if step(&report).is_break() {
                return Ok(self.finish(goal, report));
            }
        }
        self.empty_packs(goal, &mut report, step)?;
        Ok(self.finish(goal, report))
    }

    fn finish(&self, goal: Goal, mut report: SpaceReport) -> SpaceReport {
        if let Some(active) = self.packs.read().packs.last() {
            self.measure(active);
        }
        report.disk_bytes = self.disk_bytes();
        report.enough = match goal {
            Goal::DiskBytes(_) => self.missing(goal, 0) == 0,
            Goal::Everything => true,
        };
        report
    }

    /// Returns how many bytes are still to be given back, when `reclaimable` will be.
    fn missing(&self, goal: Goal, reclaimable: u64) -> u64 {
        match goal {
            Goal::DiskBytes(max) => {
                self.disk_bytes().saturating_sub(max.saturating_add(reclaimable))
            }
            Goal::Everything => u64::MAX,
        }
    }

    /// Returns the regions that may be evicted, those used longest ago first; of the same hour,
    /// older packs first.
    fn regions_by_age(&self, keep: &KeepSet) -> Vec<(u32, PackId, usize)> {
        let list = Arc::clone(&self.packs.read());
        let mut regions: Vec<_> = list
            .packs
            .iter()
            .flat_map(|pack| {
                let unused = pack.usage().unused_since(keep.limit);
                unused.map(|(hour, region)| (hour, pack.id(), region))
            })
            .collect();
        regions.sort_unstable();
        regions
    }

    /// Evicts what is not kept from regions of one pack.
    fn evict_regions(
        &self,
        id: PackId,
        regions: &[usize],
        keep: &KeepSet,
        report: &mut SpaceReport,
    ) -> Result<(), StoreError> {
        let Some(pack) = self.pack_now(id) else { return Ok(()) };
        let mut victims = BTreeMap::<usize, Vec<Entry>>::new();
        for (entry, _) in pack.entries() {
            let region = pack.usage().region_of(entry.start);
            let durable = entry.end() <= pack.covered_len();
            if durable && regions.contains(&region) && !keep.has(&entry.key) {
                victims.entry(region).or_default().push(entry);
            }
        }
        let mut removed = Vec::new();
        {
            let _writer = self.writer()?;
            // The pack may have been sealed; the writer is the only one who does that.
            let Some(pack) = self.pack_now(id) else { return Ok(()) };
            for (region, entries) in victims {
                if let Some(_claim) = pack.usage().claim(region, keep.limit) {
                    let mark = |entry: &Entry| pack.mark(entry, CopyState::Removed);
                    removed.extend(entries.into_iter().filter(mark));
                }
            }
        }
        report.blocks += removed.len() as u64;
        report.bytes += removed.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
        self.give_back(id, &removed)?;
        report.packs += u64::from(self.delete_if_dead(id)?);
        Ok(())
    }

    /// Makes the removal of copies durable, which are marked already, and gives their pages back.
    fn give_back(&self, id: PackId, removed: &[Entry]) -> Result<(), StoreError> {
        if removed.is_empty() {
            return Ok(());
        }
        let tombs: Vec<_> =
            removed.iter().map(|entry| Tomb { key: entry.key, start: entry.start }).collect();
        {
            let mut trusted = self.burying.lock();
            let path = self.files.tombs(id);
            tombs::append(&*self.files.disk, &path, &tombs, trusted.remove(&id))?;
            trusted.insert(id);
        }
        let mut refused = None;
        for entry in removed {
            refused = refused.or(self.files.punch(id, entry).err());
        }
        if let Some(error) = refused {
            tracing::warn!(%error, "the space of a removed block is not given back");
        }
        if let Some(pack) = self.pack_now(id) {
            self.measure(&pack);
        }
        Ok(())
    }

    /// Removes every copy of a block: a durable tombstone first, then its bytes.
    ///
    /// The active pack is made durable before, so that a tombstone never points beyond what a
    /// power cut leaves, where another section may come to lie. Readers of the block are waited
    /// for. After an error the block is not here in this run, and may be back in the next.
    pub(super) fn bury(&self, key: &BlockKey) -> Result<bool, StoreError> {
        let mut buried = Vec::new();
        {
            let mut writer = self.writer()?;
            self.settle(&mut writer)?;
            let list = Arc::clone(&self.packs.read());
            for pack in list.candidates(key) {
                let Some((entry, _)) = pack.find(key) else { continue };
                let _claim = pack.usage().clear(entry.start);
                if pack.mark(&entry, CopyState::Removed) {
                    buried.push((pack.id(), entry));
                }
            }
        }
        for (id, entry) in &buried {
            self.give_back(*id, std::slice::from_ref(entry))?;
        }
        Ok(!buried.is_empty())
    }

    /// Returns how many bytes emptying packs would give back.
    fn reclaimable(&self) -> u64 {
        let list = Arc::clone(&self.packs.read());
        list.packs.iter().filter_map(|pack| worth_emptying(pack)).sum()
    }

    /// Empties packs, those that give back most first, until the goal is reached.
    fn empty_packs(
        &self,
        goal: Goal,
        report: &mut SpaceReport,
        step: OnStep<'_>,
    ) -> Result<(), StoreError> {
        let list = Arc::clone(&self.packs.read());
        let dead = |pack: &Arc<Pack>| worth_emptying(pack).map(|bytes| (bytes, pack.id()));
        let mut order: Vec<_> = list.packs.iter().filter_map(dead).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        drop(list);
        for (_, id) in order {
            if self.missing(goal, 0) == 0 || self.empty_pack(id, report, step)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Moves what lives in a pack to the newest one, a few blocks at a time: copied and verified,
    /// made durable, and only then removed here. Deletes the pack at the end.
    ///
    /// A damaged copy is not moved, and the pack stays as long as it has one.
    fn empty_pack(
        &self,
        id: PackId,
        report: &mut SpaceReport,
        step: OnStep<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let Some(pack) = self.pack_now(id) else { return Ok(ControlFlow::Continue(())) };
        let entries: Vec<_> = pack.entries().into_iter().map(|(entry, _)| entry).collect();
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|entry| {
                bytes += entry.section_len();
                bytes <= MOVE_LEN_MAX
            });
            let (group, later) = rest.split_at(fits.count().max(1));
            report.moved += self.move_group(id, group)?;
            rest = later;
            if step(report).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        report.packs += u64::from(self.delete_if_dead(id)?);
        Ok(ControlFlow::Continue(()))
    }

    /// Moves some copies; returns how many were removed here, moved or with a better copy elsewhere.
    fn move_group(&self, id: PackId, group: &[Entry]) -> Result<u64, StoreError> {
        let mut good = Vec::with_capacity(group.len());
        for entry in group {
            if let Copy::Good(block) = self.read_copy(id, entry)? {
                good.push((*entry, block));
            }
        }
        self.write_again(id, &good)?;
        self.group_commit()?;
        let removed = self.remove_shadowed(id, &good)?;
        self.give_back(id, &removed)?;
        Ok(removed.len() as u64)
    }

    /// Marks those copies as removed that have a good copy in a newer place and are not in use.
    fn remove_shadowed(
        &self,
        id: PackId,
        copies: &[(Entry, Block)],
    ) -> Result<Vec<Entry>, StoreError> {
        let _writer = self.writer()?;
        let Some(pack) = self.pack_now(id) else { return Ok(Vec::new()) };
        let mut removed = Vec::new();
        for (entry, _) in copies {
            let newer = self.find_own(&entry.key).filter(|hit| {
                !hit.is(id, entry)
                    && hit.state != CopyState::Damaged
                    && hit.entry.end() <= hit.pack.covered_len()
            });
            let region = pack.usage().region_of(entry.start);
            if newer.is_some()
                && let Some(_claim) = pack.usage().claim(region, u32::MAX)
                && pack.mark(entry, CopyState::Removed)
            {
                removed.push(*entry);
            }
        }
        Ok(removed)
    }

    /// Deletes a sealed pack in which nothing lives; returns whether it did.
    ///
    /// The tombstones go last: without them the dead sections would look alive, or damaged.
    fn delete_if_dead(&self, id: PackId) -> Result<bool, StoreError> {
        let sealed = |pack: &Arc<Pack>| matches!(**pack, Pack::Sealed(_));
        let Some(pack) = self.pack_now(id).filter(sealed) else { return Ok(false) };
        if pack.usage().live() > 0 {
            return Ok(false);
        }
        self.edit_packs(|packs| packs.retain(|pack| pack.id() != id));
        self.forget_space(&pack);
        let disk = &*self.files.disk;
        self.files.forget(id);
        self.burying.lock().remove(&id);
        remove_if_there(disk, &self.files.index(id))?;
        remove_if_there(disk, &self.files.pack(id))?;
        sync_parent(disk, &self.files.pack(id))?;
        remove_if_there(disk, &self.files.tombs(id))?;
        Ok(true)
    }
}

/// Returns how many bytes of disk emptying a pack would give back, if that is worth its copying.
fn worth_emptying(pack: &Pack) -> Option<u64> {
    let Pack::Sealed(sealed) = pack else { return None };
    let (live, on_disk) = (sealed.usage.live(), sealed.usage.pack_bytes());
    let most = |of: u64| of - of / DEAD_SHARE_MIN;
    (live <= most(sealed.pack_len) && live <= most(on_disk)).then(|| on_disk - live)
}

fn by_pack(regions: &[(u32, PackId, usize)]) -> BTreeMap<PackId, Vec<usize>> {
    let mut packs = BTreeMap::<_, Vec<_>>::new();
    for (_, id, region) in regions {
        packs.entry(*id).or_default().push(*region);
    }
    packs
}
