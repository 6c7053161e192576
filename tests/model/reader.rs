//! Reading against a plain buffer, and sharded directories against a map, for random DAGs.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use cidfs::block::Cid;
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::testkit::dag_builder::{DagBuilder, Shape};
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::{Cookie, DirEntry, list, lookup, read, stat, walk};
use futures::{FutureExt as _, TryStreamExt as _};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use tokio::runtime::Runtime;

/// Files of few bytes and any shape: inline bytes beside children, empty parts, old and new
/// leaves, repeated blocks (the alphabet has two letters).
fn shape() -> impl Strategy<Value = Shape> {
    let bytes = || vec(prop::sample::select(vec![b'a', b'b']), 0..6);
    let leaf = prop_oneof![bytes().prop_map(Shape::Raw), bytes().prop_map(Shape::PbRaw)];
    leaf.prop_recursive(5, 120, 6, move |inner| {
        (bytes(), vec(inner, 0..6)).prop_map(|(own, children)| Shape::File(own, children))
    })
}

fn here(builder: DagBuilder) -> Dag {
    let store = Arc::new(TestStore::new(builder.blocks));
    Dag::new(store, Arc::new(Network::default()), DagLimits::default())
}

/// Blocks that all have to be fetched, and a cache too small to keep a node.
fn far(builder: DagBuilder) -> Dag {
    let limits = DagLimits { node_cache_bytes: 0, ..DagLimits::default() };
    let exchange = Arc::new(TestExchange::new(builder.blocks));
    Dag::new(Arc::new(TestStore::default()), exchange, limits)
}

/// Waits for `work` in a runtime, which fetches need to store what came.
fn done<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(work)
}

fn read_now(dag: &Dag, cid: &Cid, offset: u64, len: usize) -> Bytes {
    done(read(dag, cid, offset, len)).unwrap()
}

