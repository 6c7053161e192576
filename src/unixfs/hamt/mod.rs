//! Sharded directories: a trie over the bits of each name's hash (spec 03 §5).
//!
//! What a shard says of itself is checked when it is decoded; what only its place in the trie
//! shows is checked here: the width is the same at all levels, an entry lies where its hash says,
//! a shard below the root is not empty, and the trie ends where the hash does. The rules make
//! every shard that is visited pay with an entry of its own, so a few blocks that repeat cannot
//! pose as an endless directory.

mod list;
pub(super) mod murmur3;

use std::sync::Arc;

use bytes::Bytes;

pub(super) use self::list::{left_out, list};
use self::murmur3::name_hash;
use super::{DirEntry, UnixfsError};
use crate::block::Cid;
use crate::codec::node::{Node, ShardNode, ShardSlot, name_is_legal};
use crate::dag::Dag;

/// Bits of a name's hash.
const HASH_BITS: u32 = u64::BITS;

/// A shard and the hash bits that lead to it.
#[derive(Clone)]
struct Shard {
    cid: Cid,
    node: Arc<Node>,
    /// The bits that all names below have in common, as a number.
    prefix: u64,
    /// How many they are.
    prefix_bits: u32,
}

impl Shard {
    fn root(cid: &Cid, node: Arc<Node>) -> Result<Self, UnixfsError> {
        Self::check(*cid, node, 0, 0)
    }

    /// Returns the shard below this one in `bucket`.
    fn below(&self, cid: Cid, bucket: u32, node: Arc<Node>) -> Result<Self, UnixfsError> {
        let prefix = self.prefix << self.bits() | u64::from(bucket);
        let shard = Self::check(cid, node, prefix, self.prefix_bits + self.bits())?;
        let broken = |rule| Err(UnixfsError::Shard { cid: Box::new(cid), rule });
        if shard.node().fanout() != self.node().fanout() {
            return broken("the fanout is the same at all levels");
        }
        if shard.node().link_count() == 0 {
            return broken("a shard below another is not empty");
        }
        Ok(shard)
    }

    fn check(
        cid: Cid,
        node: Arc<Node>,
        prefix: u64,
        prefix_bits: u32,
    ) -> Result<Self, UnixfsError> {
        let Node::Shard(shard) = &*node else {
            let rule = "below a shard are entries and shards only";
            return Err(UnixfsError::Shard { cid: Box::new(cid), rule });
        };
        let bits = shard.fanout().ilog2();
        if prefix_bits + bits > HASH_BITS {
            return Err(UnixfsError::TooDeep { cid: Box::new(cid), levels: HASH_BITS / bits });
        }
        Ok(Self { cid, node, prefix, prefix_bits })
    }

    fn node(&self) -> &ShardNode {
        match &*self.node {
            Node::Shard(shard) => shard,
            _ => unreachable!("checked when it was made"),
        }
    }

    /// Returns the hash bits that one level takes.
    fn bits(&self) -> u32 {
        self.node().fanout().ilog2()
    }

    /// Returns the smallest and largest hash that belong into `bucket`.
    fn hashes(&self, bucket: u32) -> (u64, u64) {
        let rest = HASH_BITS - self.prefix_bits - self.bits();
        let low = (self.prefix << self.bits() | u64::from(bucket)) << rest;
        (low, low | ((1 << rest) - 1))
    }

    /// Returns the hash of an entry's name after checking that it belongs into `bucket`.
    fn entry_hash(&self, bucket: u32, name: &[u8]) -> Result<u64, UnixfsError> {
        let hash = name_hash(name);
        let (low, high) = self.hashes(bucket);
        if (low..=high).contains(&hash) {
            return Ok(hash);
        }
        let name = Bytes::copy_from_slice(name);
        Err(UnixfsError::WrongBucket { cid: Box::new(self.cid), name })
    }

    fn bucket_of(&self, hash: u64) -> u32 {
        let rest = HASH_BITS - self.prefix_bits - self.bits();
        let bucket = hash >> rest & u64::from(self.node().fanout() - 1);
        u32::try_from(bucket).expect("a bucket is below the fanout")
    }
}

/// Looks up one name from the root shard down.
pub(super) async fn lookup(
    dag: &Dag,
    dir: &Cid,
    root: Arc<Node>,
    name: &[u8],
) -> Result<Option<DirEntry>, UnixfsError> {
    if !name_is_legal(name) {
        return Ok(None);
    }
    let hash = name_hash(name);
    let mut shard = Shard::root(dir, root)?;
    loop {
        let bucket = shard.bucket_of(hash);
        let cid = match shard.node().bucket(bucket) {
            None => return Ok(None),
            Some(ShardSlot::Entry(link)) => {
                shard.entry_hash(bucket, link.name())?;
                return Ok((link.name() == name).then(|| link.into()));
            }
            Some(ShardSlot::Shard(link)) => link.cid,
        };
        shard = shard.below(cid, bucket, dag.node(&cid).await?)?;
    }
}
