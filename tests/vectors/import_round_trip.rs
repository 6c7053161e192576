//! What was imported reads back: any content, under any chunker, layout, width and leaves.

use std::fs;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cid::Version;
use cidfs::block::{Block, Cid, cid_from_text};
use cidfs::codec::car::CarReader;
use cidfs::codec::node::Metadata;
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::testkit::fixtures::shared_fixtures;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::import::{
    Chunker, ImportOptions, Layout, MetadataRules, Profile, Progress, TreeBuilder, import_paths,
    import_stream,
};
use cidfs::unixfs::{Cookie, FileType, list, lookup, read, read_link, stat};
use proptest::prelude::*;

fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Everything is here, so nothing has to wait; long answers give way now and then.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

fn dag(store: &Arc<TestStore>) -> Dag {
    Dag::new(store.clone(), Arc::new(Network::default()), DagLimits::default())
}

fn content(dag: &Dag, cid: &Cid) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let part = now(read(dag, cid, content.len() as u64, 1 << 20)).unwrap();
        if part.is_empty() {
            return content;
        }
        content.extend_from_slice(&part);
    }
}

/// Gives a directory, read entry by entry, to a new import.
fn copy(dag: &Dag, dir: &Cid, path: &str, tree: &mut TreeBuilder<'_>) {
    tree.directory(path.as_bytes(), now(stat(dag, dir)).unwrap().metadata).unwrap();
    for (_, entry) in now(list(dag, dir, Cookie::START, 10_000)).unwrap() {
        let path = format!("{path}/{}", String::from_utf8(entry.name.to_vec()).unwrap());
        let attributes = now(stat(dag, &entry.cid)).unwrap();
        let own = attributes.metadata;
        match attributes.kind {
            FileType::Directory => copy(dag, &entry.cid, &path, tree),
            FileType::File => {
                tree.file(path.as_bytes(), &content(dag, &entry.cid)[..], own).unwrap();
            }
            FileType::Symlink => {
                let target = now(read_link(dag, &entry.cid)).unwrap();
                tree.symlink(path.as_bytes(), &target, own).unwrap();
            }
        }
    }
}

/// Trees that other implementations made, read and imported again.
#[test]
fn fixtures_keep_their_cids() {
    let Some(shared) = shared_fixtures() else { return };
    let check = |car: &str, root: &str, chunk: usize, dir_links_max: usize| {
        let file = fs::File::open(shared.join(car)).unwrap();
        let sections = CarReader::new(file).unwrap().map(Result::unwrap);
        let blocks = sections.map(|section| Block::verify(section.cid, section.data).unwrap());
        let dag = dag(&Arc::new(TestStore::new(blocks)));
        let profile =
            Profile { chunker: Chunker::Size(chunk), dir_links_max, ..Profile::default() };
        let metadata =
            MetadataRules { preserve_mode: true, preserve_mtime: true, ..MetadataRules::default() };
        let options = ImportOptions { profile, metadata, ..ImportOptions::default() };
        let mut tree = TreeBuilder::new(&options, None, &quiet).unwrap();
        copy(&dag, &cid_from_text(root).unwrap(), "r", &mut tree);
        assert_eq!(tree.finish().unwrap()[0].cid.to_string(), root, "{car}");
    };
    check(
        "gateway-conformance/trustless_gateway_car/single-layer-hamt-with-multi-block-files.car",
        "bafybeidbclfqleg2uojchspzd4bob56dqetqjsj27gy2cq3klkkgxtpn4i",
        256,
        999,
    );
    check(
        "gateway-conformance/path_gateway_unixfs/dir-with-files.car",
        "bafybeihchr7vmgjaasntayyatmp5sv6xza57iy2h4xj7g46bpjij6yhrmy",
        256,
        0,
    );
    check(
        "gateway-conformance/path_gateway_tar/fixtures.car",
        "bafybeig6ka5mlwkl4subqhaiatalkcleo4jgnr3hqwvpmsqfca27cijp3i",
        262_144,
        0,
    );
    check(
        "boxo/dir-special-chars.car",
        "bafybeiebgctytpwjp7suihumuyckgbx2wuofmjjncavkamhjen3jpd7vda",
        262_144,
        0,
    );
    check(
        "boxo/unixfs-dir-with-mode-mtime.car",
        "bafybeifup24mfbx6iv4xo7k664gzlezzurdnyb36pogxulrb7ed23cxtym",
        262_144,
        0,
    );
}

