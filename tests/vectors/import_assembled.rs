//! Files that lie in the store as the files they are: the CIDs of any other way, and the bytes at their
//! own places.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cidfs::block::{Block, Cid};
use cidfs::codec::dag_pb::PbNode;
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::store::{BlockStore, DiskOptions, DiskStore};
use cidfs::unixfs::import::{
    BigFiles, CHUNK_LEN_MAX, ImportError, ImportOptions, Progress, import_paths, import_stream,
};
use cidfs::unixfs::walk;
use futures::StreamExt as _;
use tempfile::TempDir;

use super::import::{key_stream, options};
use super::import_nocopy::{open, quiet};

fn import(path: &Path, options: ImportOptions, store: &Arc<DiskStore>) -> Result<Cid, ImportError> {
    let options = ImportOptions { big_files: BigFiles::Assembled(Arc::clone(store)), ..options };
    Ok(import_paths(&[path], &options, Some(store.clone()), &quiet)?[0].cid)
}

/// Returns what lies below a block, read from its leaves in order; `None` where they are nodes.
fn content(store: &DiskStore, cid: &Cid) -> Option<Vec<u8>> {
    let block: Block = store.get(cid).unwrap().unwrap();
    if cid.codec() == cidfs::block::codecs::RAW {
        return Some(block.into_data().to_vec());
    }
    let node = PbNode::decode(block.into_data()).unwrap();
    let links: Vec<_> = node.links().map(|link| link.cid).collect();
    if links.is_empty() {
        return None;
    }
    let parts: Option<Vec<_>> = links.iter().map(|cid| content(store, cid)).collect();
    parts.map(|parts| parts.concat())
}

fn open_with(dir: &Path, assemble_min_bytes: u64) -> Arc<DiskStore> {
    let packs = dir.join("packs");
    fs::create_dir_all(&packs).unwrap();
    let options = DiskOptions { assemble_min_bytes, ..DiskOptions::default() };
    Arc::new(DiskStore::open(&packs, options).unwrap())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension() == Some("file".as_ref())).collect()
}

#[test]
fn cids_are_those_of_a_copy_and_the_file_lies_in_the_store() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("f");
    let bytes = key_stream("assembled", CHUNK_LEN_MAX + 1_000_003);
    fs::write(&path, &bytes).unwrap();
    for (flags, is_assembled) in [
        ("--profile=unixfs-v1-2025", true),
        ("--profile=unixfs-v1-2025 --trickle --chunker=size-100000 --max-file-links=3", true),
        ("--profile=unixfs-v1-2025 --chunker=buzhash", true),
        ("--chunker=rabin-87381-131072-196608 --cid-version=1 --trickle", true),
        ("--profile=unixfs-v0-2015", true),
        ("--profile=unixfs-v0-2015 --trickle --chunker=size-30000", true),
        ("--profile=unixfs-v0-2015 --cid-version=1 --raw-leaves=false", true),
        ("--profile=unixfs-v0-2015 --chunker=rabin --preserve-mode", true),
        ("--profile=unixfs-v1-2025 --hash=blake3", false),
    ] {
        let home = TempDir::new().unwrap();
        let store = open(home.path());
        let copied = import_paths(&[&path], &options(flags), None, &quiet).unwrap()[0].cid;
        assert_eq!(import(&path, options(flags), &store).unwrap(), copied, "{flags}");
        let found = files(home.path());
        assert_eq!(found.len(), usize::from(is_assembled), "{flags}");
        if let [file] = &found[..] {
            assert!(fs::read(file).unwrap() == bytes, "{flags}");
        }
        drop(store);
        // A crash costs nothing that was acknowledged.
        let store = open(home.path());
        assert!(content(&store, &copied).is_none_or(|found| found == bytes), "{flags}");
        assert_eq!(import(&path, options(flags), &store).unwrap(), copied, "{flags}");
        assert_eq!(files(home.path()).len(), found.len(), "it is here already: {flags}");
    }
}

