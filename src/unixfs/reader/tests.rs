//! Files of every shape, and the lies that a file can tell.

use futures::FutureExt as _;

use super::*;
use crate::codec::unixfs::{Kind, UnixFs};
use crate::dag::{DagError, DagLimits};
use crate::exchange::Network;
use crate::testkit::dag_builder::{DagBuilder, Shape};
use crate::testkit::exchange::TestExchange;
use crate::testkit::store::TestStore;

struct Bench {
    dag: Dag,
    store: Arc<TestStore>,
}

fn bench(builder: DagBuilder) -> Bench {
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store.clone(), Arc::new(Network::default()), DagLimits::default());
    Bench { dag, store }
}

impl Bench {
    fn read(&self, cid: &Cid, offset: u64, len: usize) -> Result<Bytes, UnixfsError> {
        read(&self.dag, cid, offset, len).now_or_never().expect("everything is here")
    }
}

fn file(own: &str, children: Vec<Shape>) -> Shape {
    Shape::File(own.as_bytes().to_vec(), children)
}

fn raw(text: &str) -> Shape {
    Shape::Raw(text.as_bytes().to_vec())
}

#[test]
fn own_bytes_come_first_and_parts_without_bytes_are_skipped() {
    let mut builder = DagBuilder::new();
    let inner =
        file("ef", vec![raw(""), raw("gh"), Shape::PbRaw(b"ij".to_vec()), file("", vec![])]);
    let shape = file("ab", vec![raw("cd"), file("", vec![]), inner.clone(), inner, raw("z")]);
    let cid = builder.file(&shape);
    let bench = bench(builder);
    let all = b"abcdefghijefghijz";
    for start in 0..=all.len() + 1 {
        for end in start..=all.len() + 2 {
            let read = bench.read(&cid, start as u64, end - start).unwrap();
            let (start, end) = (start.min(all.len()), end.min(all.len()));
            assert_eq!(read, all[start..end], "{start}..{end}");
        }
    }
    assert_eq!(bench.read(&cid, u64::MAX, usize::MAX).unwrap(), "");
}

#[test]
fn a_single_part_is_not_copied() {
    let mut builder = DagBuilder::new();
    let cid = builder.file(&file("", vec![raw("first"), raw("second")]));
    let leaf = builder.raw("second");
    let bench = bench(builder);
    let whole = bench.dag.block(&leaf).now_or_never().unwrap().unwrap();
    let read = bench.read(&cid, 6, 3).unwrap();
    assert_eq!(read, "eco");
    assert_eq!(read.as_ptr(), whole.data()[1..].as_ptr());
}

#[test]
fn a_read_is_bounded() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw(vec![7; 1 << 20]);
    let cid = builder.file_node(Kind::File, b"", &[(leaf, 1 << 20); 8]);
    let bench = bench(builder);
    assert_eq!(bench.read(&cid, 5, usize::MAX).unwrap().len(), READ_LEN_MAX);
}

#[test]
fn only_the_parts_of_the_range_are_needed() {
    let mut builder = DagBuilder::new();
    let missing = builder.raw("gone");
    builder.blocks.clear();
    let here = builder.raw("here");
    let cid = builder.file_node(Kind::File, b"", &[(here, 4), (missing, 4), (here, 4)]);
    let bench = bench(builder);
    assert_eq!(bench.read(&cid, 0, 4).unwrap(), "here");
    assert_eq!(bench.read(&cid, 8, 99).unwrap(), "here");
    for (offset, len) in [(3, 2), (4, 1), (7, 2)] {
        let error = bench.read(&cid, offset, len).unwrap_err();
        assert!(matches!(error, UnixfsError::Dag(DagError::Offline { .. })), "{error:?}");
    }
}

#[test]
fn a_huge_file_of_few_blocks_costs_its_depth() {
    const LEVELS: u64 = 40;
    let mut builder = DagBuilder::new();
    let (mut cid, mut len) = (builder.raw("ZZZZ"), 4);
    for _ in 0..LEVELS {
        cid = builder.file_node(Kind::File, b"", &[(cid, len), (cid, len)]);
        len *= 2;
    }
    let bench = bench(builder);
    for offset in [0, 1, len / 2, len / 3, len - 4] {
        bench.store.take_asked();
        assert_eq!(bench.read(&cid, offset, 4).unwrap(), "ZZZZ");
        let asked = bench.store.take_asked().len() as u64;
        assert!(asked <= LEVELS + 2, "{asked} blocks for 4 bytes at {offset}");
    }
    assert!(bench.read(&cid, len / 2 - 100, 200).unwrap().iter().all(|&byte| byte == b'Z'));
}

#[test]
fn depth_has_a_limit() {
    let check = |levels: u32, is_read: bool| {
        let mut builder = DagBuilder::new();
        let mut cid = builder.raw("deep");
        for _ in 0..levels {
            cid = builder.file_node(Kind::File, b"", &[(cid, 4)]);
        }
        let read = bench(builder).read(&cid, 0, 4);
        match read {
            Ok(bytes) => assert!(is_read && bytes == "deep", "{levels} levels were read"),
            Err(UnixfsError::TooDeep { .. }) => assert!(!is_read, "{levels} levels were refused"),
            Err(error) => panic!("{levels} levels: {error}"),
        }
    };
    check(FILE_DEPTH_MAX, true);
    check(FILE_DEPTH_MAX + 1, false);
    check(2000, false);
}

