//! What an assembled file holds, what a crash leaves of one, and what eviction does to it.

mod framed;
mod gathered;
mod grouped;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::block::{HashFn, codecs};
use crate::store::faults::{Call, FaultyDisk};
use crate::store::pack::index;
use crate::store::{BlockStore as _, DiskOptions, FileRange, FileState, VerifyReport};

/// Bytes of a leaf: three pages.
const LEN: usize = 12_288;

struct Fixture {
    dir: TempDir,
    packs: std::path::PathBuf,
    disk: Arc<FaultyDisk>,
}

fn leaf(n: u32) -> Block {
    let data = Bytes::from(n.to_le_bytes().repeat(LEN / 4));
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packs = dir.path().join("packs");
        std::fs::create_dir(&packs).unwrap();
        Self { dir, packs, disk: Arc::default() }
    }

    fn open(&self, cache_max_bytes: Option<u64>) -> Arc<DiskStore> {
        let disk = Arc::clone(&self.disk) as _;
        let assemble_min_bytes = LEN as u64;
        let options =
            DiskOptions { cache_max_bytes, assemble_min_bytes, disk, ..DiskOptions::default() };
        Arc::new(DiskStore::open(&self.packs, options).unwrap())
    }

    fn count(&self, extension: &str) -> usize {
        self.names()
            .iter()
            .filter_map(|name| name.split_once('.'))
            .filter(|name| name.1 == extension)
            .count()
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.packs).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A file of these leaves.
    fn source(&self, leaves: &[Block]) -> File {
        let path = self.dir.path().join("source");
        let mut file = File::create(&path).unwrap();
        for leaf in leaves {
            file.write_all(leaf.data()).unwrap();
        }
        File::open(path).unwrap()
    }

    fn assembly(&self, store: &Arc<DiskStore>, leaves: &[Block]) -> Assembly {
        let mut assembly = store.assemble().unwrap();
        assembly.share(&self.source(leaves), (leaves.len() * LEN) as u64).unwrap();
        for leaf in leaves {
            assert!(assembly.push(leaf, LEN as u64).unwrap());
        }
        assembly
    }

    fn assemble(&self, store: &Arc<DiskStore>, numbers: Range<u32>) {
        self.assembly(store, &leaves(numbers)).finish().unwrap();
    }
}

fn leaves(numbers: Range<u32>) -> Vec<Block> {
    numbers.map(leaf).collect()
}

fn here(store: &DiskStore, numbers: Range<u32>) -> Vec<u32> {
    numbers.filter(|n| store.peek(leaf(*n).cid()).unwrap() == Some(leaf(*n))).collect()
}

fn sweep(store: &DiskStore, kept: Range<u32>) {
    let mut keep = store.keep_set();
    for n in kept {
        keep.insert(leaf(n).cid());
    }
    store.sweep(&keep, &mut |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn it_is_the_file_and_serves_its_leaves() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let assembly = fixture.assembly(&store, &leaves(0..5));
    assert!(here(&store, 0..5).is_empty(), "nobody sees it before it is durable");
    assembly.finish().unwrap();
    assert_eq!(here(&store, 0..5).len(), 5);
    assert_eq!(fixture.names(), ["0000000001.file", "0000000001.leaves"].map(String::from).into());
    let content: Vec<u8> = leaves(0..5).iter().flat_map(|leaf| leaf.data().to_vec()).collect();
    assert_eq!(std::fs::read(fixture.packs.join("0000000001.file")).unwrap(), content);
    let usage = crate::store::diskio::disk_usage(&fixture.packs).unwrap();
    assert_eq!(store.disk_bytes(), usage);
    drop(store);
    let store = fixture.open(None);
    assert_eq!(here(&store, 0..5).len(), 5);
    assert_eq!(store.read_range(leaf(3).cid(), 5..9).unwrap().unwrap().bytes, leaf(3).data()[5..9]);
    assert_eq!(store.stats().unwrap().blocks, 5);
    store.put(&leaves(3..7)).unwrap();
    store.commit().unwrap();
    assert_eq!(store.stats().unwrap().blocks, 7, "a put relies on it");
}

#[test]
fn what_is_here_already_leaves_a_hole() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(2..4)).unwrap();
    fixture.assemble(&store, 0..6);
    assert_eq!(here(&store, 0..6).len(), 6);
    let blocks = store.stats().unwrap().blocks;
    assert!(blocks == 6 || blocks == 8, "{blocks}: twice only where the disk shares the bytes");
    fixture.assemble(&store, 0..6);
    assert_eq!(store.stats().unwrap().blocks, blocks);
    assert_eq!(fixture.count("file"), 1);
}