#[test]
fn short_files_of_several_blocks_do_so_too_and_all_become_durable() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let lens = [1000, 262_143, 262_144, 262_145, 300_000, 1_500_000, 2_096_896, 2_096_897];
    for (n, len) in lens.iter().enumerate() {
        let bytes = key_stream(&format!("short {n}"), *len);
        fs::write(tree.join(format!("{n}")), &bytes).unwrap();
        fs::write(tree.join(format!("{n} again")), &bytes).unwrap();
    }
    for (flags, expected) in [
        ("--profile=unixfs-v0-2015", 5),
        ("--profile=unixfs-v1-2025", 3),
        ("--profile=unixfs-v1-2025 --chunker=size-100000", 6),
        ("--profile=unixfs-v0-2015 --trickle", 5),
        ("--profile=unixfs-v1-2025 --hash=blake3", 0),
    ] {
        let copied = import_paths(&[&tree], &options(flags), None, &quiet).unwrap()[0].cid;
        let home = TempDir::new().unwrap();
        let store = open_with(home.path(), 256 * 1024);
        assert_eq!(import(&tree, options(flags), &store).unwrap(), copied, "{flags}");
        drop(store);
        assert_eq!(files(home.path()).len(), expected, "{flags}");
        for file in files(home.path()) {
            let bytes = fs::read(&file).unwrap();
            let n = lens.iter().position(|len| *len == bytes.len()).unwrap();
            assert!(bytes == key_stream(&format!("short {n}"), lens[n]), "{flags}: {n}");
        }
        let store = open_with(home.path(), 256 * 1024);
        let dag = Dag::new(store.clone(), Arc::new(Network::default()), DagLimits::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let visits: Vec<_> = runtime.block_on(walk(&dag, copied).collect());
        assert!(visits.len() > lens.len());
        for visit in visits {
            assert!(store.get(&visit.unwrap().cid).unwrap().is_some(), "{flags}");
        }
    }
}

#[test]
fn holes_stay_holes() {
    const LEN: u64 = 400_000_011;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(LEN).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in between", 200_000_000).unwrap();
    let home = TempDir::new().unwrap();
    let store = open(home.path());
    let options = options("--profile=unixfs-v1-2025 --chunker=size-1000000");
    let cid = import(&path, options, &store).unwrap();
    assert!(store.disk_bytes() < 5_000_000, "{}", store.disk_bytes());
    let found = files(home.path());
    assert_eq!(fs::metadata(&found[0]).unwrap().len(), LEN);
    assert!(content(&store, &cid).unwrap() == fs::read(&path).unwrap());
}

#[test]
fn an_import_that_ends_early_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, key_stream("cancelled", 3 * CHUNK_LEN_MAX)).unwrap();
    let home = TempDir::new().unwrap();
    let store = open(home.path());
    let big_files = BigFiles::Assembled(Arc::clone(&store));
    let options = ImportOptions { big_files, ..options("--profile=unixfs-v1-2025") };
    let stop = |event: Progress<'_>| match event {
        Progress::Read { file_bytes, .. } if file_bytes > 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let failed = import_paths(&[&path], &options, Some(store.clone()), &stop).unwrap_err();
    assert!(matches!(failed, ImportError::Cancelled), "{failed}");
    assert_eq!(
        (store.disk_bytes(), fs::read_dir(home.path().join("packs")).unwrap().count()),
        (0, 0)
    );
}

#[test]
fn a_stream_lies_in_the_store_as_a_file_too() {
    let bytes = key_stream("stream", CHUNK_LEN_MAX + 500_001);
    let home = TempDir::new().unwrap();
    let store = open(home.path());
    let big_files = BigFiles::Assembled(Arc::clone(&store));
    let options = ImportOptions { big_files, ..options("--profile=unixfs-v1-2025") };
    let roots = import_stream(&bytes[..], None, &options, Some(store.clone()), &quiet).unwrap();
    assert!(fs::read(&files(home.path())[0]).unwrap() == bytes);
    assert!(content(&store, &roots[0].cid).unwrap() == bytes);
}
