//! getdents(2): complete, each name once, from any place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::block::Cid;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use rustix::fs::{Dir, Mode, OFlags};

use super::{names, pb_file, take};

/// > A listing gives each name once, with its type and inode number, then ends.
#[test]
fn entries_have_types_and_inodes() {
    let mut builder = DagBuilder::new();
    let entries = [
        ("dir", builder.directory::<&str>(&[])),
        ("file", builder.raw("x")),
        ("link", builder.symlink("file")),
        ("pb", pb_file(&mut builder, "x")),
    ];
    let mount = TempMount::of(builder, &entries, "");
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(mount.path("")).unwrap() {
        let entry = entry.unwrap();
        let stat = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(entry.ino(), stat.ino(), "{entry:?}");
        assert_eq!(entry.file_type().unwrap(), stat.file_type(), "{entry:?}");
        let name = entry.file_name().into_string().unwrap();
        assert!(seen.insert(name, stat.file_type()).is_none(), "{entry:?} comes twice");
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["dir", "file", "link", "pb"]);
    assert!(seen["dir"].is_dir() && seen["link"].is_symlink() && seen["pb"].is_file());
}

/// > Names are bytes: what is not UTF-8 is listed and opens as it is. Names that Linux cannot have
/// > are left out; of equal names the first is shown.
#[test]
fn names_are_bytes() {
    let mut builder = DagBuilder::new();
    let (first, second) = (builder.raw("first"), builder.raw("second"));
    let names: [(&[u8], Cid); 7] = [
        (b"\xff\xfe", first),
        (b"..", second),
        (b"a/b", second),
        (b"nul\0", second),
        (b"", second),
        (b"dup", first),
        (b"dup", second),
    ];
    let dir = builder.directory(&names);
    let mount = TempMount::of(builder, &[("dir", dir)], "");
    let dir = mount.path("dir");
    let listed: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_vec()).collect();
    assert_eq!(listed, [b"\xff\xfe".to_vec(), b"dup".to_vec()]);
    let odd = std::ffi::OsString::from_vec(b"\xff\xfe".to_vec());
    assert_eq!(fs::read(dir.join(odd)).unwrap(), b"first");
    assert_eq!(fs::read(dir.join("dup")).unwrap(), b"first");
}

fn many(count: usize) -> (TempMount, usize) {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let all: BTreeMap<Vec<u8>, Cid> =
        (0..count).map(|n| (format!("name-{n:08}").into_bytes(), file)).collect();
    let sharded = builder.sharded(&all, 256);
    let plain: Vec<_> = all.iter().take(20_000).map(|(name, cid)| (name, *cid)).collect();
    let plain = builder.directory(&plain);
    (TempMount::of(builder, &[("sharded", sharded), ("plain", plain)], ""), count)
}

/// > A directory is listed whole however large it is.
#[test]
fn large_directories_are_listed_whole() {
    let (mount, count) = many(50_000);
    for _ in 0..2 {
        assert_eq!(names(mount.path("sharded")).len(), count);
        assert_eq!(names(mount.path("plain")).len(), 20_000);
    }
}

/// Tells a test that its process has no other.
const ALONE: &str = "CIDFS_TEST_ALONE";

/// > A listing begins at once and takes no memory for its length.
#[test]
fn names_stream() {
    if std::env::var_os(ALONE).is_none() {
        // The memory of a process is told of all its tests together.
        let test = ["--exact", "fuse::readdir::names_stream", "--nocapture"];
        let alone = std::env::current_exe().unwrap();
        assert!(Command::new(alone).args(test).env(ALONE, "1").status().unwrap().success());
        return;
    }
    let count = if crate::is_full_run() { 1_000_000 } else { 100_000 };
    let (mount, count) = many(count);
    let before = memory_kib();
    let started = Instant::now();
    let mut listing = fs::read_dir(mount.path("sharded")).unwrap();
    listing.next().unwrap().unwrap();
    let first = started.elapsed();
    crate::figure("first of 1 M names", first.as_secs_f64() * 1e3, "ms", 100.0);
    assert!(first < Duration::from_millis(500), "{first:?}");
    assert_eq!(listing.map(Result::unwrap).count(), count - 1);
    let taken = memory_kib().saturating_sub(before);
    // What the cache of decoded nodes may have, and some for the kernel's look-ups.
    crate::figure("memory, 1 M names", f64::from(taken) / 1024.0, "MiB", 96.0);
    assert!(taken < 96 * 1024, "{taken} KiB");
}

