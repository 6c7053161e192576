//! Real and hostile DAGs of others, through the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cidfs::block::{Block, Cid, cid_from_text, cid_prefix, codecs};
use cidfs::exchange::{Exchange, Network};
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::fixtures::shared_fixtures;
use cidfs::testkit::mount::{TempMount, TempPins};
use cidfs::testkit::store::TestStore;
use cidfs::vfs::MTIME_MAX;
use nix::errno::Errno;
use rustix::fs::{Mode, OFlags, openat};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::check_errno;

/// Reads the sections of a CARv1, or of the one inside a CARv2, whatever is in them.
fn sections(path: &Path) -> Vec<(Cid, Bytes)> {
    const V2_PRAGMA_LEN: usize = 11;
    let file = fs::read(path).unwrap();
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let v1 = if file[..V2_PRAGMA_LEN] == *b"\x0a\xa1gversion\x02" {
        let (start, len) = (word(V2_PRAGMA_LEN + 16), word(V2_PRAGMA_LEN + 24));
        &file[usize::try_from(start).unwrap()..][..usize::try_from(len).unwrap()]
    } else {
        &file[..]
    };
    let mut rest = v1;
    let _header = section(&mut rest);
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let bytes = section(&mut rest);
        let (cid, len) = cid_prefix(bytes).unwrap();
        sections.push((cid, Bytes::copy_from_slice(&bytes[len..])));
    }
    sections
}

fn section<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (mut len, mut digits) = (0, 0);
    loop {
        let byte = rest[digits];
        len |= usize::from(byte & 0x7f) << (7 * digits);
        digits += 1;
        if byte < 0x80 {
            break;
        }
    }
    let (section, after) = rest[digits..].split_at(len);
    *rest = after;
    section
}

/// Mounts the namespace over the blocks of an archive; those that do not match their CID are what
/// a lying peer sends.
fn mount(car: &Path, peers: bool) -> (TempMount, TempPins) {
    let lies = TestExchange::default();
    let mut blocks = Vec::new();
    for (cid, bytes) in sections(car) {
        match Block::verify(cid, bytes.clone()) {
            Ok(block) => blocks.push(block),
            Err(_) => lies.answer(&cid, bytes),
        }
    }
    let exchange: Arc<dyn Exchange> =
        if peers { Arc::new(lies) } else { Arc::new(Network::default()) };
    TempMount::namespace(Arc::new(TestStore::new(blocks)), exchange, "timeout=5")
}

fn files_below(folder: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, suffix, found);
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
}

fn list(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().as_bytes().to_vec())).collect()
}

fn hex(digest: &[u8]) -> String {
    multibase::Base::Base16Lower.encode(digest)
}

/// > Trees made by other implementations are shown as those show them.
#[test]
fn trees_of_other_implementations() {
    let Some(fixtures) = shared_fixtures() else { return };
    let mut tables = Vec::new();
    files_below(&fixtures, ".expected.json", &mut tables);
    assert!(tables.len() >= 24, "{}", tables.len());
    for table in tables {
        let expected: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
        let car = PathBuf::from(table.to_str().unwrap().replace(".expected.json", ".car"));
        let (mount, _pins) = mount(&car, false);
        for root in expected["roots"].as_array().unwrap() {
            check_root(&mount, root);
        }
    }
}

fn check_root(mount: &TempMount, root: &Value) {
    let top = mount.path(root["root"].as_str().unwrap());
    for entry in root["entries"].as_array().unwrap() {
        let path = PathBuf::from(format!("{}{}", top.display(), entry["path"].as_str().unwrap()));
        check_entry(&path, entry);
    }
    if let Some(wanted) = root["all_paths_sha256"].as_str() {
        let mut lines = Sha256::new();
        for name in sorted(&top) {
            lines.update([&b"/"[..], &name, b"\n"].concat());
        }
        assert_eq!(hex(&lines.finalize()), wanted, "{}", top.display());
    }
}

fn check_entry(path: &Path, entry: &Value) {
    let shown = path.display();
    if entry["hidden"] == true {
        let name = path.to_str().unwrap().rsplit_once("/../").unwrap().1;
        check_errno(
            fs::metadata(path.parent().unwrap().parent().unwrap().join(name)),
            Errno::ENOENT,
        );
        return;
    }
    match entry["kind"].as_str().unwrap() {
        "dir" | "hamt" => {
            assert!(fs::metadata(path).unwrap().is_dir(), "{shown}");
            assert_eq!(list(path).unwrap().len() as u64, entry["entries"], "{shown}");
        }
        "file" => check_file(path, entry),
        "symlink" => {
            let target = fs::read_link(path).unwrap();
            assert_eq!(target.to_str().unwrap(), entry["target"], "{shown}");
        }
        "MISSING" => check_missing(path, entry),
        other => {
            assert!(other.starts_with("codec "), "{other}");
            let content = fs::read(path).unwrap();
            assert_eq!(content.len() as u64, entry["block_len"], "{shown}");
            let cid = cid_from_text(entry["cid"].as_str().unwrap()).unwrap();
            assert!(Block::verify(cid, content.into()).is_ok(), "{shown}: its block's bytes");
        }
    }
    check_metadata(path, entry);
}

