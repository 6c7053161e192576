//! Mutable metadata that may be lost at any time: when each pack was last verified whole.
//!
//! It lies in sled, which does not sync, so nothing here may ever be needed for correctness. The
//! generation of the last clean stop is stored inside; if it is not the journal's, the table is
//! stale and is thrown away. Hours are all the precision there is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::diskio::set_aside;
use super::extent::PackId;

/// Memory that sled may use for its cache, in bytes: a few bytes per pack fit a hundred times.
const CACHE_LEN: u64 = 16 * 1024 * 1024;
/// How often sled writes its log, in milliseconds; what is lost in between does not matter.
const FLUSH_EVERY_MS: u64 = 5000;

const GENERATION_KEY: &[u8] = b"generation";
const VERIFIED_PREFIX: &[u8] = b"verified/";

/// A table of small things that can be learnt again.
#[derive(Debug)]
pub struct Meta {
    path: PathBuf,
    table: sled::Db,
}

impl Meta {
    /// Opens the table; one that is stale, or that `keep` says not to trust, starts empty, and one
    /// that sled cannot open is set aside.
    pub(super) fn open(path: &Path, keep: bool, generation: u64) -> Result<Self, StoreError> {
        if keep {
            match Self::open_table(path) {
                Ok(meta) if meta.generation()? == generation => return Ok(meta),
                Ok(stale) => drop(stale),
                Err(error) => {
                    let aside = set_aside(path)?;
                    tracing::warn!(%error, aside = %aside.display(), "metadata cannot be opened: it starts empty");
                }
            }
        }
        Self::throw_away(path)?;
        let meta = Self::open_table(path)?;
        meta.set(GENERATION_KEY, generation)?;
        Ok(meta)
    }

    /// Removes the table from the disk.
    pub(super) fn throw_away(path: &Path) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io(path, error))
            }
            _ => Ok(()),
        }
    }

    /// Notes the clean stop that the journal is about to stamp.
    pub(super) fn close(&self, generation: u64) -> Result<(), StoreError> {
        self.set(GENERATION_KEY, generation)?;
        self.table.flush().map(drop).map_err(|error| sled_error(&self.path, error))
    }

    /// Returns when a pack was last verified whole, in hours since 1970; `None` if never.
    pub(super) fn verified_hour(&self, pack: PackId) -> Result<Option<u64>, StoreError> {
        self.get(&verified_key(pack))
    }

    /// Notes that a pack was verified whole.
    pub(super) fn set_verified_hour(&self, pack: PackId, hour: u64) -> Result<(), StoreError> {
        self.set(&verified_key(pack), hour)
    }

    fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.get(GENERATION_KEY)?.unwrap_or(u64::MAX))
    }

    /// sled 0.34 panics on some damage, so opening is fenced.
    fn open_table(path: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_LEN)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let table = catch_unwind(AssertUnwindSafe(|| config.open()))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("it panicked at opening".into())))
            .map_err(|error| sled_error(path, error))?;
        Ok(Self { path: path.to_owned(), table })
    }

    fn get(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let value = self.table.get(key).map_err(|error| sled_error(&self.path, error))?;
        Ok(value.and_then(|value| Some(u64::from_le_bytes(*value.first_chunk()?))))
    }

    fn set(&self, key: &[u8], value: u64) -> Result<(), StoreError> {
        let old = self.table.insert(key, &value.to_le_bytes());
        old.map(drop).map_err(|error| sled_error(&self.path, error))
    }
}

fn verified_key(pack: PackId) -> Vec<u8> {
    [VERIFIED_PREFIX, &pack.0.to_be_bytes()[..]].concat()
}

fn sled_error(path: &Path, error: sled::Error) -> StoreError {
    StoreError::Meta { path: path.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(3);

    fn marked(path: &Path) {
        let meta = Meta::open(path, false, 4).unwrap();
        meta.set_verified_hour(PACK, 77).unwrap();
        meta.close(5).unwrap();
    }

    #[test]
    fn it_is_kept_only_if_its_generation_is_the_journals() {
        for (keep, generation, kept) in [(true, 5, Some(77)), (true, 6, None), (false, 5, None)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("meta");
            marked(&path);
            let meta = Meta::open(&path, keep, generation).unwrap();
            assert_eq!(meta.verified_hour(PACK).unwrap(), kept, "{keep} {generation}");
        }
    }

    #[test]
    fn what_cannot_be_opened_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        marked(&path);
        std::fs::remove_file(path.join("db")).unwrap();
        std::fs::create_dir(path.join("db")).unwrap();
        let meta = Meta::open(&path, true, 5).unwrap();
        assert_eq!(meta.verified_hour(PACK).unwrap(), None);
        assert!(dir.path().join("meta.broken-1").is_dir());
    }
}
