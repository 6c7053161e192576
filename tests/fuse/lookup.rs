//! Looking names up: found, absent for ever, not reachable now.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, pb_file, take};

/// > `ENOENT` means that the directory is here, proved, and lacks the name. This is asked once.
#[test]
fn absence_is_proved_once_and_kept() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let root = builder.directory(&[("there", file)]);
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store.clone(), Arc::new(TestExchange::default()), &root, "");
    check_errno(fs::metadata(mount.path("absent")), Errno::ENOENT);
    check_errno(fs::metadata(mount.path("there/below")), Errno::ENOTDIR);
    store.take_asked();
    for _ in 0..3 {
        check_errno(fs::metadata(mount.path("absent")), Errno::ENOENT);
        assert!(fs::metadata(mount.path("there")).is_ok());
    }
    assert_eq!(store.take_asked(), [], "the kernel answers by itself");
}

/// > "Not reachable now" is never kept: as soon as a block can be had, the name is found.
#[test]
fn what_was_not_reachable_is_found_later() {
    let mut builder = DagBuilder::new();
    let file = pb_file(&mut builder, "content");
    let root = builder.directory(&[("name", file)]);
    let bytes = take(&mut builder, &file);
    let exchange = TestExchange::default();
    exchange.silence(&file);
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, Arc::new(exchange.clone()), &root, "timeout=1");
    check_errno(fs::metadata(mount.path("name")), Errno::ETIMEDOUT);
    exchange.unsilence(&file);
    exchange.answer(&file, bytes);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(fs::read(mount.path("name")).unwrap(), b"content");
}

/// > Names are 1 to 255 bytes long; a longer one is `ENAMETOOLONG`.
#[test]
fn long_names() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let long = "n".repeat(255);
    let mount = TempMount::of(builder, &[(long.as_str(), file)], "");
    assert_eq!(fs::read(mount.path(&long)).unwrap(), b"x");
    check_errno(fs::metadata(mount.path("n".repeat(256))), Errno::ENAMETOOLONG);
    check_errno(fs::metadata(mount.path("n/".repeat(2100))), Errno::ENAMETOOLONG);
}

/// > Equal files share an inode number (and the page cache), but are no hard links: the link count
/// > is 1. Each directory has its own number, whatever its content. All are below 2⁶³ and the same
/// > at the next mount.
#[test]
fn inode_numbers() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let dir = builder.directory(&[("file", file)]);
    let entries = [("a", dir), ("b", dir), ("c", file)];
    let mount = TempMount::of(builder.clone(), &entries, "");
    let stat = |mount: &TempMount, name| fs::metadata(mount.path(name)).unwrap();
    let ino = |name| stat(&mount, name).ino();
    assert_eq!(ino("a/file"), ino("b/file"));
    assert_eq!(ino("a/file"), ino("c"));
    assert_ne!(ino("a"), ino("b"));
    for name in ["a", "b", "c"] {
        assert_eq!(stat(&mount, name).nlink(), 1);
        assert!(i64::try_from(ino(name)).is_ok());
    }
    let again = TempMount::of(builder, &entries, "");
    assert_eq!(stat(&again, "c").ino(), ino("c"));
    assert_eq!(stat(&again, "a").ino(), ino("a"));
}

/// > The daemon remembers an inode exactly as long as the kernel does.
#[test]
fn forgotten_inodes_are_freed() {
    let mut builder = DagBuilder::new();
    let files: Vec<_> =
        (0..500).map(|n| (format!("{n}"), builder.raw(format!("content {n}")))).collect();
    let entries: Vec<_> = files.iter().map(|(name, cid)| (name.as_str(), *cid)).collect();
    let mount = TempMount::of(builder, &entries, "");
    for (name, _) in &entries {
        fs::metadata(mount.path(name)).unwrap();
    }
    assert_eq!(super::names(mount.path("")).len(), 500);
    assert_eq!(mount.vfs.inode_count(), 501);
    // Remounting shrinks the dentry cache of the mount, as memory pressure would.
    super::shrink(&mount);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while mount.vfs.inode_count() > 1 {
        assert!(std::time::Instant::now() < patience, "{} are left", mount.vfs.inode_count());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
