//! How much of a DAG is on this disk, asking nobody.

use std::collections::HashSet;

use super::{BLOCKS_MAX, PENDING_MAX, has_links, links, mark, too_large};
use crate::block::Cid;
use crate::dag::Dag;
use crate::unixfs::UnixfsError;

/// Blocks that are looked at between two turns of others on the same thread: about a millisecond.
const BLOCKS_PER_TURN: usize = 64;

/// How much of a DAG is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// Different blocks that are here.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Different blocks that are known to be missing; what is below them is not known.
    pub missing: u64,
}

/// Looks which blocks below and including `root` are here. The first poll is never ready.
///
/// # Errors
/// As [`walk`](super::walk), except that a missing or damaged block is no error.
pub async fn presence(dag: &Dag, root: Cid) -> Result<Presence, UnixfsError> {
    let dag = dag.offline();
    let mut found = Presence::default();
    let mut pending = vec![root];
    let mut seen = HashSet::from([mark(&root)]);
    let mut turn = 0;
    while let Some(cid) = pending.pop() {
        if turn % BLOCKS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        turn += 1;
        for link in look(&dag, &cid, &mut found).await? {
            if seen.insert(mark(&link)) {
                pending.push(link);
            }
        }
        if seen.len() > BLOCKS_MAX {
            return Err(too_large(&cid, BLOCKS_MAX, "blocks"));
        }
        if pending.len() > PENDING_MAX {
            return Err(too_large(&cid, PENDING_MAX, "links on one path"));
        }
    }
    Ok(found)
}

/// Counts one block and returns its links.
async fn look(dag: &Dag, cid: &Cid, found: &mut Presence) -> Result<Vec<Cid>, UnixfsError> {
    let (len, links) = if has_links(cid)? {
        match dag.block(cid).await {
            Ok(block) => (Some(block.data().len() as u64), links(&block)?),
            Err(_) => (None, Vec::new()),
        }
    } else {
        (dag.block_len(cid).await.ok(), Vec::new())
    };
    found.blocks += u64::from(len.is_some());
    found.bytes += len.unwrap_or(0);
    found.missing += u64::from(len.is_none());
    Ok(links)
}
