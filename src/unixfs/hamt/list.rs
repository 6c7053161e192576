//! Listing a sharded directory in the order of name hashes.
//!
//! That order is the order of the trie, so a cookie is a place among the hashes: the listing goes
//! on at any of them by going down one path. Hashes have 64 bits and cookies 63, less a few
//! values, so two names may share a place; honest directories of a hundred million names have such
//! a pair once in two thousand, hostile ones always. Rather than ever leaving a name out, listing
//! such a directory is an error.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::Either;

use super::super::ahead::Ahead;
use super::super::{Cookie, DirEntry, UnixfsError};
use super::Shard;
use crate::block::Cid;
use crate::codec::node::{Node, ShardSlot, name_is_legal};
use crate::dag::Dag;

/// Shards that are fetched ahead of a listing, some thousand names in a directory of usual width.
const SHARDS_AHEAD: usize = 32;
/// Shards below each of them that are fetched with it. Where most have some below, the listing
/// itself is there soon; where few have, waiting for each would cost more than all others.
const SHARDS_BELOW: usize = 4;
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
    let mut listing = Listing::new(dag, Shard::root(dir, root)?, from, name_is_legal);
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

/// Returns the first name that a listing leaves out.
pub(in crate::unixfs) async fn left_out(
    dag: &Dag,
    dir: &Cid,
    root: Arc<Node>,
) -> Result<Option<Bytes>, UnixfsError> {
    let is_wanted = |name: &[u8]| !name_is_legal(name);
    let mut listing = Listing::new(dag, Shard::root(dir, root)?, Cookie::START, is_wanted);
    Ok(listing.next().await?.map(|(_, entry)| entry.name))
}

struct Listing<'a> {
    dag: &'a Dag,
    dir: Cid,
    from: Cookie,
    is_wanted: fn(&[u8]) -> bool,
    /// The place of the entry before, listed by this call or the one before it.
    last: Option<Cookie>,
    /// The path to the current shard; its length is bounded by the bits of a hash.
    levels: Vec<Level>,
    ahead: Ahead,
    links_seen: usize,
}

struct Level {
    shard: Shard,
    next_link: usize,
    /// The links before this one are fetched already, or on their way.
    next_ahead: usize,
}

impl<'a> Listing<'a> {
    fn new(dag: &'a Dag, root: Shard, from: Cookie, is_wanted: fn(&[u8]) -> bool) -> Self {
        let dir = root.cid;
        let levels = vec![Level::new(root, from)];
        let ahead = Ahead::new(SHARDS_AHEAD);
        Self { dag, dir, from, is_wanted, last: None, levels, ahead, links_seen: 0 }
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
                    if after > self.from && (self.is_wanted)(link.name()) {
                        return Ok(Some((after, link.into())));
                    }
                }
                ShardSlot::Shard(link) => {
                    let (above, cid) = (level.shard.clone(), link.cid);
                    let shard = above.below(cid, bucket, self.load(cid).await?)?;
                    self.levels.push(Level::new(shard, self.from));
                }
            }
            self.links_seen += 1;
            if self.links_seen.is_multiple_of(LINKS_BEFORE_YIELD) {
                tokio::task::yield_now().await;
            }
        }
        Ok(None)
    }

    /// Loads a shard while those that come next are fetched.
    async fn load(&mut self, cid: Cid) -> Result<Arc<Node>, UnixfsError> {
        let dag = self.dag.clone();
        let mut node = async move { dag.node(&cid).await }.boxed();
        if let Some(here) = (&mut node).now_or_never() {
            return Ok(here?);
        }
        loop {
            self.fetch_ahead();
            match self.ahead.wait(node).await {
                Either::Left(node) => return Ok(node?),
                Either::Right(still_waiting) => node = still_waiting,
            }
        }
    }

    /// Starts to fetch the next shards in the order of the listing.
    fn fetch_ahead(&mut self) {
        for level in self.levels.iter_mut().rev() {
            let links = level.shard.node().link_count();
            level.next_ahead = level.next_ahead.max(level.next_link);
            while level.next_ahead < links && self.ahead.free() > 0 {
                if let (_, ShardSlot::Shard(link)) = level.shard.node().slot(level.next_ahead) {
                    self.ahead.start(fetch_with_below(self.dag.clone(), link.cid));
                }
                level.next_ahead += 1;
            }
        }
    }
}

/// Fetches a shard, then the first shards below it.
async fn fetch_with_below(dag: Dag, cid: Cid) {
    let Ok(node) = dag.node(&cid).await else { return };
    let Node::Shard(shard) = &*node else { return };
    let below = (0..shard.link_count()).filter_map(|at| match shard.slot(at).1 {
        ShardSlot::Shard(link) => Some(link.cid),
        ShardSlot::Entry(_) => None,
    });
    for cid in below.take(SHARDS_BELOW) {
        if dag.node(&cid).await.is_err() {
            return;
        }
    }
}

impl Level {
    /// Starts at the first link that may lead to names at or after `from`: the entry at `from`
    /// itself is met again, so that another one in its place is noticed.
    fn new(shard: Shard, from: Cookie) -> Self {
        let links = shard.node().link_count();
        let may_hold = |at: &usize| place(shard.hashes(shard.node().slot(*at).0).1) >= from;
        let first = (0..links).find(may_hold).unwrap_or(links);
        Self { shard, next_link: first, next_ahead: first }
    }
}
