//! What was imported reads back: any content, under any chunker, layout, width and leaves.

use std::fs;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cid::Version;
use cidfs::block::Cid;
use cidfs::codec::node::Metadata;
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Offline;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::import::{
    Chunker, ImportOptions, Layout, Profile, Progress, TreeBuilder, import_paths, import_stream,
};
use cidfs::unixfs::{Cookie, list, lookup, read, stat};
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
    Dag::new(store.clone(), Arc::new(Offline), DagLimits::default())
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