fn check_file(path: &Path, entry: &Value) {
    let shown = path.display();
    assert_eq!(fs::metadata(path).unwrap().len(), entry["size"], "{shown}");
    let content = fs::read(path);
    if entry["content"].is_string() {
        return check_errno(content, Errno::ENETUNREACH);
    }
    assert_eq!(hex(&Sha256::digest(content.unwrap())), entry["sha256"], "{shown}");
}

fn check_missing(path: &Path, entry: &Value) {
    let cid = cid_from_text(entry["cid"].as_str().unwrap()).unwrap();
    if cid.codec() == codecs::RAW {
        assert!(fs::metadata(path).unwrap().is_file(), "{}", path.display());
    } else {
        check_errno(fs::metadata(path), Errno::ENETUNREACH);
    }
    check_errno(fs::read(path), Errno::ENETUNREACH);
}

fn check_metadata(path: &Path, entry: &Value) {
    let (Ok(stat), shown) = (fs::symlink_metadata(path), path.display()) else { return };
    if let Some(mode) = entry["mode"].as_str() {
        let mode = u32::from_str_radix(mode.trim_start_matches("0o"), 8).unwrap();
        assert_eq!(stat.mode() & 0o7777, mode & 0o777, "{shown}");
    }
    if let Some(mtime) = entry["mtime"].as_array() {
        assert_eq!(
            (stat.mtime(), stat.mtime_nsec()),
            (mtime[0].as_i64().unwrap(), mtime[1].as_i64().unwrap()),
            "{shown}"
        );
    }
}

/// > Parts of a file that are here are read exactly, also around a part that is missing.
#[test]
fn a_file_with_a_hole_in_what_is_here() {
    let Some(fixtures) = shared_fixtures() else { return };
    let folder = fixtures.join("gateway-conformance/trustless_gateway_car");
    let (mount, _pins) = mount(&folder.join("file-3k-and-3-blocks-missing-block.car"), false);
    let file = mount.open_direct("QmYhmPjhFjYFyaoiuNzYv8WGavpSRDwdHWe5B4M5du5Rtk").unwrap();
    let mut part = [0; 1024];
    file.read_exact_at(&mut part, 0).unwrap();
    file.read_exact_at(&mut part, 2048).unwrap();
    check_errno(file.read_at(&mut part, 1024), Errno::ENETUNREACH);
    check_errno(file.read_at(&mut [0; 3072], 0), Errno::ENETUNREACH);
}

/// What a hostile tree must look like.
type Rule = fn(&Path);

