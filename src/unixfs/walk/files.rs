//! The files of more than one block below a root, as far as they are here.

use std::collections::HashSet;

use futures::{Stream, stream};

use super::{BLOCKS_MAX, PENDING_MAX, mark};
use crate::block::{Cid, codecs};
use crate::codec::node::{Node, ShardSlot};
use crate::dag::Dag;

/// Finds the files of more than one block below and including `root`, each once, asking nobody; gives
/// `None` for each block that is none, so that who is tired of waiting for one can stop. What is not here
/// or malformed is passed by, and so is the rest of a tree that is too large to walk.
pub fn files(dag: &Dag, root: Cid) -> impl Stream<Item = Option<Cid>> + Send + use<> {
    let search =
        Search { dag: dag.offline(), pending: vec![root], seen: HashSet::from([mark(&root)]) };
    stream::unfold(search, |mut search| async { Some((search.next().await?, search)) })
}

struct Search {
    dag: Dag,
    pending: Vec<Cid>,
    seen: HashSet<[u8; 16]>,
}

impl Search {
    async fn next(&mut self) -> Option<Option<Cid>> {
        let cid = self.pending.pop()?;
        let Ok(node) = self.dag.node(&cid).await else { return Some(None) };
        match &*node {
            Node::File(file) if file.link_count() > 0 => return Some(Some(cid)),
            Node::Directory(dir) => {
                dir.entries(0).for_each(|(_, entry)| self.add(entry.cid));
            }
            Node::Shard(shard) => {
                for at in 0..shard.link_count() {
                    let (ShardSlot::Entry(link) | ShardSlot::Shard(link)) = shard.slot(at).1;
                    self.add(link.cid);
                }
            }
            Node::File(_) | Node::Bytes(_) | Node::Symlink(_) => {}
        }
        Some(None)
    }

    fn add(&mut self, cid: Cid) {
        let has_room = self.seen.len() < BLOCKS_MAX && self.pending.len() < PENDING_MAX;
        if has_room && cid.codec() == codecs::DAG_PB && self.seen.insert(mark(&cid)) {
            self.pending.push(cid);
        }
    }
}
