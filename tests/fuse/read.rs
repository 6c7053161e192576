//! read(2), and mmap(2) and execve(2) that are built on it.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::block::{BLOCK_LEN_MAX, Cid};
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::sys::mmap::ReadMap;
use cidfs::testkit::dag_builder::{DagBuilder, Shape};
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, directory_claiming, pattern, take};

const LEAF: usize = 262_144;

fn big_file(builder: &mut DagBuilder, content: &[u8]) -> Cid {
    let parts = content.chunks(LEAF).map(|part| Shape::Raw(part.to_vec())).collect();
    builder.file(&Shape::File(Vec::new(), parts))
}

fn mounted(len: usize) -> (TempMount, Vec<u8>) {
    let mut builder = DagBuilder::new();
    let content = pattern(len);
    let file = big_file(&mut builder, &content);
    (TempMount::of(builder, &[("file", file)], ""), content)
}

/// > A read returns the bytes that the CID names: all that were asked for, fewer only at the end
/// > of the file, none beyond it.
#[test]
fn bytes_at_any_offset_are_those_of_the_file() {
    let (mount, content) = mounted(3 * LEAF + 17);
    assert!(fs::read(mount.path("file")).unwrap() == content);
    let mut file = fs::File::open(mount.path("file")).unwrap();
    let end = content.len();
    for (offset, len) in [(0, 1), (LEAF - 1, 2), (LEAF, LEAF), (2 * LEAF + 5, LEAF), (end - 1, 1)] {
        let mut some = vec![0; len];
        file.read_exact_at(&mut some, offset as u64).unwrap();
        assert!(some == content[offset..offset + len], "{offset}");
        file.seek(SeekFrom::Start(offset as u64)).unwrap();
        file.read_exact(&mut some).unwrap();
        assert!(some == content[offset..offset + len], "{offset} after a seek");
    }
    let mut some = [0; 100];
    assert_eq!(file.read_at(&mut some, end as u64 - 10).unwrap(), 10);
    assert_eq!(file.read_at(&mut some, end as u64).unwrap(), 0);
    assert_eq!(file.read_at(&mut some, end as u64 + 10_000).unwrap(), 0);
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), end as u64);
}

/// > `O_DIRECT` reads bypass the page cache and are exact to the byte.
#[test]
fn direct_reads_are_exact() {
    let (mount, content) = mounted(2 * LEAF + 17);
    let file = mount.open_direct("file").unwrap();
    let mut some = vec![0; LEAF];
    file.read_exact_at(&mut some, 12_345).unwrap();
    assert!(some == content[12_345..12_345 + LEAF]);
    assert_eq!(file.read_at(&mut some, content.len() as u64 - 7).unwrap(), 7);
    assert_eq!(some[..7], content[content.len() - 7..]);
}

/// > A file can be mapped.
#[test]
fn a_mapping_shows_the_file() {
    let (mount, content) = mounted(LEAF + 17);
    let file = fs::File::open(mount.path("file")).unwrap();
    assert!(ReadMap::of(&file).unwrap()[..] == content[..]);
}

/// > Readers do not wait for each other.
#[test]
fn readers_work_at_the_same_time() {
    let (mount, content) = mounted(8 * LEAF);
    std::thread::scope(|scope| {
        for start in 0..8 {
            let (path, content) = (mount.path("file"), &content);
            scope.spawn(move || {
                let file = fs::File::open(path).unwrap();
                for round in 0..8 {
                    let offset = (start + round * 3) % 8 * LEAF;
                    let mut leaf = vec![0; LEAF];
                    file.read_exact_at(&mut leaf, offset as u64).unwrap();
                    assert!(leaf == content[offset..offset + LEAF], "{offset}");
                }
            });
        }
    });
}

/// > A program runs from the mount when its mode says so: a stored one, or `fmask=` for trees that
/// > store none.
#[test]
fn programs_run_when_the_mode_says_so() {
    let script = b"#!/bin/sh\necho ran\n";
    let mut builder = DagBuilder::new();
    let plain = builder.raw(&script[..]);
    let message = UnixFs {
        data: Some(script[..].into()),
        file_size: Some(script.len() as u64),
        mode: Some(0o755),
        ..UnixFs::new(Kind::File)
    };
    let stored = builder.node(&[], &message);
    let entries = [("plain", plain), ("stored", stored)];
    let run = |mount: &TempMount, name| {
        Command::new(mount.path(name)).output().map(|output| output.stdout)
    };
    let mount = TempMount::of(builder.clone(), &entries, "");
    assert_eq!(run(&mount, "stored").unwrap(), b"ran\n");
    check_errno(run(&mount, "plain"), Errno::EACCES);
    let mount = TempMount::of(builder.clone(), &entries, "fmask=022");
    assert_eq!(run(&mount, "plain").unwrap(), b"ran\n");
    let mount = TempMount::of(builder, &entries, "fmask=022,noexec");
    check_errno(run(&mount, "stored"), Errno::EACCES);
}

/// > When only a part of what the kernel reads ahead is here, the bytes that are here are read
/// > without waiting for the others.
#[test]
fn what_is_here_is_read_while_the_rest_is_missing() {
    let mut builder = DagBuilder::new();
    let content = pattern(2 * LEAF);
    let file = big_file(&mut builder, &content);
    let root = builder.directory(&[("file", file)]);
    let missing = DagBuilder::new().raw(content[LEAF..].to_vec());
    take(&mut builder, &missing);
    let exchange = TestExchange::default();
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, Arc::new(exchange.clone()), &root, "timeout=30");
    let started = Instant::now();
    let file = fs::File::open(mount.path("file")).unwrap();
    let mut first = vec![0; LEAF];
    file.read_exact_at(&mut first, 0).unwrap();
    assert!(first == content[..LEAF]);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

/// > The length of a file whose block is not here is what its directory claims. It is proved before
/// > the file is opened; a false claim is replaced by the truth, and no other file is affected.
#[test]
fn a_false_length_is_never_read_by() {
    let mut builder = DagBuilder::new();
    let content = pattern(10_000);
    let file = builder.raw(content.clone());
    let claims: [(&str, Cid, Option<u64>); 5] = [
        ("true", file, Some(10_000)),
        ("short", file, Some(10)),
        ("long", file, Some(20_000)),
        ("none", file, None),
        ("absurd", file, Some(BLOCK_LEN_MAX as u64 + 1)),
    ];
    for (name, ..) in claims {
        let mut builder = builder.clone();
        let root = directory_claiming(&mut builder, &claims);
        let block = builder.blocks.remove(0);
        let exchange = Arc::new(TestExchange::new([block]));
        let store = Arc::new(TestStore::new(builder.blocks));
        let mount = TempMount::directory(store, exchange, &root, "");
        super::names(mount.path(""));
        assert!(fs::read(mount.path(name)).unwrap() == content, "{name}");
        assert_eq!(fs::metadata(mount.path(name)).unwrap().len(), 10_000, "{name}");
        for (other, ..) in claims {
            assert!(fs::read(mount.path(other)).unwrap() == content, "{other} after {name}");
        }
    }
}
