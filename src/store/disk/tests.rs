//! What the disk store does when the disk is full, fails, or holds other bytes than were written.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use bytes::Bytes;

use super::*;
use crate::block::{HashFn, codecs};
use crate::store::faults::{Call, FaultyDisk};
use crate::store::framing::Framing;
use crate::store::pack::index::{self, SealedPack};
use crate::store::pack::open::OpenPack;
use crate::store::pack::usage::Usage;

const EIO: i32 = nix::libc::EIO;
const ENOSPC: i32 = nix::libc::ENOSPC;

/// A store of three blocks per pack on a disk that can fail.
struct Fixture {
    dir: TempDir,
    disk: Arc<FaultyDisk>,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), disk: Arc::new(FaultyDisk::default()) }
    }

    /// Returns a fixture whose packs 1 to 3 hold blocks 0 to 7, cleanly closed.
    fn filled() -> Self {
        let fixture = Self::new();
        let store = fixture.open();
        store.put(&blocks(0..8)).unwrap();
        store.close().unwrap();
        fixture
    }

    fn open(&self) -> DiskStore {
        let disk = Arc::clone(&self.disk) as _;
        let options = DiskOptions { pack_blocks_max: 3, disk, ..DiskOptions::default() };
        DiskStore::open(self.dir.path(), options).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Flips a bit in the middle of block `n`.
    fn damage(&self, pack: &str, n: u32) {
        let path = self.path(pack);
        let mut bytes = std::fs::read(&path).unwrap();
        let data = block(n).into_data();
        let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
        bytes[at + 700] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

fn block(n: u32) -> Block {
    let data = Bytes::from(n.to_le_bytes().repeat(500));
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
}

fn blocks(numbers: Range<u32>) -> Vec<Block> {
    numbers.map(block).collect()
}

fn check_here(store: &DiskStore, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        assert_eq!(store.get(block(n).cid()).unwrap(), Some(block(n)), "block {n}");
    }
}

fn check_corrupt(store: &DiskStore, n: u32, file: &str) {
    for error in [
        store.get(block(n).cid()).map(drop).unwrap_err(),
        store.read_range(block(n).cid(), 0..5).map(drop).unwrap_err(),
        store.block_len(block(n).cid()).map(drop).unwrap_err(),
    ] {
        let StoreError::Corrupt { cid, place } = error else { panic!("{error}") };
        assert_eq!(&*cid, block(n).cid());
        assert!(place.contains(file), "{place}");
    }
}

fn verify(store: &DiskStore) -> VerifyReport {
    let mut report = VerifyReport::default();
    for id in store.pack_ids() {
        let done = store.verify_pack(id, &mut report, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(done.is_continue());
    }
    store.verify_lost(&mut report).unwrap();
    report
}

fn rebuild(dir: &Path) -> RebuildReport {
    rebuild::rebuild(dir, Arc::new(RealDisk), &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn packs_roll_and_the_last_one_goes_on() {
    let fixture = Fixture::filled();
    let names = fixture.names();
    for n in 1..=3 {
        assert!(names.contains(&format!("000000000{n}.car")), "{names:?}");
        assert!(names.contains(&format!("000000000{n}.idx")), "{names:?}");
    }
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    assert_eq!(store.stats().unwrap().packs, 3, "the third pack had room for one more");
    store.put(&blocks(9..10)).unwrap();
    assert_eq!(store.stats().unwrap().packs, 4);
    check_here(&store, 0..10);
}

#[test]
fn a_pack_is_an_archive() {
    let fixture = Fixture::filled();
    let bytes = std::fs::read(fixture.path("0000000001.car")).unwrap();
    let mut expected = super::super::pack::section::PACK_HEADER.to_vec();
    for block in blocks(0..3) {
        super::super::pack::section::push_head(block.cid(), 2000, &mut expected);
        expected.extend_from_slice(block.data());
    }
    assert_eq!(bytes, expected);
}

#[test]
fn a_damaged_block_is_never_served_and_a_put_heals_it() {
    let fixture = Fixture::filled();
    fixture.damage("0000000002.car", 4);
    let store = fixture.open();
    check_corrupt(&store, 4, "0000000002.car");
    check_here(&store, [0, 1, 2, 3, 5, 6, 7]);
    store.put(&blocks(4..5)).unwrap();
    check_here(&store, 0..8);
    store.close().unwrap();
    check_here(&fixture.open(), 0..8);
}

#[test]
fn a_range_of_a_damaged_block_is_not_served_even_if_it_is_good_itself() {
    let fixture = Fixture::filled();
    fixture.damage("0000000001.car", 0);
    let store = fixture.open();
    let range = store.read_range(block(0).cid(), 0..100);
    assert!(matches!(range, Err(StoreError::Corrupt { .. })));
}

#[test]
fn what_rots_while_the_store_is_open_is_neither_served_whole_nor_relied_on() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    check_here(&store, 0..8);
    fixture.damage("0000000002.car", 4);
    let whole = store.read_range(block(4).cid(), 0..5000);
    assert!(matches!(whole, Err(StoreError::Corrupt { .. })), "{whole:?}");
    fixture.damage("0000000003.car", 7);
    store.put(&blocks(7..8)).unwrap();
    store.close().unwrap();
    check_here(&fixture.open(), [0, 1, 2, 3, 5, 6, 7]);
}

#[test]
fn verify_names_what_is_damaged() {
    let fixture = Fixture::filled();
    assert_eq!(verify(&fixture.open()).damaged_count, 0);
    fixture.damage("0000000001.car", 1);
    fixture.damage("0000000003.car", 6);
    let store = fixture.open();
    let report = verify(&store);
    let cids: Vec<_> = report.damaged.iter().filter_map(|damage| damage.cid).collect();
    assert_eq!(cids, [*block(1).cid(), *block(6).cid()]);
    assert_eq!((report.done.blocks, report.damaged_count), (8, 2));
    assert!(report.damaged[1].place.contains("0000000003.car"));
    check_corrupt(&store, 1, "0000000001.car");
}

#[test]
fn what_is_good_again_when_it_is_verified_is_served_again() {
    let fixture = Fixture::filled();
    let path = fixture.path("0000000001.car");
    let good = std::fs::read(&path).unwrap();
    fixture.damage("0000000001.car", 1);
    let store = fixture.open();
    check_corrupt(&store, 1, "0000000001.car");
    std::fs::write(&path, good).unwrap();
    check_corrupt(&store, 1, "0000000001.car");
    assert_eq!(verify(&store).damaged_count, 0);
    check_here(&store, 0..8);
    store.remove(block(1).cid()).unwrap();
    verify(&store);
    assert_eq!(store.get(block(1).cid()).unwrap(), None, "what is removed stays removed");
}

#[test]
fn a_damaged_copy_of_a_healed_block_is_given_up() {
    let fixture = Fixture::filled();
    fixture.damage("0000000001.car", 1);
    let store = fixture.open();
    assert_eq!(verify(&store).damaged_count, 1);
    store.put(&blocks(1..2)).unwrap();
    assert_eq!(verify(&store).damaged_count, 0);
    assert_eq!(store.stats().unwrap().blocks, 9, "a power cut may take the good one");
    store.commit().unwrap();
    fixture.disk.fail(Call::Sync, 0, EIO);
    assert_eq!(verify(&store).damaged_count, 0, "what cannot be buried is no worse");
    fixture.disk.heal();
    drop(store);
    for _ in 0..2 {
        let store = fixture.open();
        assert_eq!(verify(&store).damaged_count, 0);
        assert_eq!(store.stats().unwrap().blocks, 8);
        check_here(&store, 0..8);
    }
    assert_eq!(rebuild(fixture.dir.path()).damaged, []);
    check_here(&fixture.open(), 0..8);
}

#[test]
fn a_damaged_copy_beside_another_damaged_one_is_named() {
    let fixture = Fixture::filled();
    fixture.damage("0000000001.car", 1);
    let store = fixture.open();
    store.get(block(1).cid()).map(drop).unwrap_err();
    store.put(&blocks(1..2)).unwrap();
    store.close().unwrap();
    drop(store);
    fixture.damage("0000000003.car", 1);
    let store = fixture.open();
    for _ in 0..2 {
        assert_eq!(verify(&store).damaged_count, 2);
    }
    assert!(matches!(store.get(block(1).cid()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn verify_names_what_went_with_a_whole_pack() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    store.remove(block(4).cid()).unwrap();
    drop(store);
    std::fs::remove_file(fixture.path("0000000002.car")).unwrap();
    for _ in 0..2 {
        let report = verify(&fixture.open());
        let cids: BTreeSet<_> = report.damaged.iter().map(|damage| damage.cid.unwrap()).collect();
        assert_eq!(cids, [3, 5].map(|n| *block(n).cid()).into());
        assert!(report.damaged[0].place.contains("0000000002.idx.broken-1"), "{report:?}");
    }
    let store = fixture.open();
    store.put(&blocks(3..4)).unwrap();
    assert_eq!(verify(&store).damaged_count, 1);
    store.put(&blocks(5..6)).unwrap();
    assert_eq!(verify(&store).damaged_count, 0, "it is all here again");
}

#[test]
fn verify_names_a_pack_that_went_with_its_index() {
    let fixture = Fixture::filled();
    std::fs::remove_file(fixture.path("0000000002.car")).unwrap();
    std::fs::write(fixture.path("0000000002.idx"), b"nonsense").unwrap();
    let report = verify(&fixture.open());
    assert_eq!(report.damaged_count, 1);
    assert!(report.damaged[0].place.contains("0000000002.idx.broken-1, which is damaged"));
}

#[test]
fn verify_names_what_was_cut_off_a_pack() {
    let fixture = Fixture::filled();
    let pack = File::options().write(true).open(fixture.path("0000000001.car")).unwrap();
    pack.set_len(3000).unwrap();
    let store = fixture.open();
    assert_eq!(verify(&store).damaged_count, 2);
    drop(store);
    std::fs::remove_file(fixture.path("0000000001.idx.broken-1")).unwrap();
    assert_eq!(verify(&fixture.open()).damaged_count, 0, "nobody misses it");
}

#[test]
fn a_missing_or_damaged_index_is_made_anew() {
    for (content, aside) in
        [(None, false), (Some(&b"nonsense"[..]), true), (Some(&[0; 4096][..]), true)]
    {
        let fixture = Fixture::filled();
        let index = fixture.path("0000000002.idx");
        match content {
            None => std::fs::remove_file(&index).unwrap(),
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
        }
        check_here(&fixture.open(), 0..8);
        assert_eq!(fixture.names().contains("0000000002.idx.broken-1"), aside);
        check_here(&fixture.open(), 0..8);
        assert!(!fixture.names().contains("0000000002.idx.broken-2"));
        assert_eq!(verify(&fixture.open()).damaged_count, 0, "nothing is lost");
    }
}

#[test]
fn a_truncated_pack_costs_what_is_cut() {
    let fixture = Fixture::filled();
    let path = fixture.path("0000000001.car");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(4500).unwrap();
    let store = fixture.open();
    check_here(&store, [0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(store.get(block(2).cid()).unwrap(), None);
    assert!(fixture.names().contains("0000000001.idx.broken-1"));
}

#[test]
fn a_missing_pack_costs_itself_and_its_number_is_not_an_index_of_another() {
    let fixture = Fixture::filled();
    std::fs::remove_file(fixture.path("0000000003.car")).unwrap();
    let store = fixture.open();
    check_here(&store, 0..6);
    store.put(&blocks(6..9)).unwrap();
    check_here(&store, 0..9);
    assert!(fixture.names().contains("0000000003.idx.broken-1"));
}

#[test]
fn files_of_other_names_are_no_packs() {
    let fixture = Fixture::filled();
    for name in ["1.car", "+000000001.car", "18446744073709551615.car", "x.car", "0000000001"] {
        std::fs::write(fixture.path(name), b"").unwrap();
    }
    let store = fixture.open();
    assert_eq!(store.stats().unwrap().packs, 3);
    store.put(&blocks(8..9)).unwrap();
    check_here(&store, 0..9);
}

#[test]
fn what_no_index_covers_is_hashed_at_open() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.put(&blocks(0..2)).unwrap();
    drop(store);
    fixture.damage("0000000001.car", 0);
    let store = fixture.open();
    assert_eq!(store.get(block(0).cid()).unwrap(), None, "not even known");
    store.put(&blocks(0..1)).unwrap();
    check_here(&store, 0..2);
}

#[test]
fn a_torn_end_is_cut_off_and_written_over() {
    let fixture = Fixture::filled();
    let path = fixture.path("0000000003.car");
    let whole = std::fs::read(&path).unwrap();
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    drop(store);
    let longer = std::fs::read(&path).unwrap();
    for cut in [whole.len() + 1, whole.len() + 100, longer.len() - 1] {
        std::fs::write(&path, &longer[..cut]).unwrap();
        let store = fixture.open();
        check_here(&store, 0..8);
        assert_eq!(store.get(block(8).cid()).unwrap(), None);
        assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), longer);
}

#[test]
fn a_full_disk_stops_writing_only() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    let before = std::fs::metadata(fixture.path("0000000003.car")).unwrap().len();
    fixture.disk.fail(Call::Write, 0, ENOSPC);
    let full = store.put(&blocks(8..9)).unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    let after = std::fs::metadata(fixture.path("0000000003.car")).unwrap().len();
    assert_eq!(after, before, "the half-written section is cut off");
    check_here(&store, 0..8);
    assert_eq!(store.get(block(8).cid()).unwrap(), None);
    store.put(&blocks(8..9)).unwrap();
    store.commit().unwrap();
    check_here(&store, 0..9);
    drop(store);
    check_here(&fixture.open(), 0..9);
}

#[test]
fn a_failed_sync_is_never_taken_for_a_good_one() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    fixture.disk.fail(Call::Sync, 0, EIO);
    assert!(matches!(store.commit(), Err(StoreError::Io { .. })));
    // Another caller, who had put before the failure and commits after it:
    assert!(matches!(store.commit(), Err(StoreError::NotDurable { count: 1, .. })));
    assert_eq!(store.get(block(8).cid()).unwrap(), None, "forgotten");
    check_here(&store, 0..8);
    store.put(&blocks(8..9)).unwrap();
    store.commit().unwrap();
    assert!(fixture.names().contains("0000000004.car"), "not in the pack that failed");
    check_here(&store, 0..9);
}

#[test]
fn a_failed_sync_while_rolling_fails_the_put_and_later_commits() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.put(&blocks(0..3)).unwrap();
    fixture.disk.fail(Call::Sync, 0, EIO);
    assert!(store.put(&blocks(3..4)).is_err());
    assert!(matches!(store.commit(), Err(StoreError::NotDurable { count: 3, .. })));
    store.put(&blocks(0..4)).unwrap();
    store.commit().unwrap();
    drop(store);
    check_here(&fixture.open(), 0..4);
}

#[test]
fn a_disk_too_full_for_an_index_costs_a_scan_only() {
    let fixture = Fixture::new();
    let store = fixture.open();
    store.put(&blocks(0..3)).unwrap();
    fixture.disk.fail(Call::Write, 0, ENOSPC);
    store.close().unwrap();
    drop(store);
    assert!(!fixture.names().contains("0000000001.idx"));
    assert!(!fixture.names().contains("0000000001.idx.new"));
    check_here(&fixture.open(), 0..3);
}

#[test]
fn a_full_disk_at_open_still_reads() {
    let fixture = Fixture::filled();
    std::fs::remove_file(fixture.path("0000000001.idx")).unwrap();
    fixture.disk.fail(Call::Write, 0, ENOSPC);
    check_here(&fixture.open(), 0..8);
}

#[test]
fn restarts_on_a_full_disk_leave_no_trail_of_packs() {
    let fixture = Fixture::new();
    for _ in 0..3 {
        let store = fixture.open();
        fixture.disk.fail(Call::Write, 0, ENOSPC);
        assert!(matches!(store.put(&blocks(0..1)), Err(StoreError::Full { .. })));
        drop(store);
        fixture.disk.fail(Call::Write, 0, ENOSPC);
        assert_eq!(fixture.open().stats().unwrap().packs, 1);
        fixture.disk.heal();
    }
    let store = fixture.open();
    store.put(&blocks(0..4)).unwrap();
    store.close().unwrap();
    check_here(&fixture.open(), 0..4);
}

#[test]
fn what_was_removed_stays_removed() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    assert!(store.remove(block(1).cid()).unwrap());
    assert!(store.remove(block(7).cid()).unwrap(), "in the open pack");
    drop(store);
    let check = |store: &DiskStore| {
        assert_eq!(store.get(block(1).cid()).unwrap(), None);
        assert_eq!(store.get(block(7).cid()).unwrap(), None);
        check_here(store, [0, 2, 3, 4, 5, 6]);
        assert_eq!(store.stats().unwrap().blocks, 6);
        assert_eq!(verify(store).damaged_count, 0);
    };
    check(&fixture.open());
    std::fs::remove_file(fixture.path("0000000001.idx")).unwrap();
    check(&fixture.open());
    assert_eq!(rebuild(fixture.dir.path()).damaged, []);
    check(&fixture.open());
    let store = fixture.open();
    store.put(&blocks(1..2)).unwrap();
    store.close().unwrap();
    drop(store);
    rebuild(fixture.dir.path());
    check_here(&fixture.open(), 0..7);
}

#[test]
fn a_tombstone_beyond_the_end_buries_nothing_that_comes_later() {
    let fixture = Fixture::filled();
    let pack = fixture.path("0000000003.car");
    let before = std::fs::read(&pack).unwrap();
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    store.remove(block(8).cid()).unwrap();
    drop(store);
    std::fs::write(&pack, before).unwrap();
    let store = fixture.open();
    store.put(&blocks(8..9)).unwrap();
    store.close().unwrap();
    check_here(&fixture.open(), 0..9);
}

#[test]
fn removing_gives_whole_pages_back() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let data = Bytes::from(vec![3; 1024 * 1024]);
    let big = Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap();
    store.put(&[big.clone(), block(0)]).unwrap();
    store.commit().unwrap();
    let before = store.stats().unwrap().disk_bytes;
    store.remove(big.cid()).unwrap();
    let after = store.stats().unwrap().disk_bytes;
    assert!(after + 1_000_000 < before, "{before} bytes, then {after}");
    check_here(&store, 0..1);
}

#[test]
fn a_rebuild_needs_nothing_but_packs() {
    let fixture = Fixture::filled();
    for name in fixture.names().iter().filter(|name| name.ends_with("idx")) {
        std::fs::remove_file(fixture.path(name)).unwrap();
    }
    let report = rebuild(fixture.dir.path());
    assert_eq!((report.packs, report.blocks, report.bytes), (3, 8, 16_000));
    check_here(&fixture.open(), 0..8);
}

#[test]
fn a_rebuild_salvages_a_damaged_pack_and_sets_it_aside() {
    // In the middle of a pack and at its end.
    for bad in [1, 2] {
        let fixture = Fixture::filled();
        fixture.damage("0000000001.car", bad);
        let report = rebuild(fixture.dir.path());
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(report.damaged[0].cid, Some(*block(bad).cid()));
        assert_eq!(report.set_aside, [fixture.path("0000000001.car.broken-1")]);
        let store = fixture.open();
        check_here(&store, (0..8).filter(|n| *n != bad));
        assert_eq!(store.get(block(bad).cid()).unwrap(), None);
        assert!(!fixture.names().contains("0000000001.car"));
        assert_eq!(verify(&store).damaged_count, 0);
        drop(store);
        assert_eq!(rebuild(fixture.dir.path()).damaged, []);
    }
}

#[test]
fn a_closed_store_reads_only() {
    let fixture = Fixture::filled();
    let store = fixture.open();
    store.close().unwrap();
    assert!(matches!(store.put(&blocks(9..10)), Err(StoreError::Closed)));
    assert!(matches!(store.remove(block(0).cid()), Err(StoreError::Closed)));
    check_here(&store, 0..8);
}

#[test]
fn any_flipped_bit_anywhere_costs_at_most_the_block_it_is_in() {
    let fixture = Fixture::filled();
    let path = fixture.path("0000000001.car");
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(53) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::write(&path, &bad).unwrap();
        for indexed in [true, false] {
            if !indexed {
                std::fs::remove_file(fixture.path("0000000001.idx")).unwrap();
            }
            let store = fixture.open();
            let served = (0..3).filter(|n| match store.get(block(*n).cid()) {
                Ok(found) => found.is_some_and(|found| found == block(*n)),
                Err(_) => false,
            });
            assert!(served.count() >= 2, "byte {at}, indexed {indexed}");
        }
        std::fs::write(&path, &good).unwrap();
        std::fs::remove_file(fixture.path("0000000001.idx")).unwrap();
        drop(fixture.open());
    }
}

