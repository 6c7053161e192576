//! The repository: one directory with blocks, pins and keys, opened by one process at a time.
//!
//! This file is the order of things: what is checked before anything is opened, and what a clean
//! stop writes. A `dirty` file names the boot and the generation while it is open; if it is still
//! there at the next open, the stop was not clean. Blocks and pins need no such mark (an index
//! covers only what was durable, and the rest is hashed at open); metadata does.

use std::fs::DirBuilder;
use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{NFS_SUPER_MAGIC, statfs};
use nix::unistd::geteuid;

use super::disk::hour_now;
use super::disk::rebuild::rebuild;
use super::diskio::{DiskIo, RealDisk, disk_usage, remove_if_there, replace, sync_parent};
use super::error::AtPath as _;
use super::extent::PackId;
use super::held::HeldDisk;
use super::lock::RepositoryLock;
use super::meta::Meta;
use super::pace::Pace;
use super::{DiskOptions, DiskStore, Pin, Pins, Progress, RebuildReport, StoreError, VerifyReport};
use crate::block::Cid;

/// Version of the directory's layout, in the file `version`.
const VERSION: u32 = 1;
/// Permission bits that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// What to do when there is no repository yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Fail with [`StoreError::Missing`].
    Existing,
    /// Make one.
    CreateIfMissing,
}

/// An open repository.
///
/// Dropping it without [`Repository::close`] is like a crash: nothing acknowledged is lost, and the
/// next open takes longer.
#[derive(Debug)]
pub struct Repository {
    /// The blocks.
    pub blocks: Arc<DiskStore>,
    /// The pins.
    pub pins: Pins,
    meta: Meta,
    path: PathBuf,
    disk: Arc<dyn DiskIo>,
    _lock: RepositoryLock,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoStat {
    /// Its directory.
    pub path: PathBuf,
    /// Version of its layout.
    pub version: u32,
    /// Stored copies of blocks.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub block_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Bytes of disk that the whole directory takes.
    pub disk_bytes: u64,
    /// Number of pins.
    pub pins: u64,
    /// When the pack that was not verified for longest was verified last; `None` when some pack
    /// never was.
    pub verified: Option<SystemTime>,
}

impl Repository {
    /// Makes an empty repository at `path`, mode 0700.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Unsafe`], [`StoreError::Io`].
    pub fn init(path: &Path) -> Result<(), StoreError> {
        make_dir(path)?;
        check_home(path)?;
        let _lock = RepositoryLock::take(path)?;
        let version = path.join("version");
        if version.try_exists().at(&version)? {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        for dir in ["packs", "keys"] {
            make_dir(&path.join(dir))?;
        }
        let journal = path.join("journal");
        if !journal.try_exists().at(&journal)? {
            Pins::init(&journal, Arc::new(RealDisk))?;
        }
        // Last, because its presence is what makes this a repository.
        replace(&RealDisk, &version, &mut [IoSlice::new(format!("{VERSION}\n").as_bytes())])?;
        sync_parent(&RealDisk, path)
    }

    /// Checks that there is a repository of a known version in a safe place, whoever has it.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Version`], [`StoreError::Unsafe`],
    /// [`StoreError::Io`].
    pub fn require(path: &Path) -> Result<(), StoreError> {
        check(path)
    }

    /// Returns the bytes of disk that the blocks of the repository at `path` take.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn packs_disk_bytes(path: &Path) -> Result<u64, StoreError> {
        disk_usage(&path.join("packs"))
    }

    /// Opens the repository at `path`.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Locked`], [`StoreError::Version`],
    /// [`StoreError::Unsafe`], [`StoreError::NoJournal`], [`StoreError::Io`].
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        Self::open_with(path, mode, DiskOptions::default())
    }

