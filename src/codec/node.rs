//! A block as the filesystem sees it: file, directory, shard, symlink or plain bytes.
//!
//! All rules that need only the block itself are checked here, once (spec 03 §2, §4, §5): the
//! layers above rely on them and never look again. What a node says of *other* blocks (sizes,
//! Tsize) stays a claim.

use std::ops::Range;

use bytes::Bytes;

use super::dag_pb::{PbError, PbLink, PbNode};
use super::unixfs::{Kind, MODE_MASK, Mtime, UnixFs, UnixFsError};
use crate::block::{Block, CidError, codecs};

/// Longest name in bytes that Linux shows (`NAME_MAX`); longer ones are left out of listings.
pub const NAME_LEN_MAX: usize = 255;
/// Longest symlink target in bytes that Linux takes (`PATH_MAX` less the final NUL).
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Widest HAMT that is accepted (CVE-2023-23625: a wider one is only an attack).
pub const FANOUT_MAX: u32 = 1024;
/// Multihash code of murmur3-x64-64, the only hash of HAMTs.
pub const HAMT_HASH: u64 = 0x22;

/// Why a block cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Not dag-pb.
    #[error(transparent)]
    Pb(#[from] PbError),
    /// Not UnixFS.
    #[error(transparent)]
    UnixFs(#[from] UnixFsError),
    /// A dag-pb node without data: links with names, but no UnixFS.
    #[error("a dag-pb node without unixfs data")]
    NotUnixFs,
    /// A rule of the format is broken.
    #[error("malformed {what}: {rule}")]
    Malformed {
        /// Which kind of node.
        what: &'static str,
        /// Which rule.
        rule: &'static str,
    },
}

/// Mode and time as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits (12), `None` when not stored.
    pub mode: Option<u32>,
    /// Modification time, `None` when not stored.
    pub mtime: Option<Mtime>,
}

/// A decoded, checked block.
#[derive(Debug, Clone)]
pub enum Node {
    /// The bytes are the content: a raw leaf, or a codec that is not UnixFS (DESIGN: shown as a
    /// file of its raw block bytes).
    Bytes(Bytes),
    /// A file of own bytes and links.
    File(FileNode),
    /// A directory in one block.
    Directory(DirNode),
    /// A piece of a sharded directory.
    Shard(ShardNode),
    /// A symbolic link.
    Symlink(SymlinkNode),
}

/// A file node: its own bytes, then what hangs below each link. Links below which no byte of the
/// file hangs are left out: a node has room for 40,000 of them, and each read would pass them by.
#[derive(Debug, Clone)]
pub struct FileNode {
    pb: PbNode,
    inline: Bytes,
    /// Offset in the file at which each link's bytes begin, and the length of the file at the end.
    starts: Vec<u64>,
    /// Mode and time.
    pub metadata: Metadata,
}

/// A directory in one block.
#[derive(Debug, Clone)]
pub struct DirNode {
    pb: PbNode,
    /// Link numbers by name, the first of equal names first; absent when the block is sorted.
    order: Option<Vec<usize>>,
    /// Names of entries whose address cannot be accepted, sorted.
    refused: Vec<Bytes>,
    /// Mode and time.
    pub metadata: Metadata,
}

/// A piece of a sharded directory; each link's place in the bit field and prefix is checked.
#[derive(Debug, Clone)]
pub struct ShardNode {
    pb: PbNode,
    fanout: u32,
    /// Mode and time (of the root shard only).
    pub metadata: Metadata,
}

/// A symbolic link: a target of 1 to 4095 bytes without NUL.
#[derive(Debug, Clone)]
pub struct SymlinkNode {
    /// The target, byte for byte.
    pub target: Bytes,
    /// Mode and time.
    pub metadata: Metadata,
}

