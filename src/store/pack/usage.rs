//! How a pack is used: when each part of it was read last, what of it is in use now, what it costs.
//!
//! Times are kept per region, of one mebibyte in a pack, and to the hour, because eviction needs an order and
//! not a history; a read writes nothing but these few words of memory. A region is locked for
//! reading while bytes of it are read, and for writing while copies in it are declared removed: so
//! whoever is in a region sees each copy either whole or gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Fewest bytes of a region: a pack has 256 of them, so that a terabyte of packs costs 24 MB of memory,
/// and one hot block keeps at most a mebibyte of cold ones.
const REGION_LEN_MIN: u64 = 1024 * 1024;

/// Most regions of a pack, four times what the longest has: an assembled file may have any length, and
/// has longer regions then.
const REGIONS_MAX: u64 = 1024;

/// Proof that a region is in use; eviction passes it by.
pub(in crate::store) type InUse<'a> = RwLockReadGuard<'a, ()>;

/// The moment of a use: hours since 1970, and the store's own count of events that matter for
/// eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Moment {
    pub(in crate::store) hour: u32,
    pub(in crate::store) epoch: u32,
}

/// What is known about the use of one pack.
#[derive(Debug)]
pub(in crate::store) struct Usage {
    /// Bytes of a region, a power of two.
    region_len: u64,
    regions: Box<[Region]>,
    /// Leases of the whole file.
    leases: AtomicU32,
    /// Times changed since they were last taken for keeping.
    changed: AtomicBool,
    /// Bytes of sections that are not removed.
    live: AtomicU64,
    /// Bytes of disk of the pack's file.
    pack_bytes: AtomicU64,
    /// Bytes of disk of the pack's file and its sidecars.
    disk_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Region {
    in_use: RwLock<()>,
    hour: AtomicU32,
    epoch: AtomicU32,
}

impl Usage {
    /// Returns the usage of a pack that grows to about `len` bytes; what lies beyond counts to the
    /// last region.
    pub(in crate::store) fn new(len: u64) -> Self {
        let region_len = len.div_ceil(REGIONS_MAX).next_power_of_two().max(REGION_LEN_MIN);
        let count = (len / region_len + 1).min(REGIONS_MAX);
        Self {
            region_len,
            regions: (0..count).map(|_| Region::default()).collect(),
            leases: AtomicU32::new(0),
            changed: AtomicBool::new(false),
            live: AtomicU64::new(0),
            pack_bytes: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
        }
    }

    /// Returns the length of a region in bytes.
    pub(in crate::store) fn region_len(&self) -> u64 {
        self.region_len
    }

    /// Returns the number of the region of a section.
    pub(in crate::store) fn region_of(&self, start: u64) -> usize {
        usize::try_from(start / self.region_len).unwrap_or(usize::MAX).min(self.regions.len() - 1)
    }

    /// Holds the region of a section for reading, and notes the use.
    pub(in crate::store) fn enter(&self, start: u64, now: Moment) -> InUse<'_> {
        let region = &self.regions[self.region_of(start)];
        let in_use = region.in_use.read();
        if region.epoch.load(Ordering::Acquire) < now.epoch {
            region.epoch.fetch_max(now.epoch, Ordering::AcqRel);
        }
        if region.hour.load(Ordering::Relaxed) < now.hour {
            region.hour.fetch_max(now.hour, Ordering::Relaxed);
            self.changed.store(true, Ordering::Relaxed);
        }
        in_use
    }