/// Memory that this process, in which the mount is, has.
fn memory_kib() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open(path: &Path) -> Dir {
    Dir::new(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap())
        .unwrap()
}

fn rest(dir: &mut Dir) -> Vec<(i64, Vec<u8>)> {
    std::iter::from_fn(|| dir.read())
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.offset(), entry.file_name().to_bytes().to_vec()))
        .collect()
}

/// > seekdir(3) goes on after the name whose place was taken, also in a new listing; rewinddir(3)
/// > starts again.
#[test]
fn listings_go_on_at_any_place() {
    let (mount, _) = many(3_000);
    for name in ["sharded", "plain"] {
        let mut dir = open(&mount.path(name));
        let all = rest(&mut dir);
        assert_eq!(all[0].1, b".");
        assert_eq!(all[1].1, b"..");
        for at in [0, 1, 2, 3, 100, 1_500, all.len() - 2, all.len() - 1] {
            let mut again = open(&mount.path(name));
            for dir in [&mut dir, &mut again] {
                dir.seek(all[at].0).unwrap();
                assert_eq!(rest(dir), all[at + 1..], "{name} after {at}");
            }
        }
        dir.rewind();
        assert_eq!(rest(&mut dir), all);
    }
}

/// > The blocks that names lead to are fetched together and ahead, never one after the other.
#[test]
fn children_are_fetched_together() {
    const LATENCY: Duration = Duration::from_millis(30);
    let mut builder = DagBuilder::new();
    let files: Vec<_> = (0..200)
        .map(|n| (format!("{n:04}"), pb_file(&mut builder, &format!("file {n}"))))
        .collect();
    let dir = builder.directory(&files);
    let root = builder.directory(&[("dir", dir)]);
    let exchange = TestExchange::default();
    exchange.set_delay(LATENCY);
    for (_, cid) in &files {
        let bytes = take(&mut builder, cid);
        exchange.answer(cid, bytes);
    }
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, Arc::new(exchange.clone()), &root, "");
    let started = Instant::now();
    let entries = fs::read_dir(mount.path("dir")).unwrap();
    let types: Vec<_> = entries.map(|entry| entry.unwrap().file_type().unwrap()).collect();
    let took = started.elapsed();
    assert_eq!(types.len(), 200);
    assert!(types.iter().all(fs::FileType::is_file), "all came within the grace");
    assert!(took < LATENCY * 200 / 4, "{took:?}");
    assert_eq!(exchange.counts().started, 200, "each once");
}

/// > What a listing showed as unknown is shown as it is once its block is here.
#[test]
fn an_unknown_child_becomes_known() {
    let mut builder = DagBuilder::new();
    let file = pb_file(&mut builder, "content");
    let root = builder.directory(&[("name", file)]);
    let bytes = take(&mut builder, &file);
    let exchange = TestExchange::default();
    exchange.set_delay(Duration::from_millis(1500));
    exchange.answer(&file, bytes);
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, Arc::new(exchange.clone()), &root, "");
    let is_dir = || {
        let entry = fs::read_dir(mount.path("")).unwrap().next().unwrap().unwrap();
        entry.file_type().unwrap().is_dir()
    };
    assert!(is_dir(), "it does not come within the grace of a listing");
    let patience = Instant::now() + Duration::from_secs(5);
    while is_dir() {
        assert!(Instant::now() < patience, "it stays unknown");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read(mount.path("name")).unwrap(), b"content");
    assert_eq!(exchange.counts().started, 1, "the first listing's fetch went on");
}
