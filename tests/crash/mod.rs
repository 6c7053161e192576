//! What a crash leaves behind, and what must still be there.
//!
//! Two kinds: a copy of the directory taken while a writer runs (a process that dies at any
//! moment), and a copy whose bytes beyond the last commit are cut or overwritten (a power cut).
//! After each, everything acknowledged before must be there, and nothing wrong may be served.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::store::{BlockStore, DiskOptions, OpenMode, PinMode, Repository};

/// Copies taken of a running writer.
const COPIES: u32 = 40;
/// Power cuts simulated.
const POWER_CUTS: u64 = 60;

fn open(path: &Path) -> Repository {
    let options = DiskOptions { pack_len_max: 100_000, ..DiskOptions::default() };
    Repository::open_with(path, OpenMode::CreateIfMissing, options).unwrap()
}

/// The `n`-th block: its number and up to 9 KB that follow from it.
fn block(n: u32) -> Block {
    let len = 4 + usize::try_from(n.wrapping_mul(2_654_435_761) % 9000).unwrap();
    let mut data = n.to_le_bytes().repeat(len / 4 + 1);
    data.truncate(len);
    Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(data)).unwrap()
}

/// Checks that all blocks and pins below `acknowledged` are there, and that no later one is wrong.
fn check(path: &Path, acknowledged: u32, put: u32) {
    let repository = open(path);
    for n in 0..put {
        let expected = block(n);
        match repository.blocks.get(expected.cid()).unwrap() {
            Some(found) => assert_eq!(found, expected),
            None => assert!(n >= acknowledged, "block {n} of {acknowledged} is lost"),
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

/// Copies what a crash would leave: each file as it is at the moment it is read.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&entry.path(), &target),
            Ok(_) => match std::fs::copy(entry.path(), target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
}

/// Puts, commits and pins ten blocks.
fn write_ten(repository: &Repository, first: u32) {
    let blocks: Vec<_> = (first..first + 10).map(block).collect();
    repository.blocks.put(&blocks).unwrap();
    repository.blocks.commit().unwrap();
    repository.pins.add(blocks[9].cid(), PinMode::Recursive, None).unwrap();
}

#[test]
fn a_process_that_dies_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let repository = open(&live);
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
            copy(&live, &crashed);
            check(&crashed, before, before + 30);
            std::fs::remove_dir_all(&crashed).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(acknowledged.into_inner() > 0);
}

/// Damages what lies beyond `durable` in every pack, in one of three ways.
fn cut_power(packs: &Path, durable: &[(std::ffi::OsString, u64)], mut random: u64) {
    for entry in std::fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "car") {
            continue;
        }
        let name = path.file_name().unwrap();
        let kept = durable.iter().find(|(known, _)| known == name).map_or(0, |(_, len)| *len);
        let mut bytes = std::fs::read(&path).unwrap();
        let tail = bytes.len() - usize::try_from(kept).unwrap();
        if tail == 0 {
            continue;
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
        let at = bytes.len() - tail + usize::try_from(random >> 33).unwrap() % tail;
        match random % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at..].fill(0),
            _ => bytes[at] ^= 0x55,
        }
        std::fs::write(&path, bytes).unwrap();
    }
}

fn lengths(packs: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = std::fs::read_dir(packs).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect()
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let mut acknowledged = 0;
    for seed in 0..POWER_CUTS {
        let repository = open(&live);
        write_ten(&repository, acknowledged);
        acknowledged += 10;
        let durable = lengths(&live.join("packs"));
        let later: Vec<_> = (acknowledged..acknowledged + 15).map(block).collect();
        repository.blocks.put(&later).unwrap();
        drop(repository);
        // An index is written only after its pack is durable, so none may cover what is cut.
        let sealed = durable.len() == lengths(&live.join("packs")).len();
        let crashed = dir.path().join("crashed");
        copy(&live, &crashed);
        if sealed {
            cut_power(&crashed.join("packs"), &durable, seed);
        }
        check(&crashed, acknowledged, acknowledged + 15);
        std::fs::remove_dir_all(&crashed).unwrap();
    }
}
