//! Every block of a DAG, each once, parents before children and children in the order of links.
//!
//! This is the order of an archive that kubo writes. Only blocks that can have links are loaded,
//! the next few ahead when they have to be fetched; who wants the bytes of the others asks
//! [`Dag`] for them, as many at a time as it likes. What a node *means* plays no part here.

mod fetch;
mod files;
mod presence;

use std::collections::HashSet;

use futures::future::Either;
use futures::{FutureExt as _, Stream, stream};

use super::UnixfsError;
use super::ahead::Ahead;
use super::resolve::decode_ipld;
use crate::block::{Block, Cid, codecs};
use crate::codec::dag_pb::PbNode;
use crate::dag::Dag;

pub use self::fetch::{BLOCKS_AHEAD, fetch_below};
pub use self::files::files;
pub use self::presence::{Presence, presence};

/// Most blocks of one walk, each 16 bytes of memory and its place in a table: 8 TiB of file in
/// leaves of the usual 256 KiB, in about a gigabyte.
const BLOCKS_MAX: usize = 1 << 25;
/// Most links that wait for their turn, of 160 bytes: wide nodes on one path, and room to spare.
const PENDING_MAX: usize = 1 << 20;
/// Blocks with links that are fetched ahead of the walk.
const NODES_AHEAD: usize = 16;

/// A block of a DAG and what it links to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The block.
    pub cid: Cid,
    /// Its links in the order of the block, repeated ones too.
    pub links: Vec<Cid>,
}

/// Visits every block below and including `root` once (once for each codec that it is read with).
/// The stream ends after the first error.
///
/// # Errors
/// [`UnixfsError::UnknownCodec`] where it cannot be known what is below; [`UnixfsError::Pb`] and
/// [`UnixfsError::Ipld`] for malformed nodes; [`UnixfsError::TooLarge`]; [`UnixfsError::Dag`].
pub fn walk(dag: &Dag, root: Cid) -> impl Stream<Item = Result<Visit, UnixfsError>> + Send + use<> {
    walk_all(dag, vec![root])
}

/// Visits every block below and including each of `roots` once, like [`walk`].
///
/// # Errors
/// As [`walk`].
pub fn walk_all(
    dag: &Dag,
    roots: Vec<Cid>,
) -> impl Stream<Item = Result<Visit, UnixfsError>> + Send + use<> {
    stream::try_unfold(Walk::new(dag.clone(), roots), |mut walk| async {
        Ok(walk.next().await?.map(|visit| (visit, walk)))
    })
}

struct Walk {
    dag: Dag,
    /// Roots whose turn has not come.
    roots: std::vec::IntoIter<Cid>,
    /// What is still to be visited, the next one last.
    pending: Vec<Pending>,
    seen: HashSet<[u8; 16]>,
    ahead: Ahead,
}

struct Pending {
    cid: Cid,
    is_ahead: bool,
}

impl Walk {
    fn new(dag: Dag, roots: Vec<Cid>) -> Self {
        let (roots, ahead) = (roots.into_iter(), Ahead::new(NODES_AHEAD));
        Self { dag, roots, pending: Vec::new(), seen: HashSet::new(), ahead }
    }

    async fn next(&mut self) -> Result<Option<Visit>, UnixfsError> {
        let cid = loop {
            let pending = self.pending.pop().map(|pending| pending.cid);
            match pending.or_else(|| self.roots.next()) {
                None => return Ok(None),
                Some(cid) if self.seen.insert(mark(&cid)) => break cid,
                Some(_) => {}
            }
        };
        if self.seen.len() > BLOCKS_MAX {
            return Err(too_large(&cid, BLOCKS_MAX, "blocks"));
        }
        let links = if has_links(&cid)? { links(&self.load(cid).await?)? } else { Vec::new() };
        let new = links.iter().rev().filter(|link| !self.seen.contains(&mark(link)));
        self.pending.extend(new.map(|&cid| Pending { cid, is_ahead: false }));
        if self.pending.len() > PENDING_MAX {
            return Err(too_large(&cid, PENDING_MAX, "links on one path"));
        }
        Ok(Some(Visit { cid, links }))
    }

    /// Loads a block while those that come next are fetched.
    async fn load(&mut self, cid: Cid) -> Result<Block, UnixfsError> {
        let dag = self.dag.clone();
        let mut block = async move { dag.block(&cid).await }.boxed();
        if let Some(here) = (&mut block).now_or_never() {
            return Ok(here?);
        }
        loop {
            self.fetch_ahead();
            match self.ahead.wait(block).await {
                Either::Left(block) => return Ok(block?),
                Either::Right(still_waiting) => block = still_waiting,
            }
        }
    }

    fn fetch_ahead(&mut self) {
        let free = self.ahead.free();
        let next = self.pending.iter_mut().rev().take(NODES_AHEAD).filter(|next| !next.is_ahead);
        for next in next.filter(|next| has_links(&next.cid).unwrap_or(false)).take(free) {
            next.is_ahead = true;
            let (dag, cid) = (self.dag.clone(), next.cid);
            self.ahead.start(async move { dag.block(&cid).await.map_or((), drop) });
        }
    }
}

fn too_large(cid: &Cid, limit: usize, what: &'static str) -> UnixfsError {
    UnixfsError::TooLarge { cid: Box::new(*cid), limit, what }
}

/// Returns what is remembered of a visited block: a hash that nobody can make collide, because a
/// collision would leave out a block.
fn mark(cid: &Cid) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&cid.codec().to_be_bytes());
    hasher.update(&cid.hash().code().to_be_bytes());
    hasher.update(cid.hash().digest());
    let mut mark = [0; 16];
    mark.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    mark
}

fn has_links(cid: &Cid) -> Result<bool, UnixfsError> {
    match cid.codec() {
        codecs::DAG_PB | codecs::DAG_CBOR | codecs::DAG_JSON => Ok(true),
        codecs::RAW | codecs::CBOR | codecs::JSON | codecs::LIBP2P_KEY => Ok(false),
        codec => Err(UnixfsError::UnknownCodec { cid: Box::new(*cid), codec }),
    }
}

fn links(block: &Block) -> Result<Vec<Cid>, UnixfsError> {
    let cid = block.cid();
    if cid.codec() == codecs::DAG_PB {
        let node = PbNode::decode(block.data().clone())
            .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
        return Ok(node.links().map(|link| link.cid).collect());
    }
    Ok(decode_ipld(cid, block.data())?.links().copied().collect())
}

#[cfg(test)]
mod tests;
