//! Every change that the store asks of its disk, failed or made the last one, and what is there
//! afterwards.
//!
//! One script puts, commits, assembles files, lays out what it put before, pins, unpins, removes, evicts, empties packs and compacts
//! the journal.
//! It is run once for each of its changes and each kind of fault; what a killed process and what
//! power cuts leave is opened and compared with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::store::faults::{Fault, ImageDisk};
use cidfs::store::{
    AssemblyGroup, BlockStore, DiskIo, DiskOptions, FileRange, Gathered, OpenMode, PinMode,
    Repository, StoreError,
};

/// Rounds of the script.
const ROUNDS: u32 = 9;
/// Blocks of each round: two are kept for good, one for a while, one never, one is removed.
const ROUND_BLOCKS: u32 = 5;
/// Leaves of the file of each round: one is kept for good, one is not.
const FILE_LEAVES: u32 = 2;
/// Number of the first of them.
const FIRST_LEAF: u32 = ROUNDS * ROUND_BLOCKS;
/// Power cuts simulated at each change, in full and otherwise.
const POWER_CUTS: (u64, u64) = (8, 3);
/// Every so many changes are tried when the campaign is not run in full.
const SHORT_STEP: usize = 23;
/// Pins that were there and are gone, so that the script's first changes compact the journal.
const STALE_PINS: u32 = 499;

const EIO: i32 = nix::libc::EIO;
const ENOSPC: i32 = nix::libc::ENOSPC;

/// Never syncs: what is made with it is copied, not crashed.
#[derive(Debug)]
struct Unsynced;

impl DiskIo for Unsynced {
    fn sync(&self, _: &std::fs::File) -> std::io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path, disk: Arc<dyn DiskIo>) -> Result<Repository, StoreError> {
    let options = DiskOptions {
        pack_blocks_max: 7,
        assemble_min_bytes: 1,
        cache_max_bytes: Some(2_000_000),
        disk,
        ..DiskOptions::default()
    };
    Repository::open_with(path, OpenMode::Existing, options)
}

/// The content of the `n`-th block, one to four pages.
fn content(n: u32) -> Bytes {
    let len = 5000 + usize::try_from(n % 4).unwrap() * 4000;
    Bytes::from(n.to_le_bytes().repeat(len / 4))
}

/// The `n`-th block: a raw leaf, or every third time one of dag-pb.
fn block(n: u32) -> Block {
    let data = content(n);
    if n % 3 != 1 {
        return Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap();
    }
    let file_size = Some(data.len() as u64);
    let leaf = UnixFs { data: Some(data), file_size, ..UnixFs::new(Kind::File) };
    Block::hash_v0(leaf.encode_node().into()).unwrap()
}

/// Adds a file of these leaves to a group; returns whether all of them were taken.
fn add_file(group: &mut AssemblyGroup, leaves: &[u32], shares: bool) -> Result<bool, StoreError> {
    let all: Vec<u8> = leaves.iter().flat_map(|n| content(*n).to_vec()).collect();
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&all[..all.len() - usize::from(!shares)]).unwrap();
    let mut file = group.begin()?;
    file.share(&source, all.len() as u64)?;
    for n in leaves {
        if !file.push(&block(*n), content(*n).len() as u64)? {
            return Ok(false);
        }
    }
    group.add(file)?;
    Ok(true)
}

/// What was acknowledged.
#[derive(Debug, Default, Clone)]
struct Model {
    /// Blocks that must be here.
    owed: BTreeSet<u32>,
    /// Blocks that must not be here.
    removed: BTreeSet<u32>,
    /// Pins that must be there (`true`) or must not (`false`); the others are open.
    pins: BTreeMap<u32, bool>,
    /// Files that were laid out.
    gathered: u32,
}

