//! Small DAGs of any legal shape, and of illegal ones, for tests.
//!
//! Independent of the importer, so that it can judge the importer: shapes are said in full, and
//! nothing is decided here but the encoding.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::block::{Block, Cid, HashFn, codecs};
use crate::codec::dag_pb::{self, PbLink};
use crate::codec::node::{HAMT_HASH, prefix_len};
use crate::codec::unixfs::{Kind, UnixFs};
use crate::unixfs::name_hash;

/// A file before it is blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A raw block.
    Raw(Vec<u8>),
    /// A dag-pb node of type File, its own bytes first, then its children.
    File(Vec<u8>, Vec<Shape>),
    /// A leaf of the old form: a dag-pb node of type Raw.
    PbRaw(Vec<u8>),
}

impl Shape {
    /// Returns the bytes that a reader must see.
    pub fn content(&self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) | Self::PbRaw(bytes) => bytes.clone(),
            Self::File(own, children) => {
                let mut all = own.clone();
                all.extend(children.iter().flat_map(Self::content));
                all
            }
        }
    }
}

/// An entry's hash, name and target.
type HashedEntry<'a> = (u64, &'a [u8], Cid);

/// Blocks of the DAGs that were built so far.
#[derive(Debug, Clone, Default)]
pub struct DagBuilder {
    /// The blocks so far, each once for each time it was built.
    pub blocks: Vec<Block>,
}

impl DagBuilder {
    /// Returns an empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a raw block.
    pub fn raw(&mut self, bytes: impl Into<Bytes>) -> Cid {
        self.block(codecs::RAW, bytes.into())
    }

    /// Adds a block of any codec, hashed with sha2-256.
    pub fn block(&mut self, codec: u64, bytes: Bytes) -> Cid {
        let block = Block::hash(codec, HashFn::SHA2_256, bytes).expect("a test block is small");
        let cid = *block.cid();
        self.blocks.push(block);
        cid
    }

    /// Adds a dag-pb node.
    pub fn node(&mut self, links: &[PbLink<'_>], message: &UnixFs) -> Cid {
        self.block(codecs::DAG_PB, dag_pb::encode(links, Some(&message.encode())).into())
    }

    /// Adds a file and returns its CID.
    pub fn file(&mut self, shape: &Shape) -> Cid {
        match shape {
            Shape::Raw(bytes) => self.raw(bytes.clone()),
            Shape::PbRaw(bytes) => self.file_node(Kind::Raw, bytes, &[]),
            Shape::File(own, children) => {
                let parts: Vec<_> = children
                    .iter()
                    .map(|child| (self.file(child), child.content().len() as u64))
                    .collect();
                self.file_node(Kind::File, own, &parts)
            }
        }
    }

    /// Adds a file node that claims these lengths of these parts.
    pub fn file_node(&mut self, kind: Kind, own: &[u8], parts: &[(Cid, u64)]) -> Cid {
        let links: Vec<_> = parts
            .iter()
            .map(|&(cid, len)| PbLink { cid, name: Some(b"".as_slice()), tsize: Some(len) })
            .collect();
        let block_sizes: Vec<u64> = parts.iter().map(|&(_, len)| len).collect();
        let message = UnixFs {
            data: Some(Bytes::copy_from_slice(own)),
            file_size: Some(own.len() as u64 + block_sizes.iter().sum::<u64>()),
            block_sizes,
            ..UnixFs::new(kind)
        };
        self.node(&links, &message)
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, target: &str) -> Cid {
        let data = Some(Bytes::copy_from_slice(target.as_bytes()));
        self.node(&[], &UnixFs { data, ..UnixFs::new(Kind::Symlink) })
    }

    /// Adds a directory of one block with the entries in the order given.
    pub fn directory<N: AsRef<[u8]>>(&mut self, entries: &[(N, Cid)]) -> Cid {
        let links: Vec<_> = entries
            .iter()
            .map(|(name, cid)| PbLink { cid: *cid, name: Some(name.as_ref()), tsize: Some(1) })
            .collect();
        self.node(&links, &UnixFs::new(Kind::Directory))
    }

    /// Adds a sharded directory.
    ///
    /// # Panics
    /// When two names have the same hash.
    pub fn sharded(&mut self, entries: &BTreeMap<Vec<u8>, Cid>, fanout: u32) -> Cid {
        let entries: Vec<_> =
            entries.iter().map(|(name, cid)| (name_hash(name), name.as_slice(), *cid)).collect();
        self.shard_of(&entries, fanout, 0)
    }

    fn shard_of(&mut self, entries: &[HashedEntry<'_>], fanout: u32, bits_used: u32) -> Cid {
        let bits = fanout.ilog2();
        assert!(bits_used + bits <= u64::BITS, "two names have the same hash");
        let mut buckets = BTreeMap::<u32, Vec<HashedEntry<'_>>>::new();
        for entry in entries {
            let rest = u64::BITS - bits_used - bits;
            let bucket = u32::try_from(entry.0 >> rest & u64::from(fanout - 1)).expect("masked");
            buckets.entry(bucket).or_default().push(*entry);
        }
        let mut slots = Vec::new();
        for (bucket, entries) in buckets {
            match entries.as_slice() {
                [(_, name, cid)] => slots.push((bucket, name.to_vec(), *cid)),
                several => {
                    let below = self.shard_of(several, fanout, bits_used + bits);
                    slots.push((bucket, Vec::new(), below));
                }
            }
        }
        self.shard(fanout, &slots)
    }

    /// Adds one shard with these buckets, in order; an empty name is a shard below.
    pub fn shard(&mut self, fanout: u32, slots: &[(u32, Vec<u8>, Cid)]) -> Cid {
        let width = prefix_len(fanout);
        let mut bits = vec![0_u8; fanout as usize / 8];
        let names: Vec<Vec<u8>> = slots
            .iter()
            .map(|(bucket, name, _)| {
                let byte = bits.len() - 1 - *bucket as usize / 8;
                bits[byte] |= 1 << (bucket % 8);
                [format!("{bucket:0width$X}").as_bytes(), name].concat()
            })
            .collect();
        let links: Vec<_> = names
            .iter()
            .zip(slots)
            .map(|(name, (.., cid))| PbLink { cid: *cid, name: Some(name), tsize: Some(1) })
            .collect();
        let zeros = bits.iter().take_while(|&&byte| byte == 0).count();
        let message = UnixFs {
            data: Some(Bytes::copy_from_slice(&bits[zeros..])),
            hash_type: Some(HAMT_HASH),
            fanout: Some(u64::from(fanout)),
            ..UnixFs::new(Kind::HamtShard)
        };
        self.node(&links, &message)
    }
}
