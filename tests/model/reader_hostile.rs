//! Files of parts that lie about their length or are no parts at all, against a model that knows
//! of each byte whether it may be read: exactly those reads succeed that touch no lie.

use std::sync::Arc;

use bytes::Bytes;
use cidfs::block::{Cid, codecs};
use cidfs::codec::unixfs::Kind;
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::{UnixfsError, read, stat};
use futures::FutureExt as _;
use proptest::collection::vec;
use proptest::prelude::*;

/// Longest file in bytes that is modelled.
const LEN_MAX: usize = 3000;

#[derive(Debug, Clone)]
enum Record {
    Raw(Vec<u8>),
    PbRaw(Vec<u8>),
    /// Own bytes, then parts: an earlier record by its number, and what to add to its length.
    File(Vec<u8>, Vec<(usize, i8)>),
    Directory,
    Cbor,
    Missing,
}

fn record() -> impl Strategy<Value = Record> {
    let bytes = || vec(b'a'..=b'd', 0..5);
    let lie = prop_oneof![12 => Just(0_i8), 1 => -3..=3_i8];
    prop_oneof![
        3 => bytes().prop_map(Record::Raw),
        2 => bytes().prop_map(Record::PbRaw),
        8 => (bytes(), vec((0..64_usize, lie), 0..5)).prop_map(|(own, parts)| Record::File(own, parts)),
        1 => Just(Record::Directory),
        1 => Just(Record::Cbor),
        1 => Just(Record::Missing),
    ]
}

/// A node, and of each byte that it claims whether and how it reads. `content` is `None` for what
/// cannot be a part.
#[derive(Clone)]
struct Modelled {
    cid: Cid,
    content: Option<Vec<Option<u8>>>,
}

fn certain(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

fn build(builder: &mut DagBuilder, records: &[Record]) -> Vec<Modelled> {
    let mut built: Vec<Modelled> = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let (cid, content) = match record {
            Record::Raw(bytes) => (builder.raw(bytes.clone()), Some(certain(bytes))),
            Record::PbRaw(bytes) => {
                (builder.file_node(Kind::Raw, bytes, &[]), Some(certain(bytes)))
            }
            Record::File(own, parts) => file(builder, own, parts, &built),
            Record::Directory => (builder.directory::<&str>(&[]), None),
            Record::Cbor => (builder.block(codecs::DAG_CBOR, Bytes::from_static(&[0xa0])), None),
            Record::Missing => {
                let cid = builder.raw(format!("missing {number}"));
                builder.blocks.pop();
                (cid, None)
            }
        };
        built.push(Modelled { cid, content });
    }
    built
}

fn file(
    builder: &mut DagBuilder,
    own: &[u8],
    parts: &[(usize, i8)],
    built: &[Modelled],
) -> (Cid, Option<Vec<Option<u8>>>) {
    let mut content = certain(own);
    let mut claims = Vec::new();
    for (number, lie) in parts {
        let Some(part) = number.checked_rem(built.len()).map(|at| &built[at]) else { break };
        let real = part.content.as_ref().map_or(2, Vec::len);
        let claimed = real.saturating_add_signed(isize::from(*lie));
        if content.len() + claimed > LEN_MAX {
            break;
        }
        match &part.content {
            Some(bytes) if bytes.len() == claimed => content.extend(bytes),
            _ => content.extend(vec![None; claimed]),
        }
        claims.push((part.cid, claimed as u64));
    }
    (builder.file_node(Kind::File, own, &claims), Some(content))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_read_succeeds_exactly_where_nothing_lies(
        records in vec(record(), 1..40),
        ranges in vec((0..LEN_MAX, 0..400_usize), 8),
    ) {
        let mut builder = DagBuilder::new();
        let built = build(&mut builder, &records);
        let store = Arc::new(TestStore::new(builder.blocks));
        let dag = Dag::new(store, Arc::new(Network::default()), DagLimits::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for node in built {
            let Some(content) = node.content else { continue };
            let stat = stat(&dag, &node.cid).now_or_never().expect("ready").unwrap();
            prop_assert_eq!(stat.file_len, content.len() as u64);
            for &(offset, len) in ranges.iter().chain(&[(0, LEN_MAX)]) {
                let wanted = &content[offset.min(content.len())..(offset + len).min(content.len())];
                let wanted: Option<Vec<u8>> = wanted.iter().copied().collect();
                // Not the first poll: a read of many parts gives way to others.
                let got = runtime.block_on(read(&dag, &node.cid, offset as u64, len));
                match (got, wanted) {
                    (Ok(got), Some(wanted)) => prop_assert_eq!(&got[..], &wanted[..]),
                    (Err(_), None) => {}
                    (got, wanted) => prop_assert!(false, "{got:?} instead of {wanted:?}"),
                }
            }
        }
    }
}

/// The model above must be able to say "no": one lie of each kind, by hand.
#[test]
fn each_kind_of_lie_is_told_apart() {
    let mut builder = DagBuilder::new();
    let records = [
        Record::Raw(b"abc".to_vec()),
        Record::Directory,
        Record::Missing,
        Record::File(vec![], vec![(0, 1), (0, 0), (1, 0), (2, 0)]),
    ];
    let file = build(&mut builder, &records).pop().unwrap();
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store, Arc::new(Network::default()), DagLimits::default());
    let at = |offset| read(&dag, &file.cid, offset, 1).now_or_never().expect("ready");
    assert!(matches!(at(0), Err(UnixfsError::PartLen { claimed: 4, real: 3, .. })));
    assert_eq!(at(4).unwrap(), "a");
    assert!(matches!(at(7), Err(UnixfsError::PartKind { .. })));
    assert!(matches!(at(9), Err(UnixfsError::Dag(_))));
}
