//! Reading files and directories whose blocks are linked in any way: every answer is bounded, and
//! answers agree with each other.
//!
//! The input says which blocks there are, each linking to those before it, to what is not here, or
//! to identity CIDs, and then what is asked of them.
#![no_main]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use cidfs::block::{Block, Cid, HashFn, codecs};
use cidfs::codec::dag_pb::{self, PbLink};
use cidfs::codec::ipld::{Ipld, Map};
use cidfs::codec::node::{Node, name_is_legal};
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::codec::{dag_cbor, dag_json};
use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::store::{BlockStore, MemoryStore};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::unixfs::{
    ContentPath, Cookie, DirEntry, FileType, READ_LEN_MAX, Segment, Stat, list, lookup, read,
    read_link, resolve, stat, walk,
};
use futures::StreamExt as _;
use futures::executor::block_on;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Blocks of one input: more than the reader allows levels.
const BLOCKS_MAX: usize = 80;
/// Links of one block, and entries of one directory.
const LINKS_MAX: usize = 12;
/// Bytes of one leaf or name.
const BYTES_MAX: usize = 40;
/// Questions of one input.
const QUESTIONS_MAX: usize = 8;
/// Bytes of most reads; one in sixteen goes up to the limit of a read and beyond.
const READ_LEN_USUAL: usize = 2048;

fuzz_target!(|data: &[u8]| {
    // An input that ends early is no input.
    if let Some(world) = World::new(&mut Unstructured::new(data)).ok().flatten() {
        world.ask();
    }
});

/// Blocks, and questions about them.
struct World {
    blocks: Vec<Block>,
    questions: Vec<Question>,
}

struct Question {
    cid: Cid,
    offset: u64,
    len: usize,
    cookie: u64,
    name: Vec<u8>,
}

impl World {
    fn new(input: &mut Unstructured<'_>) -> Result<Option<Self>> {
        let mut builder = DagBuilder::new();
        let mut cids = Vec::new();
        for _ in 0..input.int_in_range(1..=BLOCKS_MAX)? {
            let Some(cid) = add_block(input, &mut builder, &cids)? else { return Ok(None) };
            cids.push(cid);
        }
        let mut questions = vec![Question::new(input, *cids.last().expect("one at least"))?];
        for _ in 0..input.int_in_range(0..=QUESTIONS_MAX)? {
            let cid = target(input, &cids)?;
            questions.push(Question::new(input, cid)?);
        }
        Ok(Some(Self { blocks: builder.blocks, questions }))
    }

    fn ask(&self) {
        let dag = self.dag();
        for question in &self.questions {
            let Question { cid, .. } = question;
            check_read(&dag, &self.dag(), question);
            check_list(&dag, question);
            check_walk(&dag, *cid, self.blocks.len());
            check_resolve(&dag, question);
            if let Ok(target) = block_on(read_link(&dag, cid)) {
                let stat = block_on(stat(&dag, cid)).expect("it was read");
                assert_eq!((stat.kind, stat.file_len), (FileType::Symlink, target.len() as u64));
            }
        }
    }

    /// A dag with cold caches.
    fn dag(&self) -> Dag {
        let store = MemoryStore::default();
        store.put(&self.blocks).expect("memory");
        Dag::new(Arc::new(store), Arc::new(Network::default()), DagLimits::default())
    }
}

impl Question {
    fn new(input: &mut Unstructured<'_>, cid: Cid) -> Result<Self> {
        let len = if input.ratio(1, 16)? { 2 * READ_LEN_MAX } else { READ_LEN_USUAL };
        Ok(Self {
            cid,
            offset: number(input)?,
            len: input.int_in_range(0..=len)?,
            cookie: input.arbitrary()?,
            name: name(input)?,
        })
    }
}

/// Adds a block of any kind; `None` when it cannot be made.
fn add_block(
    input: &mut Unstructured<'_>,
    builder: &mut DagBuilder,
    before: &[Cid],
) -> Result<Option<Cid>> {
    Ok(Some(match input.int_in_range(0..=9)? {
        0 => builder.raw(bytes(input)?),
        1 | 2 => file(input, builder, before)?,
        3 => builder.directory(&entries(input, before)?),
        4 => {
            let entries: BTreeMap<_, _> = entries(input, before)?.into_iter().collect();
            let legal = entries.into_iter().filter(|(name, _)| name_is_legal(name)).collect();
            builder.sharded(&legal, 8 << input.int_in_range(0..=7)?)
        }
        5 => shard(input, builder, before)?,
        6 => {
            let target = String::from_utf8_lossy(&bytes(input)?).into_owned();
            builder.symlink(&target)
        }
        7 => ipld(input, builder, before)?,
        8 => builder.block(codec(input)?, bytes(input)?.into()),
        _ => {
            let Some(block) = builder.blocks.last() else { return Ok(None) };
            let mut changed = block.data().to_vec();
            let at = input.arbitrary::<usize>()? % changed.len().max(1);
            if let Some(byte) = changed.get_mut(at) {
                *byte = input.arbitrary()?;
            }
            builder.block(codec(input)?, changed.into())
        }
    }))
}

