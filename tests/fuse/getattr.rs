//! stat(2).

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use cidfs::codec::unixfs::{Kind, Mtime, UnixFs};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use cidfs::vfs::MTIME_MAX;
use nix::unistd::{getegid, geteuid};

use super::pb_file;

fn file(mode: Option<u32>, mtime: Option<Mtime>) -> UnixFs {
    UnixFs { data: Some("m\n".into()), file_size: Some(2), mode, mtime, ..UnixFs::new(Kind::File) }
}

fn mode(mount: &TempMount, name: &str) -> u32 {
    fs::symlink_metadata(mount.path(name)).unwrap().mode()
}

/// > Modes are 0444 for files, 0555 for directories and 0777 for symlinks unless the tree stores
/// > others. Set-uid, set-gid and sticky bits are not shown.
#[test]
fn modes() {
    let mut builder = DagBuilder::new();
    let entries = [
        ("plain", builder.raw("x")),
        ("pb", pb_file(&mut builder, "x")),
        ("dir", builder.directory::<&str>(&[])),
        ("link", builder.symlink("plain")),
        ("stored", builder.node(&[], &file(Some(0o640), None))),
        ("special", builder.node(&[], &file(Some(0o7755), None))),
        ("high", builder.node(&[], &file(Some(0xffff_0000 | 0o40_755), None))),
    ];
    let mount = TempMount::of(builder.clone(), &entries, "");
    assert_eq!(mode(&mount, "plain"), 0o100_444);
    assert_eq!(mode(&mount, "pb"), 0o100_444);
    assert_eq!(mode(&mount, "dir"), 0o40_555);
    assert_eq!(mode(&mount, ""), 0o40_555);
    assert_eq!(mode(&mount, "link"), 0o120_777);
    assert_eq!(mode(&mount, "stored"), 0o100_640);
    assert_eq!(mode(&mount, "special"), 0o100_755);
    assert_eq!(mode(&mount, "high"), 0o100_755);
    let mount = TempMount::of(builder, &entries, "fmask=0133,dmask=0027");
    assert_eq!(mode(&mount, "plain"), 0o100_444);
    assert_eq!(mode(&mount, "stored"), 0o100_640);
    assert_eq!(mode(&mount, "special"), 0o100_644);
    assert_eq!(mode(&mount, "dir"), 0o40_550);
}

/// > Times are the stored one; 0 (1970) when there is none or it lies before that; at most the end of
/// > ext4's range in 2446.
#[test]
fn times() {
    let mut builder = DagBuilder::new();
    let mut at = |seconds, nanos| builder.node(&[], &file(None, Some(Mtime { seconds, nanos })));
    let entries = [
        ("stored", at(1_700_000_000, 123_456_789)),
        ("before", at(-1, 5)),
        ("extreme", at(i64::MAX, 999_999_999)),
        ("none", builder.raw("x")),
    ];
    let mount = TempMount::of(builder, &entries, "");
    let check = |name, seconds: i64, nanos| {
        let stat = fs::metadata(mount.path(name)).unwrap();
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (seconds, nanos), "{name}");
    };
    check("stored", 1_700_000_000, 123_456_789);
    check("before", 0, 0);
    check("extreme", MTIME_MAX.cast_signed(), 0);
    check("none", 0, 0);
}

/// > Sizes are lengths in bytes, of a symlink that of its target; `st_blocks` is the size in sectors,
/// > rounded up; `st_blksize` is 1 MiB, of a directory 32 KiB.
#[test]
fn sizes() {
    let mut builder = DagBuilder::new();
    let entries = [
        ("empty", builder.raw("")),
        ("some", builder.raw(vec![1; 513])),
        ("link", builder.symlink("some")),
        ("dir", builder.directory::<&str>(&[])),
    ];
    let mount = TempMount::of(builder, &entries, "");
    let check = |name, size, blocks, block_len| {
        let stat = fs::symlink_metadata(mount.path(name)).unwrap();
        let seen = (stat.size(), stat.blocks(), stat.blksize());
        assert_eq!(seen, (size, blocks, block_len), "{name}");
    };
    check("empty", 0, 0, 1 << 20);
    check("some", 513, 2, 1 << 20);
    check("link", 4, 1, 1 << 20);
    check("dir", 0, 0, 32 * 1024);
}

/// > Everything belongs to the user who mounts, or to `uid=` and `gid=`.
#[test]
fn owners() {
    let mut builder = DagBuilder::new();
    let entries = [("file", builder.raw("x"))];
    let owner = |mount: &TempMount| {
        let stat = fs::metadata(mount.path("file")).unwrap();
        (stat.uid(), stat.gid())
    };
    let mount = TempMount::of(builder.clone(), &entries, "");
    assert_eq!(owner(&mount), (geteuid().as_raw(), getegid().as_raw()));
    let mount = TempMount::of(builder, &entries, "uid=1234,gid=5678");
    assert_eq!(owner(&mount), (1234, 5678));
}
