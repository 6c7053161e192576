//! What a crash leaves behind, and what must still be there.
//!
//! Three kinds: a copy of the directory taken while a writer runs (a process that dies at any
//! moment), a copy in which what was never synced is cut or overwritten (a power cut), and the real
//! daemon killed at its work. After each, everything acknowledged before must be there, and nothing
//! wrong may be served.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod audit;
mod campaign;
mod kill;
mod load;
mod metadata;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::store::{BlockStore, DiskIo, DiskOptions, OpenMode, PinMode, RealDisk, Repository};

/// Copies taken of a running writer.
const COPIES: u32 = 25;
/// Power cuts simulated.
const POWER_CUTS: u64 = 40;

fn open(path: &Path, disk: Arc<dyn DiskIo>) -> Repository {
    let options = DiskOptions { pack_len_max: 100_000, disk, ..DiskOptions::default() };
    Repository::open_with(path, OpenMode::CreateIfMissing, options).unwrap()
}

/// The `n`-th block: its number and up to 9 KB that follow from it.
fn block(n: u32) -> Block {
    let len = 4 + usize::try_from(n.wrapping_mul(2_654_435_761) % 9000).unwrap();
    let mut data = n.to_le_bytes().repeat(len / 4 + 1);
    data.truncate(len);
    Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(data)).unwrap()
}

/// Tells whether [`write_ten`] removes a block again.
fn is_removed(n: u32) -> bool {
    n % 10 == 5
}

/// Checks that all blocks and pins below `acknowledged` are there, and that no later one is wrong.
fn check(path: &Path, acknowledged: u32, put: u32) {
    let repository = open(path, Arc::new(RealDisk));
    for n in 0..put {
        let expected = block(n);
        match repository.blocks.get(expected.cid()).unwrap() {
            Some(found) => {
                assert_eq!(found, expected);
                assert!(n >= acknowledged || !is_removed(n), "block {n} was removed");
            }
            None => {
                assert!(n >= acknowledged || is_removed(n), "block {n} of {acknowledged} is lost");
            }
        }
        if n < acknowledged && n % 10 == 9 {
            assert!(repository.pins.get(expected.cid()).is_some(), "pin {n} is lost");
        }
    }
    // What is not here can be put, and is then here to stay.
    repository.blocks.put(&(0..put).map(block).collect::<Vec<_>>()).unwrap();
    repository.blocks.commit().unwrap();
    for n in 0..put {
        assert_eq!(repository.blocks.get(block(n).cid()).unwrap(), Some(block(n)));
    }
}

/// The real disk, which stands still while a copy is taken: a copy is then one moment between two
/// changes, as the death of a process is.
#[derive(Debug, Default)]
struct Moments(RwLock<()>);

impl Moments {
    fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        let _moving = self.0.read().unwrap();
        change()
    }

    fn copy(&self, from: &Path, to: &Path) {
        let _still = self.0.write().unwrap();
        copy(from, to);
    }
}

impl DiskIo for Moments {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.change(|| RealDisk.create(path))
    }

    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.change(|| RealDisk.write(file, slices, offset))
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.change(|| RealDisk.set_len(file, len))
    }

    fn punch(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.change(|| RealDisk.punch(file, offset, len))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| RealDisk.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|| RealDisk.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|| RealDisk.remove(path))
    }
}

/// Copies a repository; the table of metadata, which may be lost, changes all the while.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&entry.path(), &target),
            Ok(_) => match std::fs::copy(entry.path(), target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
}

/// Puts and commits ten blocks, pins one and removes one.
fn write_ten(repository: &Repository, first: u32) {
    let blocks: Vec<_> = (first..first + 10).map(block).collect();
    repository.blocks.put(&blocks).unwrap();
    repository.blocks.commit().unwrap();
    repository.pins.add(blocks[9].cid(), PinMode::Recursive, None).unwrap();
    assert!(repository.blocks.remove(blocks[5].cid()).unwrap());
}

#[test]
fn a_process_that_dies_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let disk = Arc::new(Moments::default());
    let repository = open(&live, disk.clone());
    let (acknowledged, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && acknowledged.load(Ordering::Relaxed) < 4000 {
                let first = acknowledged.load(Ordering::Relaxed);
                write_ten(&repository, first);
                acknowledged.store(first + 10, Ordering::Release);
            }
        });
        for n in 0..COPIES {
            let before = acknowledged.load(Ordering::Acquire);
            let crashed = dir.path().join(format!("crashed-{n}"));
            disk.copy(&live, &crashed);
            check(&crashed, before, before + 30);
            std::fs::remove_dir_all(&crashed).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(acknowledged.into_inner() > 0);
}

/// The real disk, remembering how much of each file was synced, by inode.
#[derive(Debug, Default)]
struct SyncLog(Mutex<HashMap<u64, u64>>);

impl DiskIo for SyncLog {
    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        if offset == 0 {
            // A new file, perhaps with the inode of one that is gone.
            self.0.lock().unwrap().remove(&file.metadata()?.ino());
        }
        RealDisk.write(file, slices, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        RealDisk.sync(file)?;
        self.0.lock().unwrap().insert(metadata.ino(), metadata.len());
        Ok(())
    }
}

impl SyncLog {
    /// Returns what a power cut leaves for certain of each pack.
    fn durable(&self, packs: &Path) -> HashMap<OsString, u64> {
        let synced = self.0.lock().unwrap();
        let entries = std::fs::read_dir(packs).unwrap().map(Result::unwrap);
        let packs = entries.filter(|entry| entry.path().extension() == Some("car".as_ref()));
        packs
            .map(|entry| {
                let ino = entry.metadata().unwrap().ino();
                (entry.file_name(), synced.get(&ino).copied().unwrap_or(0))
            })
            .collect()
    }
}

/// Damages what was not synced of every pack, in one of three ways.
fn cut_power(packs: &Path, durable: &HashMap<OsString, u64>, mut random: u64) {
    for (name, kept) in durable {
        let path = packs.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let tail = bytes.len() - usize::try_from(*kept).unwrap();
        if tail == 0 {
            continue;
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
        let at = bytes.len() - tail + usize::try_from(random >> 33).unwrap() % tail;
        match random >> 20 & 3 {
            0 => bytes.truncate(at),
            1 => bytes[at..].fill(0),
            2 => bytes.truncate(bytes.len() - tail),
            _ => bytes[at] ^= 0x55,
        }
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let log = Arc::new(SyncLog::default());
    let mut acknowledged = 0;
    for seed in 0..POWER_CUTS {
        let repository = open(&live, Arc::clone(&log) as _);
        write_ten(&repository, acknowledged);
        acknowledged += 10;
        let later: Vec<_> = (acknowledged..acknowledged + 15).map(block).collect();
        repository.blocks.put(&later).unwrap();
        let durable = log.durable(&live.join("packs"));
        drop(repository);
        let crashed = dir.path().join("crashed");
        copy(&live, &crashed);
        cut_power(&crashed.join("packs"), &durable, seed);
        check(&crashed, acknowledged, acknowledged + 15);
        std::fs::remove_dir_all(&crashed).unwrap();
    }
}
