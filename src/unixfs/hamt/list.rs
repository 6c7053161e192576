//! Listing a sharded directory in the order of name hashes.
//!
//! That order is the order of the trie, so a cookie is a place among the hashes: the listing goes
//! on at any of them by going down one path. Hashes have 64 bits and cookies 63, less a few
//! values, so two names may share a place; honest directories of a hundred million names have such
//! a pair once in ten thousand, hostile ones always. Rather than ever leaving a name out, listing
//! such a directory is an error.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::super::{Cookie, DirEntry, UnixfsError};
use super::Shard;
use crate::block::Cid;
use crate::codec::node::{Node, ShardSlot, name_is_legal};
use crate::dag::{Dag, DagError};

/// Shards of one listing that are loaded together below the root; each level below halves it, so
/// that a listing never holds more than twice as many, and one for each level.
const SHARDS_AHEAD: usize = 16;
/// Links after which a listing that never had to wait gives way to other tasks.
const LINKS_BEFORE_YIELD: usize = 4096;

/// Returns the place of a hash in the listing: the order of hashes, without the values that mean
/// the start.
fn place(hash: u64) -> Cookie {
    Cookie::from((hash >> 1).clamp(Cookie::START.to_u64() + 1, (1 << 63) - 1))
}

pub(in crate::unixfs) async fn list(
    dag: &Dag,
    dir: &Cid,
    root: Arc<Node>,
    from: Cookie,
    max: usize,
) -> Result<Vec<(Cookie, DirEntry)>, UnixfsError> {
    let mut listing = Listing::new(dag, Shard::root(dir, root)?, from);
    let mut entries = Vec::new();
    while entries.len() < max {
        match listing.next().await {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => break,
            // Given by the next call, which starts right there.
            Err(_) if !entries.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

struct Listing<'a> {
    dag: &'a Dag,
    dir: Cid,
    from: Cookie,
    /// The place of the entry before, listed by this call or the one before it.
    last: Option<Cookie>,
    /// The path to the current shard; its length is bounded by the bits of a hash.
    levels: Vec<Level<'a>>,
    links_seen: usize,
}

struct Level<'a> {
    shard: Shard,
    next_link: usize,
    /// The shards below from `next_link` on, in order.
    below: BoxStream<'a, Result<Arc<Node>, DagError>>,
    ahead: usize,
}

impl<'a> Listing<'a> {
    fn new(dag: &'a Dag, root: Shard, from: Cookie) -> Self {
        let dir = root.cid;
        let levels = vec![Level::new(dag, root, from, SHARDS_AHEAD)];
        Self { dag, dir, from, last: None, levels, links_seen: 0 }
    }

    async fn next(&mut self) -> Result<Option<(Cookie, DirEntry)>, UnixfsError> {
        while let Some(level) = self.levels.last_mut() {
            if level.next_link == level.shard.node().link_count() {
                self.levels.pop();
                continue;
            }
            let (bucket, slot) = level.shard.node().slot(level.next_link);
            level.next_link += 1;
            match slot {
                ShardSlot::Entry(link) => {
                    let after = place(level.shard.entry_hash(bucket, link.name())?);
                    if after >= self.from && self.last.replace(after) == Some(after) {
                        return Err(UnixfsError::SamePlace { cid: Box::new(self.dir) });
                    }
                    if after > self.from && name_is_legal(link.name()) {
                        return Ok(Some((after, link.into())));
                    }
                }
                ShardSlot::Shard(link) => {
                    let cid = link.cid;
                    let node = level.below.next().await.expect("one node for each shard link")?;
                    let shard = level.shard.below(cid, bucket, node)?;
                    let ahead = (level.ahead / 2).max(1);
                    self.levels.push(Level::new(self.dag, shard, self.from, ahead));
                }
            }
            self.links_seen += 1;
            if self.links_seen.is_multiple_of(LINKS_BEFORE_YIELD) {
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }
}

impl<'a> Level<'a> {
    /// Starts at the first link that may lead to names at or after `from`: the entry at `from`
    /// itself is met again, so that another one in its place is noticed.
    fn new(dag: &'a Dag, shard: Shard, from: Cookie, ahead: usize) -> Self {
        let links = shard.node().link_count();
        let first = (0..links)
            .find(|&at| {
                let (_, last_hash) = shard.hashes(shard.node().slot(at).0);
                place(last_hash) >= from
            })
            .unwrap_or(links);
        let node = shard.clone();
        let shards_below = (first..links).filter_map(move |at| match node.node().slot(at).1 {
            ShardSlot::Shard(link) => Some(link.cid),
            ShardSlot::Entry(_) => None,
        });
        let load = move |cid| async move { dag.node(&cid).await };
        let below = futures::stream::iter(shards_below).map(load).buffered(ahead).boxed();
        Self { shard, next_link: first, below, ahead }
    }
}