impl Node {
    /// Decodes a block by its CID's codec.
    ///
    /// # Errors
    /// [`NodeError`] names the rule that is broken.
    pub fn decode(block: &Block) -> Result<Self, NodeError> {
        if block.cid().codec() != codecs::DAG_PB {
            return Ok(Self::Bytes(block.data().clone()));
        }
        let (pb, refused) = PbNode::decode_refusing(block.data().clone())?;
        let message = UnixFs::decode(&pb.data().ok_or(NodeError::NotUnixFs)?)?;
        if message.kind != Kind::Directory && !refused.is_empty() {
            return Err(PbError::Cid(CidError::DigestTooLong).into());
        }
        Ok(match message.kind {
            Kind::Raw | Kind::File => Self::File(FileNode::new(pb, message)?),
            Kind::Metadata => Self::File(FileNode::of_metadata(pb)?),
            Kind::Directory => Self::Directory(DirNode::new(pb, refused, &message)),
            Kind::HamtShard => Self::Shard(ShardNode::new(pb, &message)?),
            Kind::Symlink => Self::Symlink(SymlinkNode::new(&pb, message)?),
        })
    }

    /// Returns the memory in bytes that this node keeps alive, for the budget of a cache.
    pub fn memory_bytes(&self) -> usize {
        let own = match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(file) => file.pb.memory_bytes() + file.starts.len() * 8,
            Self::Directory(dir) => {
                dir.pb.memory_bytes()
                    + dir.order.as_ref().map_or(0, |order| order.len() * 8)
                    + dir.refused.len() * size_of::<Bytes>()
            }
            Self::Shard(shard) => shard.pb.memory_bytes(),
            Self::Symlink(link) => link.target.len(),
        };
        own + size_of::<Self>()
    }
}

impl Metadata {
    fn of(message: &UnixFs) -> Self {
        Self { mode: message.mode.map(|mode| mode & MODE_MASK), mtime: message.mtime }
    }
}

fn malformed<T>(what: &'static str, rule: &'static str) -> Result<T, NodeError> {
    Err(NodeError::Malformed { what, rule })
}

impl FileNode {
    fn new(mut pb: PbNode, message: UnixFs) -> Result<Self, NodeError> {
        let what = "file";
        if pb.link_count() != message.block_sizes.len() {
            return malformed(what, "as many block sizes as links");
        }
        if (0..pb.link_count()).any(|link| !pb.link_name(link).is_empty()) {
            return malformed(what, "links of a file have no names");
        }
        let metadata = Metadata::of(&message);
        let inline = message.data.unwrap_or_default();
        let mut starts = Vec::with_capacity(message.block_sizes.len() + 1);
        let mut end = inline.len() as u64;
        for &size in &message.block_sizes {
            if size > 0 {
                starts.push(end);
            }
            end = match end.checked_add(size) {
                Some(end) if i64::try_from(end).is_ok() => end,
                _ => return malformed(what, "its length fits in 63 bits"),
            };
        }
        starts.push(end);
        starts.shrink_to_fit();
        pb.retain_links(|index| message.block_sizes[index] > 0);
        if message.file_size.is_some_and(|claimed| claimed != end) {
            return malformed(what, "its length is the sum of its parts");
        }
        Ok(Self { pb, inline, starts, metadata })
    }

    /// The obsolete wrapper: the content is its first link, whose Tsize boxo never used; the
    /// length is unknown before the link is read, so such a node is not shown.
    fn of_metadata(_pb: PbNode) -> Result<Self, NodeError> {
        malformed("metadata", "the obsolete wrapper type is not shown; use its first link")
    }

    /// Returns the length of the file in bytes, as its author claims it.
    pub fn file_len(&self) -> u64 {
        self.starts.last().copied().unwrap_or_default()
    }

    /// Returns the bytes kept in the node itself; they come first.
    pub fn inline(&self) -> &Bytes {
        &self.inline
    }

    /// Returns the number of links that hold bytes.
    pub fn link_count(&self) -> usize {
        self.pb.link_count()
    }