#[test]
fn packs_and_assembled_files_are_asked_the_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let key = BlockKey::of(block(1).cid());
    let entry = |key| Entry { key, start: 0, head_len: 0, len: 1, framing: Framing::Bare };
    let archive = |id| {
        let usage = Arc::new(Usage::new(PACK_LEN_MAX));
        Arc::new(Pack::Open(Arc::new(OpenPack::new(PackId(id), 0, [], usage))))
    };
    let file = |id, key| {
        let path = dir.path().join(format!("{id}.leaves"));
        index::write(&RealDisk, &path, PackId(id), 100, vec![entry(key)]).unwrap();
        Arc::new(Pack::Assembled(SealedPack::open_leaves(&path, PackId(id)).unwrap()))
    };
    let other = BlockKey::of(block(2).cid());
    let packs = vec![
        file(1, key),
        archive(2),
        archive(3),
        file(4, other),
        file(5, key),
        archive(6),
        file(7, key),
    ];
    let leaves = Arc::<LeafTable>::default();
    leaves.add(&packs);
    let list = PackList::new(packs, Vec::new(), leaves);
    let asked = |key| list.candidates(key).map(|pack| pack.id().0).collect::<Vec<_>>();
    assert_eq!(asked(&key), [7, 6, 5, 3, 2, 1]);
    assert_eq!(asked(&other), [6, 4, 3, 2]);
    assert_eq!(asked(&BlockKey::of(block(3).cid())), [6, 3, 2]);
}
