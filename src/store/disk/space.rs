//! How much disk the packs take, and the cap on it.
//!
//! What counts is what the file system says that packs and their sidecars take, holes not counted.
//! Appending adds to it at once, so that the cap is never passed; the file system is asked again
//! whenever something was sealed or given back.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::DiskStore;
use crate::store::StoreError;
use crate::store::pack::Pack;
use crate::store::pack::files::PackFiles;
use crate::store::pack::usage::Usage;
use crate::sys::volume::volume;

/// The cap is at least this many packs long: one pack's room is kept for moving blocks, and a cap
/// of few packs would give most of itself to that.
const PACKS_IN_CAP_MIN: u64 = 8;
/// Bytes of disk per block beside its content: the head in front of it and its index entry.
const OVERHEAD_PER_BLOCK: u64 = 96;
/// Eviction goes on until this share of the cap is free again, so that one search for what is kept
/// serves many evictions; more would throw away what could be used.
const FREE_SHARE: u64 = 16;
/// Room is asked for when less than this share of the cap is free: early enough that fetching need
/// not wait for it.
const LOW_SHARE: u64 = 32;

/// Bytes that are left free on the disk by what nobody waits for: others write to it too.
const DISK_SPARE: u64 = 256 * 1024 * 1024;

/// Bytes of disk in use, and how many there may be.
#[derive(Debug)]
pub(super) struct Space {
    used: AtomicU64,
    /// Puts are refused above this; `u64::MAX` when there is no cap.
    put_max: u64,
    /// The cap itself, for messages.
    cap: u64,
    wanted: watch::Sender<bool>,
}

impl Space {
    /// Returns the space of an empty store, and the length of packs that fits the cap.
    pub(super) fn new(cap: Option<u64>, pack_len_max: u64) -> (Self, u64) {
        let cap_len = cap.unwrap_or(u64::MAX);
        let pack_len = pack_len_max.min(cap_len / PACKS_IN_CAP_MIN);
        let put_max = if cap.is_some() { cap_len - pack_len } else { u64::MAX };
        let (used, wanted) = (AtomicU64::new(0), watch::Sender::new(false));
        (Self { used, put_max, cap: cap_len, wanted }, pack_len)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Returns what eviction brings the use down to.
    pub(super) fn target(&self) -> u64 {
        self.put_max - self.put_max / FREE_SHARE
    }

    /// Returns how much may be in use so that `more` bytes can be put; without a cap, so that the
    /// disk has `more` bytes more.
    pub(super) fn room_for(&self, more: u64) -> u64 {
        self.put_max.min(self.used()).saturating_sub(more)
    }

    /// Returns an error when `bytes` more in `blocks` blocks would pass the cap.
    pub(super) fn check(&self, bytes: u64, blocks: usize) -> Result<(), StoreError> {
        let more = bytes + blocks as u64 * OVERHEAD_PER_BLOCK;
        if self.used().saturating_add(more) > self.put_max {
            self.wanted.send_replace(true);
            return Err(StoreError::CapReached { max: self.cap });
        }
        Ok(())
    }

    /// Tells whether `bytes` more in `blocks` blocks would leave so much room, of the cap and of the
    /// `free` bytes of the disk, that nobody is asked to make some.
    fn has_spare(&self, bytes: u64, blocks: usize, free: u64) -> bool {
        let more = bytes.saturating_add(blocks as u64 * OVERHEAD_PER_BLOCK);
        let is_below_cap =
            self.used().saturating_add(more) <= self.put_max - self.put_max / LOW_SHARE;
        is_below_cap && more.saturating_add(DISK_SPARE) <= free
    }

    /// Returns an error when `bytes` cannot be put even into an empty store, so that nothing is evicted
    /// for them in vain.
    pub(super) fn check_alone(&self, bytes: u64) -> Result<(), StoreError> {
        if bytes > self.put_max {
            Err(StoreError::OverCap { bytes, max: self.cap })
        } else {
            Ok(())
        }
    }

    pub(super) fn change(&self, was: u64, is: u64) {
        self.used.fetch_add(is.wrapping_sub(was), Ordering::AcqRel);
        let wanted = self.used() > self.put_max - self.put_max / LOW_SHARE;
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }
}

impl DiskStore {
    /// Returns the bytes of disk that packs and their sidecars take.
    pub fn disk_bytes(&self) -> u64 {
        self.space.used()
    }

