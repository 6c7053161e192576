//! What eviction takes and what it leaves, and what that does to the disk.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::block::{Block, HashFn, codecs};
use crate::store::faults::{Call, FaultyDisk};
use crate::store::{BlockStore as _, DiskOptions};

/// Bytes of a block of these tests: five pages, of which at least four lie whole inside.
const LEN: usize = 20_480;

fn block_of(n: u32, len: usize) -> Block {
    let data = Bytes::from(n.to_le_bytes().repeat(len / 4));
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
}

fn block(n: u32) -> Block {
    block_of(n, LEN)
}

fn blocks(numbers: Range<u32>) -> Vec<Block> {
    numbers.map(block).collect()
}

struct Fixture {
    dir: TempDir,
    disk: Arc<FaultyDisk>,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), disk: Arc::new(FaultyDisk::default()) }
    }

    /// Opens a store of ten blocks per pack.
    fn open(&self, cache_max_bytes: Option<u64>) -> DiskStore {
        self.open_with(cache_max_bytes, 0)
    }

    fn open_with(&self, cache_max_bytes: Option<u64>, reserve_bytes: u64) -> DiskStore {
        let disk = Arc::clone(&self.disk) as _;
        let pack_blocks_max = 10;
        let options = DiskOptions {
            pack_blocks_max,
            cache_max_bytes,
            reserve_bytes,
            disk,
            ..DiskOptions::default()
        };
        DiskStore::open(self.dir.path(), options).unwrap()
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn go_on(_: &SpaceReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn here(store: &DiskStore, numbers: Range<u32>) -> Vec<u32> {
    numbers.filter(|n| store.peek(block(*n).cid()).unwrap().is_some()).collect()
}

fn keep(store: &DiskStore, numbers: Range<u32>) -> KeepSet {
    let mut keep = store.keep_set();
    for n in numbers {
        assert!(keep.insert(block(n).cid()));
    }
    keep
}

fn number(n: u64) -> PackId {
    PackId(n)
}

#[test]
fn a_sweep_leaves_what_is_kept_and_gives_the_rest_back() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..35)).unwrap();
    let full = store.disk_bytes();
    let keep = keep(&store, 8..12);
    let expected = store.sweep_dry_run(&keep);
    assert_eq!(here(&store, 0..35).len(), 35, "a dry run removes nothing");
    let report = store.sweep(&keep, &mut go_on).unwrap();
    assert_eq!((report.blocks, report.bytes), (31, 31 * LEN as u64));
    assert_eq!((expected.blocks, expected.bytes), (report.blocks, report.bytes));
    assert_eq!(here(&store, 0..35), [8, 9, 10, 11]);
    assert_eq!(report.moved, 4, "packs of which a fifth lives are emptied");
    assert_eq!(report.packs, 3);
    assert!(report.disk_bytes < full / 4, "{} of {full}", report.disk_bytes);
    assert_eq!(report.disk_bytes, store.disk_bytes());
    let usage = crate::store::diskio::disk_usage(fixture.dir.path()).unwrap();
    assert_eq!(report.disk_bytes, usage, "the count is what the file system says");
    assert!(!fixture.names().contains("0000000001.car"), "{:?}", fixture.names());
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..35), [8, 9, 10, 11]);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..40)).unwrap();
    store.close().unwrap();
    drop(store);
    let store = fixture.open(None);
    for (pack, hour) in [(1, 70), (2, 30), (3, 90), (4, 50)] {
        store.set_used_hours(number(pack), &[hour]);
    }
    let keep = store.keep_set();
    let report = store.make_room(&keep, 10 * LEN as u64, &mut go_on).unwrap();
    assert!(report.enough);
    assert_eq!(here(&store, 0..40), (0..10).chain(20..40).collect::<Vec<_>>());
    store.make_room(&keep, 10 * LEN as u64, &mut go_on).unwrap();
    assert_eq!(here(&store, 0..40), (0..10).chain(20..30).collect::<Vec<_>>());
}

#[test]
fn a_use_counts_from_the_moment_the_search_began() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..40)).unwrap();
    let keep = store.keep_set();
    store.get(block(3).cid()).unwrap();
    store.block_len(block(13).cid()).unwrap();
    store.peek(block(23).cid()).unwrap();
    store.put(&blocks(33..34)).unwrap();
    store.sweep(&keep, &mut go_on).unwrap();
    let expected: Vec<_> = (0..20).chain(30..40).collect();
    assert_eq!(here(&store, 0..40), expected, "a peek is no use, relying on a copy is");
}