#[test]
fn a_run_of_one_leaf_is_kept_once_and_the_rest_lies_in_its_place() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let numbers = [1, 0, 0, 0, 2, 0];
    fixture.assembly(&store, &numbers.map(leaf)).finish().unwrap();
    assert_eq!(here(&store, 0..3), [0, 1, 2]);
    let file = fixture.packs.join("0000000001.file");
    assert_eq!(std::fs::metadata(file).unwrap().len(), 6 * LEN as u64);
}

#[test]
fn one_that_is_given_up_leaves_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open(Some(100_000_000));
    drop(fixture.assembly(&store, &leaves(0..5)));
    assert!(fixture.names().is_empty(), "{:?}", fixture.names());
    assert_eq!(store.disk_bytes(), 0);
    for call in [Call::Sync, Call::Write] {
        let assembly = fixture.assembly(&store, &leaves(0..5));
        fixture.disk.fail(call, 0, nix::libc::EIO);
        assert!(matches!(assembly.finish(), Err(StoreError::Io { .. })));
        assert!(fixture.names().is_empty(), "{:?}", fixture.names());
        assert_eq!((store.disk_bytes(), here(&store, 0..5)), (0, Vec::new()));
    }
    fixture.assemble(&store, 0..5);
    assert_eq!(here(&store, 0..5).len(), 5);
}

#[test]
fn a_leaf_for_which_there_is_no_room_is_left_to_others() {
    let fixture = Fixture::new();
    let store = fixture.open(Some(400_000));
    let all = leaves(0..40);
    let mut assembly = store.assemble().unwrap();
    let taken = all.iter().filter(|leaf| assembly.push(leaf, LEN as u64).unwrap()).count();
    assert!((20..40).contains(&taken), "{taken}");
    assert!(store.disk_bytes() <= 400_000);
    assembly.finish().unwrap();
    assert_eq!(here(&store, 0..40).len(), taken);
}

#[test]
fn it_is_evicted_leaf_by_leaf_and_deleted_when_nothing_is_left() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..20);
    sweep(&store, 4..18);
    assert_eq!(here(&store, 0..20), (4..18).collect::<Vec<_>>());
    let usage = crate::store::diskio::disk_usage(&fixture.packs).unwrap();
    assert_eq!(store.disk_bytes(), usage);
    assert!(usage < 16 * LEN as u64, "{usage}");
    drop(store);
    let store = fixture.open(None);
    assert_eq!(here(&store, 0..20), (4..18).collect::<Vec<_>>());
    sweep(&store, 4..6);
    assert_eq!(here(&store, 0..20), [4, 5]);
    sweep(&store, 0..0);
    assert!(fixture.names().is_empty(), "{:?}", fixture.names());
    drop(store);
    assert!(here(&fixture.open(None), 0..20).is_empty());
}

#[test]
fn writing_goes_on_in_the_pack_before_it() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    store.put(&leaves(0..2)).unwrap();
    fixture.assemble(&store, 10..12);
    store.close().unwrap();
    drop(store);
    let store = fixture.open(None);
    store.put(&leaves(2..4)).unwrap();
    store.close().unwrap();
    assert_eq!(here(&store, 0..4).len(), 4);
    assert_eq!(fixture.count("car"), 1);
}

#[test]
fn leftovers_go_and_what_is_lost_is_named() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    for n in 0..4 {
        fixture.assemble(&store, n..n + 1);
    }
    drop(store);
    let path = |name: &str| fixture.packs.join(name);
    // Killed before the rename, while it was deleted, and losses of both kinds.
    std::fs::rename(path("0000000001.file"), path("0000000001.file.new")).unwrap();
    std::fs::write(path("0000000009.file.new"), b"half").unwrap();
    std::fs::write(path("0000000009.leaves.new"), b"half").unwrap();
    std::fs::remove_file(path("0000000002.leaves")).unwrap();
    std::fs::remove_file(path("0000000003.file")).unwrap();
    let store = fixture.open(None);
    assert_eq!(here(&store, 0..4), [3]);
    let left = [
        "0000000002.file.broken-1",
        "0000000003.leaves.broken-1",
        "0000000004.file",
        "0000000004.leaves",
    ];
    assert_eq!(fixture.names(), left.map(String::from).into());
    fixture.assemble(&store, 0..4);
    assert_eq!(here(&store, 0..4).len(), 4);
}