/// Every rule of the fixtures, with the choice that is made where it leaves one (see "Malformed trees" in
/// SEMANTICS).
const HOSTILE: &[(&str, Rule)] = &[
    ("big-block-a", |root| check_errno(fs::read(root.join("big.bin")), Errno::EIO)),
    ("dir-deep-a", deep),
    ("file-blocksize-lies-a", bad_file),
    ("file-blocksizes-count-a", bad_file),
    ("file-deep-chain-a", |root| check_errno(fs::read(root.join("deep.bin")), Errno::EIO)),
    ("file-link-names-a", bad_file),
    ("file-size-mismatch-a", bad_file),
    ("file-size-overflow-a", bad_file),
    ("hamt-bitfield-bad-a", bad_shard),
    ("hamt-fanout-bad-a", bad_shard),
    ("hamt-fanout-odd-a", bad_shard),
    ("hamt-hash-bad-a", bad_shard),
    ("hamt-prefix-bad-a", bad_shard),
    ("hamt-too-deep-a", bad_shard),
    ("hamt-width-bomb-a", bad_shard),
    ("hash-mismatch-a", bad_file),
    ("identity-cid-a", |root| {
        assert!(!fs::read(root.join("id.ok")).unwrap().is_empty());
        check_errno(fs::read(root.join("id.big")), Errno::EIO);
    }),
    ("mode-special-a", |root| {
        let stat = fs::metadata(root.join("m.txt")).unwrap();
        assert!(stat.is_file() && stat.mode() & 0o7000 == 0, "{:o}", stat.mode());
        assert_eq!(fs::read(root.join("m.txt")).unwrap(), b"m\n");
    }),
    ("mtime-bad-a", |root| mtime(root, 0)),
    ("mtime-extreme-a", |root| mtime(root, MTIME_MAX.cast_signed())),
    ("name-dotdot-a", only_good),
    ("name-duplicate-a", |root| {
        assert_eq!(sorted(root), [&b"dup"[..], b"good.txt"]);
        assert_eq!(fs::read(root.join("dup")).unwrap(), b"first\n");
    }),
    ("name-empty-a", only_good),
    ("name-long-a", |root| {
        assert_eq!(sorted(root), [b"good.txt".to_vec(), vec![b'm'; 255]]);
        assert!(fs::read(root.join("m".repeat(255))).is_ok());
        check_errno(fs::read(root.join("n".repeat(256))), Errno::ENAMETOOLONG);
    }),
    ("name-nonutf8-a", |root| {
        assert_eq!(sorted(root), [&b"caf\xe9"[..], b"good.txt", b"\xff\xfe"]);
        for name in [&b"caf\xe9"[..], b"\xff\xfe"] {
            assert!(fs::read(root.join(std::ffi::OsStr::from_bytes(name))).is_ok());
        }
    }),
    ("name-nul-a", only_good),
    ("name-slash-a", |root| {
        only_good(root);
        check_errno(fs::read(root.join("a/b")), Errno::ENOENT);
    }),
    ("pb-garbage-a", |root| check_errno(fs::metadata(root.join("odd")), Errno::EIO)),
    ("sparse-bomb-a", sparse_bomb),
    ("symlink-bad-target-a", |root| check_errno(fs::read_link(root.join("ln")), Errno::EIO)),
    ("symlink-escape-a", |root| {
        assert_eq!(fs::read_link(root.join("ln")).unwrap(), Path::new("/etc/passwd"));
    }),
    ("symlink-with-links-a", |root| check_errno(fs::read_link(root.join("ln")), Errno::EIO)),
    ("type-unknown-a", |root| check_errno(fs::metadata(root.join("odd")), Errno::EIO)),
    ("weak-hash-a", |root| check_errno(fs::read(root.join("short")), Errno::EIO)),
];

fn bad_file(root: &Path) {
    check_errno(fs::read(root.join("bad.bin")), Errno::EIO);
}

fn bad_shard(root: &Path) {
    check_errno(list(&root.join("shard")), Errno::EIO);
}

fn sorted(root: &Path) -> Vec<Vec<u8>> {
    list(root).unwrap().into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn only_good(root: &Path) {
    assert_eq!(sorted(root), [b"good.txt"]);
}

fn mtime(root: &Path, seconds: i64) {
    assert_eq!(fs::metadata(root.join("m.txt")).unwrap().mtime(), seconds);
    assert_eq!(fs::read(root.join("m.txt")).unwrap(), b"m\n");
}

fn deep(root: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    let mut levels = 0;
    while let Ok(below) = openat(dir.as_fd(), "d", flags, Mode::empty()) {
        dir = below;
        levels += 1;
    }
    assert!(levels >= 200, "{levels}");
}

fn sparse_bomb(root: &Path) {
    let path = root.join("bomb.bin");
    let stat = fs::metadata(&path).unwrap();
    assert_eq!(stat.blocks(), stat.len().div_ceil(512));
    let file = fs::File::open(&path).unwrap();
    for offset in [0, 4096, stat.len() / 2 + 7, stat.len() - 4096] {
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, offset).unwrap();
        assert_eq!(page, [b'Z'; 4096], "at {offset}");
    }
}

/// > A malformed tree costs what touches it: the rest of the mount goes on.
#[test]
fn hostile_trees() {
    let Some(fixtures) = shared_fixtures() else { return };
    let folder = fixtures.join("adversarial");
    let index: Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let cases = index.as_array().unwrap();
    assert_eq!(cases.len(), HOSTILE.len());
    for (name, rule) in HOSTILE {
        let file = format!("{name}.car");
        let case = cases.iter().find(|case| case["file"] == file).unwrap();
        let (mount, _pins) = mount(&folder.join(&file), true);
        let root = mount.path(case["root"].as_str().unwrap());
        rule(&root);
        let listed = list(&root).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(listed.contains(&b"good.txt".to_vec()), "{name}");
        rule(&root);
        assert_eq!(fs::read(root.join("good.txt")).unwrap(), b"good\n", "{name}");
    }
}
