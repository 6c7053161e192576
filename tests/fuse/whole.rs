//! Files that the kernel reads by itself.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cidfs::block::{Block, Cid, HashFn, codecs};
use cidfs::store::{BlockStore as _, DiskStore};
use cidfs::sys::mmap::ReadMap;
use cidfs::testkit::dag_builder::{DagBuilder, Shape};
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::{TempMount, TempPins};
use cidfs::unixfs::import::{BigFiles, ImportOptions, Profile, import_paths};

use super::pattern;

const LEN: usize = 5_000_000;

struct Added {
    mount: TempMount,
    pins: TempPins,
    cid: Cid,
    content: Vec<u8>,
}

/// Adds a file, as `add` does, to a namespace that is mounted.
fn added() -> Added {
    added_as("unixfs-v1-2025")
}

fn added_as(profile: &str) -> Added {
    let (mount, pins) = TempMount::pinning(Arc::new(TestExchange::default()), "");
    let mut content = pattern(LEN);
    // No two leaves are equal.
    content.chunks_mut(100_000).zip(0_u8..).for_each(|(part, n)| part[0] = n);
    let path = mount.outside().join("source");
    fs::write(&path, &content).unwrap();
    let blocks = &pins.repository().blocks;
    let big_files = BigFiles::Assembled(Arc::clone(blocks));
    let profile = Profile::by_name(profile).unwrap();
    let options = ImportOptions { big_files, profile, ..ImportOptions::default() };
    let go_on = |_: cidfs::unixfs::import::Progress<'_>| ControlFlow::Continue(());
    let roots = import_paths(&[&path], &options, Some(blocks.clone()), &go_on).unwrap();
    Added { mount, pins, cid: roots[0].cid, content }
}

impl Added {
    fn path(&self) -> PathBuf {
        self.mount.path(self.cid.to_string())
    }

    fn blocks(&self) -> &DiskStore {
        &self.pins.repository().blocks
    }

    /// The file of the store.
    fn stored(&self) -> File {
        let packs = self.pins.repository().path().join("packs");
        let mut files = fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path());
        let path = files.find(|path| path.extension() == Some("file".as_ref())).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn sweep(&self) {
        let keep = self.blocks().keep_set();
        self.blocks().sweep(&keep, &mut |_| ControlFlow::Continue(())).unwrap();
    }
}

fn first_byte(file: &File) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

/// > A file that lies in the store as one file, all of it proved since the start, is read from there by
/// > the kernel alone, if the daemon is root. All handles of a file are read in one way, from the first
/// > open to the last close.
#[test]
fn the_kernel_reads_whole_files_by_itself() {
    for profile in ["unixfs-v1-2025", "unixfs-v0-2015"] {
        check_whole(&added_as(profile));
    }
}

fn check_whole(added: &Added) {
    let file = File::open(added.path()).unwrap();
    assert!(fs::read(added.path()).unwrap() == added.content);
    assert!(ReadMap::of(&file).unwrap()[..] == added.content[..]);
    let direct = added.mount.open_direct(added.cid.to_string()).unwrap();
    let mut some = vec![0; 300_001];
    direct.read_exact_at(&mut some[1..], 77_777).unwrap();
    assert!(some[1..] == added.content[77_777..377_777], "exact to the byte, whatever the memory");
    // Only a read past the daemon can see this.
    let is_root = nix::unistd::geteuid().is_root();
    added.stored().write_all_at(b"\xff", 0).unwrap();
    assert_eq!(first_byte(&file) == 0xff, is_root);
    assert_eq!(first_byte(&File::open(added.path()).unwrap()) == 0xff, is_root);
}

/// > What is removed while it is open in this way is read to its end, and given back to the disk after
/// > the last close.
#[test]
fn an_open_file_is_not_taken_away() {
    let added = added();
    let file = File::open(added.path()).unwrap();
    added.sweep();
    let mut content = vec![0; LEN];
    file.read_exact_at(&mut content, 0).unwrap();
    assert!(content == added.content);
    let leaves = fs::metadata(added.path()).unwrap();
    assert_eq!(leaves.len(), LEN as u64);
    let before = added.blocks().disk_bytes();
    drop(file);
    // The kernel tells of the last close afterwards.
    let closed = || {
        added.sweep();
        added.blocks().disk_bytes() < before - LEN as u64 / 2
    };
    assert!((0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        closed()
    }));
}