impl Model {
    fn pin(&mut self, repository: &Repository, n: u32) {
        self.pins.remove(&n);
        let added = repository.pins.add(block(n).cid(), PinMode::Direct, None);
        match added {
            Ok(()) => drop(self.pins.insert(n, true)),
            // Nobody was told that it is kept.
            Err(_) => drop(self.owed.remove(&n)),
        }
    }

    fn unpin(&mut self, repository: &Repository, n: u32) {
        self.owed.remove(&n);
        self.pins.remove(&n);
        if repository.pins.rm(block(n).cid()).is_ok() {
            self.pins.insert(n, false);
        }
    }

    /// Adds two leaves, as one file or as two that become durable together; in every other round the
    /// bytes can be shared.
    fn assemble(&mut self, repository: &Repository, round: u32) {
        let first = FIRST_LEAF + round * FILE_LEAVES;
        let leaves: Vec<_> = (first..first + FILE_LEAVES).collect();
        let mut group = AssemblyGroup::new(Arc::clone(&repository.blocks));
        let mut files = leaves.chunks(if round.is_multiple_of(3) { 1 } else { 2 });
        let taken = files
            .all(|file| add_file(&mut group, file, round.is_multiple_of(2)).is_ok_and(|all| all));
        if taken && group.finish().is_ok() && repository.blocks.commit().is_ok() {
            self.owed.insert(first);
            self.pin(repository, first);
        }
    }

    /// Lays blocks that came one by one out as a file, two that are kept and one for a while; takes one
    /// out of it and lets it come again.
    fn gather(&mut self, repository: &Repository, first: u32) {
        let mut offset = 0;
        let leaf = |n| {
            let (cid, len) = (*block(n).cid(), u32::try_from(content(n).len()).unwrap());
            offset += u64::from(len);
            FileRange { cid, offset: offset - u64::from(len), len }
        };
        let leaves: Vec<_> = (first..first + 3).map(leaf).collect();
        let store = &repository.blocks;
        // Its failure promises nothing, and its success nothing new.
        let mut gather = || {
            let gathered = store.gather(&leaves, &mut || ControlFlow::Continue(()));
            self.gathered += u32::from(matches!(gathered, Ok(Gathered::Done)));
        };
        gather();
        let lost = first + 1;
        let was_owed = self.owed.remove(&lost);
        let again = store.remove(block(lost).cid()).and_then(|_| store.put(&[block(lost)]));
        if again.and_then(|()| store.commit()).is_ok() && was_owed {
            self.owed.insert(lost);
        }
        gather();
    }

    fn round(&mut self, repository: &Repository, round: u32) {
        let first = round * ROUND_BLOCKS;
        let store = &repository.blocks;
        let protection = store.protect();
        let blocks: Vec<_> = (first..first + ROUND_BLOCKS).map(block).collect();
        if store.put(&blocks).is_ok() && store.commit().is_ok() {
            self.owed.extend(first..first + 3);
            for n in first..first + 3 {
                self.pin(repository, n);
            }
        }
        self.assemble(repository, round);
        drop(protection);
        self.gather(repository, first);
        if let Ok(true) = store.remove(block(first + 4).cid()) {
            self.removed.insert(first + 4);
        }
        if round > 1 {
            self.unpin(repository, first + 2 - 2 * ROUND_BLOCKS);
        }
        if round % 3 == 2 {
            let mut keep = store.keep_set();
            for pin in repository.pins.list() {
                keep.insert(&pin.cid);
            }
            let mut go_on = |_: &_| ControlFlow::Continue(());
            // Its failure promises nothing.
            match round {
                2 => drop(store.make_room(&keep, 30_000, &mut go_on)),
                _ => drop(store.sweep(&keep, &mut go_on)),
            }
        }
    }

