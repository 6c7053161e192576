//! Removing copies that are marked as removed in memory from the disk.
//!
//! Their tombstones are made durable, and only then their pages are given back; a sealed pack in which
//! nothing lives is deleted, and needs no tombstones. If tombstones fail, the copies stay removed in
//! this run: whether they come back at the next start is open, so nobody may rely on them. The pack
//! is remembered, and the next eviction writes what is missing ([`DiskStore::bury_rest`]).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::SpaceReport;
use crate::store::StoreError;
use crate::store::disk::{CopyState, DiskStore, assemble};
use crate::store::diskio::{remove_if_there, sync_parent};
use crate::store::extent::PackId;
use crate::store::key::BlockKey;
use crate::store::pack::files::PackFiles;
use crate::store::pack::tombs::{self, Tomb};
use crate::store::pack::{Entry, Pack};

/// Tombstones in one write, 384 KiB: a few writes of them fit into the reserve, and the pages that
/// each gives back make room for the next.
const TOMBS_MAX: usize = 8192;

/// What is known of the tombstones on the disk.
#[derive(Debug, Default)]
pub(in crate::store::disk) struct Burying {
    /// Packs whose tombstones this run has written without a failure since.
    trusted: HashSet<PackId>,
    /// Packs some of whose removed copies may have no tombstone, or still have their pages.
    unburied: BTreeSet<PackId>,
}

impl Burying {
    /// Takes the tombstones of copies in a pack back, durable when this returns. After an error it is
    /// open which are there.
    pub(in crate::store::disk) fn dig_up<'a>(
        &mut self,
        files: &PackFiles,
        id: PackId,
        copies: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), StoreError> {
        self.trusted.remove(&id);
        let tombs = copies.map(tomb).collect();
        tombs::take_back(&*files.disk, &files.tombs(id), &tombs).inspect_err(|_| {
            self.unburied.insert(id);
        })?;
        self.trusted.insert(id);
        Ok(())
    }
}

impl DiskStore {
    /// Removes every copy of a block.
    ///
    /// The active pack is made durable before, so that a tombstone never points beyond what a
    /// power cut leaves, where another section may come to lie. Readers of the block are waited
    /// for, and so is a file that is just being shown. After an error the block is not here in this run, and
    /// may be back in the next.
    pub(in crate::store::disk) fn bury(&self, key: &BlockKey) -> Result<bool, StoreError> {
        let _in_turn = self.removing.lock();
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

    /// Makes the removal of copies durable, which are marked already, and gives their pages back;
    /// returns whether that was the end of the pack.
    pub(in crate::store::disk) fn give_back(
        &self,
        id: PackId,
        removed: &[Entry],
    ) -> Result<bool, StoreError> {
        if self.delete_if_dead(id)? {
            return Ok(true);
        }
        if removed.is_empty() {
            return Ok(false);
        }
        for group in removed.chunks(TOMBS_MAX) {
            self.bury_group(id, group).inspect_err(|_| {
                self.burying.lock().unburied.insert(id);
            })?;
            match self.pack_now(id) {
                // Whoever holds it reads on, and the next eviction gives the pages back.
                Some(pack) if self.is_held(&pack) => {
                    self.burying.lock().unburied.insert(id);
                }
                Some(pack) => self.punch_all(&pack, group),
                None => {}
            }
        }
        if let Some(pack) = self.pack_now(id) {
            self.measure(&pack);
        }
        Ok(false)
    }

    /// Gives back what was marked as removed earlier and failed to get its tombstones.
    pub(super) fn bury_rest(&self, report: &mut SpaceReport) -> Result<(), StoreError> {
        let unburied = self.burying.lock().unburied.clone();
        for id in unburied {
            self.burying.lock().unburied.remove(&id);
            self.bury_rest_of(id, report).inspect_err(|_| {
                self.burying.lock().unburied.insert(id);
            })?;
        }
        Ok(())
    }

    fn bury_rest_of(&self, id: PackId, report: &mut SpaceReport) -> Result<(), StoreError> {
        let Some(pack) = self.pack_now(id) else { return Ok(()) };
        let removed = pack.removed();
        let buried = tombs::load(&self.files.tombs(id))?;
        let rest: Vec<_> = removed.iter().filter(|entry| !buried.contains(&tomb(entry))).collect();
        if rest.is_empty() && self.is_held(&pack) {
            self.burying.lock().unburied.insert(id);
            return Ok(());
        }
        report.packs += u64::from(self.give_back(id, &removed)?);
        report.add(rest);
        Ok(())
    }

    /// Writes tombstones, but for what was filled again since it was removed. On a full disk the reserve
    /// is given up for them.
    fn bury_group(&self, id: PackId, group: &[Entry]) -> Result<(), StoreError> {
        let mut burying = self.burying.lock();
        let Some(pack) = self.pack_now(id) else { return Ok(()) };
        let tombs: Vec<_> = group.iter().filter(|entry| !pack.holds(entry)).map(tomb).collect();
        if tombs.is_empty() {
            return Ok(());
        }
        let (disk, path) = (&*self.files.disk, self.files.tombs(id));
        let mut done = tombs::append(disk, &path, &tombs, burying.trusted.remove(&id));
        if matches!(done, Err(StoreError::Full { .. })) && self.reserve.release(&self.space) {
            done = tombs::append(disk, &path, &tombs, false);
        }
        done?;
        burying.trusted.insert(id);
        Ok(())
    }

    /// Gives up the room that is kept for removing on a full disk; returns whether there was any. What removes
    /// next keeps it again.
    pub(in crate::store) fn give_up_reserve(&self) -> bool {
        self.reserve.release(&self.space)
    }

    /// Gives the pages of removed copies back, but for what was filled again since.
    pub(in crate::store::disk) fn punch_all(&self, pack: &Pack, removed: &[Entry]) {
        let mut refused = None;
        for entry in removed {
            let _claim = pack.usage().clear(entry.start);
            if self.pack_now(pack.id()).is_some_and(|pack| !pack.holds(entry)) {
                refused = refused.or(self.files.punch(pack, entry).err());
            }
        }
        if let Some(error) = refused {
            tracing::warn!(%error, "the space of a removed block is not given back");
        }
    }

    /// Deletes a sealed pack or an assembled file in which nothing lives; returns whether it did.
    ///
    /// The tombstones go last: without them the dead sections would look alive, or damaged.
    pub(super) fn delete_if_dead(&self, id: PackId) -> Result<bool, StoreError> {
        let sealed = |pack: &Arc<Pack>| matches!(**pack, Pack::Sealed(_) | Pack::Assembled(_));
        // What fills a file again holds this too.
        let mut burying = self.burying.lock();
        let Some(pack) = self.pack_now(id).filter(sealed) else { return Ok(false) };
        if pack.usage().live() > 0 {
            return Ok(false);
        }
        burying.trusted.remove(&id);
        self.edit_packs(|packs| packs.retain(|pack| pack.id() != id));
        self.leaves().remove(&pack);
        self.forget_space(&pack);
        let disk = &*self.files.disk;
        self.files.forget(id);
        if matches!(*pack, Pack::Assembled(_)) {
            assemble::remove_files(&self.files, id)?;
        } else {
            remove_if_there(disk, &self.files.index(id))?;
            remove_if_there(disk, &self.files.pack(id))?;
        }
        sync_parent(disk, &self.files.pack(id))?;
        remove_if_there(disk, &self.files.tombs(id))?;
        Ok(true)
    }
}

fn tomb(entry: &Entry) -> Tomb {
    Tomb { key: entry.key, start: entry.start }
}
