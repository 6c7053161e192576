//! Archives of others: served right or not at all, never touched, and gone when they are forgotten.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::block::{BLOCK_LEN_MAX, HashFn, codecs};
use crate::codec::car::{write_header, write_section};
use crate::store::disk::rebuild::rebuild;
use crate::store::disk::{DiskOptions, VerifyReport};
use crate::store::diskio::RealDisk;
use crate::store::faults::{Fault, ImageDisk};
use crate::store::{BlockStore as _, DiskIo};

/// Bytes of a block of these tests.
const LEN: usize = 2000;

fn block(n: u32) -> Block {
    let data = Bytes::from(n.to_le_bytes().repeat(LEN / 4));
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
}

fn blocks(numbers: Range<u32>) -> Vec<Block> {
    numbers.map(block).collect()
}

/// Returns a CARv1 of blocks.
fn car(numbers: Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(&mut bytes, &[*block(0).cid()]).unwrap();
    for block in blocks(numbers) {
        write_section(&mut bytes, &block).unwrap();
    }
    bytes
}

/// Puts a CARv1 into a CARv2 with a gap in front of it and something behind it.
fn car_v2(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x0a\xa1gversion\x02".to_vec();
    bytes.extend([0; 16]);
    for number in [100, payload.len() as u64, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.resize(100, 0);
    bytes.extend(payload);
    bytes.extend(b"an index");
    bytes
}

/// A directory of packs, and one of archives.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("packs")).unwrap();
        Self { dir }
    }

    /// Returns a fixture with the archive `a.car` of blocks 0 to 3.
    fn with_archive() -> Self {
        let fixture = Self::new();
        fixture.write("a.car", &car(0..4));
        fixture
    }

    /// Returns a fixture whose store uses the archive of blocks 0 to 3.
    fn added() -> (Self, DiskStore) {
        let fixture = Self::with_archive();
        let store = fixture.open();
        assert_eq!(fixture.add(&store, "a.car").unwrap().refused, 0);
        (fixture, store)
    }

    fn open(&self) -> DiskStore {
        self.open_with(DiskOptions::default())
    }

    fn open_with(&self, options: DiskOptions) -> DiskStore {
        DiskStore::open(&self.path("packs"), options).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn add(&self, store: &DiskStore, name: &str) -> Result<AddedPack, StoreError> {
        let mut go_on = |_: &_| ControlFlow::Continue(());
        Ok(store.add_pack(&self.path(name), &mut go_on)?.unwrap())
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.path("packs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Changes a byte of block `n` in an archive; the time of the change can be hidden.
    fn damage(&self, name: &str, n: u32, hidden: bool) {
        let path = self.path(name);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(LEN).position(|window| window == block(n).data()).unwrap();
        file.write_all_at(&[bytes[at + 700] ^ 1], at as u64 + 700).unwrap();
        let time = if hidden { time } else { SystemTime::UNIX_EPOCH };
        file.set_modified(time).unwrap();
    }
}

fn check_here(store: &DiskStore, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        let (cid, data) = (*block(n).cid(), block(n).into_data());
        assert_eq!(store.block_len(&cid).unwrap(), Some(LEN as u64));
        assert_eq!(store.get(&cid).unwrap(), Some(block(n)), "block {n}");
        assert_eq!(store.read_range(&cid, 5..90).unwrap().unwrap().bytes, data.slice(5..90));
    }
}

/// Checks that block `n` is refused with the name of the archive and the reason.
fn check_lost(store: &DiskStore, n: u32, archive: &Path, reason: &str) {
    for error in [
        store.get(block(n).cid()).map(drop).unwrap_err(),
        store.read_range(block(n).cid(), 0..5).map(drop).unwrap_err(),
        store.block_len(block(n).cid()).map(drop).unwrap_err(),
    ] {
        let StoreError::ForeignLost { path, why, .. } = error else { panic!("{error}") };
        assert_eq!(path, archive);
        assert!(why.contains(reason), "{why}");
    }
}

fn verify(store: &DiskStore) -> VerifyReport {
    let mut report = VerifyReport::default();
    for id in store.foreign_ids() {
        let done = store.verify_pack(id, &mut report, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(done.is_continue());
    }
    report
}

#[test]
fn an_archive_is_served_where_it_lies() {
    for bytes in [car(0..4), car_v2(&car(0..4))] {
        let fixture = Fixture::new();
        fixture.write("a.car", &bytes);
        let store = fixture.open();
        let came = store.subscribe();
        let added = fixture.add(&store, "a.car").unwrap();
        assert!(came.has_changed().unwrap());
        assert_eq!((added.stat.blocks, added.stat.block_bytes), (4, 4 * LEN as u64));
        assert_eq!((added.stat.len, added.stat.lost.as_ref()), (bytes.len() as u64, None));
        check_here(&store, 0..4);
        drop(store);
        let store = fixture.open();
        check_here(&store, 0..4);
        assert_eq!(store.foreign_packs(), [added.stat]);
        assert_eq!(store.stats().unwrap().blocks, 4);
        assert_eq!(std::fs::read(fixture.path("a.car")).unwrap(), bytes);
        assert!(!fixture.names().contains("0000000001.car"), "nothing was copied");
    }
}

#[test]
fn adding_again_reads_nothing_again() {
    let (fixture, store) = Fixture::added();
    let names = fixture.names();
    std::os::unix::fs::symlink("a.car", fixture.path("link")).unwrap();
    for name in ["a.car", "link", "packs/../a.car"] {
        let mut read = false;
        let added = store.add_pack(&fixture.path(name), &mut |_| {
            read = true;
            ControlFlow::Continue(())
        });
        assert_eq!(added.unwrap().unwrap().stat, store.foreign_packs()[0]);
        assert!(!read, "{name} is known");
    }
    assert_eq!((store.foreign_packs().len(), fixture.names()), (1, names));
    assert_eq!(store.foreign_packs()[0].path, fixture.path("a.car").canonicalize().unwrap());
}

#[test]
fn breaking_off_adds_nothing() {
    let fixture = Fixture::with_archive();
    let store = fixture.open();
    let broken_off = store.add_pack(&fixture.path("a.car"), &mut |done| {
        assert!(done.bytes < done.len);
        ControlFlow::Break(())
    });
    assert_eq!(broken_off.unwrap(), None);
    assert_eq!((store.foreign_packs(), fixture.names().len()), (Vec::new(), 0));
}

#[test]
fn a_file_that_grows_while_it_is_read_is_refused() {
    let fixture = Fixture::with_archive();
    let store = fixture.open();
    let refused = store.add_pack(&fixture.path("a.car"), &mut |_| {
        fixture.write("a.car", &car(0..5));
        ControlFlow::Continue(())
    });
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("changed while it was read"), "{refused}");
    assert_eq!((store.foreign_packs(), fixture.names().len()), (Vec::new(), 0));
    fixture.add(&store, "a.car").unwrap();
    check_here(&store, 0..5);
}

#[test]
fn of_two_records_of_one_archive_the_newer_counts() {
    let (fixture, store) = Fixture::added();
    let saved = ["ref", "refidx"].map(|kind| {
        let name = format!("packs/0000000001.{kind}");
        let content = std::fs::read(fixture.path(&name)).unwrap();
        (name, content)
    });
    fixture.write("a.car", &car(2..8));
    fixture.add(&store, "a.car").unwrap();
    let names = fixture.names();
    drop(store);
    for (name, content) in saved {
        fixture.write(&name, &content);
    }
    let store = fixture.open();
    check_here(&store, 2..8);
    assert_eq!((store.foreign_packs().len(), fixture.names()), (1, names));
}

#[test]
fn what_is_not_what_it_claims_is_left_out_and_counted() {
    let check = |tail: &[&[u8]], refused: u64, why: &str| {
        let fixture = Fixture::new();
        fixture.write("a.car", &[&car(0..4)[..], &tail.concat()].concat());
        let store = fixture.open();
        let added = fixture.add(&store, "a.car").unwrap();
        assert_eq!((added.stat.blocks, added.refused), (4, refused), "{why}");
        assert!(added.first_refused.unwrap_or_default().contains(why), "{why}");
        check_here(&store, 0..4);
        drop(store);
        check_here(&fixture.open(), 0..4);
    };
    let sections = |n: Range<u32>| car(n)[car(0..0).len()..].to_vec();
    let mut wrong = sections(7..8);
    wrong[600] ^= 1;
    let identity = b"\x0a\x01\x55\x00\x03abcabc";
    let big = [&b"\x85\x80\x80\x01\x01\x55\x00\x00"[..], &vec![0; BLOCK_LEN_MAX + 1]].concat();
    check(&[], 0, "");
    check(&[&sections(0..4), &sections(2..3)], 0, "");
    check(&[identity], 0, "");
    check(&[&wrong, &wrong], 2, "the section at byte");
    check(&[&big, &sections(0..1)], 1, "over the limit");
    check(&[&sections(9..10)[..500]], 1, "cut short");
    check(&[b"\x80\x00", &sections(9..10)], 1, "malformed");
    check(&[b"\x00", &sections(9..10)], 1, "is empty");
    check(&[b"\x05\x01\x02\x03\x04\x05", &sections(9..10)], 1, "does not begin with a CID");
    check(&[b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"], 1, "claims");
}

#[test]
fn what_is_no_archive_is_refused_by_name() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let check = |name: &str, words: &str| {
        let refused = fixture.add(&store, name).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains(words), "{refused}");
    };
    fixture.write("text.car", b"\x05hello world, this is no archive");
    check("text.car", "not a CAR archive");
    fixture.write("empty.car", b"");
    check("empty.car", "cut short");
    fixture.write("roots.car", &car(0..0));
    check("roots.car", "no whole block");
    fixture.write("bad.car", &[&car(0..0)[..], b"\x00"].concat());
    check("bad.car", "is empty");
    check("missing.car", "No such file");
    store.put(&blocks(0..1)).unwrap();
    check("packs/0000000001.car", "belongs to this repository");
    let refused = fixture.add(&store, ".").unwrap_err().to_string();
    assert!(refused.contains("no regular file"), "{refused}");
    assert_eq!((store.foreign_packs(), fixture.names().len()), (Vec::new(), 1));
}

#[test]
fn a_file_that_was_changed_moved_or_cut_is_out_of_use_until_it_is_added_again() {
    let check = |reason: &str, change: fn(&Fixture)| {
        for running in [true, false] {
            let (fixture, mut store) = Fixture::added();
            let path = fixture.path("a.car").canonicalize().unwrap();
            check_here(&store, 0..4);
            change(&fixture);
            if running {
                // As when the descriptor was given up for that of another pack.
                store.files.forget(store.foreign_ids()[0]);
            } else {
                drop(store);
                store = fixture.open();
            }
            check_lost(&store, 2, &path, reason);
            assert!(store.foreign_packs()[0].lost.as_ref().unwrap().contains(reason));
            assert_eq!(verify(&store).damaged_count, 1, "one damage, not one for each block");
            drop(std::fs::remove_file(fixture.path("a.car")));
            fixture.write("a.car", &car(2..8));
            fixture.add(&store, "a.car").unwrap();
            check_here(&store, 2..8);
            assert_eq!(store.get(block(1).cid()).unwrap(), None);
            assert_eq!(store.foreign_packs().len(), 1);
            drop(store);
            let store = fixture.open();
            check_here(&store, 2..8);
            assert_eq!((store.foreign_packs().len(), verify(&store).damaged_count), (1, 0));
        }
    };
    check("changed", |fixture| fixture.damage("a.car", 2, false));
    check("changed", |fixture| fixture.write("a.car", &car(0..4)[..5000]));
    check("changed", |fixture| fixture.write("a.car", &car(4..9)));
    check("not there", |fixture| std::fs::remove_file(fixture.path("a.car")).unwrap());
    check("cannot be read", |fixture| {
        std::fs::remove_file(fixture.path("a.car")).unwrap();
        std::os::unix::fs::symlink("a.car", fixture.path("a.car")).unwrap();
    });
    check("not there", |fixture| {
        std::fs::rename(fixture.path("a.car"), fixture.path("b.car")).unwrap();
    });
}

#[test]
fn what_is_written_into_an_open_archive_is_never_served() {
    let (fixture, store) = Fixture::added();
    check_here(&store, 0..4);
    fixture.damage("a.car", 2, false);
    check_lost(&store, 2, &fixture.path("a.car").canonicalize().unwrap(), "changed");
}

#[test]
fn a_file_that_is_back_is_used_again_without_being_hashed() {
    let (fixture, store) = Fixture::added();
    drop(store);
    std::fs::rename(fixture.path("a.car"), fixture.path("b.car")).unwrap();
    let store = fixture.open();
    assert!(store.get(block(0).cid()).is_err());
    std::fs::rename(fixture.path("b.car"), fixture.path("a.car")).unwrap();
    let mut read = false;
    let again = store.add_pack(&fixture.path("a.car"), &mut |_| {
        read = true;
        ControlFlow::Continue(())
    });
    assert_eq!((again.unwrap().unwrap().stat.lost, read), (None, false));
    check_here(&store, 0..4);
    drop(store);
    check_here(&fixture.open(), 0..4);
}

#[test]
fn a_damaged_block_costs_itself_and_a_put_heals_it() {
    let (fixture, store) = Fixture::added();
    fixture.damage("a.car", 2, true);
    let refused = store.get(block(2).cid()).unwrap_err();
    let StoreError::Corrupt { place, .. } = refused else { panic!("{refused}") };
    assert!(place.contains("a.car, offset"), "{place}");
    check_here(&store, [0, 1, 3]);
    let report = verify(&store);
    assert_eq!((report.damaged_count, report.done.blocks), (1, 4));
    assert_eq!(report.damaged[0].cid, Some(*block(2).cid()));
    store.put(&blocks(2..3)).unwrap();
    store.close().unwrap();
    check_here(&store, 0..4);
    drop(store);
    check_here(&fixture.open(), 0..4);
}

#[test]
fn other_copies_are_tried_first() {
    let (fixture, store) = Fixture::added();
    fixture.write("b.car", &car(0..2));
    fixture.add(&store, "b.car").unwrap();
    store.put(&blocks(1..3)).unwrap();
    store.commit().unwrap();
    drop(store);
    std::fs::remove_file(fixture.path("a.car")).unwrap();
    let pack = std::fs::OpenOptions::new().write(true).open(fixture.path("packs/0000000003.car"));
    pack.unwrap().write_all_at(&[99], 500).unwrap();
    let store = fixture.open();
    check_here(&store, 0..3);
    check_lost(&store, 3, &fixture.path("").canonicalize().unwrap().join("a.car"), "not there");
}

#[test]
fn a_put_does_not_rely_on_an_archive() {
    let (fixture, store) = Fixture::added();
    store.put(&blocks(0..2)).unwrap();
    store.close().unwrap();
    drop(store);
    std::fs::remove_file(fixture.path("a.car")).unwrap();
    let store = fixture.open();
    check_here(&store, 0..2);
    assert!(store.remove_pack(&fixture.path("a.car")).unwrap());
    check_here(&store, 0..2);
    assert_eq!(store.get(block(3).cid()).unwrap(), None);
}

#[test]
fn nothing_evicts_counts_or_removes_what_is_in_an_archive() {
    const CAP: u64 = 200_000;
    let fixture = Fixture::new();
    fixture.write("a.car", &car(0..300));
    let options = DiskOptions { cache_max_bytes: Some(CAP), ..DiskOptions::default() };
    let store = fixture.open_with(options);
    fixture.add(&store, "a.car").unwrap();
    assert_eq!(store.disk_bytes(), 0);
    store.put(&blocks(0..20)).unwrap();
    store.commit().unwrap();
    let mut go_on = |_: &_| ControlFlow::Continue(());
    assert_eq!(store.sweep_dry_run(&store.keep_set()).blocks, 20);
    assert_eq!(store.sweep(&store.keep_set(), &mut go_on).unwrap().blocks, 20);
    store.make_room(&store.keep_set(), CAP, &mut go_on).unwrap();
    check_here(&store, 0..300);
    let refused = store.remove(block(7).cid()).unwrap_err();
    assert!(matches!(refused, StoreError::InForeignPack { .. }), "{refused}");
    check_here(&store, 0..300);
    assert_eq!(std::fs::read(fixture.path("a.car")).unwrap(), car(0..300));
}

#[test]
fn what_is_forgotten_stays_forgotten_and_the_file_is_left_alone() {
    let (fixture, store) = Fixture::added();
    assert!(store.remove_pack(&fixture.path("packs/../a.car")).unwrap());
    assert!(!store.remove_pack(&fixture.path("a.car")).unwrap());
    for store in [store, fixture.open()] {
        assert_eq!(store.get(block(0).cid()).unwrap(), None);
        assert_eq!(store.foreign_packs(), []);
    }
    assert_eq!(fixture.names(), BTreeSet::new());
    assert_eq!(std::fs::read(fixture.path("a.car")).unwrap(), car(0..4));
}

#[test]
fn a_rebuild_leaves_foreign_packs_alone() {
    let (fixture, store) = Fixture::added();
    store.put(&blocks(9..10)).unwrap();
    drop(store);
    let mut go_on = |_: &_| ControlFlow::Continue(());
    let report = rebuild(&fixture.path("packs"), Arc::new(RealDisk), &mut go_on).unwrap();
    assert_eq!((report.packs, report.blocks), (1, 1));
    check_here(&fixture.open(), [0, 1, 2, 3, 9]);
}

#[test]
fn damage_of_our_own_files_costs_no_more_than_their_archive() {
    let check = |file: &str, content: Option<&[u8]>, listed: usize| {
        let (fixture, store) = Fixture::added();
        fixture.write("b.car", &car(4..6));
        fixture.add(&store, "b.car").unwrap();
        drop(store);
        match content {
            Some(bytes) => fixture.write(&format!("packs/{file}"), bytes),
            None => std::fs::remove_file(fixture.path("packs").join(file)).unwrap(),
        }
        let store = fixture.open();
        check_here(&store, 4..6);
        assert_eq!(store.get(block(0).cid()).unwrap(), None);
        assert_eq!(store.foreign_packs().len(), listed);
        let aside = fixture.names().contains(&format!("{file}.broken-1"));
        assert_eq!(aside, content.is_some(), "{file}");
        fixture.add(&store, "a.car").unwrap();
        drop(store);
        let store = fixture.open();
        check_here(&store, 0..6);
        assert_eq!(store.foreign_packs().len(), 2);
    };
    check("0000000001.ref", Some(b"nonsense"), 1);
    check("0000000001.refidx", Some(b"nonsense"), 2);
    check("0000000001.refidx", None, 2);
}

#[test]
fn a_closed_store_adds_and_forgets_nothing() {
    let (fixture, store) = Fixture::added();
    store.close().unwrap();
    fixture.write("b.car", &car(4..6));
    assert!(matches!(fixture.add(&store, "b.car"), Err(StoreError::Closed)));
    let removed = store.remove_pack(&fixture.path("a.car"));
    assert!(matches!(removed, Err(StoreError::Closed)));
    check_here(&store, 0..4);
}

/// Adds `a.car`, forgets it, adds it, changes it and adds it again; returns which blocks must be
/// here and which must not after a crash.
fn script(fixture: &Fixture, disk: Arc<dyn DiskIo>) -> (Range<u32>, Range<u32>) {
    let store = fixture.open_with(DiskOptions { disk, ..DiskOptions::default() });
    let (old, new) = (0..4, 4..6);
    fixture.write("a.car", &car(old.clone()));
    if fixture.add(&store, "a.car").is_err() {
        return (0..0, new);
    }
    if store.remove_pack(&fixture.path("a.car")).is_err() {
        return (0..0, new);
    }
    if fixture.add(&store, "a.car").is_err() {
        return (0..0, new);
    }
    fixture.write("a.car", &car(new.clone()));
    if fixture.add(&store, "a.car").is_err() {
        return (0..0, 0..0);
    }
    (new, old)
}

/// Checks what a crash left in `home`, without real syncs.
fn check_crashed(fixture: &Fixture, home: &Path, here: Range<u32>, gone: Range<u32>) {
    let packs = home.join("packs");
    let disk = Arc::new(ImageDisk::over(home).unwrap());
    let store = DiskStore::open(&packs, DiskOptions { disk, ..DiskOptions::default() }).unwrap();
    check_here(&store, here);
    for n in gone {
        assert!(!matches!(store.get(block(n).cid()), Ok(Some(_))), "{n}");
    }
    assert!(store.foreign_packs().len() <= 1);
    for name in std::fs::read_dir(&packs).unwrap() {
        let path = name.unwrap().path();
        let kind = path.extension().unwrap();
        assert!(kind == "ref" || kind == "refidx", "{}", path.display());
    }
    fixture.add(&store, "a.car").unwrap();
    assert_eq!(store.foreign_packs().len(), 1);
}

#[test]
fn a_crash_between_any_two_steps_costs_nothing_that_was_acknowledged() {
    for at in 0.. {
        let fixture = Fixture::new();
        let disk = Arc::new(ImageDisk::over(fixture.dir.path()).unwrap());
        disk.plan(at, Fault::Freeze);
        let (here, gone) = script(&fixture, Arc::clone(&disk) as _);
        if !disk.is_frozen() {
            assert!(at > 30, "{at}");
            return;
        }
        for seed in 0..6 {
            let image = fixture.path(&format!("image {seed}"));
            disk.power_cut(&image, seed).unwrap();
            check_crashed(&fixture, &image, here.clone(), gone.clone());
        }
        check_crashed(&fixture, fixture.dir.path(), here, gone);
    }
}

#[test]
fn a_failed_write_or_sync_is_an_error_and_adding_again_is_whole() {
    for errno in [nix::libc::EIO, nix::libc::ENOSPC] {
        for at in 0.. {
            let fixture = Fixture::with_archive();
            let disk = Arc::new(ImageDisk::over(fixture.dir.path()).unwrap());
            let options = DiskOptions { disk: Arc::clone(&disk) as _, ..DiskOptions::default() };
            let store = fixture.open_with(options);
            disk.plan(at, Fault::Errno(errno));
            if fixture.add(&store, "a.car").is_ok() {
                assert!(at > 7, "{at}");
                break;
            }
            assert_eq!(store.foreign_packs(), []);
            fixture.add(&store, "a.car").unwrap();
            drop(store);
            let store = fixture.open();
            check_here(&store, 0..4);
            assert_eq!(store.foreign_packs().len(), 1);
        }
    }
}