#[test]
fn verify_names_what_was_lost_with_a_file() {
    let named = |store: &DiskStore| {
        let mut report = VerifyReport::default();
        store.verify_lost(&mut report).unwrap();
        report.damaged.into_iter().map(|damage| (damage.cid, damage.place)).collect::<Vec<_>>()
    };
    let fixture = Fixture::new();
    fixture.assemble(&fixture.open(None), 0..3);
    fixture.assemble(&fixture.open(None), 3..6);
    let path = |name: &str| fixture.packs.join(name);
    std::fs::remove_file(path("0000000001.file")).unwrap();
    let mut sidecar = std::fs::read(path("0000000002.leaves")).unwrap();
    sidecar[50] ^= 1;
    std::fs::write(path("0000000002.leaves"), sidecar).unwrap();
    for store in [fixture.open(None), fixture.open(None)] {
        let lost = named(&store);
        let cids: BTreeSet<_> = lost.iter().filter_map(|(cid, _)| *cid).collect();
        assert_eq!(cids, leaves(0..3).iter().map(|leaf| *leaf.cid()).collect());
        assert_eq!(lost.len(), 4, "{lost:?}");
        assert!(lost[3].1.contains("0000000002.file.broken-1"), "{lost:?}");
    }
    let store = fixture.open(None);
    fixture.assemble(&store, 0..6);
    assert_eq!(named(&store).len(), 1, "nobody knows that it is all here again");
    std::fs::remove_file(path("0000000002.file.broken-1")).unwrap();
    std::fs::remove_file(path("0000000002.leaves.broken-1")).unwrap();
    assert_eq!(named(&store), []);
}

#[test]
fn a_flipped_bit_costs_its_leaf() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..3);
    drop(store);
    let path = fixture.packs.join("0000000001.file");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[LEN + 7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = fixture.open(None);
    assert!(matches!(store.get(leaf(1).cid()), Err(StoreError::Corrupt { .. })));
    assert_eq!((store.get(leaf(0).cid()).unwrap(), here(&store, 2..3)), (Some(leaf(0)), vec![2]));
    store.put(&[leaf(1)]).unwrap();
    assert_eq!(store.get(leaf(1).cid()).unwrap(), Some(leaf(1)), "healed");
}

fn ranges(numbers: impl IntoIterator<Item = u32>) -> Vec<FileRange> {
    let range = |(at, n): (usize, u32)| FileRange {
        cid: *leaf(n).cid(),
        offset: (at * LEN) as u64,
        len: u32::try_from(LEN).unwrap(),
    };
    numbers.into_iter().enumerate().map(range).collect()
}

fn is_whole(store: &DiskStore, numbers: Range<u32>) -> bool {
    matches!(store.whole_file(&ranges(numbers), u64::MAX).unwrap(), FileState::Whole(_))
}

#[test]
fn it_is_whole_when_every_leaf_lies_proved_in_its_place() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..5);
    let FileState::Whole(whole) = store.whole_file(&ranges(0..5), 0).unwrap() else {
        panic!("what was just hashed is proved");
    };
    assert_eq!(whole.file().metadata().unwrap().len(), 5 * LEN as u64);
    drop(whole);
    for other in [0..4, 1..5, 0..6, 7..9, 0..0] {
        assert!(!is_whole(&store, other.clone()), "{other:?}");
    }
    let swapped = store.whole_file(&ranges([1, 0, 2, 3, 4]), u64::MAX).unwrap();
    assert!(matches!(swapped, FileState::Parts));
    drop(store);
    let store = fixture.open(None);
    let some = store.whole_file(&ranges(0..5), 2 * LEN as u64).unwrap();
    assert!(matches!(some, FileState::Unproved), "nothing is proved at a start");
    assert!(is_whole(&store, 0..5));
    store.remove(leaf(2).cid()).unwrap();
    assert!(!is_whole(&store, 0..5));
}