    /// Holds the region of a section for reading without counting as a use.
    pub(in crate::store) fn visit(&self, start: u64) -> InUse<'_> {
        self.regions[self.region_of(start)].in_use.read()
    }

    /// Tells whether somebody reads the file without entering its regions.
    pub(in crate::store) fn is_leased(&self) -> bool {
        self.leases.load(Ordering::SeqCst) > 0
    }

    /// Holds a region against all readers, if nobody is in it or leases the file, and nobody used it
    /// at or after the epoch `limit`.
    pub(in crate::store) fn claim(
        &self,
        region: usize,
        limit: u32,
    ) -> Option<RwLockWriteGuard<'_, ()>> {
        let region = &self.regions[region];
        let claim = region.in_use.try_write().filter(|_| !self.is_leased())?;
        (region.epoch.load(Ordering::Acquire) < limit).then_some(claim)
    }

    /// Holds the region of a section against all readers, after those in it have left.
    pub(in crate::store) fn clear(&self, start: u64) -> RwLockWriteGuard<'_, ()> {
        self.regions[self.region_of(start)].in_use.write()
    }

    /// Returns the regions that nobody used at or after the epoch `limit`, with their last hours.
    pub(in crate::store) fn unused_since(&self, limit: u32) -> impl Iterator<Item = (u32, usize)> {
        let regions = self.regions.iter().enumerate();
        regions
            .filter(move |(_, region)| region.epoch.load(Ordering::Acquire) < limit)
            .map(|(at, region)| (region.hour.load(Ordering::Relaxed), at))
    }

    /// Returns the hour of each region's last use, if one changed since the last call.
    pub(in crate::store) fn take_hours(&self) -> Option<Vec<u32>> {
        let hours = || self.regions.iter().map(|region| region.hour.load(Ordering::Relaxed));
        self.changed.swap(false, Ordering::Relaxed).then(|| hours().collect())
    }

    /// Takes over what an earlier run knew.
    pub(in crate::store) fn set_hours(&self, hours: &[u32]) {
        for (region, hour) in self.regions.iter().zip(hours) {
            region.hour.fetch_max(*hour, Ordering::Relaxed);
        }
    }

    pub(in crate::store) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::store) fn sub_live(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(in crate::store) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    pub(in crate::store) fn pack_bytes(&self) -> u64 {
        self.pack_bytes.load(Ordering::Relaxed)
    }

    pub(in crate::store) fn set_pack_bytes(&self, bytes: u64) {
        self.pack_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Replaces the bytes of disk of pack and sidecars and returns what they were.
    pub(in crate::store) fn swap_disk_bytes(&self, bytes: u64) -> u64 {
        self.disk_bytes.swap(bytes, Ordering::AcqRel)
    }

    pub(in crate::store) fn add_disk_bytes(&self, bytes: u64) {
        self.pack_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.disk_bytes.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// The use of a whole file by someone who enters no region: nothing of it is declared removed by
/// eviction, nor given back, as long as this lives.
#[derive(Debug)]
pub(in crate::store) struct Lease(Arc<Usage>);

impl Lease {
    /// Waits for those who are declaring something removed; what they did is to be seen from now on.
    pub(in crate::store) fn new(usage: Arc<Usage>) -> Self {
        usage.leases.fetch_add(1, Ordering::SeqCst);
        for region in &usage.regions {
            drop(region.in_use.read());
        }
        Self(usage)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = REGION_LEN_MIN;

    fn at(hour: u32, epoch: u32) -> Moment {
        Moment { hour, epoch }
    }

    #[test]
    fn a_claimed_length_costs_no_memory() {
        let usage = Usage::new(u64::MAX);
        assert_eq!(usage.regions.len() as u64, REGIONS_MAX);
        assert_eq!(usage.region_of(u64::MAX) as u64, REGIONS_MAX - 1);
    }

    #[test]
    fn a_region_is_a_small_part_of_a_long_file() {
        for (len, region_len) in [
            (0, MIB),
            (256 * MIB, MIB),
            (1024 * MIB, MIB),
            (1024 * MIB + 1, 2 * MIB),
            (1400 * MIB, 2 * MIB),
            (65_536 * MIB, 64 * MIB),
        ] {
            let usage = Usage::new(len);
            assert_eq!(usage.region_len(), region_len, "{len}");
            let last = usage.region_of(len.saturating_sub(1)) as u64;
            assert_eq!(last, len.saturating_sub(1) / region_len, "the last is as long as others");
        }
    }

    #[test]
    fn a_region_in_use_or_used_since_is_not_claimed() {
        let usage = Usage::new(4 * MIB);
        let reader = usage.enter(MIB + 5, at(1, 3));
        assert!(usage.claim(1, 9).is_none(), "in use");
        drop(reader);
        assert!(usage.claim(1, 3).is_none(), "used since");
        assert!(usage.claim(1, 4).is_some());
        drop(usage.visit(MIB));
        assert!(usage.claim(1, 4).is_some(), "a visit is no use");
        drop(usage.enter(99 * MIB, at(1, 7)));
        assert!(usage.claim(4, 7).is_none(), "what lies beyond is in the last region");
    }

    #[test]
    fn nothing_is_claimed_of_a_leased_file() {
        let usage = Arc::new(Usage::new(4 * MIB));
        let (first, second) = (Lease::new(Arc::clone(&usage)), Lease::new(Arc::clone(&usage)));
        assert!(usage.claim(1, 9).is_none());
        drop(first);
        assert!(usage.is_leased() && usage.claim(1, 9).is_none());
        drop(second);
        assert!(!usage.is_leased() && usage.claim(1, 9).is_some());
    }

    #[test]
    fn hours_are_taken_once_and_never_go_back() {
        let usage = Usage::new(2 * MIB);
        assert_eq!(usage.take_hours(), None);
        drop(usage.enter(MIB, at(50, 1)));
        assert_eq!(usage.take_hours(), Some(vec![0, 50, 0]));
        drop(usage.enter(MIB, at(49, 2)));
        assert_eq!(usage.take_hours(), None, "nothing new");
        usage.set_hours(&[7, 8, 9, 10]);
        assert_eq!(usage.unused_since(2).collect::<Vec<_>>(), [(7, 0), (9, 2)]);
    }
}