    /// Opens the repository at `path` with other sizes or another disk.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_with(
        path: &Path,
        mode: OpenMode,
        mut options: DiskOptions,
    ) -> Result<Self, StoreError> {
        if mode == OpenMode::CreateIfMissing {
            match Self::init(path) {
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let lock = take_existing(path)?;
        options.disk = Arc::new(HeldDisk::open(path, options.disk)?);
        let disk = Arc::clone(&options.disk);
        let pins = Pins::open(&path.join("journal"), Arc::clone(&disk))?;
        let generation = pins.generation();
        let keep_meta = was_clean(path, generation)?;
        mark_dirty(path, &*disk, generation)?;
        let meta = Meta::open(&path.join("meta"), keep_meta, generation)?;
        let blocks = Arc::new(DiskStore::open(&path.join("packs"), options)?);
        let mut packs = [blocks.pack_ids(), blocks.foreign_ids()].concat();
        packs.sort_unstable();
        meta.forget_others(&packs);
        for id in packs {
            blocks.set_used_hours(id, &meta.used_hours(id));
        }
        Ok(Self { blocks, pins, meta, path: path.to_owned(), disk, _lock: lock })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that its path still leads to it, for whoever changes a file in it without the store.
    ///
    /// # Errors
    /// [`StoreError::Io`], when it was moved away since it was opened.
    pub fn check_place(&self) -> Result<(), StoreError> {
        self.disk.check_place().at(&self.path)
    }

    /// Stops cleanly: everything is durable, and nothing can be changed from now on.
    ///
    /// # Errors
    /// [`StoreError::Closed`] the second time, [`StoreError::NotDurable`], and what the disk says;
    /// after an error the stop counts as unclean.
    pub fn close(&self) -> Result<(), StoreError> {
        self.blocks.close()?;
        self.keep_times();
        let generation = self.pins.generation() + 1;
        self.meta.close(generation);
        self.pins.close(generation)?;
        let dirty = self.path.join("dirty");
        remove_if_there(&*self.disk, &dirty)?;
        sync_parent(&*self.disk, &dirty)
    }

    /// Removes the pin of a CID and returns it, `None` when there is none; durable when this returns. On a full
    /// disk the room that is kept for removing is given up for it: what was pinned may be all there is.
    ///
    /// # Errors
    /// As [`Pins::rm`].
    pub fn unpin(&self, cid: &Cid) -> Result<Option<Pin>, StoreError> {
        match self.pins.rm(cid) {
            Err(StoreError::Full { .. }) if self.blocks.give_up_reserve() => self.pins.rm(cid),
            removed => removed,
        }
    }

    /// Writes down when blocks were last used. Called now and then, it bounds what a crash makes
    /// eviction forget; [`Repository::close`] calls it too.
    pub fn keep_times(&self) {
        // sled reaches long values by path.
        if let Err(error) = self.check_place() {
            tracing::warn!(%error, "times of use are not kept");
            return;
        }
        for (id, hours) in self.blocks.take_used_hours() {
            self.meta.set_used_hours(id, &hours);
        }
    }

    /// Returns what the repository holds.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stat(&self) -> Result<RepoStat, StoreError> {
        let stats = self.blocks.stats()?;
        let ids = self.blocks.pack_ids();
        let oldest = ids.into_iter().map(|id| self.meta.verified_hour(id)).min().flatten();
        Ok(RepoStat {
            path: self.path.clone(),
            version: VERSION,
            blocks: stats.blocks,
            block_bytes: stats.bytes,
            packs: stats.packs,
            disk_bytes: disk_usage(&self.path)?,
            pins: self.pins.list().len() as u64,
            verified: oldest.map(|hour| {
                SystemTime::UNIX_EPOCH + Duration::from_secs(hour.saturating_mul(3600))
            }),
        })
    }

    /// Reads and hashes every block, packs that were not verified for longest first, so that a
    /// verification that is broken off again and again still gets through. At the end it looks for what
    /// was lost with whole files.
    ///
    /// `progress` is called after each block and may break off. Reading and writing go on.
    ///
    /// # Errors
    /// [`StoreError::Io`]; damage is no error but in the report.
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        let order =
            self.by_last_verified([self.blocks.pack_ids(), self.blocks.foreign_ids()].concat());
        let mut report = VerifyReport::default();
        report.done.packs = order.len() as u64;
        for id in order {
            if self.verify_pack(id, &mut report, progress)?.is_break() {
                return Ok(report);
            }
        }
        self.blocks.verify_lost(&mut report)?;
        Ok(report)
    }

    /// Reads and hashes the one pack that was not verified for longest, at most so many bytes a
    /// second: called again and again, it goes through all of our own packs and begins anew. Foreign
    /// packs are left out: one of them can be larger than all others, and is kept by someone else.
    ///
    /// `progress` is called for each block and ten times a second at least, and may break off.
    ///
    /// # Errors
    /// As [`Repository::verify`].
    pub fn scrub(
        &self,
        bytes_per_s: u64,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        if let Some(id) = self.by_last_verified(self.blocks.pack_ids()).first() {
            report.done.packs = 1;
            let pace = Pace::new(bytes_per_s);
            let mut slowly = |done: &Progress| pace.wait(done.bytes, &mut || progress(done));
            // Broken off or not, the report says how far it came.
            let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
                self.verify_pack(*id, &mut report, &mut slowly)?;
        }
        Ok(report)
    }

    /// Tells whether there is a pack that was not read and hashed for `age`.
    pub fn is_scrub_due(&self, age: Duration) -> bool {
        let due = u64::from(hour_now()).saturating_sub(age.as_secs() / 3600);
        let hour = |id| self.meta.verified_hour(id).unwrap_or(0);
        self.blocks.pack_ids().into_iter().any(|id| hour(id) < due)
    }

    /// Orders packs: those that were not verified for longest come first.
    fn by_last_verified(&self, mut ids: Vec<PackId>) -> Vec<PackId> {
        ids.sort_by_cached_key(|id| (self.meta.verified_hour(*id), *id));
        ids
    }

    fn verify_pack(
        &self,
        id: PackId,
        report: &mut VerifyReport,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        self.check_place()?;
        let done = self.blocks.verify_pack(id, report, progress)?;
        if done.is_continue() {
            self.meta.set_verified_hour(id, hour_now().into());
        }
        Ok(done)
    }

    /// Makes all index files and metadata of the repository at `path` anew from its packs; nobody
    /// may have it open.
    ///
    /// # Errors
    /// [`StoreError::Locked`] and others as [`Repository::open`]; damage is no error but in the
    /// report.
    pub fn rebuild(
        path: &Path,
        progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<RebuildReport, StoreError> {
        let _lock = take_existing(path)?;
        let disk = Arc::new(HeldDisk::open(path, Arc::new(RealDisk))?);
        Meta::throw_away(&path.join("meta"))?;
        rebuild(&path.join("packs"), disk, progress)
    }
}

impl Drop for Repository {
    /// The lock goes with this, so nobody who still has a part of it may write.
    fn drop(&mut self) {
        self.blocks.stop();
        self.pins.stop();
    }
}

/// Locks a repository of a known version in a safe place.
fn take_existing(path: &Path) -> Result<RepositoryLock, StoreError> {
    Repository::require(path)?;
    RepositoryLock::take(path)
}

/// Checks that there is a repository of a known version in a safe place.
fn check(path: &Path) -> Result<(), StoreError> {
    let version = path.join("version");
    match version.metadata() {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        metadata => metadata.at(&version)?,
    };
    // Before anything is read: in a directory of somebody else it may be any file, or one without an end.
    check_home(path)?;
    let found = std::fs::read_to_string(&version).at(&version)?;
    if found.trim() != VERSION.to_string() {
        let found = found.trim().chars().take(20).collect();
        return Err(StoreError::Version { path: version, found, known: VERSION });
    }
    Ok(())
}

/// Refuses a directory that others can write to, one of another user (files that root makes there
/// would lock its owner out), and file systems whose locks and syncs are not this machine's.
fn check_home(path: &Path) -> Result<(), StoreError> {
    let refuse = |reason: String| Err(StoreError::Unsafe { path: path.to_owned(), reason });
    let metadata = std::fs::metadata(path).at(path)?;
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own {
        return refuse(format!(
            "it belongs to user {owner}, and this is user {own}; run cidfs as its owner"
        ));
    }
    let mode = metadata.mode();
    if mode & OTHERS_WRITE != 0 {
        let octal = mode & 0o7777;
        return refuse(format!("others may write to it (mode {octal:03o}); `chmod 700` it"));
    }
    if statfs(path).at(path)?.filesystem_type() == NFS_SUPER_MAGIC {
        return refuse("it is on NFS; choose a directory on a local disk".to_owned());
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).at(path)
}

/// Tells whether the metadata of the last run can be trusted: it stopped cleanly, or died while the
/// kernel, which still has what sled wrote, lived on.
fn was_clean(path: &Path, generation: u64) -> Result<bool, StoreError> {
    let dirty = path.join("dirty");
    match std::fs::read(&dirty) {
        Ok(mark) => {
            let same_boot =
                mark.trim_ascii_end() == format!("{} {generation}", boot_id()?).as_bytes();
            tracing::warn!(same_boot, "the repository was not closed cleanly");
            Ok(same_boot)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StoreError::io(&dirty, error)),
    }
}

/// Notes that the repository is open. A disk too full for it may still be read: without the mark
/// only metadata may be staler than it seems.
fn mark_dirty(path: &Path, disk: &dyn DiskIo, generation: u64) -> Result<(), StoreError> {
    let mark = format!("{} {generation}\n", boot_id()?);
    match replace(disk, &path.join("dirty"), &mut [IoSlice::new(mark.as_bytes())]) {
        Err(error @ StoreError::Full { .. }) => {
            tracing::warn!(%error, "the repository is open for reading at least");
            Ok(())
        }
        done => done.map(drop),
    }
}

/// Returns the kernel's name for the time since it was started.
fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let needed = |error| io::Error::other(format!("{error}; /proc has to be mounted"));
    Ok(std::fs::read_to_string(path).map_err(needed).at(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, HashFn, codecs};
    use crate::store::faults::{Call, FaultyDisk};
    use crate::store::{BlockStore as _, PinMode};

    fn made() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/repository");
        Repository::init(&path).unwrap();
        (dir, path)
    }

    fn open(path: &Path) -> Repository {
        Repository::open(path, OpenMode::Existing).unwrap()
    }

    fn open_error(path: &Path) -> StoreError {
        Repository::open(path, OpenMode::Existing).map(drop).unwrap_err()
    }

    fn block(n: u8) -> Block {
        Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(vec![n; 5000])).unwrap()
    }

    #[test]
    fn init_makes_a_private_directory_once() {
        let (_dir, path) = made();
        for dir in [&path, &path.join("keys"), &path.join("packs")] {
            assert_eq!(std::fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
        }
        let again = Repository::init(&path).unwrap_err();
        assert!(matches!(again, StoreError::Exists { .. }), "{again}");
        open(&path).close().unwrap();
    }

    #[test]
    fn what_is_no_repository_is_missing_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        assert!(matches!(open_error(&path), StoreError::Missing { .. }));
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert!(matches!(open_error(&dir.path().join("file")), StoreError::Missing { .. }));
        for _ in 0..2 {
            drop(Repository::open(&path, OpenMode::CreateIfMissing).unwrap());
        }
    }

    #[test]
    fn a_second_open_names_the_first() {
        let (_dir, path) = made();
        let first = open(&path);
        let locked = open_error(&path);
        assert!(matches!(locked, StoreError::Locked { .. }));
        assert!(locked.to_string().contains(&std::process::id().to_string()), "{locked}");
        let rebuilt = Repository::rebuild(&path, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(rebuilt, Err(StoreError::Locked { .. })));
        let blocks = Arc::clone(&first.blocks);
        drop(first);
        let _second = open(&path);
        assert!(matches!(blocks.put(&[block(1)]), Err(StoreError::Closed)));
    }

    #[test]
    fn unsafe_homes_and_other_versions_are_refused() {
        let (_dir, path) = made();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).unwrap();
        let refused = open_error(&path);
        assert!(matches!(refused, StoreError::Unsafe { .. }), "{refused}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o750)).unwrap();
        std::fs::write(path.join("version"), "2\n").unwrap();
        let refused = open_error(&path).to_string();
        assert!(refused.contains("format version 2"), "{refused}");
    }

    #[test]
    fn a_home_of_another_user_is_refused() {
        let (_dir, path) = made();
        if !geteuid().is_root() {
            return;
        }
        std::fs::write(path.join("version"), "a secret of root\n").unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let refused = open_error(&path).to_string();
        assert!(refused.contains("it belongs to user 65534"), "{refused}");
    }

    #[test]
    fn a_damaged_mark_is_an_unclean_stop() {
        let (_dir, path) = made();
        std::fs::write(path.join("dirty"), [0xff, 0xfe, 0]).unwrap();
        open(&path).close().unwrap();
        assert!(!path.join("dirty").try_exists().unwrap());
    }

    #[test]
    fn all_of_it_outlives_a_stop_clean_or_not() {
        for clean in [true, false] {
            let (_dir, path) = made();
            let repository = open(&path);
            repository.blocks.put(&[block(1)]).unwrap();
            repository.blocks.commit().unwrap();
            repository.pins.add(block(1).cid(), PinMode::Recursive, Some("one")).unwrap();
            repository.verify(&mut |_| ControlFlow::Continue(())).unwrap();
            if clean {
                repository.close().unwrap();
                assert!(matches!(repository.close(), Err(StoreError::Closed)));
            }
            drop(repository);
            assert_eq!(path.join("dirty").try_exists().unwrap(), !clean);
            let repository = open(&path);
            assert_eq!(repository.blocks.get(block(1).cid()).unwrap(), Some(block(1)));
            assert_eq!(repository.pins.list().len(), 1);
            let stat = repository.stat().unwrap();
            assert_eq!((stat.blocks, stat.block_bytes, stat.packs, stat.pins), (1, 5000, 1, 1));
            assert!(stat.disk_bytes > 5000);
            assert!(stat.verified.is_some(), "the same boot: metadata is kept (clean: {clean})");
        }
    }

    #[test]
    fn metadata_of_another_boot_or_generation_is_thrown_away() {
        for mark in ["another-boot 0\n", "", "torn"] {
            let (_dir, path) = made();
            let repository = open(&path);
            repository.blocks.put(&[block(1)]).unwrap();
            repository.verify(&mut |_| ControlFlow::Continue(())).unwrap();
            drop(repository);
            std::fs::write(path.join("dirty"), mark).unwrap();
            assert_eq!(open(&path).stat().unwrap().verified, None, "{mark:?}");
        }
    }

    #[test]
    fn verify_goes_on_where_it_was_broken_off() {
        let (_dir, path) = made();
        let options = DiskOptions { pack_blocks_max: 1, ..DiskOptions::default() };
        let repository = Repository::open_with(&path, OpenMode::Existing, options).unwrap();
        repository.blocks.put(&[block(1), block(2), block(3)]).unwrap();
        let mut seen = 0;
        let report = repository
            .verify(&mut |_| {
                seen += 1;
                if seen < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .unwrap();
        assert!(report.stopped);
        assert_eq!(repository.stat().unwrap().verified, None, "one pack never was");
        let report = repository.verify(&mut |_| ControlFlow::Break(())).unwrap();
        assert!(report.stopped);
        assert_eq!(report.done.packs_done, 0);
        repository.verify(&mut |_| ControlFlow::Continue(())).unwrap();
        assert!(repository.stat().unwrap().verified.is_some());
    }

    #[test]
    fn scrubbing_goes_through_all_packs_and_begins_anew() {
        let (_dir, path) = made();
        let options = DiskOptions { pack_blocks_max: 2, ..DiskOptions::default() };
        let repository = Repository::open_with(&path, OpenMode::Existing, options).unwrap();
        repository.blocks.put(&(0..5).map(block).collect::<Vec<_>>()).unwrap();
        repository.blocks.commit().unwrap();
        let begun = std::time::Instant::now();
        let first = repository.scrub(100_000, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((first.done.blocks, first.stopped), (2, false));
        assert!(begun.elapsed() >= Duration::from_millis(100), "10,000 bytes at that rate");
        let stopped = repository.scrub(1, &mut |_| ControlFlow::Break(())).unwrap();
        assert!(stopped.stopped);
        let fast = &mut || repository.scrub(u64::MAX, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((fast().done.blocks, fast().done.blocks), (2, 1), "each pack in its turn");
        assert_eq!(fast().done.blocks, 2, "and again");
    }

    #[test]
    fn foreign_packs_are_verified_and_not_scrubbed() {
        let (dir, path) = made();
        let archive = dir.path().join("a.car");
        let mut car = crate::store::pack::section::PACK_HEADER.to_vec();
        crate::codec::car::write_section(&mut car, &block(1)).unwrap();
        std::fs::write(&archive, car).unwrap();
        let repository = open(&path);
        repository.blocks.add_pack(&archive, &mut |_| ControlFlow::Continue(())).unwrap();
        repository.blocks.put(&[block(2)]).unwrap();
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        for _ in 0..2 {
            assert_eq!(repository.scrub(u64::MAX, go_on).unwrap().done.blocks, 1);
        }
        let report = repository.verify(go_on).unwrap();
        assert_eq!((report.done.packs_done, report.done.blocks), (2, 2));
        let stat = repository.stat().unwrap();
        assert_eq!((stat.packs, stat.blocks), (2, 2));
        repository.close().unwrap();
        drop(repository);
        assert_eq!(open(&path).blocks.get(block(1).cid()).unwrap(), Some(block(1)));
    }

    #[test]
    fn times_of_use_outlive_a_restart() {
        let (_dir, path) = made();
        let repository = open(&path);
        repository.blocks.put(&[block(1)]).unwrap();
        repository.close().unwrap();
        drop(repository);
        let repository = open(&path);
        let id = repository.blocks.pack_ids()[0];
        assert_eq!(repository.meta.used_hours(id)[0], hour_now());
        assert!(repository.blocks.take_used_hours().is_empty(), "nothing new");
        repository.blocks.set_used_hours(id, &[hour_now() + 1]);
        repository.blocks.get(block(1).cid()).unwrap();
        assert!(repository.blocks.take_used_hours().is_empty(), "a read writes no earlier time");
    }

    #[test]
    fn a_full_disk_can_be_opened_and_read() {
        let (_dir, path) = made();
        let repository = open(&path);
        repository.blocks.put(&[block(1)]).unwrap();
        repository.close().unwrap();
        drop(repository);
        let disk = Arc::new(FaultyDisk::default());
        disk.fail(Call::Write, 0, nix::libc::ENOSPC);
        let options = DiskOptions { disk, ..DiskOptions::default() };
        let repository = Repository::open_with(&path, OpenMode::Existing, options).unwrap();
        assert_eq!(repository.blocks.get(block(1).cid()).unwrap(), Some(block(1)));
        repository.close().unwrap();
    }

    #[test]
    fn a_rebuild_keeps_pins_and_blocks() {
        let (_dir, path) = made();
        let repository = open(&path);
        repository.blocks.put(&[block(1)]).unwrap();
        repository.pins.add(block(1).cid(), PinMode::Direct, None).unwrap();
        repository.close().unwrap();
        drop(repository);
        let report = Repository::rebuild(&path, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.blocks, 1);
        let repository = open(&path);
        assert_eq!(repository.blocks.get(block(1).cid()).unwrap(), Some(block(1)));
        assert_eq!(repository.pins.list().len(), 1);
    }
}