    /// Returns the cap on [`DiskStore::disk_bytes`], `None` when there is none.
    pub fn cache_max_bytes(&self) -> Option<u64> {
        self.options.cache_max_bytes
    }

    /// Returns a receiver that is told when the store is nearly at its cap (`true`), and when there
    /// is room again.
    pub fn subscribe_pressure(&self) -> watch::Receiver<bool> {
        self.space.wanted.subscribe()
    }

    /// Tells whether there is room for a copy of something that nobody waits for. A disk that does not
    /// say how much it has counts as having it.
    pub(super) fn has_room_to_spare(&self, bytes: u64, blocks: usize) -> bool {
        let free = volume(self.files.dir()).map_or(u64::MAX, |volume| {
            volume.available.saturating_mul(volume.fragment_bytes.into())
        });
        self.space.has_spare(bytes, blocks, free)
    }

    /// Notes that a pack grew.
    pub(super) fn grow(&self, usage: &Usage, bytes: u64) {
        usage.add_disk_bytes(bytes);
        self.space.change(0, bytes);
    }

    /// Asks the file system again what a pack takes; when it does not say, the count stays.
    pub(super) fn measure(&self, pack: &Arc<Pack>) {
        let Some((pack_bytes, all)) = measured(&self.files, pack) else { return };
        pack.usage().set_pack_bytes(pack_bytes);
        self.space.change(pack.usage().swap_disk_bytes(all), all);
    }

    /// Notes that a pack is gone.
    pub(super) fn forget_space(&self, pack: &Pack) {
        self.space.change(pack.usage().swap_disk_bytes(0), 0);
    }
}

/// Returns the bytes of disk of a pack, and of it with its sidecars.
fn measured(files: &PackFiles, pack: &Pack) -> Option<(u64, u64)> {
    let bytes = |path| match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        metadata => metadata.map(|metadata| metadata.blocks() * 512),
    };
    let file = pack.file();
    let sidecars = [files.index_of(&file), files.tombs(pack.id())];
    let own = bytes(files.path(&file)).ok()?;
    Some((own, own + sidecars.into_iter().filter_map(|path| bytes(path).ok()).sum::<u64>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_keeps_room_for_one_pack() {
        let (space, pack_len) = Space::new(Some(8000), 3000);
        assert_eq!((pack_len, space.put_max), (1000, 7000));
        space.check(7000 - 96, 1).unwrap();
        assert!(!*space.wanted.borrow());
        let refused = space.check(7000 - 95, 1).unwrap_err();
        assert!(matches!(refused, StoreError::CapReached { max: 8000 }), "{refused}");
        assert!(*space.wanted.borrow(), "who is refused asks for room");
        space.change(0, 6000);
        assert!(space.has_spare(7000 - 7000 / 32 - 6000 - 96, 1, u64::MAX));
        assert!(!space.has_spare(700, 1, u64::MAX));
        assert!(space.has_spare(300, 1, 396 + DISK_SPARE));
        assert!(!space.has_spare(300, 1, 395 + DISK_SPARE), "the disk is nearly full");
        space.change(0, 700);
        assert!(!*space.wanted.borrow());
        space.change(0, 200);
        assert!(*space.wanted.borrow());
        space.change(6900, 10);
        assert_eq!((space.used(), *space.wanted.borrow()), (10, false));
    }

    #[test]
    fn without_a_cap_everything_fits() {
        let (space, pack_len) = Space::new(None, 3000);
        assert_eq!(pack_len, 3000);
        space.change(0, u64::MAX / 2);
        space.check(u64::MAX / 4, 5).unwrap();
    }
}