    fn check(&self, path: &Path, what: &str) {
        let repository = open(path, Arc::new(Unsynced));
        let repository = repository.unwrap_or_else(|error| panic!("{what}: unopenable: {error}"));
        for n in 0..FIRST_LEAF + ROUNDS * FILE_LEAVES {
            let found = repository.blocks.get(block(n).cid());
            let found = found.unwrap_or_else(|error| panic!("{what}: block {n}: {error}"));
            let here = found.is_some_and(|found| found == block(n));
            assert!(here || !self.owed.contains(&n), "{what}: block {n} is lost");
            assert!(!here || !self.removed.contains(&n), "{what}: block {n} is back");
        }
        for (n, pinned) in &self.pins {
            let found = repository.pins.get(block(*n).cid()).is_some();
            assert_eq!(found, *pinned, "{what}: pin {n}");
        }
        let new = block(10_000);
        repository.blocks.put(std::slice::from_ref(&new)).unwrap();
        repository.blocks.commit().unwrap();
        assert_eq!(repository.blocks.get(new.cid()).unwrap(), Some(new), "{what}");
    }
}

/// Runs the script on a copy of `template` until its end or a freeze.
fn run(template: &Path, home: &Path, fault: Option<(usize, Fault)>) -> (Arc<ImageDisk>, Model) {
    super::copy(template, home);
    let disk = Arc::new(ImageDisk::over(home).unwrap());
    if let Some((at, fault)) = fault {
        disk.plan(at, fault);
    }
    let mut model = Model::default();
    if let Ok(repository) = open(home, Arc::clone(&disk) as _) {
        for round in 0..ROUNDS {
            model.round(&repository, round);
            if disk.is_frozen() {
                break;
            }
        }
        if !disk.is_frozen() {
            drop(repository.close());
        }
    }
    (disk, model)
}

fn template(path: &Path) {
    Repository::init(path).unwrap();
    let repository = open(path, Arc::new(Unsynced)).unwrap();
    for n in 0..STALE_PINS {
        repository.pins.add(block(20_000 + n).cid(), PinMode::Direct, None).unwrap();
        repository.pins.rm(block(20_000 + n).cid()).unwrap();
    }
    repository.close().unwrap();
    std::fs::remove_dir_all(path.join("meta")).unwrap();
}

/// Checks what a killed process and what power cuts leave after one fault; returns how many images.
fn try_fault(dir: &Path, at: usize, fault: Fault, power_cuts: u64) -> u64 {
    let home = dir.join("home");
    let (disk, model) = run(&dir.join("template"), &home, Some((at, fault)));
    for cut in 0..power_cuts {
        let image = dir.join("image");
        let seed = at as u64 * 97 + cut;
        disk.power_cut(&image, seed).unwrap();
        model.check(&image, &format!("change {at}, {fault:?}, power cut with seed {seed}"));
        std::fs::remove_dir_all(&image).unwrap();
    }
    model.check(&home, &format!("change {at}, {fault:?}, killed"));
    std::fs::remove_dir_all(&home).unwrap();
    power_cuts + 1
}

#[test]
fn no_fault_at_any_change_loses_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    template(&dir.path().join("template"));
    let full = crate::is_full_run();
    let (step, cuts) = if full { (1, POWER_CUTS.0) } else { (SHORT_STEP, POWER_CUTS.1) };
    let (disk, model) = run(&dir.path().join("template"), &dir.path().join("home"), None);
    let owed = u32::try_from(model.owed.len()).unwrap();
    assert_eq!((owed, model.gathered), (3 * ROUNDS + 2, 2 * ROUNDS), "{model:?}");
    std::fs::remove_dir_all(dir.path().join("home")).unwrap();
    let mut images = 0;
    for at in (0..disk.changes()).step_by(step) {
        images += try_fault(dir.path(), at, Fault::Freeze, cuts);
        images += try_fault(dir.path(), at, Fault::Errno(EIO), cuts / 3);
        images += try_fault(dir.path(), at, Fault::Errno(ENOSPC), cuts / 3);
    }
    assert!(images >= if full { 2000 } else { 100 }, "{images} of {} changes", disk.changes());
}
