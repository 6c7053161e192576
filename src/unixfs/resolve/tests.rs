//! Paths through directories, plain dag-pb, dag-cbor and dag-json.

use bytes::Bytes;
use futures::FutureExt as _;

use std::sync::Arc;

use super::*;
use crate::codec::dag_pb::{PbLink, encode};
use crate::codec::ipld::Map;
use crate::dag::DagLimits;
use crate::exchange::Network;
use crate::testkit::dag_builder::DagBuilder;
use crate::testkit::store::TestStore;

fn map(entries: &[(&str, Ipld)]) -> Ipld {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Ipld::Map(Map::new(entries).unwrap())
}

struct Bench {
    dag: Dag,
    root: Cid,
    leaf: Cid,
    json: Cid,
}

/// `/dir/cbor` → {list: [link to json], bare: link to leaf, deep: {number: 1}}; `json` → {"to": leaf};
/// `/dir/plain` is dag-pb without UnixFS, its link `x` goes to the leaf.
fn bench() -> Bench {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("leaf");
    let json = dag_json::encode(&map(&[("to", Ipld::from(leaf))])).unwrap();
    let json = builder.block(codecs::DAG_JSON, json.into());
    let value = map(&[
        ("list", Ipld::List(vec![Ipld::from(json)])),
        ("bare", Ipld::from(leaf)),
        ("deep", map(&[("number", Ipld::Integer(1))])),
    ]);
    let cbor = builder.block(codecs::DAG_CBOR, dag_cbor::encode(&value).unwrap().into());
    let link = PbLink { cid: leaf, name: Some(b"x"), tsize: None };
    let plain = builder.block(codecs::DAG_PB, encode(&[link], None).into());
    let link = builder.symlink("leaf");
    let dir =
        builder.directory(&[("cbor", cbor), ("plain", plain), ("leaf", leaf), ("link", link)]);
    let root = builder.directory(&[("dir", dir)]);
    let store = Arc::new(TestStore::new(builder.blocks));
    Bench {
        dag: Dag::new(store, Arc::new(Network::default()), DagLimits::default()),
        root,
        leaf,
        json,
    }
}

impl Bench {
    fn at(&self, path: &str) -> Result<Resolved, UnixfsError> {
        let path: ContentPath = format!("{}{path}", self.root).parse().unwrap();
        resolve(&self.dag, &path).now_or_never().expect("everything is here")
    }
}

#[test]
fn a_path_goes_through_every_codec_with_links() {
    let bench = bench();
    let check = |path: &str, cid: Cid, remainder: &[&str]| {
        let resolved = bench.at(path).unwrap();
        let rest: Vec<String> = resolved.remainder.iter().map(ToString::to_string).collect();
        assert_eq!(
            (resolved.cid, rest),
            (cid, remainder.iter().map(|s| (*s).to_owned()).collect()),
            "{path}"
        );
    };
    check("", bench.root, &[]);
    check("/dir/leaf", bench.leaf, &[]);
    check("/dir/plain/x", bench.leaf, &[]);
    check("/dir/cbor/bare", bench.leaf, &[]);
    check("/dir/cbor/list/0", bench.json, &[]);
    check("/dir/cbor/list/0/to", bench.leaf, &[]);
    let cbor = bench.at("/dir/cbor").unwrap().cid;
    check("/dir/cbor/deep/number", cbor, &["deep", "number"]);
    check("/dir/cbor/list", cbor, &["list"]);
}

#[test]
fn what_is_not_there_is_said_to_be_absent_only_where_that_is_known() {
    let bench = bench();
    for path in [
        "/none",
        "/dir/none",
        "/dir/plain/y",
        "/dir/cbor/none",
        "/dir/cbor/list/1",
        "/dir/cbor/deep/number/x",
        "/dir/cbor/list/0/none",
    ] {
        let error = bench.at(path).unwrap_err();
        assert!(matches!(error, UnixfsError::NotFound { .. }), "{path}: {error:?}");
    }
    for path in ["/dir/leaf/x", "/dir/link/x", "/dir/cbor/bare/x"] {
        let error = bench.at(path).unwrap_err();
        assert!(matches!(error, UnixfsError::NotADirectory { .. }), "{path}: {error:?}");
    }
}

#[test]
fn a_name_that_is_no_text_is_no_key() {
    let bench = bench();
    let bytes = [bench.root.to_string().as_bytes(), b"/dir/cbor/deep/\xff"].concat();
    let path = ContentPath::parse(&bytes).unwrap();
    let error = resolve(&bench.dag, &path).now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, UnixfsError::NotFound { .. }), "{error:?}");
}

#[test]
fn a_chain_of_blocks_that_are_only_links_ends() {
    let mut builder = DagBuilder::new();
    let mut cid = builder.raw("end");
    for _ in 0..HOPS_MAX + 10 {
        cid = builder.block(codecs::DAG_CBOR, dag_cbor::encode(&Ipld::from(cid)).unwrap().into());
    }
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store, Arc::new(Network::default()), DagLimits::default());
    let path: ContentPath = format!("{cid}/x").parse().unwrap();
    let error = resolve(&dag, &path).now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, UnixfsError::TooDeep { .. }), "{error:?}");
}

#[test]
fn mutable_names_and_broken_values_are_errors() {
    let mut builder = DagBuilder::new();
    let broken = builder.block(codecs::DAG_CBOR, Bytes::from_static(b"garbage"));
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store, Arc::new(Network::default()), DagLimits::default());
    let at = |path: String| {
        let path: ContentPath = path.parse().unwrap();
        resolve(&dag, &path).now_or_never().unwrap().unwrap_err()
    };
    assert!(matches!(at("/ipns/example.org/a".to_owned()), UnixfsError::MutableName { .. }));
    assert!(matches!(at(format!("{broken}/a")), UnixfsError::Ipld { .. }));
}
