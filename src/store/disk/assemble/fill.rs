//! Filling an assembled file of which some leaves went: evicted, removed or damaged, and put again since.
//!
//! Their bytes are written to their old places and made durable, then their tombstones are taken back,
//! and only then their copies in packs are given back. Until its tombstone is gone a leaf counts as
//! removed, so a crash at any moment leaves it in its pack, in the file or in both.

use std::collections::HashSet;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::gather::{BYTES_PER_S, Gathered, NO_ROOM, OTHER_LEAF, is_want_of_room};
use super::{CopyState, content_of};
use crate::block::Cid;
use crate::store::StoreError;
use crate::store::disk::{DiskStore, FileRange};
use crate::store::diskio::write_all;
use crate::store::error::AtPath as _;
use crate::store::key::BlockKey;
use crate::store::pace::Pace;
use crate::store::pack::index::SealedPack;
use crate::store::pack::{Entry, Pack};

/// A leaf of an assembled file that is not in it any more.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) entry: Entry,
    pub(super) cid: Cid,
}

/// Returns the place that a file has for a leaf, if it is where the leaf lies first, whatever became of what
/// was there.
pub(super) fn place_of(
    file: &Pack,
    key: &BlockKey,
    leaf: &FileRange,
) -> Option<(Entry, CopyState)> {
    let fits = |entry: &Entry| {
        (entry.start, entry.head_len, entry.len) == (leaf.offset, 0, leaf.len)
            && entry.framing.fits(&leaf.cid)
    };
    file.find(key).filter(|(entry, _)| fits(entry))
}

impl DiskStore {
    /// Puts leaves that lie in packs back into their file.
    pub(super) fn fill(
        &self,
        file: &Pack,
        gaps: &[Gap],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Gathered, StoreError> {
        let entries: Vec<_> = gaps.iter().map(|gap| gap.entry).collect();
        let filled = self.write_gaps(file, gaps, go_on).and_then(|done| match done {
            Gathered::Done => self.show_filled(file, &entries),
            refused => Ok(refused),
        });
        match self.pack_now(file.id()) {
            Some(file) if matches!(filled, Ok(Gathered::Done)) => {
                // Who had removed one may have given its pages back after they were written; nobody
                // does from now on.
                for entry in &entries {
                    self.read_copy(file.id(), entry)?;
                }
                self.measure(&file);
                self.free_packed(&file, &entries)?;
            }
            Some(file) => {
                self.punch_all(&file, &entries);
                self.measure(&file);
            }
            None => {}
        }
        filled
    }

    /// Writes leaves to their places, durable when this returns.
    fn write_gaps(
        &self,
        file: &Pack,
        gaps: &[Gap],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Gathered, StoreError> {
        let (open, path) = (self.files.file_of(file)?, self.files.path(&file.file()));
        let (disk, pace, mut written) = (&*self.files.disk, Pace::new(BYTES_PER_S), 0);
        for Gap { entry, cid } in gaps {
            if pace.wait(written, go_on).is_break() {
                return Ok(Gathered::Stopped);
            }
            let Some(block) = self.read_packed(cid)? else { return Ok(Gathered::Missing) };
            let content = content_of(&block, &entry.key, entry.len.into());
            let Some((_, content)) = content.filter(|(framing, _)| *framing == entry.framing)
            else {
                return Ok(Gathered::Declined(OTHER_LEAF));
            };
            if !self.has_room_to_spare(entry.len.into(), 1) {
                return Ok(Gathered::Declined(NO_ROOM));
            }
            match write_all(disk, &open, &mut [IoSlice::new(&content)], entry.start).at(&path) {
                Err(error) if is_want_of_room(&error) => return Ok(Gathered::Declined(NO_ROOM)),
                done => done?,
            }
            self.grow(file.usage(), entry.len.into());
            written += u64::from(entry.len);
        }
        disk.sync(&open).at(&path)?;
        Ok(Gathered::Done)
    }

    /// Lets readers see what was filled, if it is still here: not before its tombstones are gone, and so
    /// that nobody writes new ones meanwhile.
    fn show_filled(&self, file: &Pack, filled: &[Entry]) -> Result<Gathered, StoreError> {
        let _removing = self.removing.lock();
        if !filled.iter().all(|entry| self.is_here(&entry.key)) {
            return Ok(Gathered::Missing);
        }
        let _writer = self.writer()?;
        let mut burying = self.burying.lock();
        let Some(file) = self.pack_now(file.id()) else { return Ok(Gathered::Missing) };
        let Pack::Assembled(before) = &*file else { return Ok(Gathered::Missing) };
        let path = self.files.leaves(before.id);
        let after =
            SealedPack::open_leaves(&path, before.id).map_err(|error| error.at_path(&path))?;
        let after = after.with_usage(Arc::clone(&before.usage));
        burying.dig_up(&self.files, before.id, filled.iter())?;
        let (now, keys) = (self.now(), filled.iter().map(|entry| entry.key));
        let keys: HashSet<_> = keys.collect();
        for (entry, state) in before.entries() {
            if !keys.contains(&entry.key) {
                after.inherit(&entry, state);
                continue;
            }
            drop(after.usage.enter(entry.start, now));
            // A damaged one counted all the time.
            if state == CopyState::Removed {
                after.usage.add_live(entry.section_len());
            }
        }
        let after = Arc::new(Pack::Assembled(after));
        self.leaves().add(std::slice::from_ref(&after));
        self.edit_packs(|packs| {
            if let Some(pack) = packs.iter_mut().find(|pack| pack.id() == after.id()) {
                *pack = Arc::clone(&after);
            }
        });
        Ok(Gathered::Done)
    }
}