#[test]
fn a_leaf_that_lies_in_two_places_is_hashed_in_both() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let numbers = [1, 0, 2, 0];
    fixture.assembly(&store, &numbers.map(leaf)).finish().unwrap();
    let state = |budget| store.whole_file(&ranges(numbers), budget).unwrap();
    assert!(matches!(state(0), FileState::Unproved));
    assert!(matches!(state(LEN as u64), FileState::Whole(_)));
    let path = fixture.packs.join("0000000001.file");
    let file = File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", LEN as u64 + 5).unwrap();
    assert!(matches!(state(0), FileState::Whole(_)), "it was proved");
    let (mut report, go_on) = (VerifyReport::default(), &mut |_: &_| ControlFlow::Continue(()));
    assert!(store.verify_pack(PackId(1), &mut report, go_on).unwrap().is_continue());
    assert!(matches!(state(LEN as u64), FileState::Parts), "a verification proves no repeats");
}

/// Found by fuzzing: the block behind a head is right, and what the file has at the place of the leaf is not.
#[test]
fn a_leaf_with_something_in_front_of_it_is_none() {
    let head: fn(&mut Entry) = |entry| entry.head_len = 3;
    let derived: fn(&mut Entry) = |entry| entry.key.derived = true;
    for change in [head, derived] {
        let fixture = Fixture::new();
        // What begins three bytes too late ends in the zeros that the next begins with.
        let (first, second) = (leaf(0), leaf(1 << 24));
        let entry = |leaf: &Block, start| {
            let (key, len) = (BlockKey::of(leaf.cid()), u32::try_from(LEN).unwrap());
            Entry { key, start, head_len: 0, len, framing: Framing::Bare }
        };
        let mut entries = vec![entry(&first, 0), entry(&second, LEN as u64)];
        change(&mut entries[0]);
        let path = |name: &str| fixture.packs.join(name);
        let (sidecar, end) = (path("0000000001.leaves"), 2 * LEN as u64);
        index::write(&*fixture.disk, &sidecar, PackId(1), end, entries).unwrap();
        let mut content = [&first.data()[..], second.data()].concat();
        content[1] = 9;
        std::fs::write(path("0000000001.file"), content).unwrap();
        let store = fixture.open(None);
        let found = store.get(first.cid()).unwrap();
        let state = store.whole_file(&ranges([0, 1 << 24]), u64::MAX).unwrap();
        assert!(matches!(state, FileState::Parts), "{state:?}");
        assert_eq!(found, None);
        assert_eq!((fixture.count("file"), fixture.count("leaves")), (0, 0), "set aside");
    }
}

#[test]
fn what_is_leased_is_kept_as_it_is() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..10);
    let FileState::Whole(whole) = store.whole_file(&ranges(0..10), 0).unwrap() else {
        panic!("it was just added");
    };
    let full = store.disk_bytes();
    store.remove(leaf(3).cid()).unwrap();
    sweep(&store, 0..0);
    sweep(&store, 0..0);
    assert_eq!(here(&store, 0..10).len(), 9, "one was removed by name");
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut whole.file(), &mut content).unwrap();
    assert!(content.chunks(LEN).zip(0..).all(|(part, n)| part == leaf(n).data()));
    assert!(store.disk_bytes() + LEN as u64 > full);
    drop(whole);
    sweep(&store, 5..10);
    assert!(store.disk_bytes() < full - 4 * LEN as u64, "{}", store.disk_bytes());
    assert_eq!(here(&store, 0..10), (5..10).collect::<Vec<_>>());
}

#[test]
fn readers_of_whole_files_and_eviction_do_not_meet() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                sweep(&store, 0..0);
            }
        });
        for round in 0..200 {
            let first = round * 4;
            fixture.assemble(&store, first..first + 4);
            let state = store.whole_file(&ranges(first..first + 4), 0).unwrap();
            if let FileState::Whole(whole) = state {
                std::thread::yield_now();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut whole.file(), &mut content).unwrap();
                let parts = content.chunks(LEN).zip(first..);
                assert!(parts.into_iter().all(|(part, n)| part == leaf(n).data()), "{round}");
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_file_of_another_length_is_told_and_never_whole() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..5);
    let path = fixture.packs.join("0000000001.file");
    let file = File::options().write(true).open(&path).unwrap();
    let verified = |store: &DiskStore| {
        let mut report = crate::store::VerifyReport::default();
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        assert!(store.verify_pack(PackId(1), &mut report, go_on).unwrap().is_continue());
        report.damaged_count
    };
    for len in [5 * LEN as u64 + 1, 3 * LEN as u64] {
        file.set_len(len).unwrap();
        assert!(!is_whole(&store, 0..5), "{len}");
        let expected = if len > 5 * LEN as u64 { 1 } else { 3 };
        assert_eq!(verified(&store), expected, "{len}");
    }
    file.set_len(7 * LEN as u64).unwrap();
    drop(store);
    drop(fixture.open(None));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 5 * LEN as u64, "a start cuts it off");
}