/// Adds a file node that tells the truth of its parts' lengths or does not.
fn file(input: &mut Unstructured<'_>, builder: &mut DagBuilder, before: &[Cid]) -> Result<Cid> {
    let kind = if input.ratio(1, 8)? { Kind::Raw } else { Kind::File };
    let own = bytes(input)?;
    let mut parts = Vec::new();
    for _ in 0..input.int_in_range(0..=LINKS_MAX)? {
        let cid = target(input, before)?;
        let len = match true_len(builder, &cid) {
            Some(len) if !input.ratio(1, 32)? => len,
            _ => number(input)?,
        };
        parts.push((cid, len));
    }
    // The builder adds the lengths up.
    let room = i64::MAX as u64 - own.len() as u64;
    if parts
        .iter()
        .try_fold(0_u64, |sum, part| sum.checked_add(part.1))
        .is_none_or(|sum| sum > room)
    {
        parts.clear();
    }
    Ok(builder.file_node(kind, &own, &parts))
}

fn true_len(builder: &DagBuilder, cid: &Cid) -> Option<u64> {
    let block = builder.blocks.iter().find(|block| block.cid() == cid)?;
    Node::decode(block).ok().map(|node| Stat::of(&node).file_len)
}

/// Adds a shard with entries in any bucket, right or wrong.
fn shard(input: &mut Unstructured<'_>, builder: &mut DagBuilder, before: &[Cid]) -> Result<Cid> {
    let fanout = 8 << input.int_in_range(0..=7)?;
    let mut slots = BTreeMap::new();
    for (name, cid) in entries(input, before)? {
        slots.insert(input.int_in_range(0..=fanout - 1)?, (name, cid));
    }
    let slots: Vec<_> =
        slots.into_iter().map(|(bucket, (name, cid))| (bucket, name, cid)).collect();
    Ok(builder.shard(fanout, &slots))
}

/// Adds a dag-cbor or dag-json value, or a dag-pb node that is not UnixFS.
fn ipld(input: &mut Unstructured<'_>, builder: &mut DagBuilder, before: &[Cid]) -> Result<Cid> {
    let entries = entries(input, before)?;
    if input.arbitrary()? {
        let links: Vec<_> = entries
            .iter()
            .map(|(name, cid)| PbLink { cid: *cid, name: Some(name), tsize: None })
            .collect();
        let data = input.arbitrary::<bool>()?.then(|| UnixFs::new(Kind::Metadata).encode());
        return Ok(builder.block(codecs::DAG_PB, dag_pb::encode(&links, data.as_deref()).into()));
    }
    let keys: BTreeMap<_, _> = entries
        .iter()
        .map(|(name, cid)| (String::from_utf8_lossy(name).into_owned(), Ipld::from(*cid)))
        .collect();
    let list = Ipld::List(keys.values().cloned().collect());
    let mut pairs: Vec<_> = keys.into_iter().collect();
    pairs.truncate(LINKS_MAX / 2);
    pairs.retain(|(key, _)| key != "list");
    pairs.push(("list".to_owned(), list));
    let value = Ipld::Map(Map::new(pairs).expect("no key twice"));
    let cbor = dag_cbor::encode(&value).map(|bytes| (codecs::DAG_CBOR, bytes));
    let json = dag_json::encode(&value).map(|bytes| (codecs::DAG_JSON, bytes));
    let either = if input.arbitrary()? { cbor } else { json };
    // A map with a "/" key has no form in dag-json.
    let (codec, bytes) = either.unwrap_or((codecs::RAW, Vec::new()));
    Ok(builder.block(codec, bytes.into()))
}

fn entries(input: &mut Unstructured<'_>, before: &[Cid]) -> Result<Vec<(Vec<u8>, Cid)>> {
    let count = input.int_in_range(0..=LINKS_MAX)?;
    (0..count).map(|_| Ok((name(input)?, target(input, before)?))).collect()
}

/// Returns a block from before, one that is not here, or an identity CID.
fn target(input: &mut Unstructured<'_>, before: &[Cid]) -> Result<Cid> {
    let at = input.arbitrary::<u8>()?;
    if let Some(cid) = before.len().checked_sub(1 + usize::from(at)).and_then(|at| before.get(at)) {
        return Ok(*cid);
    }
    let (hash, data) = match at {
        0..128 => (HashFn::SHA2_256, Bytes::from_static(b"not here")),
        _ => (HashFn::IDENTITY, bytes(input)?.into()),
    };
    Ok(*Block::hash(codec(input)?, hash, data).expect("it is short").cid())
}

fn codec(input: &mut Unstructured<'_>) -> Result<u64> {
    let known = [codecs::DAG_PB, codecs::RAW, codecs::DAG_CBOR, codecs::DAG_JSON, codecs::JSON, 0];
    input.choose(&known).copied()
}

fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = input.int_in_range(0..=BYTES_MAX)?;
    Ok(input.bytes(len.min(input.len()))?.to_vec())
}

fn name(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = input.int_in_range(0..=3)?;
    Ok(input.bytes(len)?.to_vec())
}

/// Returns a length or offset, most of them small.
fn number(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary()?,
        1 => input.int_in_range(0..=1 << 24)?,
        _ => input.int_in_range(0..=255)?,
    })
}

/// A read is as long as it was asked and as the file is, whatever is cached and however it is split.
fn check_read(dag: &Dag, cold: &Dag, question: &Question) {
    let Question { cid, offset, len, .. } = question;
    let answer = block_on(read(dag, cid, *offset, *len));
    let again = block_on(read(cold, cid, *offset, *len));
    assert_eq!(answer.as_ref().ok(), again.as_ref().ok());
    let Ok(answer) = answer else { return };
    let stat = block_on(stat(dag, cid)).expect("it was read");
    assert_eq!(stat.kind, FileType::File);
    let left = stat.file_len.saturating_sub(*offset);
    let asked = (*len).min(READ_LEN_MAX) as u64;
    assert_eq!(answer.len() as u64, asked.min(left));
    let half = len / 2;
    let first = block_on(read(dag, cid, *offset, half)).expect("a part of what was read");
    assert_eq!(first, answer[..first.len()]);
    let offset = offset.saturating_add(half as u64);
    let second = block_on(read(dag, cid, offset, len - half));
    if *len <= READ_LEN_MAX {
        assert_eq!(second.expect("a part of what was read"), answer[first.len()..]);
    }
}

/// A listing ends, goes forwards, is the same in pieces, and shows what a look-up finds.
fn check_list(dag: &Dag, question: &Question) {
    let Question { cid, cookie, name, len, .. } = question;
    let (all, is_whole) = list_all(dag, cid, Cookie::START, usize::MAX);
    let names: HashSet<_> = all.iter().map(|(_, entry)| entry.name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name is listed once");
    for (_, entry) in &all {
        assert!(name_is_legal(&entry.name));
        let found = block_on(lookup(dag, cid, &entry.name)).expect("it was listed");
        assert_eq!(found.as_ref(), Some(entry));
    }
    if let Ok(Some(found)) = block_on(lookup(dag, cid, name)) {
        assert_eq!(&found.name, name);
        assert!(!is_whole || names.contains(&found.name), "found, but not listed");
    }
    assert_eq!(list_all(dag, cid, Cookie::START, len % LINKS_MAX + 1), (all.clone(), is_whole));
    let from = Cookie::from(*cookie);
    let (rest, _) = list_all(dag, cid, from, usize::MAX);
    if is_whole {
        assert!(rest.iter().eq(all.iter().filter(|(cookie, _)| *cookie > from)));
    }
}

type Entries = Vec<(Cookie, DirEntry)>;

/// Lists in pieces of `max`; tells whether the end was reached without an error.
fn list_all(dag: &Dag, cid: &Cid, mut from: Cookie, max: usize) -> (Entries, bool) {
    let mut all = Vec::new();
    loop {
        let Ok(piece) = block_on(list(dag, cid, from, max)) else { return (all, false) };
        if piece.is_empty() {
            return (all, true);
        }
        assert!(piece.len() <= max);
        for (cookie, entry) in piece {
            assert!(cookie > from && cookie.to_u64() > 2 && cookie.to_u64() < 1 << 63);
            from = cookie;
            all.push((cookie, entry));
        }
        assert!(all.len() <= BLOCKS_MAX * LINKS_MAX, "more names than links");
    }
}

/// A walk visits a block once for each codec.
fn check_walk(dag: &Dag, cid: Cid, blocks: usize) {
    let answers: Vec<_> = block_on(walk(dag, cid).collect());
    let visits: Vec<_> = answers.into_iter().flatten().collect();
    let cids: HashSet<_> = visits.iter().map(|visit| visit.cid).collect();
    assert_eq!(cids.len(), visits.len());
    // Of those that it visits, some may not be here, or be in their own CID.
    assert!(visits.len() <= blocks * (LINKS_MAX + 1) + 1);
}

/// A name leads where a look-up says.
fn check_resolve(dag: &Dag, question: &Question) {
    let Question { cid, name, .. } = question;
    let Some(segment) = Segment::new(name.clone()) else { return };
    let mut path = ContentPath::from(*cid);
    assert_eq!(block_on(resolve(dag, &path)).expect("nothing to resolve").cid, *cid);
    path.segments = vec![segment.clone()];
    let resolved = block_on(resolve(dag, &path));
    if let Ok(entry) = block_on(lookup(dag, cid, name)) {
        assert_eq!(resolved.ok().map(|resolved| resolved.cid), entry.map(|entry| entry.cid));
    }
    path.segments = vec![segment; LINKS_MAX];
    let _: std::result::Result<_, _> = block_on(resolve(dag, &path));
}
