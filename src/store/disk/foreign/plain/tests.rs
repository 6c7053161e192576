//! Plain files: their leaves are served right or refused by name, and a reference is whole or not
//! there.

use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::block::{HashFn, codecs};
use crate::store::disk::{DiskOptions, VerifyReport};
use crate::store::faults::{Fault, ImageDisk};
use crate::store::{BlockStore as _, DiskIo};

/// Bytes of a leaf of these tests.
const LEN: usize = 1000;

/// Returns 4.5 leaves of content that no two numbers share.
fn content(n: u8) -> Vec<u8> {
    (0..4500_usize).map(|at| n ^ u8::try_from(at / LEN * 31 + at % 7).unwrap_or(0)).collect()
}

fn leaves(bytes: &[u8], len: usize) -> Vec<Block> {
    let leaf =
        |chunk| Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::copy_from_slice(chunk)).unwrap();
    bytes.chunks(len).map(leaf).collect()
}

/// A repository and, apart from it, someone's files.
struct Fixture {
    home: TempDir,
    files: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let [home, files] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::create_dir(home.path().join("packs")).unwrap();
        Self { home, files }
    }

    /// Returns a fixture whose store refers to the file `a`, whose content is number 1.
    fn referred() -> (Self, DiskStore) {
        let fixture = Self::new();
        fixture.write("a", &content(1));
        let store = fixture.open();
        fixture.refer(&store, "a", LEN).unwrap();
        (fixture, store)
    }

    fn open(&self) -> DiskStore {
        DiskStore::open(&self.home.path().join("packs"), DiskOptions::default()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Refers to a file the way an import does.
    fn refer(&self, store: &DiskStore, name: &str, len: usize) -> Result<(), StoreError> {
        let path = self.path(name);
        let mut blocks = store.file_blocks(&path, &File::open(&path).unwrap())?;
        for leaf in leaves(&std::fs::read(&path).unwrap(), len) {
            blocks.push(&leaf)?;
        }
        store.refer(blocks)
    }

    /// Changes a byte of leaf `n`; the time of the change can be hidden.
    fn damage(&self, n: u64, hidden: bool) {
        let path = self.path("a");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[0xee], n * LEN as u64 + 500).unwrap();
        file.set_modified(if hidden { time } else { SystemTime::UNIX_EPOCH }).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.path().join("packs")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

fn check_here(store: &DiskStore, blocks: &[Block]) {
    for block in blocks {
        let (cid, data) = (block.cid(), block.data());
        assert_eq!(store.block_len(cid).unwrap(), Some(data.len() as u64));
        assert_eq!(store.read_range(cid, 5..90).unwrap().unwrap().bytes, data.slice(5..90));
        assert_eq!(store.get(cid).unwrap().as_ref(), Some(block));
        assert_eq!(store.read_range(cid, 5..90).unwrap().unwrap().bytes, data.slice(5..90));
    }
}

/// Checks that a block is refused with the name of the file and the reason.
fn check_lost(store: &DiskStore, block: &Block, file: &Path, reason: &str) {
    for error in [
        store.get(block.cid()).map(drop).unwrap_err(),
        store.read_range(block.cid(), 0..5).map(drop).unwrap_err(),
        store.block_len(block.cid()).map(drop).unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(message.contains("`cidfs add --nocopy` reads that file anew"), "{message}");
        let StoreError::ForeignLost { path, why, .. } = error else { panic!("{message}") };
        assert_eq!((&*path, why.contains(reason)), (file, true), "{why}");
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
fn a_file_is_served_where_it_lies() {
    let (fixture, mut store) = Fixture::referred();
    let blocks = leaves(&content(1), LEN);
    for _ in 0..2 {
        check_here(&store, &blocks);
        let stat = &store.foreign_packs()[0];
        assert_eq!((stat.kind, &stat.path), (ForeignKind::File, &fixture.path("a")));
        assert_eq!((stat.len, stat.blocks, stat.lost.as_ref()), (4500, 5, None));
        let report = verify(&store);
        assert_eq!((report.done.blocks, report.damaged_count), (5, 0));
        assert_eq!(fixture.names(), ["0000000001.ref", "0000000001.refidx"], "nothing was copied");
        drop(store);
        store = fixture.open();
    }
}

#[test]
fn a_changed_file_is_out_of_use_until_it_is_added_again() {
    let check = |reason: &str, change: fn(&Fixture)| {
        for running in [true, false] {
            let (fixture, mut store) = Fixture::referred();
            let blocks = leaves(&content(1), LEN);
            check_here(&store, &blocks);
            change(&fixture);
            if running {
                // As when the descriptor was given up for that of another file.
                store.files.forget(store.foreign_ids()[0]);
            } else {
                drop(store);
                store = fixture.open();
            }
            check_lost(&store, &blocks[3], &fixture.path("a"), reason);
            let report = verify(&store);
            assert!(report.damaged[0].place.contains(fixture.path("a").to_str().unwrap()));
            fixture.write("a", &content(1));
            fixture.refer(&store, "a", LEN).unwrap();
            check_here(&store, &blocks);
            assert_eq!(store.foreign_packs().len(), 1);
        }
    };
    check("was changed", |fixture| fixture.damage(0, false));
    check("was changed", |fixture| fixture.write("a", &[content(1), content(2)].concat()));
    check("was changed", |fixture| fixture.write("a", &content(1)[..4000]));
    check("not there", |fixture| std::fs::remove_file(fixture.path("a")).unwrap());
}

#[test]
fn what_is_written_into_a_file_in_use_is_never_served() {
    let (fixture, store) = Fixture::referred();
    let blocks = leaves(&content(1), LEN);
    check_here(&store, &blocks);
    fixture.damage(2, false);
    check_lost(&store, &blocks[2], &fixture.path("a"), "was changed");
}

#[test]
fn a_change_that_hides_its_time_costs_its_own_block() {
    let (fixture, store) = Fixture::referred();
    let blocks = leaves(&content(1), LEN);
    fixture.damage(2, true);
    for error in [
        store.read_range(blocks[2].cid(), 0..5).map(drop).unwrap_err(),
        store.get(blocks[2].cid()).map(drop).unwrap_err(),
    ] {
        let StoreError::Corrupt { place, .. } = error else { panic!("{error}") };
        assert!(place.contains(fixture.path("a").to_str().unwrap()), "{place}");
    }
    let report = verify(&store);
    assert_eq!((report.damaged_count, report.damaged[0].cid), (1, Some(*blocks[2].cid())));
    check_here(&store, &[&blocks[..2], &blocks[3..]].concat());
    // Now it has other content of the same length and time.
    fixture.refer(&store, "a", LEN).unwrap();
    check_here(&store, &leaves(&std::fs::read(fixture.path("a")).unwrap(), LEN));
    assert!(store.get(blocks[2].cid()).is_err());
    store.put(&blocks[2..3]).unwrap();
    check_here(&store, &blocks);
}

#[test]
fn our_own_copies_are_tried_first_and_a_put_makes_one() {
    let (fixture, store) = Fixture::referred();
    let blocks = leaves(&content(1), LEN);
    store.put(&blocks[..2]).unwrap();
    store.commit().unwrap();
    std::fs::remove_file(fixture.path("a")).unwrap();
    drop(store);
    let store = fixture.open();
    check_here(&store, &blocks[..2]);
    check_lost(&store, &blocks[2], &fixture.path("a"), "not there");
}

#[test]
fn added_again_it_is_one_reference() {
    let (fixture, store) = Fixture::referred();
    let names = fixture.names();
    fixture.refer(&store, "a", LEN).unwrap();
    assert_eq!(fixture.names(), names, "nothing was written");
    // Cut otherwise, both cuts are here.
    for len in [700, 1300, LEN] {
        fixture.refer(&store, "a", len).unwrap();
        assert_eq!(store.foreign_packs().len(), 1);
    }
    for len in [LEN, 700, 1300] {
        check_here(&store, &leaves(&content(1), len));
    }
    // Changed, what it was is forgotten.
    fixture.write("a", &content(2));
    fixture.damage(4, false);
    fixture.refer(&store, "a", LEN).unwrap();
    assert_eq!((store.foreign_packs().len(), fixture.names().len()), (1, 2));
    assert_eq!(store.get(leaves(&content(1), 700)[0].cid()).unwrap(), None);
    check_here(&store, &leaves(&content(2), LEN)[..4]);
}

#[test]
fn a_leaf_that_repeats_is_noted_once() {
    let fixture = Fixture::new();
    fixture.write("a", &[0; 5 * LEN]);
    let store = fixture.open();
    fixture.refer(&store, "a", LEN).unwrap();
    assert_eq!(store.foreign_packs()[0].blocks, 1);
    check_here(&store, &leaves(&[0; LEN], LEN));
}

#[test]
fn one_file_can_be_archive_and_content() {
    let fixture = Fixture::new();
    let mut car = Vec::new();
    let inside = leaves(&content(1), LEN);
    crate::codec::car::write_header(&mut car, &[*inside[0].cid()]).unwrap();
    crate::codec::car::write_section(&mut car, &inside[0]).unwrap();
    fixture.write("a", &car);
    let mut store = fixture.open();
    store.add_pack(&fixture.path("a"), &mut |_| ControlFlow::Continue(())).unwrap();
    fixture.refer(&store, "a", LEN).unwrap();
    for _ in 0..2 {
        assert_eq!(store.foreign_packs().len(), 2);
        check_here(&store, &[&inside[..1], &leaves(&car, LEN)].concat());
        drop(store);
        store = fixture.open();
    }
    assert!(store.remove_pack(&fixture.path("a")).unwrap());
    assert_eq!((store.foreign_packs(), fixture.names().len()), (Vec::new(), 0));
    assert!(!store.remove_pack(&fixture.path("a")).unwrap());
}

#[test]
fn what_cannot_be_referred_to_is_refused_by_name() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let refused = |refused: Result<(), StoreError>, words: &str| {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    };
    let inside = fixture.home.path().join("journal");
    std::fs::write(&inside, content(1)).unwrap();
    let begun = store.file_blocks(&inside, &File::open(&inside).unwrap());
    refused(begun.map(drop), "belongs to this repository");
    fixture.write("a", &content(1));
    fixture.write("b", &content(1));
    let begun = store.file_blocks(&fixture.path("a"), &File::open(fixture.path("b")).unwrap());
    refused(begun.map(drop), "changed while it was read");
    let file = File::options().write(true).open(fixture.path("a")).unwrap();
    let mut blocks = store.file_blocks(&fixture.path("a"), &file).unwrap();
    blocks.push(&leaves(&content(1), LEN)[0]).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).unwrap();
    refused(store.refer(blocks), "changed while it was read");
    assert_eq!((store.foreign_packs(), fixture.names().len()), (Vec::new(), 0));
}

/// Refers to `a` cut in one way, then in another, changes it and refers to it again; returns the
/// contents that must be here, and those that must not, after a crash.
fn script(fixture: &Fixture, disk: Arc<dyn DiskIo>) -> (Range<u8>, Range<u8>) {
    let options = DiskOptions { disk, ..DiskOptions::default() };
    let store = DiskStore::open(&fixture.home.path().join("packs"), options).unwrap();
    fixture.write("a", &content(1));
    if fixture.refer(&store, "a", LEN).is_err() {
        return (0..0, 2..3);
    }
    if fixture.refer(&store, "a", 700).is_err() {
        return (1..2, 2..3);
    }
    fixture.write("a", &content(2));
    // Two writes of one length can fall into one tick of the clock.
    fixture.damage(4, false);
    if fixture.refer(&store, "a", LEN).is_err() {
        return (0..0, 1..2);
    }
    (2..3, 1..2)
}

fn check_crashed(fixture: &Fixture, home: &Path, here: Range<u8>, gone: Range<u8>) {
    let disk = Arc::new(ImageDisk::over(home).unwrap());
    let options = DiskOptions { disk, ..DiskOptions::default() };
    let store = DiskStore::open(&home.join("packs"), options).unwrap();
    for n in here {
        check_here(&store, &leaves(&content(n), LEN)[..4]);
    }
    for n in gone {
        let leaf = &leaves(&content(n), LEN)[0];
        assert!(!matches!(store.get(leaf.cid()), Ok(Some(_))), "{n}");
    }
    assert!(store.foreign_packs().len() <= 1);
    fixture.refer(&store, "a", LEN).unwrap();
    let now = std::fs::read(fixture.path("a")).unwrap();
    check_here(&store, &leaves(&now, LEN));
    assert_eq!(store.foreign_packs().len(), 1);
}

#[test]
fn a_crash_between_any_two_steps_costs_nothing_that_was_acknowledged() {
    for at in 0.. {
        let fixture = Fixture::new();
        let disk = Arc::new(ImageDisk::over(fixture.home.path()).unwrap());
        disk.plan(at, Fault::Freeze);
        let (here, gone) = script(&fixture, Arc::clone(&disk) as _);
        if !disk.is_frozen() {
            assert!(at > 20, "{at}");
            return;
        }
        for seed in 0..6 {
            let image = tempfile::tempdir().unwrap();
            let image = image.path().join("image");
            disk.power_cut(&image, seed).unwrap();
            check_crashed(&fixture, &image, here.clone(), gone.clone());
        }
        check_crashed(&fixture, fixture.home.path(), here, gone);
    }
}
