//! Group commit: whoever comes first syncs for all who have put before; the others wait for it.
//!
//! `commit` is about the store, not about its caller: it succeeds only when *everything* put
//! before it is durable. So blocks that the disk failed to keep are remembered by key, and every
//! commit fails until they were put again (or the store was opened anew); otherwise two importers
//! could each take the other's success for their own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::DiskStore;
use crate::store::StoreError;
use crate::store::error::AtPath as _;
use crate::store::key::BlockKey;

/// What is known about durability.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Puts up to this number are durable.
    durable: u64,
    /// A thread is syncing.
    leading: bool,
    /// Blocks that were put, are not durable and were forgotten; at most what packs held when
    /// their sync failed.
    lost: HashSet<BlockKey>,
    lost_from: PathBuf,
}

impl Commits {
    /// Notes blocks that a failed sync took.
    pub(super) fn lose(&mut self, pack: &Path, keys: Vec<BlockKey>) {
        pack.clone_into(&mut self.lost_from);
        self.lost.extend(keys);
    }

    /// Notes blocks that were put again.
    pub(super) fn found_again<'a>(&mut self, keys: impl Iterator<Item = &'a BlockKey>) {
        if !self.lost.is_empty() {
            for key in keys {
                self.lost.remove(key);
            }
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.lost.len() {
            0 => Ok(()),
            count => Err(StoreError::NotDurable { path: self.lost_from.clone(), count }),
        }
    }
}

impl DiskStore {
    /// Waits until everything put before this call is durable.
    pub(super) fn group_commit(&self) -> Result<(), StoreError> {
        let target = self.written.load(Ordering::Acquire);
        let mut commits = self.commits.lock();
        loop {
            commits.check()?;
            if commits.durable >= target {
                return Ok(());
            }
            if commits.leading {
                self.committed.wait(&mut commits);
                continue;
            }
            commits.leading = true;
            drop(commits);
            let synced = self.sync_all();
            commits = self.commits.lock();
            commits.leading = false;
            self.committed.notify_all();
            commits.durable = commits.durable.max(synced?);
        }
    }

    /// Syncs the active pack, the only one that may not be durable, without holding up its writer;
    /// returns the number of puts covered.
    fn sync_all(&self) -> Result<u64, StoreError> {
        let (puts, active) = self.snapshot();
        if let Some(active) = active {
            // Where nobody will look for it, it is as good as lost.
            self.files.disk.check_place().at(self.files.dir())?;
            self.sync(&active).inspect_err(|_| self.give_up_active(&Arc::clone(&active.pack)))?;
        }
        Ok(puts)
    }
}
