//! Mutable metadata that may be lost at any time: when each pack was last verified whole, and when
//! each region of it was last used.
//!
//! It lies in sled, which does not sync, so nothing here may ever be needed for correctness. The
//! generation of the last clean stop is stored inside; if it is not the journal's, the table is
//! stale and is thrown away. Hours are all the precision there is.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::StoreError;
use super::diskio::{RealDisk, set_aside};
use super::error::is_full;
use super::extent::PackId;

/// Memory that sled may use for its cache, in bytes: a few bytes per pack fit a hundred times.
const CACHE_LEN: u64 = 16 * 1024 * 1024;
/// How often sled writes its log, in milliseconds; what is lost in between does not matter.
const FLUSH_EVERY_MS: u64 = 5000;
/// How long a table may be locked by who is about to leave it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const LOCK_TRY_EVERY: Duration = Duration::from_millis(10);

const GENERATION_KEY: &[u8] = b"generation";
const VERIFIED_PREFIX: &[u8] = b"verified/";
const USED_PREFIX: &[u8] = b"used/";

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
                // On a full disk there may be none, and none can be made.
                Err(_) if std::fs::symlink_metadata(path).is_err() => {}
                Err(sled::Error::Io(error)) if is_full(&error) => {}
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
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
        self.get(&key(VERIFIED_PREFIX, pack))
    }

    /// Notes that a pack was verified whole.
    pub(super) fn set_verified_hour(&self, pack: PackId, hour: u64) {
        self.set(&key(VERIFIED_PREFIX, pack), hour);
    }

    /// Returns when each region of a pack was last used, in hours since 1970; none if not known.
    pub(super) fn used_hours(&self, pack: PackId) -> Vec<u32> {
        let value = self.read(&key(USED_PREFIX, pack)).unwrap_or_default();
        value.as_chunks().0.iter().map(|hour| u32::from_le_bytes(*hour)).collect()
    }

    /// Notes when each region of a pack was last used.
    pub(super) fn set_used_hours(&self, pack: PackId, hours: &[u32]) {
        let value: Vec<u8> = hours.iter().flat_map(|hour| hour.to_le_bytes()).collect();
        self.write(&key(USED_PREFIX, pack), &value);
    }

    /// Forgets what is known of all packs but `packs` (ascending): a number may be used again.
    pub(super) fn forget_others(&self, packs: &[PackId]) {
        let Some(table) = &self.table else { return };
        for prefix in [VERIFIED_PREFIX, USED_PREFIX] {
            for name in
                table.scan_prefix(prefix).keys().filter_map(|name| name.inspect_err(log).ok())
            {
                let number = name[prefix.len()..].first_chunk().copied().map(u64::from_be_bytes);
                if number.is_none_or(|number| packs.binary_search(&PackId(number)).is_err())
                    && let Err(error) = table.remove(name)
                {
                    log(&error);
                }
            }
        }
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(*self.read(key)?.first_chunk()?))
    }

    fn set(&self, key: &[u8], value: u64) {
        self.write(key, &value.to_le_bytes());
    }

    fn read(&self, key: &[u8]) -> Option<sled::IVec> {
        self.table.as_ref()?.get(key).inspect_err(log).ok()?
    }

    fn write(&self, key: &[u8], value: &[u8]) {
        if let Some(Err(error)) = self.table.as_ref().map(|table| table.insert(key, value)) {
            log(&error);
        }
    }
}

/// Opens a table, waiting for who is about to leave it: the kernel ends the locks of a process one by one.
fn open_table(path: &Path) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match try_open_table(path) {
            // So sled says that it is locked; what the system says has a kind of its own.
            Err(sled::Error::Io(error))
                if error.kind() == io::ErrorKind::Other && begun.elapsed() < LOCK_WAIT =>
            {
                sleep(LOCK_TRY_EVERY);
            }
            done => return done,
        }
    }
}

/// sled 0.34 panics on some damage, so opening is fenced.
fn try_open_table(path: &Path) -> sled::Result<sled::Db> {
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

fn key(prefix: &[u8], pack: PackId) -> Vec<u8> {
    [prefix, &pack.0.to_be_bytes()[..]].concat()
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
    fn who_is_about_to_leave_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta");
        marked(&path);
        let leaving = std::fs::File::open(path.join("db")).unwrap();
        leaving.lock().unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                sleep(Duration::from_millis(100));
                drop(leaving);
            });
            assert_eq!(Meta::open(&path, true, 5).unwrap().verified_hour(PACK), Some(77));
        });
    }

    #[test]
    fn times_of_use_are_kept_for_packs_that_are_here() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Meta::open(dir.path(), false, 1).unwrap();
        meta.set_used_hours(PACK, &[5, 0, 7]);
        meta.set_used_hours(PackId(4), &[9]);
        meta.set_verified_hour(PackId(4), 3);
        meta.forget_others(&[PackId(1), PACK]);
        assert_eq!(meta.used_hours(PACK), [5, 0, 7]);
        assert!(meta.used_hours(PackId(4)).is_empty());
        assert_eq!(meta.verified_hour(PackId(4)), None);
        assert_eq!(meta.get(GENERATION_KEY), Some(1));
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
    fn where_no_table_can_be_made_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &nowhere).unwrap();
        for keep in [true, false] {
            let meta = Meta::open(&nowhere.join("meta"), keep, 5).unwrap();
            assert!(meta.table.is_none());
            meta.set_verified_hour(PACK, 1);
            assert_eq!(meta.verified_hour(PACK), None);
        }
    }
}