    /// Returns link number `index`.
    ///
    /// # Panics
    /// When `index` is not below [`FileNode::link_count`].
    pub fn link(&self, index: usize) -> PbLink<'_> {
        self.pb.link(index)
    }

    /// Returns which bytes of the file hang below link number `index`.
    ///
    /// # Panics
    /// When `index` is not below [`FileNode::link_count`].
    pub fn link_range(&self, index: usize) -> Range<u64> {
        self.starts[index]..self.starts[index + 1]
    }

    /// Returns the links that hold the bytes in `range`, in order.
    pub fn links_in(&self, range: Range<u64>) -> Range<usize> {
        let ends = &self.starts[1..];
        let first = ends.partition_point(|&end| end <= range.start);
        let last = self.starts[..ends.len()].partition_point(|&start| start < range.end);
        if range.is_empty() { first..first } else { first..last.max(first) }
    }
}

/// Tells whether a directory may show this name: 1 to 255 bytes, no `/` or NUL, not `.` or `..`.
pub fn name_is_legal(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

impl DirNode {
    fn new(pb: PbNode, mut refused: Vec<Bytes>, message: &UnixFs) -> Self {
        refused.sort_unstable();
        let sorted = (1..pb.link_count()).all(|at| pb.link_name(at - 1) <= pb.link_name(at));
        let order = (!sorted).then(|| {
            let mut order: Vec<usize> = (0..pb.link_count()).collect();
            order.sort_by_key(|&at| pb.link_name(at));
            order
        });
        Self { pb, order, refused, metadata: Metadata::of(message) }
    }

    /// Tells whether an entry of that name is there, but with an address that is not accepted: a
    /// listing leaves it out, and it must not be said to be absent.
    pub fn is_refused(&self, name: &[u8]) -> bool {
        self.refused.binary_search_by(|refused| refused.as_ref().cmp(name)).is_ok()
    }

    /// Returns the entries that may be shown, in the order of the block, from link number `from`
    /// on, each with its link number. Of equal names the first is kept (spec 03 §4).
    pub fn entries(&self, from: usize) -> impl Iterator<Item = (usize, PbLink<'_>)> {
        (from..self.pb.link_count())
            .filter(|&at| {
                let name = self.pb.link_name(at);
                name_is_legal(name) && self.is_first(at) && !self.is_refused(name)
            })
            .map(|at| (at, self.pb.link(at)))
    }

    /// Returns the names that [`Self::entries`] leaves out because no file can have them, or because their
    /// addresses are not accepted.
    pub fn left_out(&self) -> impl Iterator<Item = &[u8]> {
        let names = (0..self.pb.link_count()).map(|at| self.pb.link_name(at));
        names.filter(|name| !name_is_legal(name)).chain(self.refused.iter().map(AsRef::as_ref))
    }

    /// Returns the number of links, shown or not.
    pub fn link_count(&self) -> usize {
        self.pb.link_count()
    }

    /// Returns the first entry of that name, if the name is legal.
    pub fn get(&self, name: &[u8]) -> Option<PbLink<'_>> {
        if !name_is_legal(name) {
            return None;
        }
        self.first(name).map(|at| self.pb.link(at))
    }

    /// Tells whether no link in front of number `at` has its name.
    fn is_first(&self, at: usize) -> bool {
        let name = self.pb.link_name(at);
        match &self.order {
            None => at == 0 || self.pb.link_name(at - 1) != name,
            Some(_) => self.first(name) == Some(at),
        }
    }

    fn first(&self, name: &[u8]) -> Option<usize> {
        let place = |at: usize| self.order.as_ref().map_or(at, |order| order[at]);
        let (mut low, mut high) = (0, self.pb.link_count());
        while low < high {
            let middle = low.midpoint(high);
            if self.pb.link_name(place(middle)) < name { low = middle + 1 } else { high = middle }
        }
        let found = low < self.pb.link_count() && self.pb.link_name(place(low)) == name;
        found.then(|| place(low))
    }
}