#[test]
fn what_is_protected_stays_though_it_was_found_before_the_search() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..30)).unwrap();
    let protection = store.protect();
    store.block_len(block(5).cid()).unwrap();
    let keep = store.keep_set();
    store.sweep(&keep, &mut go_on).unwrap();
    assert_eq!(here(&store, 0..30), (0..10).collect::<Vec<_>>());
    drop(protection);
    store.sweep(&keep, &mut go_on).unwrap();
    assert_eq!(here(&store, 0..30).len(), 10, "the search did not see what it protected");
    store.sweep(&store.keep_set(), &mut go_on).unwrap();
    assert!(here(&store, 0..30).is_empty());
}

#[test]
fn the_cap_holds_and_eviction_makes_room() {
    const CAP: u64 = 2_000_000;
    let fixture = Fixture::new();
    let store = fixture.open(Some(CAP));
    let pressure = store.subscribe_pressure();
    let kept = 0..20;
    store.put(&blocks(kept.clone())).unwrap();
    let mut refused = 0;
    for n in 20..400 {
        if let Err(error) = store.put(&[block(n)]) {
            assert!(matches!(error, StoreError::CapReached { max: CAP }), "{error}");
            assert!(*pressure.borrow());
            refused += 1;
            let report =
                store.make_room(&keep(&store, kept.clone()), LEN as u64, &mut go_on).unwrap();
            assert!(report.enough, "{report:?}");
            assert!(!*pressure.borrow());
            store.put(&[block(n)]).unwrap();
        }
        assert!(store.disk_bytes() <= CAP);
        assert_eq!(store.peek(block(n).cid()).unwrap(), Some(block(n)));
    }
    assert!(refused > 3, "{refused}");
    assert_eq!(here(&store, kept.clone()).len(), 20);
    let usage = crate::store::diskio::disk_usage(fixture.dir.path()).unwrap();
    assert!(usage <= CAP, "{usage}");
}

#[test]
fn when_all_is_kept_puts_are_refused_and_reading_goes_on() {
    let fixture = Fixture::new();
    let store = fixture.open(Some(1_000_000));
    let full = (0..100).find(|n| store.put(&[block(*n)]).is_err()).unwrap();
    let report = store.make_room(&keep(&store, 0..full), 0, &mut go_on).unwrap();
    assert!(!report.enough);
    assert_eq!(report.blocks, 0);
    assert!(matches!(store.put(&[block(999)]), Err(StoreError::CapReached { .. })));
    assert_eq!(here(&store, 0..full).len(), full as usize);
    store.put(&[block(0)]).unwrap();
}

#[test]
fn packs_of_small_blocks_are_emptied() {
    let fixture = Fixture::new();
    let options = DiskOptions { pack_blocks_max: 500, ..DiskOptions::default() };
    let store = DiskStore::open(fixture.dir.path(), options).unwrap();
    let small: Vec<_> = (0..2000).map(|n| block_of(n, 1000)).collect();
    store.put(&small).unwrap();
    let full = store.disk_bytes();
    let mut keep = store.keep_set();
    for block in small.iter().step_by(5) {
        keep.insert(block.cid());
    }
    let report = store.sweep(&keep, &mut go_on).unwrap();
    assert!(report.disk_bytes < full / 2, "{} of {full}", report.disk_bytes);
    for (n, block) in small.iter().enumerate() {
        assert_eq!(store.peek(block.cid()).unwrap().is_some(), n % 5 == 0);
    }
}

#[test]
fn a_pack_with_a_damaged_block_is_not_deleted() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..15)).unwrap();
    store.commit().unwrap();
    let path = fixture.dir.path().join("0000000001.car");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(LEN).position(|window| window == block(7).data()).unwrap();
    bytes[at + 9] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    store.sweep(&keep(&store, 6..8), &mut go_on).unwrap();
    assert!(matches!(store.get(block(7).cid()), Err(StoreError::Corrupt { .. })));
    assert_eq!(store.get(block(6).cid()).unwrap(), Some(block(6)), "the other was moved");
    store.put(&[block(7)]).unwrap();
    store.sweep(&keep(&store, 6..8), &mut go_on).unwrap();
    assert_eq!(store.get(block(7).cid()).unwrap(), Some(block(7)));
}

