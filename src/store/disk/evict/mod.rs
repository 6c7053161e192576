//! Making room: what was used longest ago goes first, and what is kept or in use never goes.
//!
//! The unit of age is a region of a pack. Its copies are declared removed in memory, while nobody
//! is in the region, and then on the disk ([`remove`]). That gives pages back inside payloads only,
//! so a pack of many small blocks, or of many dead ones, is emptied by moving what still lives in it
//! to the newest pack ([`DiskStore::empty_pack`]).

mod remove;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

pub(super) use self::remove::Burying;
use super::check::Copy;
use super::{CopyState, DiskStore, Hit, KeepSet};
use crate::store::StoreError;
use crate::store::extent::PackId;
use crate::store::pack::{Entry, Pack};

/// Bytes of regions that are evicted with one sync per pack, unless a single region has more: so few
/// that a batch is over in well under a second and at most this much is evicted in vain.
const BATCH_LEN_MAX: u64 = 64 * 1024 * 1024;
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

impl SpaceReport {
    fn add<'a>(&mut self, removed: impl IntoIterator<Item = &'a Entry>) {
        for entry in removed {
            self.blocks += 1;
            self.bytes += entry.block_len();
        }
    }
}

/// What an eviction is to reach.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// At most so many bytes of disk in use.
    DiskBytes(u64),
    /// Nothing left that is not kept or in use.
    Everything,
}

/// A region that may be evicted, and when it was used last; in the order of eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Aged {
    hour: u32,
    id: PackId,
    region: usize,
    /// Bytes that the region spans.
    len: u64,
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
                    report.bytes += entry.block_len();
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
        let done = self.evict_all(keep, goal, step, &mut report);
        self.reserve.keep(&self.space);
        done.map(|()| self.finish(goal, report))
    }

    fn evict_all(
        &self,
        keep: &KeepSet,
        goal: Goal,
        step: OnStep<'_>,
        report: &mut SpaceReport,
    ) -> Result<(), StoreError> {
        let regions = self.regions_by_age(keep, goal);
        let mut rest = &regions[..];
        while let Some((batch, later)) = self.next_batch(rest, goal) {
            rest = later;
            for (id, regions) in by_pack(batch) {
                match self.evict_regions(id, &regions, keep, report) {
                    // What other packs give back may make room for these tombstones.
                    Err(StoreError::Full { .. }) if matches!(goal, Goal::Everything) => {}
                    done => done?,
                }
            }
            if step(report).is_break() {
                return self.bury_rest(report);
            }
        }
        self.bury_rest(report)?;
        self.empty_packs(goal, report, step)
    }

    /// Splits off the regions that go next; `None` when that is enough or all of them are gone.
    fn next_batch<'r>(&self, rest: &'r [Aged], goal: Goal) -> Option<(&'r [Aged], &'r [Aged])> {
        let first = rest.first()?;
        let count = match goal {
            // A pack of which nothing is left needs no tombstones.
            Goal::Everything => rest.iter().take_while(|aged| aged.id == first.id).count(),
            Goal::DiskBytes(_) => {
                let missing = self.missing(goal, self.reclaimable()).min(BATCH_LEN_MAX);
                let mut len = 0;
                let is_wanted = |aged: &&Aged| {
                    let before = len;
                    len += aged.len;
                    before < missing && (before == 0 || len <= BATCH_LEN_MAX)
                };
                rest.iter().take_while(is_wanted).count()
            }
        };
        (count > 0).then(|| rest.split_at(count))
    }

    fn finish(&self, goal: Goal, mut report: SpaceReport) -> SpaceReport {
        let list = Arc::clone(&self.packs.read());
        list.packs.iter().filter(|pack| pack.is_open()).for_each(|pack| self.measure(pack));
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

    /// Returns the regions that may be evicted, those used longest ago first; of the same hour, and
    /// when all of them go, older packs first.
    fn regions_by_age(&self, keep: &KeepSet, goal: Goal) -> Vec<Aged> {
        let list = Arc::clone(&self.packs.read());
        let mut regions: Vec<_> = list
            .packs
            .iter()
            .flat_map(|pack| {
                let (id, len) = (pack.id(), pack.usage().region_len());
                let unused = pack.usage().unused_since(keep.limit);
                unused.map(move |(hour, region)| Aged { hour, id, region, len })
            })
            .collect();
        match goal {
            Goal::Everything => regions.sort_unstable_by_key(|aged| (aged.id, aged.region)),
            Goal::DiskBytes(_) => regions.sort_unstable(),
        }
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
        let Some(pack) = self.pack_now(id).filter(|pack| !self.is_held(pack)) else {
            return Ok(());
        };
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
        report.packs += u64::from(self.give_back(id, &removed)?);
        report.add(&removed);
        Ok(())
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
            self.move_group(id, group, report)?;
            rest = later;
            if step(report).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        report.packs += u64::from(self.delete_if_dead(id)?);
        Ok(ControlFlow::Continue(()))
    }

    /// Moves some copies, and counts those that were removed here: moved, or with a better copy
    /// elsewhere.
    fn move_group(
        &self,
        id: PackId,
        group: &[Entry],
        report: &mut SpaceReport,
    ) -> Result<(), StoreError> {
        let mut good = Vec::with_capacity(group.len());
        for entry in group {
            if let Copy::Good(block) = self.read_copy(id, entry)? {
                good.push((*entry, block));
            }
        }
        self.write_again(id, &good)?;
        self.group_commit()?;
        self.note_move();
        let moved: Vec<_> = good.into_iter().map(|(entry, _)| entry).collect();
        let removed = self.remove_shadowed(id, &moved)?;
        let deleted = self.give_back(id, &removed)?;
        report.packs += u64::from(deleted);
        report.moved += removed.len() as u64;
        Ok(())
    }

    /// Marks those copies as removed that have a good copy in a better place and are not in use.
    pub(super) fn remove_shadowed(
        &self,
        id: PackId,
        copies: &[Entry],
    ) -> Result<Vec<Entry>, StoreError> {
        let _writer = self.writer()?;
        let Some(pack) = self.pack_now(id) else { return Ok(Vec::new()) };
        let mut removed = Vec::new();
        // A tombstone must not point beyond what a power cut leaves.
        for entry in copies.iter().filter(|entry| entry.end() <= pack.covered_len()) {
            let better = self.find_own(&entry.key).filter(|hit| {
                !hit.is(id, entry)
                    && hit.state != CopyState::Damaged
                    && hit.entry.end() <= hit.pack.covered_len()
            });
            let region = pack.usage().region_of(entry.start);
            if better.is_some()
                && let Some(_claim) = pack.usage().claim(region, u32::MAX)
                && pack.mark(entry, CopyState::Removed)
            {
                removed.push(*entry);
            }
        }
        Ok(removed)
    }
}

/// Returns how many bytes of disk emptying a pack would give back, if that is worth its copying.
fn worth_emptying(pack: &Pack) -> Option<u64> {
    let (Pack::Sealed(sealed) | Pack::Assembled(sealed)) = pack else { return None };
    if sealed.usage.is_leased() {
        return None;
    }
    let (live, on_disk) = (sealed.usage.live(), sealed.usage.pack_bytes());
    let most = |of: u64| of - of / DEAD_SHARE_MIN;
    (live <= most(sealed.pack_len) && live <= most(on_disk)).then(|| on_disk - live)
}

fn by_pack(regions: &[Aged]) -> BTreeMap<PackId, Vec<usize>> {
    let mut packs = BTreeMap::<_, Vec<_>>::new();
    for aged in regions {
        packs.entry(aged.id).or_default().push(aged.region);
    }
    packs
}