#[test]
fn a_part_of_another_length_than_claimed_is_an_error() {
    let check = |shape: &Shape, claimed: u64, real: u64| {
        let mut builder = DagBuilder::new();
        let part = builder.file(shape);
        let good = builder.raw("good");
        let cid = builder.file_node(Kind::File, b"", &[(good, 4), (part, claimed), (good, 4)]);
        let bench = bench(builder);
        let error = bench.read(&cid, 4, 1).unwrap_err();
        let UnixfsError::PartLen { claimed: c, real: r, .. } = error else { panic!("{error:?}") };
        assert_eq!((c, r), (claimed, real), "{shape:?}");
        assert_eq!(bench.read(&cid, 0, 4).unwrap(), "good", "a lie costs its own range only");
        assert_eq!(bench.read(&cid, 4 + claimed, 4).unwrap(), "good");
    };
    for shape in [raw("abc"), Shape::PbRaw(b"abc".to_vec()), file("a", vec![raw("bc")])] {
        check(&shape, 2, 3);
        check(&shape, 4, 3);
        check(&shape, 1 << 40, 3);
    }
}

#[test]
fn parts_are_raw_or_files_and_nothing_else_is_a_file() {
    let mut builder = DagBuilder::new();
    let dir = builder.directory::<&str>(&[]);
    let link = builder.symlink("abcd");
    let cbor = builder.block(codecs::DAG_CBOR, Bytes::from_static(&[0xa0]));
    let files: Vec<_> = [(dir, 4), (link, 4), (cbor, 1)]
        .map(|part| builder.file_node(Kind::File, b"", &[part]))
        .into();
    let shard = builder.shard(256, &[]);
    let bench = bench(builder);
    for cid in files {
        let error = bench.read(&cid, 0, 1).unwrap_err();
        assert!(matches!(error, UnixfsError::PartKind { .. }), "{error:?}");
    }
    for cid in [dir, link, shard] {
        let error = bench.read(&cid, 0, 1).unwrap_err();
        assert!(matches!(error, UnixfsError::NotAFile { .. }), "{error:?}");
    }
    assert_eq!(bench.read(&cbor, 0, 9).unwrap(), [0xa0].as_slice(), "other codecs are their bytes");
}

#[test]
fn a_file_without_any_size_of_its_own_is_the_sum_of_its_parts() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("leaf");
    let link = crate::codec::dag_pb::PbLink { cid: leaf, name: Some(b""), tsize: None };
    let message = UnixFs { block_sizes: vec![4], ..UnixFs::new(Kind::File) };
    let cid = builder.node(&[link], &message);
    assert_eq!(bench(builder).read(&cid, 0, 9).unwrap(), "leaf");
}

#[tokio::test(start_paused = true)]
async fn parts_that_must_be_fetched_are_fetched_together() {
    let mut builder = DagBuilder::new();
    let leaves: Vec<Shape> =
        (0_u8..).take(PARTS_AHEAD).map(|at| Shape::PbRaw(vec![at; 10])).collect();
    let inner = file("", leaves);
    let cid = builder.file(&file("", vec![inner.clone(), raw("not wanted")]));
    let exchange = TestExchange::new(builder.blocks);
    exchange.set_delay(std::time::Duration::from_secs(1));
    let store = Arc::new(TestStore::default());
    let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
    let start = tokio::time::Instant::now();
    let content = inner.content();
    assert_eq!(read(&dag, &cid, 0, content.len()).await.unwrap(), content);
    assert_eq!(start.elapsed().as_secs(), 3, "the root, the inner node, then all leaves");
    assert_eq!(exchange.counts().concurrent_max, PARTS_AHEAD as u64);
}

#[tokio::test]
async fn a_long_read_gives_way_to_others() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("x");
    let cid = builder.file_node(Kind::File, b"", &vec![(leaf, 1); 3000]);
    let bench = bench(builder);
    assert!(read(&bench.dag, &cid, 0, 4096).now_or_never().is_none(), "not all in one poll");
    assert_eq!(read(&bench.dag, &cid, 0, 4096).await.unwrap(), vec![b'x'; 3000]);
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_holds_few_inner_nodes() {
    const NODES: u64 = 20;
    const LEAVES: u64 = 10;
    let mut builder = DagBuilder::new();
    let (mut silent, mut parts) = (Vec::new(), Vec::new());
    let own = vec![7; 500 * 1024];
    for node in 0..NODES {
        let leaf = |leaf| (builder.raw(format!("{:08}", node * LEAVES + leaf)), 8);
        let leaves: Vec<_> = (0..LEAVES).map(leaf).collect();
        silent.extend(leaves.iter().map(|(cid, _)| *cid));
        let len = own.len() as u64 + LEAVES * 8;
        parts.push((builder.file_node(Kind::File, &own, &leaves), len));
    }
    let file = builder.file_node(Kind::File, b"", &parts);
    let exchange = TestExchange::new(builder.blocks);
    for cid in &silent {
        exchange.silence(cid);
    }
    let store = Arc::new(TestStore::default());
    let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
    // Room for four nodes, and for all parts that are under way then.
    let (budget, tally) = (FetchBudget::new(16 << 20), FetchTally::default());
    let fetch = fetch_range(&dag, &file, 0..u64::MAX, &budget, &tally);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), fetch).await;
    assert!(ended.is_err(), "it waits for leaves");
    let leaves = exchange.counts().started - 1 - NODES;
    assert!(0 < leaves && leaves <= 4 * LEAVES, "{leaves}");
}

#[tokio::test]
async fn a_long_fetch_gives_way_to_others() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("x");
    let cid = builder.file_node(Kind::File, b"", &vec![(leaf, 1); 3000]);
    let bench = bench(builder);
    let (budget, tally) = (FetchBudget::default(), FetchTally::default());
    let mut fetch = std::pin::pin!(fetch_range(&bench.dag, &cid, 0..3000, &budget, &tally));
    assert!(fetch.as_mut().now_or_never().is_none(), "not all in one poll");
    fetch.await;
}
