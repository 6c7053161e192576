//! Walks: order, each block once, every codec with links.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::*;
use crate::codec::ipld::Ipld;
use crate::codec::{dag_cbor, dag_json};
use crate::dag::DagLimits;
use crate::exchange::Network;
use crate::testkit::dag_builder::{DagBuilder, Shape};
use crate::testkit::exchange::TestExchange;
use crate::testkit::store::TestStore;

fn dag(builder: DagBuilder) -> Dag {
    let store = Arc::new(TestStore::new(builder.blocks));
    Dag::new(store, Arc::new(Network::default()), DagLimits::default())
}

fn visit(dag: &Dag, root: Cid) -> Result<Vec<Cid>, UnixfsError> {
    let visits: Result<Vec<Visit>, _> =
        walk(dag, root).try_collect().now_or_never().expect("everything is here");
    Ok(visits?.into_iter().map(|visit| visit.cid).collect())
}

#[test]
fn parents_come_before_children_and_each_block_once() {
    let mut builder = DagBuilder::new();
    let twice = builder.raw("twice");
    let shape = Shape::File(
        vec![],
        vec![Shape::Raw(b"twice".to_vec()), Shape::PbRaw(b"b".to_vec()), Shape::Raw(b"c".to_vec())],
    );
    let file = builder.file(&shape);
    let (b, c) = (builder.file(&Shape::PbRaw(b"b".to_vec())), builder.raw("c"));
    let sub = builder.directory(&[("1", c), ("2", twice)]);
    let root = builder.directory(&[("file", file), ("sub", sub), ("twice", twice)]);
    assert_eq!(visit(&dag(builder), root).unwrap(), [root, file, twice, b, c, sub]);
}

#[test]
fn links_of_cbor_and_json_are_followed_and_plain_dag_pb_too() {
    let mut builder = DagBuilder::new();
    let (a, b) = (builder.raw("a"), builder.raw("b"));
    let json = dag_json::encode(&Ipld::List(vec![Ipld::from(a), Ipld::from(b)])).unwrap();
    let json = builder.block(codecs::DAG_JSON, json.into());
    let cbor = dag_cbor::encode(&Ipld::List(vec![Ipld::Null, Ipld::from(json)])).unwrap();
    let cbor = builder.block(codecs::DAG_CBOR, cbor.into());
    let link = crate::codec::dag_pb::PbLink { cid: cbor, name: Some(b"x"), tsize: None };
    let plain = crate::codec::dag_pb::encode(&[link], None);
    let plain = builder.block(codecs::DAG_PB, plain.into());
    assert_eq!(visit(&dag(builder), plain).unwrap(), [plain, cbor, json, a, b]);
}

#[test]
fn leaves_are_visited_without_being_here() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("leaf");
    builder.blocks.clear();
    let root = builder.directory(&[("leaf", leaf)]);
    assert_eq!(visit(&dag(builder), root).unwrap(), [root, leaf]);
}

#[test]
fn what_cannot_be_followed_is_an_error() {
    let mut builder = DagBuilder::new();
    let git = builder.block(0x78, Bytes::from_static(b"git"));
    let dag_pb = builder.block(codecs::DAG_PB, Bytes::from_static(b"garbage"));
    let cbor = builder.block(codecs::DAG_CBOR, Bytes::from_static(b"garbage"));
    let dag = dag(builder);
    assert!(matches!(visit(&dag, git), Err(UnixfsError::UnknownCodec { codec: 0x78, .. })));
    assert!(matches!(visit(&dag, dag_pb), Err(UnixfsError::Pb { .. })));
    assert!(matches!(visit(&dag, cbor), Err(UnixfsError::Ipld { .. })));
}

#[test]
fn a_doubling_dag_is_walked_in_its_blocks() {
    let mut builder = DagBuilder::new();
    let mut cid = builder.raw("leaf");
    for _ in 0..500 {
        cid = builder.directory(&[("a", cid), ("b", cid)]);
    }
    assert_eq!(visit(&dag(builder), cid).unwrap().len(), 501);
}

#[tokio::test(start_paused = true)]
async fn nodes_are_fetched_ahead() {
    let mut builder = DagBuilder::new();
    let dirs: Vec<(String, Cid)> = (0..100)
        .map(|number| {
            let leaf = builder.raw(format!("{number}"));
            (format!("{number:02}"), builder.directory(&[("leaf", leaf)]))
        })
        .collect();
    let root = builder.directory(&dirs);
    let exchange = TestExchange::new(builder.blocks);
    exchange.set_delay(std::time::Duration::from_secs(1));
    let store = Arc::new(TestStore::default());
    let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
    let start = tokio::time::Instant::now();
    assert_eq!(walk(&dag, root).count().await, 201);
    let (seconds, counts) = (start.elapsed().as_secs(), exchange.counts());
    assert!(seconds <= 20, "{seconds} round trips for 101 nodes");
    assert_eq!(counts.started, 101, "leaves are left alone, nothing is fetched twice");
    assert!(counts.concurrent_max <= NODES_AHEAD as u64 + 1);
}