proptest! {
    #[test]
    fn any_file_reads_as_its_buffer(
        shape in shape(),
        ranges in vec((0..200_u64, 0..200_usize), 1..20),
    ) {
        let content = shape.content();
        let mut builder = DagBuilder::new();
        let cid = builder.file(&shape);
        for dag in [here(builder.clone()), far(builder)] {
            let stat = done(stat(&dag, &cid)).unwrap();
            prop_assert_eq!(stat.file_len, content.len() as u64);
            for &(offset, len) in &ranges {
                let start = content.len().min(offset.try_into().unwrap());
                let end = content.len().min(start + len);
                prop_assert_eq!(&read_now(&dag, &cid, offset, len)[..], &content[start..end]);
            }
        }
    }

    #[test]
    fn any_sharded_directory_is_a_map(
        names in btree_map(vec(1..255_u8, 1..12), any::<u16>(), 0..120),
        width in 3..=10_u32,
        absent in vec(vec(any::<u8>(), 0..12), 10),
        piece in 1..50_usize,
    ) {
        let mut builder = DagBuilder::new();
        let entries: BTreeMap<Vec<u8>, Cid> = names
            .into_iter()
            .filter(|(name, _)| cidfs::codec::node::name_is_legal(name))
            .map(|(name, number)| (name, builder.raw(number.to_be_bytes().to_vec())))
            .collect();
        let dir = builder.sharded(&entries, 1 << width);
        for dag in [here(builder.clone()), far(builder)] {
            for name in entries.keys().chain(&absent) {
                let found = done(lookup(&dag, &dir, name)).unwrap();
                prop_assert_eq!(found.map(|entry| entry.cid), entries.get(name).copied());
            }
            let all = list_pieces(&dag, &dir, piece);
            let listed: BTreeMap<Vec<u8>, Cid> =
                all.iter().map(|(_, entry)| (entry.name.to_vec(), entry.cid)).collect();
            prop_assert_eq!(all.len(), listed.len());
            prop_assert_eq!(&listed, &entries);
            for (at, (cookie, _)) in all.iter().enumerate() {
                let next = list_now(&dag, &dir, *cookie, piece);
                let end = all.len().min(at + 1 + piece);
                prop_assert_eq!(&next[..], &all[at + 1..end]);
            }
        }
    }

    #[test]
    fn a_directory_of_one_block_is_a_map_of_its_first_entries(
        entries in vec((vec(any::<u8>(), 0..3), any::<u8>()), 0..60),
        piece in 1..20_usize,
    ) {
        let mut builder = DagBuilder::new();
        let entries: Vec<(Vec<u8>, Cid)> = entries
            .into_iter()
            .map(|(name, number)| (name, builder.raw(vec![number])))
            .collect();
        let dir = builder.directory(&entries);
        let dag = here(builder);
        let mut model: Vec<(Vec<u8>, Cid)> = Vec::new();
        for (name, cid) in entries {
            let is_shown = cidfs::codec::node::name_is_legal(&name);
            if is_shown && model.iter().all(|(known, _)| *known != name) {
                model.push((name, cid));
            }
        }
        let all = list_pieces(&dag, &dir, piece);
        let listed: Vec<_> =
            all.iter().map(|(_, entry)| (entry.name.to_vec(), entry.cid)).collect();
        prop_assert_eq!(&listed, &model);
        for (name, cid) in &model {
            let found = done(lookup(&dag, &dir, name)).unwrap();
            prop_assert_eq!(found.unwrap().cid, *cid);
        }
    }

    #[test]
    fn a_walk_visits_what_was_built(shapes in vec(shape(), 1..5)) {
        let mut builder = DagBuilder::new();
        let files: Vec<(String, Cid)> = shapes
            .iter()
            .enumerate()
            .map(|(number, shape)| (number.to_string(), builder.file(shape)))
            .collect();
        let root = builder.directory(&files);
        let built: std::collections::BTreeSet<Cid> =
            builder.blocks.iter().map(|block| *block.cid()).collect();
        for dag in [here(builder.clone()), far(builder)] {
            let visits: Vec<_> =
                done(walk(&dag, root).try_collect()).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for visit in visits {
                let visit: cidfs::unixfs::Visit = visit;
                prop_assert!(seen.is_empty() || built.contains(&visit.cid));
                prop_assert!(seen.insert(visit.cid), "visited twice");
            }
            prop_assert_eq!(&seen, &built);
        }
    }

    #[test]
    fn hostile_shards_never_list_more_than_they_have(
        slots in vec((btree_set(0..16_u32, 1..8), any::<u8>()), 1..6),
    ) {
        // Shards of one width whose buckets hold one and the same name or shard: nearly all wrong.
        let mut builder = DagBuilder::new();
        let leaf = builder.raw("x");
        let mut below = builder.shard(16, &[(3, b"name".to_vec(), leaf)]);
        for (buckets, choice) in slots {
            let name = if choice % 2 == 0 { Vec::new() } else { vec![choice.max(b'0'); 2] };
            let slots: Vec<_> = buckets
                .into_iter()
                .map(|bucket| (bucket, name.clone(), if name.is_empty() { below } else { leaf }))
                .collect();
            below = builder.shard(16, &slots);
        }
        let dag = here(builder);
        let mut from = Cookie::START;
        let mut listed = 0;
        while let Some(Ok(piece)) = list(&dag, &below, from, 4).now_or_never() {
            let Some((cookie, entry)) = piece.last() else { break };
            let found = done(lookup(&dag, &below, &entry.name)).unwrap();
            prop_assert_eq!(found.map(|found| found.cid), Some(entry.cid));
            from = *cookie;
            listed += piece.len();
            prop_assert!(listed <= 64, "six names at most, however often a shard is linked");
        }
    }
}

fn list_now(dag: &Dag, dir: &Cid, from: Cookie, max: usize) -> Vec<(Cookie, DirEntry)> {
    done(list(dag, dir, from, max)).unwrap()
}

fn list_pieces(dag: &Dag, dir: &Cid, max: usize) -> Vec<(Cookie, DirEntry)> {
    let mut all: Vec<(Cookie, DirEntry)> = Vec::new();
    loop {
        let from = all.last().map_or(Cookie::START, |(cookie, _)| *cookie);
        let piece = list_now(dag, dir, from, max);
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}
