//! Blocks that went with a whole file, at this start or an earlier one.
//!
//! The index that is set aside then says what was in it. Its blocks that are nowhere else count as
//! damaged until they are put again, or until somebody who does not miss them deletes that index. A file
//! that is set aside because nothing says any more what is in it is named as a whole. What vanished
//! together with its index left no trace; of that, who has pinned it is told by `pin verify`.

use std::collections::HashSet;
use std::path::Path;

use super::DiskStore;
use super::check::{Damage, VerifyReport};
use crate::store::StoreError;
use crate::store::extent::PackId;
use crate::store::key::BlockKey;
use crate::store::pack::index::{IndexError, SealedPack};
use crate::store::pack::tombs::{self, Tomb};

impl DiskStore {
    /// Adds what was lost with whole files to `report`.
    pub(in crate::store) fn verify_lost(
        &self,
        report: &mut VerifyReport,
    ) -> Result<(), StoreError> {
        let names = self.files.names()?;
        let mut seen = HashSet::new();
        for (index, file) in [("idx", "car"), ("leaves", "file")] {
            // One that is no good was made anew from its pack, or its file is set aside too.
            let is_there = |id: &PackId| {
                let mut aside = self.files.set_aside(&names, file);
                names.ids(file).contains(id) || aside.any(|(other, _)| other == *id)
            };
            for (id, path) in self.files.set_aside(&names, index) {
                let is_good = self.verify_set_aside(id, &path, &mut seen, report)?;
                if !is_good && !is_there(&id) {
                    report.add(named(&path, "is damaged, and the file that it tells of is gone"));
                }
            }
        }
        for (_, path) in self.files.set_aside(&names, "file") {
            report.add(named(&path, "has lost the sidecar that says what is in it"));
        }
        for (_, path) in self.files.set_aside(&names, "ref") {
            report.add(named(&path, "is the damaged record of a foreign pack"));
        }
        Ok(())
    }

    /// Adds the blocks of an index that are nowhere and were not removed; returns whether it is any good.
    fn verify_set_aside(
        &self,
        id: PackId,
        path: &Path,
        seen: &mut HashSet<BlockKey>,
        report: &mut VerifyReport,
    ) -> Result<bool, StoreError> {
        let index = match SealedPack::open(path, id) {
            Ok(index) => index,
            Err(IndexError::Damaged(_)) => return Ok(false),
            // Somebody has just deleted it.
            Err(IndexError::Missing) => return Ok(true),
            Err(IndexError::Store(error)) => return Err(error),
        };
        let removed = tombs::load(&self.files.tombs(id))?;
        for (entry, _) in index.entries() {
            let is_removed = removed.contains(&Tomb { key: entry.key, start: entry.start });
            if !is_removed && self.find(&entry.key).is_none() && seen.insert(entry.key) {
                let cid = entry.key.leaf_cid(entry.framing);
                report
                    .add(Damage { cid, ..named(path, "tells of a file that is gone or was cut") });
            }
        }
        Ok(true)
    }
}

fn named(path: &Path, why: &str) -> Damage {
    Damage { cid: None, place: format!("{}, which {why}", path.display()) }
}