fn profiles() -> impl Strategy<Value = Profile> {
    let chunker = prop_oneof![
        (1..3000_usize).prop_map(Chunker::Size),
        Just(Chunker::Rabin { min: 16, avg: 64, max: 300 }),
        Just(Chunker::Buzhash),
    ];
    let layout = prop_oneof![Just(Layout::Balanced), Just(Layout::Trickle)];
    let version = prop_oneof![Just(Version::V0), Just(Version::V1)];
    let inline = prop_oneof![Just(None), (0..=128_usize).prop_map(Some)];
    (chunker, layout, 2..9_usize, any::<bool>(), version, inline).prop_map(
        |(chunker, layout, links_max, raw_leaves, cid_version, inline_limit)| Profile {
            chunker,
            layout,
            links_max,
            raw_leaves,
            cid_version,
            inline_limit,
            ..Profile::default()
        },
    )
}

/// Bytes that are neither all alike nor all different.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
            (state >> 61).to_le_bytes()[0]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_file_reads_back(profile in profiles(), len in 0..40_000_usize, seed: u64) {
        let data = bytes(len, seed);
        let options = ImportOptions { profile, ..ImportOptions::default() };
        let store = Arc::new(TestStore::default());
        let root = import_stream(&data[..], None, &options, Some(store.clone()), &quiet).unwrap();
        let dag = dag(&store);
        prop_assert_eq!(content(&dag, &root[0].cid), &data[..]);
        prop_assert_eq!(now(stat(&dag, &root[0].cid)).unwrap().file_len, len as u64);
        let again = import_stream(&data[..], None, &options, None, &quiet).unwrap();
        prop_assert_eq!(&again, &root);
    }
}

#[test]
fn big_files_read_back_from_disk_and_from_streams() {
    let temp = tempfile::TempDir::new().unwrap();
    let path = temp.path().join("big");
    let data = bytes(11_000_003, 5);
    fs::write(&path, &data).unwrap();
    for text in ["size-10000", "size-1048576", "size-2096896", "rabin-2000", "buzhash"] {
        for layout in [Layout::Balanced, Layout::Trickle] {
            let chunker = text.parse().unwrap();
            let profile = Profile { chunker, layout, links_max: 20, ..Profile::default() };
            let options = ImportOptions { profile, ..ImportOptions::default() };
            let store = Arc::new(TestStore::default());
            let root = import_paths(&[&path], &options, Some(store.clone()), &quiet).unwrap();
            assert!(content(&dag(&store), &root[0].cid) == data, "{text} {layout:?}");
            for threads in [1, 3] {
                let options = ImportOptions { threads, ..options.clone() };
                let stream = import_stream(&data[..], None, &options, None, &quiet).unwrap();
                assert_eq!(stream[0].cid, root[0].cid, "{text} {layout:?} {threads}");
            }
        }
    }
}

#[test]
fn directories_read_back_basic_and_sharded() {
    for dir_links_max in [0, 100] {
        let profile = Profile { dir_links_max, hamt_fanout: 16, ..Profile::default() };
        let options = ImportOptions { profile, ..ImportOptions::default() };
        let store = Arc::new(TestStore::default());
        let mut tree = TreeBuilder::new(&options, Some(store.clone()), &quiet).unwrap();
        let name = |n: u32| format!("file number {n}");
        for n in 0..3000 {
            let path = format!("top/{}/{}", n % 3, name(n));
            tree.file(path.as_bytes(), name(n).as_bytes(), Metadata::default()).unwrap();
        }
        let root = tree.finish().unwrap().remove(0);
        let dag = dag(&store);
        let mut seen = 0;
        for third in 0..3 {
            let third = third.to_string();
            let dir = now(lookup(&dag, &root.cid, third.as_bytes())).unwrap().unwrap().cid;
            let mut from = Cookie::START;
            loop {
                let page = now(list(&dag, &dir, from, 300)).unwrap();
                let Some((last, _)) = page.last() else { break };
                from = *last;
                for (_, entry) in &page {
                    assert_eq!(content(&dag, &entry.cid), &entry.name[..]);
                    let found = now(lookup(&dag, &dir, &entry.name)).unwrap().unwrap();
                    assert_eq!(found.cid, entry.cid);
                }
                seen += page.len();
            }
        }
        assert_eq!(seen, 3000, "{dir_links_max}");
    }
}