#[test]
fn a_tombstone_that_fails_leaves_nothing_to_rely_on() {
    for call in [Call::Write, Call::Sync] {
        let fixture = Fixture::new();
        let store = fixture.open(None);
        store.put(&blocks(0..10)).unwrap();
        store.commit().unwrap();
        fixture.disk.fail(call, 0, nix::libc::EIO);
        let failed = store.sweep(&store.keep_set(), &mut go_on).unwrap_err();
        assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
        assert!(here(&store, 0..10).is_empty());
        store.put(&blocks(0..10)).unwrap();
        store.commit().unwrap();
        drop(store);
        assert_eq!(here(&fixture.open(None), 0..10).len(), 10);
    }
}

#[test]
fn readers_and_writers_are_not_disturbed() {
    const HOT: u32 = 10;
    let fixture = Fixture::new();
    let store = fixture.open(Some(2_000_000));
    store.put(&blocks(0..HOT)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in (100..400).step_by(10) {
                let _protection = store.protect();
                for n in first..first + 10 {
                    while let Err(error) = store.put(&[block(n)]) {
                        assert!(matches!(error, StoreError::CapReached { .. }), "{error}");
                        std::thread::yield_now();
                    }
                }
                store.commit().unwrap();
                assert_eq!(here(&store, first..first + 10).len(), 10, "protected");
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                for n in 0..HOT {
                    assert_eq!(store.get(block(n).cid()).unwrap(), Some(block(n)), "{n} is kept");
                    let range = store.read_range(block(n).cid(), 5..90).unwrap().unwrap();
                    assert_eq!(range.bytes, block(n).data()[5..90]);
                }
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                store.make_room(&keep(&store, 0..HOT), LEN as u64, &mut go_on).unwrap();
            }
        });
    });
}

#[test]
fn tombstones_that_failed_are_written_by_the_next_sweep() {
    for call in [Call::Write, Call::Sync] {
        let fixture = Fixture::new();
        let store = fixture.open(None);
        store.put(&blocks(0..18)).unwrap();
        store.commit().unwrap();
        let full = store.disk_bytes();
        // The first pack is deleted, and the second is still open.
        fixture.disk.fail(call, 0, nix::libc::EIO);
        let failed = store.sweep(&store.keep_set(), &mut go_on).unwrap_err();
        assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
        let report = store.sweep(&store.keep_set(), &mut go_on).unwrap();
        assert!(call == Call::Sync || report.blocks == 8, "{report:?}");
        assert!(report.disk_bytes < full / 4, "{} of {full}", report.disk_bytes);
        drop(store);
        assert!(here(&fixture.open(None), 0..18).is_empty(), "{call:?}");
    }
}

#[test]
fn a_full_disk_has_room_for_tombstones() {
    let fixture = Fixture::new();
    let store = fixture.open_with(None, 65_536);
    let names = fixture.names();
    assert!(names.contains("reserve"), "{names:?}");
    store.put(&blocks(0..8)).unwrap();
    store.commit().unwrap();
    let full = store.disk_bytes();
    fixture.disk.fail(Call::Write, 0, nix::libc::ENOSPC);
    let report = store.sweep(&keep(&store, 0..1), &mut go_on).unwrap();
    assert_eq!(report.blocks, 7);
    assert!(report.disk_bytes < full - 5 * LEN as u64, "{} of {full}", report.disk_bytes);
    assert!(fixture.names().contains("reserve"), "it is there for the next time");
    let usage = crate::store::diskio::disk_usage(fixture.dir.path()).unwrap();
    assert_eq!(report.disk_bytes, usage);
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..8), [0]);
}

#[test]
fn a_pack_of_which_nothing_is_left_needs_no_tombstones() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&blocks(0..30)).unwrap();
    store.close().unwrap();
    drop(store);
    let store = fixture.open(None);
    fixture.disk.fail(Call::Write, 0, nix::libc::EIO);
    let report = store.sweep(&store.keep_set(), &mut go_on).unwrap();
    assert_eq!((report.blocks, report.packs), (30, 3));
    assert!(fixture.names().is_empty());
}
