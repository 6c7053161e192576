//! Giving up damaged copies of blocks that lie whole in another place: a block that was healed needs
//! them no more, and they would be damage for ever.

use super::check::{Copy, Damage, VerifyReport};
use super::{CopyState, DiskStore};
use crate::store::StoreError;
use crate::store::extent::PackId;
use crate::store::key::BlockKey;
use crate::store::pack::{Entry, Pack};

/// Damaged copies that are given up with one sync.
pub(super) const RETIRED_AT_ONCE: usize = 1024;

impl DiskStore {
    /// Gives up those damaged copies of a pack that are whole elsewhere, and adds the others to `report`.
    /// What is somebody else's stays as it is, and is named.
    pub(super) fn sort_out(
        &self,
        pack: &Pack,
        damaged: &mut Vec<(Entry, Damage)>,
        report: &mut VerifyReport,
    ) -> Result<(), StoreError> {
        let mut healed = Vec::new();
        for (entry, damage) in damaged.drain(..) {
            if pack.source().is_none() && self.is_whole_elsewhere(&entry.key)? {
                healed.push(entry);
            } else {
                report.add(damage);
            }
        }
        // Nobody needs the room at once, and the next verification comes upon them again.
        if let Err(error) = self.retire(pack.id(), &healed) {
            tracing::warn!(%error, "damaged copies of blocks that are whole elsewhere stay");
        }
        Ok(())
    }

    /// Hashes copies of a block in our own packs until one is good; tells whether one is.
    fn is_whole_elsewhere(&self, key: &BlockKey) -> Result<bool, StoreError> {
        // Ends: each turn but the last finds a copy removed or damaged.
        while let Some(hit) = self.find_own(key).filter(|hit| hit.state != CopyState::Damaged) {
            if let Copy::Good(_) = self.read_copy(hit.pack.id(), &hit.entry)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn retire(&self, id: PackId, copies: &[Entry]) -> Result<(), StoreError> {
        if copies.is_empty() {
            return Ok(());
        }
        self.note_move();
        let removed = self.remove_shadowed(id, copies)?;
        tracing::info!(%id, copies = removed.len(), "damaged copies of healed blocks are given up");
        self.give_back(id, &removed).map(drop)
    }
}
