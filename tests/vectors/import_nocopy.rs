//! Files that are referred to: the CIDs of a copy, the bytes of the file, and next to nothing stored.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cidfs::block::{Block, Cid};
use cidfs::codec::dag_pb::PbNode;
use cidfs::store::{BlockStore, DiskOptions, DiskStore};
use cidfs::unixfs::import::{
    BigFiles, CHUNK_LEN_MAX, ImportError, ImportOptions, Progress, import_paths,
};
use tempfile::TempDir;

use super::import::{key_stream, options};

/// Most bytes that the inner nodes of these tests take.
const NODES_LEN_MAX: u64 = 200_000;

pub(super) fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(super) fn open(dir: &Path) -> Arc<DiskStore> {
    fs::create_dir_all(dir.join("packs")).unwrap();
    Arc::new(DiskStore::open(&dir.join("packs"), DiskOptions::default()).unwrap())
}

fn import(path: &Path, options: ImportOptions, store: &Arc<DiskStore>) -> Result<Cid, ImportError> {
    let options = ImportOptions { big_files: BigFiles::Referred(Arc::clone(store)), ..options };
    Ok(import_paths(&[path], &options, Some(store.clone()), &quiet)?[0].cid)
}

/// Returns what lies below a block, read from its leaves in order.
fn content(store: &DiskStore, cid: &Cid) -> Vec<u8> {
    let block: Block = store.get(cid).unwrap().unwrap();
    if cid.codec() == cidfs::block::codecs::RAW {
        return block.into_data().to_vec();
    }
    let node = PbNode::decode(block.into_data()).unwrap();
    node.links().flat_map(|link| content(store, &link.cid)).collect()
}

fn stored_len(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("packs")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn cids_are_those_of_a_copy_and_leaves_those_of_the_file() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("f");
    let bytes = key_stream("nocopy", CHUNK_LEN_MAX + 1_000_003);
    fs::write(&path, &bytes).unwrap();
    for flags in [
        "--profile=unixfs-v1-2025",
        "--profile=unixfs-v1-2025 --trickle --chunker=size-100000 --max-file-links=3",
        "--profile=unixfs-v1-2025 --chunker=size-65536 --max-file-links=2",
        "--profile=unixfs-v1-2025 --chunker=buzhash --inline",
        "--chunker=rabin-87381-131072-196608 --cid-version=1 --trickle",
        "--raw-leaves --inline",
    ] {
        let home = TempDir::new().unwrap();
        let store = open(home.path());
        let copied = import_paths(&[&path], &options(flags), None, &quiet).unwrap()[0].cid;
        assert_eq!(import(&path, options(flags), &store).unwrap(), copied, "{flags}");
        assert!(stored_len(home.path()) < NODES_LEN_MAX, "{flags}");
        drop(store);
        // A crash costs nothing that was acknowledged.
        let store = open(home.path());
        assert!(content(&store, &copied) == bytes, "{flags}");
        assert_eq!(store.foreign_packs()[0].path, path.canonicalize().unwrap());
    }
}

#[test]
fn holes_and_inlined_ends_are_read_right() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(40_000_011).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in between", 20_000_000).unwrap();
    let home = TempDir::new().unwrap();
    let store = open(home.path());
    let options = options("--profile=unixfs-v1-2025 --inline --chunker=size-1000000");
    let cid = import(&path, options, &store).unwrap();
    assert_eq!(store.foreign_packs()[0].blocks, 2, "zeros, and the chunk with something in it");
    assert!(content(&store, &cid) == fs::read(&path).unwrap());
}

#[test]
fn short_files_are_copied_and_trees_mix() {
    let files = TempDir::new().unwrap();
    let tree = files.path().join("d");
    fs::create_dir(&tree).unwrap();
    let big = key_stream("big", CHUNK_LEN_MAX + 1);
    fs::write(tree.join("big"), &big).unwrap();
    fs::write(tree.join("limit"), &big[1..]).unwrap();
    std::os::unix::fs::symlink("big", tree.join("link")).unwrap();
    let home = TempDir::new().unwrap();
    let store = open(home.path());
    let flags = "--profile=unixfs-v1-2025";
    let root = import(&tree, options(flags), &store).unwrap();
    assert_eq!(root, import_paths(&[&tree], &options(flags), None, &quiet).unwrap()[0].cid);
    let paths: Vec<_> = store.foreign_packs().into_iter().map(|stat| stat.path).collect();
    assert_eq!(paths, [tree.canonicalize().unwrap().join("big")]);
    let limit = import_paths(&[tree.join("limit")], &options(flags), None, &quiet).unwrap()[0].cid;
    fs::remove_dir_all(&tree).unwrap();
    assert!(content(&store, &limit) == big[1..], "the copied file is whole");
}

#[test]
fn only_raw_leaves_with_sha2_256_can_be_referred_to() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("f");
    fs::write(&path, b"short").unwrap();
    let store = open(files.path());
    for flags in [
        "",
        "--profile=unixfs-v1-2025 --raw-leaves=false",
        "--profile=unixfs-v1-2025 --hash=blake3",
        "--profile=unixfs-v1-2025 --preserve-mode",
    ] {
        let refused = import(&path, options(flags), &store).unwrap_err().to_string();
        assert!(refused.contains("--nocopy needs raw leaves"), "{flags}: {refused}");
    }
}