/// > So is what is mapped, also after it was closed.
#[test]
fn a_mapped_file_is_not_taken_away() {
    let added = added();
    let map = ReadMap::of(&File::open(added.path()).unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let leaf = Block::hash(codecs::RAW, HashFn::SHA2_256, added.content[..1 << 20].to_vec().into());
    let leaf = *leaf.unwrap().cid();
    let before = added.blocks().disk_bytes();
    assert!(added.blocks().remove(&leaf).unwrap());
    added.sweep();
    assert!(map[..] == added.content);
    drop(map);
    added.sweep();
    assert!(added.blocks().disk_bytes() < before - LEN as u64 / 2);
}

/// > A file of which something is damaged or missing is read through the daemon, and fails where it is.
#[test]
fn a_damaged_file_is_read_in_parts() {
    let added = added();
    added.stored().write_all_at(b"\xff", 4_500_000).unwrap();
    // As after a start, when nothing is proved.
    let reopened = {
        let Added { mount, pins, cid, content } = added;
        drop(mount);
        let (mount, pins) = TempMount::pinning_again(pins);
        Added { mount, pins, cid, content }
    };
    let file = File::open(reopened.path()).unwrap();
    let mut some = vec![0; 1_000_000];
    file.read_exact_at(&mut some, 0).unwrap();
    assert!(some == reopened.content[..some.len()]);
    let failed = file.read_exact_at(&mut some, 4_200_000).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(nix::libc::EIO));
    assert!(reopened.blocks().get(&reopened.cid).unwrap().is_some());
}

/// > A file that came block by block is laid out as one file in the background after it was opened or
/// > pinned, if all of it is here and there is room for it twice meanwhile; the kernel reads it alone
/// > from its next first open on.
#[test]
fn a_file_that_came_block_by_block_is_laid_out() {
    let (mount, pins) = TempMount::pinning(Arc::new(TestExchange::default()), "");
    let content = pattern(LEN);
    let mut builder = DagBuilder::new();
    let leaves = content.chunks(100_000).zip(0_u8..).map(|(part, n)| {
        let mut leaf = part.to_vec();
        leaf[0] = n;
        match n % 3 {
            0 => Shape::Raw(leaf),
            1 => Shape::PbRaw(leaf),
            _ => Shape::File(leaf, Vec::new()),
        }
    });
    let shape = Shape::File(Vec::new(), leaves.collect());
    let (cid, content) = (builder.file(&shape), shape.content());
    let keeper = mount.keeper().unwrap();
    pins.repository().blocks.put(&builder.blocks).unwrap();
    let added = Added { mount, pins, cid, content };
    let open = || File::open(added.path()).unwrap();
    let first = open();
    assert!(fs::read(added.path()).unwrap() == added.content);
    let laid_out = keeper.gather(&mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(laid_out, 1, "what was opened was asked for");
    added.stored().write_all_at(b"\xff", 1).unwrap();
    let read = |file: &File| {
        let mut bytes = vec![0; LEN];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes[1])
    };
    assert_eq!(read(&first).unwrap(), added.content[1], "one way until the last close");
    drop(first);
    added.stored().write_all_at(&added.content[1..2], 1).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    // The kernel tells of the last close afterwards.
    let by_the_kernel = || {
        std::thread::sleep(Duration::from_millis(20));
        let file = open();
        added.stored().write_all_at(b"\xff", 1).unwrap();
        let seen = read(&file);
        added.stored().write_all_at(&added.content[1..2], 1).unwrap();
        seen.is_ok_and(|byte| byte == 0xff)
    };
    assert_eq!((0..20).any(|_| by_the_kernel()), is_root);
}

/// > With `-o small_files` the kernel opens files by itself, without asking: a tree of small files is
/// > read several times faster, and a whole big file is read through the daemon.
#[test]
fn small_files_are_opened_by_the_kernel() {
    let mut builder = DagBuilder::new();
    let content = pattern(700_000);
    let parts = content.chunks(250_000).map(|part| Shape::Raw(part.to_vec())).collect();
    let big = builder.file(&Shape::File(Vec::new(), parts));
    let small = builder.raw("small");
    let mount = TempMount::of(builder, &[("big", big), ("small", small)], "small_files");
    for _ in 0..3 {
        assert_eq!(fs::read(mount.path("small")).unwrap(), b"small");
        assert!(fs::read(mount.path("big")).unwrap() == content);
    }
    let refused = fs::write(mount.path("small"), "other").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EROFS));
    let file = File::open(mount.path("big")).unwrap();
    assert!(ReadMap::of(&file).unwrap()[..] == content[..]);
}
