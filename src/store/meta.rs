//! Mutable metadata that may be lost at any time: when each pack was last verified whole.
//!
//! It lies in sled, which does not sync, so nothing here may ever be needed for correctness. The
//! generation of the last clean stop is stored inside; if it is not the journal's, the table is
//! stale and is thrown away. Hours are all the precision there is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::StoreError;
use super::diskio::{RealDisk, set_aside};
use super::extent::PackId;

/// Memory that sled may use for its cache, in bytes: a few bytes per pack fit a hundred times.
const CACHE_LEN: u64 = 16 * 1024 * 1024;
/// How often sled writes its log, in milliseconds; what is lost in between does not matter.
const FLUSH_EVERY_MS: u64 = 5000;

const GENERATION_KEY: &[u8] = b"generation";
const VERIFIED_PREFIX: &[u8] = b"verified/";

/// A table of small things that can be learnt again.
///
/// Nothing here fails: what cannot be read or written is logged, and is as if it was never known.
#[derive(Debug)]
pub(super) struct Meta {
    /// `None` when the disk has no room for a table.
    table: Option<sled::Db>,
}

impl Meta {
    /// Opens the table; one that is stale, or that `keep` says not to trust, starts empty, and one
    /// that sled cannot open is set aside.
    pub(super) fn open(path: &Path, keep: bool, generation: u64) -> Result<Self, StoreError> {
        if keep {
            match open_table(path) {
                Ok(table) => {
                    let meta = Self { table: Some(table) };
                    if meta.get(GENERATION_KEY) == Some(generation) {
                        return Ok(meta);
                    }
                }
                Err(error) => {
                    let aside = set_aside(&RealDisk, path)?;
                    tracing::warn!(%error, aside = %aside.display(),
                        "metadata cannot be opened: it starts empty");
                }
            }
        }
        Self::throw_away(path)?;
        let table = open_table(path).inspect_err(|error| {
            tracing::warn!(%error, "metadata is not kept in this run");
        });
        let meta = Self { table: table.ok() };
        meta.set(GENERATION_KEY, generation);
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
    pub(super) fn close(&self, generation: u64) {
        self.set(GENERATION_KEY, generation);
        if let Some(Err(error)) = self.table.as_ref().map(|table| table.flush()) {
            log(&error);
        }
    }

    /// Returns when a pack was last verified whole, in hours since 1970; `None` if never.
    pub(super) fn verified_hour(&self, pack: PackId) -> Option<u64> {
        self.get(&verified_key(pack))
    }

    /// Notes that a pack was verified whole.
    pub(super) fn set_verified_hour(&self, pack: PackId, hour: u64) {
        self.set(&verified_key(pack), hour);
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        let value = self.table.as_ref()?.get(key).inspect_err(log).ok()??;
        Some(u64::from_le_bytes(*value.first_chunk()?))
    }

    fn set(&self, key: &[u8], value: u64) {
        if let Some(Err(error)) =
            self.table.as_ref().map(|table| table.insert(key, &value.to_le_bytes()))
        {
            log(&error);
        }
    }
}

/// sled 0.34 panics on some damage, so opening is fenced.
fn open_table(path: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_LEN)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    catch_unwind(AssertUnwindSafe(|| config.open()))
        .unwrap_or_else(|_| Err(sled::Error::ReportableBug("it panicked at opening".into())))
}

fn log(error: &sled::Error) {
    tracing::warn!(%error, "metadata is not kept");
}

fn verified_key(pack: PackId) -> Vec<u8> {
    [VERIFIED_PREFIX, &pack.0.to_be_bytes()[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(3);

    fn marked(path: &Path) {
        let meta = Meta::open(path, false, 4).unwrap();
        meta.set_verified_hour(PACK, 77);
        meta.close(5);
    }

    #[test]
    fn it_is_kept_only_if_its_generation_is_the_journals() {
        for (keep, generation, kept) in [(true, 5, Some(77)), (true, 6, None), (false, 5, None)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("meta");
            marked(&path);
            let meta = Meta::open(&path, keep, generation).unwrap();
            assert_eq!(meta.verified_hour(PACK), kept, "{keep} {generation}");
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
        assert_eq!(meta.verified_hour(PACK), None);
        assert!(dir.path().join("meta.broken-1").is_dir());
    }

    #[test]
    fn without_a_table_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let meta = Meta { table: open_table(&dir.path().join("file/meta")).ok() };
        assert!(meta.table.is_none());
        meta.set_verified_hour(PACK, 1);
        assert_eq!(meta.verified_hour(PACK), None);
    }
}