/// What a link of a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardSlot<'a> {
    /// An entry of the directory, its name without the prefix.
    Entry(PbLink<'a>),
    /// A shard one level down.
    Shard(PbLink<'a>),
}

impl ShardNode {
    fn new(pb: PbNode, message: &UnixFs) -> Result<Self, NodeError> {
        let what = "hamt shard";
        if message.hash_type != Some(HAMT_HASH) {
            return malformed(what, "the hash is murmur3-x64-64");
        }
        let fanout = match message.fanout.map(u32::try_from) {
            Some(Ok(width)) if width.is_power_of_two() && (8..=FANOUT_MAX).contains(&width) => {
                width
            }
            _ => return malformed(what, "the fanout is a power of two from 8 to 1024"),
        };
        let bits = message.data.clone().unwrap_or_default();
        let shard = Self { pb, fanout, metadata: Metadata::of(message) };
        if bits.len() > fanout as usize / 8 {
            return malformed(what, "the bit field has at most fanout bits");
        }
        let count: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        if count as usize != shard.pb.link_count() {
            return malformed(what, "the bit field has one bit for each link");
        }
        let mut last = None;
        for at in 0..shard.pb.link_count() {
            let Some(bucket) = shard.bucket_of(at) else {
                return malformed(what, "a link's name begins with its bucket in upper-case hex");
            };
            if last >= Some(bucket) || !bit_is_set(&bits, bucket) {
                return malformed(what, "links are in the order of the bits that are set");
            }
            last = Some(bucket);
        }
        Ok(shard)
    }

    /// Returns the width.
    pub fn fanout(&self) -> u32 {
        self.fanout
    }

    /// Returns the number of links.
    pub fn link_count(&self) -> usize {
        self.pb.link_count()
    }

    /// Returns the bucket and content of link number `index`.
    ///
    /// # Panics
    /// When `index` is not below [`ShardNode::link_count`].
    pub fn slot(&self, index: usize) -> (u32, ShardSlot<'_>) {
        let bucket = self.bucket_of(index).expect("checked when it was decoded");
        (bucket, self.slot_of(index))
    }

    /// Returns what is in `bucket`.
    pub fn bucket(&self, bucket: u32) -> Option<ShardSlot<'_>> {
        let (mut low, mut high) = (0, self.pb.link_count());
        while low < high {
            let middle = low.midpoint(high);
            match self.bucket_of(middle).cmp(&Some(bucket)) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(self.slot_of(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn slot_of(&self, index: usize) -> ShardSlot<'_> {
        let link = self.pb.link(index);
        let width = prefix_len(self.fanout);
        match link.name.and_then(|name| name.get(width..)) {
            Some(name) if !name.is_empty() => ShardSlot::Entry(PbLink { name: Some(name), ..link }),
            _ => ShardSlot::Shard(link),
        }
    }

    fn bucket_of(&self, index: usize) -> Option<u32> {
        let prefix = self.pb.link_name(index).get(..prefix_len(self.fanout))?;
        let mut bucket = 0;
        for &digit in prefix {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return None,
            };
            bucket = bucket << 4 | u32::from(value);
        }
        (bucket < self.fanout).then_some(bucket)
    }
}

/// Returns the number of hex digits that name a bucket.
pub fn prefix_len(fanout: u32) -> usize {
    (fanout - 1).ilog2() as usize / 4 + 1
}

/// The bit field is a big-endian number with leading zero bytes stripped.
fn bit_is_set(bits: &[u8], index: u32) -> bool {
    let byte = index as usize / 8;
    bits.len().checked_sub(byte + 1).is_some_and(|at| bits[at] >> (index % 8) & 1 == 1)
}

impl SymlinkNode {
    fn new(pb: &PbNode, message: UnixFs) -> Result<Self, NodeError> {
        let what = "symlink";
        let metadata = Metadata::of(&message);
        let target = message.data.unwrap_or_default();
        if pb.link_count() > 0 {
            return malformed(what, "a symlink has no links");
        }
        if target.is_empty() || target.len() > SYMLINK_LEN_MAX || target.contains(&0) {
            return malformed(what, "the target has 1 to 4095 bytes and no NUL");
        }
        Ok(Self { target, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::super::dag_pb::encode;
    use super::*;
    use crate::block::{Cid, HashFn};

    fn leaf() -> Cid {
        *Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from_static(b"x")).unwrap().cid()
    }

    fn decode(names: &[&str], message: &UnixFs) -> Result<Node, NodeError> {
        let links: Vec<_> = names
            .iter()
            .map(|name| PbLink { cid: leaf(), name: Some(name.as_bytes()), tsize: Some(1) })
            .collect();
        let bytes = encode(&links, Some(&message.encode()));
        Node::decode(&Block::hash(codecs::DAG_PB, HashFn::SHA2_256, bytes.into()).unwrap())
    }

    fn file(sizes: &[u64], inline: &'static str, file_size: Option<u64>) -> UnixFs {
        UnixFs {
            data: Some(Bytes::from_static(inline.as_bytes())),
            file_size,
            block_sizes: sizes.to_vec(),
            ..UnixFs::new(Kind::File)
        }
    }

    fn rule(result: Result<Node, NodeError>) -> &'static str {
        match result {
            Err(NodeError::Malformed { rule, .. }) => rule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn links_are_found_by_the_bytes_they_hold() {
        let Ok(Node::File(file)) = decode(&[""; 4], &file(&[5, 0, 5, 3], "ab", Some(15))) else {
            panic!("a file");
        };
        assert_eq!(file.file_len(), 15);
        let check = |range: Range<u64>, links: Range<usize>| {
            assert_eq!(file.links_in(range.clone()), links, "{range:?}");
        };
        check(0..2, 0..0);
        check(0..3, 0..1);
        check(6..7, 0..1);
        check(6..8, 0..2);
        check(7..8, 1..2);
        check(12..99, 2..3);
        check(3..3, 0..0);
        assert_eq!(file.link_range(1), 7..12);
        assert_eq!(file.link_count(), 3, "the link without bytes is left out");
    }

    #[test]
    fn files_that_lie_about_themselves_are_refused() {
        assert_eq!(rule(decode(&["", ""], &file(&[5], "", None))), "as many block sizes as links");
        assert_eq!(rule(decode(&["a"], &file(&[5], "", None))), "links of a file have no names");
        let sum = "its length is the sum of its parts";
        assert_eq!(rule(decode(&[""], &file(&[5], "", Some(6)))), sum);
        let fits = "its length fits in 63 bits";
        assert_eq!(rule(decode(&["", ""], &file(&[u64::MAX, 2], "", None))), fits);
        assert_eq!(rule(decode(&[""], &file(&[1 << 63], "", None))), fits);
        assert!(decode(&[""], &file(&[5], "", None)).is_ok(), "an absent length is no lie");
    }

    #[test]
    fn of_equal_names_the_first_is_shown_and_bad_names_never() {
        let dir = UnixFs::new(Kind::Directory);
        let check = |names: &[&str], shown: &[usize]| {
            let Ok(Node::Directory(dir)) = decode(names, &dir) else { panic!("a directory") };
            let seen: Vec<_> = dir.entries(0).map(|(at, _)| at).collect();
            assert_eq!(seen, shown, "{names:?}");
        };
        check(&["a", "a", "b"], &[0, 2]);
        check(&["b", "a", "b", "a"], &[0, 1]);
        check(&["", ".", "..", "a/b", "a\0", "ok"], &[5]);
        check(&[&"n".repeat(255), &"n".repeat(256)], &[0]);
        let Ok(Node::Directory(dir)) = decode(&["b", "a", "..", "c"], &dir) else { panic!() };
        assert_eq!(dir.get(b"a").unwrap().name(), b"a");
        assert_eq!((dir.get(b"d"), dir.get(b"..")), (None, None));
    }

    #[test]
    fn an_address_that_is_too_long_costs_its_entry_and_not_the_directory() {
        let node = |message: &UnixFs, name: &str| {
            let digest = [b'i'; 129];
            let cid = [&[1, 0x55, 0, 0x81, 1][..], &digest].concat();
            let mut link = vec![0x0a, 0x86, 1];
            link.extend(&cid);
            link.extend([0x12, u8::try_from(name.len()).unwrap()]);
            link.extend(name.as_bytes());
            let len = link.len();
            let mut bytes = vec![0x12, u8::try_from(len & 127 | 128).unwrap(), 1];
            bytes.extend(link);
            let good = PbLink { cid: leaf(), name: Some(b"ok"), tsize: Some(1) };
            bytes.extend(encode(&[good], Some(&message.encode())));
            Node::decode(&Block::hash(codecs::DAG_PB, HashFn::SHA2_256, bytes.into()).unwrap())
        };
        let Ok(Node::Directory(dir)) = node(&UnixFs::new(Kind::Directory), "big") else { panic!() };
        assert_eq!(dir.entries(0).count(), 1);
        assert_eq!(dir.left_out().collect::<Vec<_>>(), [b"big"]);
        assert!(dir.is_refused(b"big") && !dir.is_refused(b"ok"));
        assert!(dir.get(b"ok").is_some());
        let too_long = NodeError::Pb(PbError::Cid(CidError::DigestTooLong));
        assert_eq!(node(&file(&[1, 1], "", None), "").unwrap_err(), too_long);
    }

    fn shard(bits: &'static [u8], fanout: u64) -> UnixFs {
        UnixFs {
            data: Some(Bytes::from_static(bits)),
            hash_type: Some(HAMT_HASH),
            fanout: Some(fanout),
            ..UnixFs::new(Kind::HamtShard)
        }
    }

    #[test]
    fn shards_find_their_buckets() {
        let Ok(Node::Shard(node)) = decode(&["03name", "0A"], &shard(&[4, 8], 256)) else {
            panic!("a shard");
        };
        assert!(matches!(node.bucket(3), Some(ShardSlot::Entry(link)) if link.name() == b"name"));
        assert!(matches!(node.bucket(10), Some(ShardSlot::Shard(_))));
        assert_eq!(node.bucket(4), None);
        assert_eq!(node.slot(1).0, 10);
        assert_eq!(
            [prefix_len(8), prefix_len(16), prefix_len(256), prefix_len(1024)],
            [1, 1, 2, 3]
        );
    }

    #[test]
    fn broken_shards_are_refused() {
        let width = "the fanout is a power of two from 8 to 1024";
        for fanout in [0, 4, 24, 2048, u64::MAX] {
            assert_eq!(rule(decode(&[], &shard(&[], fanout))), width, "{fanout}");
        }
        let order = "links are in the order of the bits that are set";
        assert_eq!(rule(decode(&["04a"], &shard(&[8], 256))), order);
        assert_eq!(rule(decode(&["04a", "03b"], &shard(&[0x18], 256))), order);
        assert_eq!(rule(decode(&[], &shard(&[1], 256))), "the bit field has one bit for each link");
        let long = &[0; 33];
        assert_eq!(rule(decode(&[], &shard(long, 256))), "the bit field has at most fanout bits");
        let prefix = "a link's name begins with its bucket in upper-case hex";
        for name in ["", "0", "0a", "0ax", "zz"] {
            assert_eq!(rule(decode(&[name], &shard(&[4, 0], 256))), prefix, "{name}");
        }
        let hash = UnixFs { hash_type: Some(0x12), ..shard(&[], 256) };
        assert_eq!(rule(decode(&[], &hash)), "the hash is murmur3-x64-64");
    }

    #[test]
    fn symlinks_have_a_target_and_no_links() {
        let link =
            |target: Vec<u8>| UnixFs { data: Some(target.into()), ..UnixFs::new(Kind::Symlink) };
        assert!(matches!(decode(&[], &link(b"../x".to_vec())), Ok(Node::Symlink(_))));
        for bad in [vec![], vec![b'a'; 4096], b"a\0".to_vec()] {
            assert!(decode(&[], &link(bad)).is_err());
        }
        assert_eq!(rule(decode(&["a"], &link(b"x".to_vec()))), "a symlink has no links");
    }

    #[test]
    fn other_codecs_are_their_bytes_and_plain_dag_pb_is_not_shown() {
        let cbor = Block::hash(codecs::DAG_CBOR, HashFn::SHA2_256, Bytes::from_static(&[0xa0]));
        assert!(matches!(Node::decode(&cbor.unwrap()), Ok(Node::Bytes(bytes)) if bytes.len() == 1));
        let plain = Block::hash(codecs::DAG_PB, HashFn::SHA2_256, Bytes::new()).unwrap();
        assert_eq!(Node::decode(&plain).unwrap_err(), NodeError::NotUnixFs);
    }
}