#[test]
fn a_put_does_not_rely_on_a_file_that_was_taken_away() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    fixture.assemble(&store, 0..5);
    assert_eq!(here(&store, 0..5).len(), 5);
    std::fs::remove_file(fixture.packs.join("0000000001.file")).unwrap();
    fixture.assemble(&store, 0..5);
    drop(store);
    assert_eq!(here(&fixture.open(None), 0..5).len(), 5, "it was stored once more");
}

#[test]
fn a_file_larger_than_the_cap_evicts_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open(Some(400_000));
    let all = leaves(0..40);
    let mut assembly = store.assemble().unwrap();
    let refused = assembly.share(&fixture.source(&all), (all.len() * LEN) as u64).unwrap_err();
    assert!(matches!(refused, StoreError::OverCap { .. }), "{refused}");
}

#[test]
fn a_file_that_is_gone_is_told_leaf_by_leaf_and_takes_no_disk() {
    let fixture = Fixture::new();
    fixture.assemble(&fixture.open(None), 0..5);
    let store = fixture.open(None);
    std::fs::remove_file(fixture.packs.join("0000000001.file")).unwrap();
    let mut report = crate::store::VerifyReport::default();
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    assert!(store.verify_pack(PackId(1), &mut report, go_on).unwrap().is_continue());
    assert_eq!(report.damaged_count, 6, "each leaf, and the file");
    sweep(&store, 0..5);
    store.remove(leaf(0).cid()).unwrap();
    assert!(store.disk_bytes() < LEN as u64, "{}", store.disk_bytes());
}

#[test]
fn damage_that_was_healed_is_none_any_more() {
    let verified = |store: &DiskStore| {
        let mut report = VerifyReport::default();
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        assert!(store.verify_pack(PackId(1), &mut report, go_on).unwrap().is_continue());
        report.damaged_count
    };
    for (is_cut, damaged) in [(false, 1), (true, 4)] {
        let fixture = Fixture::new();
        fixture.assemble(&fixture.open(None), 0..5);
        let path = fixture.packs.join("0000000001.file");
        let file = File::options().write(true).open(path).unwrap();
        let changed = if is_cut {
            file.set_len(2 * LEN as u64)
        } else {
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", 5)
        };
        changed.unwrap();
        let store = fixture.open(None);
        assert_eq!(verified(&store), damaged);
        store.put(&leaves(0..5)).unwrap();
        store.commit().unwrap();
        assert_eq!((verified(&store), store.stats().unwrap().blocks), (0, 5));
        drop(store);
        let store = fixture.open(None);
        assert_eq!((verified(&store), here(&store, 0..5).len()), (0, 5));
        let go_on = &mut || ControlFlow::Continue(());
        assert_eq!(store.gather(&ranges(0..5), go_on).unwrap(), Gathered::Done);
        assert!(is_whole(&store, 0..5));
        assert_eq!((verified(&store), store.stats().unwrap().blocks), (0, 5));
    }
}

#[test]
fn a_file_that_is_gone_goes_when_its_leaves_are_here_again() {
    let fixture = Fixture::new();
    fixture.assemble(&fixture.open(None), 0..5);
    let store = fixture.open(None);
    std::fs::remove_file(fixture.packs.join("0000000001.file")).unwrap();
    store.put(&leaves(0..5)).unwrap();
    store.commit().unwrap();
    let (mut report, go_on) = (VerifyReport::default(), &mut |_: &_| ControlFlow::Continue(()));
    assert!(store.verify_pack(PackId(1), &mut report, go_on).unwrap().is_continue());
    assert_eq!((report.damaged_count, fixture.count("leaves")), (0, 0), "{report:?}");
    assert_eq!(here(&store, 0..5).len(), 5);
}

#[test]
fn a_little_room_takes_little_of_a_long_file() {
    const MIB: u64 = 1024 * 1024;
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let mut assembly = store.assemble().unwrap();
    for n in 0..40 {
        assembly.next = 1024 * MIB + u64::from(n) * 10 * MIB;
        assert!(assembly.push(&leaf(n), LEN as u64).unwrap());
    }
    assembly.finish().unwrap();
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    let report = store.make_room(&store.keep_set(), 1, go_on).unwrap();
    assert_eq!((report.enough, report.blocks), (true, 1), "{report:?}");
}
