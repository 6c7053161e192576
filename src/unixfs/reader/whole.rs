//! Whether a file lies on this disk as one file: its leaves in order, for the store to compare.

use std::sync::Arc;

use super::{FILE_DEPTH_MAX, File};
use crate::block::{Cid, codecs};
use crate::codec::unixfs::{Kind, leaf_node_len};
use crate::dag::{Dag, DagError};
use crate::store::{FileRange, FileState};
use crate::unixfs::UnixfsError;

/// Most leaves of such a file, 64 GiB in leaves of 1 MiB: about 12 MB of memory while it is opened.
const LEAVES_MAX: usize = 65_536;
/// Most bytes of memory of the nodes above them that are decoded, each time they are met: what a file of
/// the most leaves has when each node links to two. A hostile one may have few different nodes, but links
/// to them without end.
const NODES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Leaves after which others get their turn on the same thread.
const LEAVES_BEFORE_YIELD: usize = 1024;

/// Why the leaves of a file cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLeaves {
    /// Something of it is not on this disk.
    NotHere,
    /// It is no such file, has too many leaves, or has one that no file can hold. Reading it may tell
    /// more.
    Unfit,
}

/// Looks whether the file `cid` lies on this disk as one file, and hashes what was not proved since
/// the start, at most `unproved_max` bytes. Asks nobody.
///
/// # Errors
/// [`UnixfsError::Dag`] when the disk fails.
pub async fn whole_file(dag: &Dag, cid: &Cid, unproved_max: u64) -> Result<FileState, UnixfsError> {
    let Ok(leaves) = leaves(dag, cid).await else { return Ok(FileState::Parts) };
    let store = Arc::clone(dag.store());
    let looked = tokio::task::spawn_blocking(move || store.whole_file(&leaves, unproved_max));
    match looked.await {
        Ok(state) => Ok(state.map_err(|error| DagError::Store(Arc::new(error)))?),
        Err(error) => {
            tracing::error!(%cid, %error, "looking for a whole file failed");
            Ok(FileState::Parts)
        }
    }
}

/// Returns the leaves of a file in order, wherever they lie on this disk. No leaf is read for it: one of
/// dag-pb is told from the nodes above by its length, so a node may be taken for a leaf, by accident or on
/// purpose. Who copies or proves them finds that out.
///
/// # Errors
/// [`NoLeaves`].
pub async fn leaves(dag: &Dag, cid: &Cid) -> Result<Vec<FileRange>, NoLeaves> {
    let dag = dag.offline();
    let (mut leaves, mut seen, mut nodes_bytes) = (Vec::new(), 0_usize, 0_usize);
    let mut levels = vec![(inner(&dag, cid, &mut nodes_bytes).await?, 0, 0)];
    while let Some((file, next, base)) = levels.last_mut() {
        let node = file.node();
        if *next == node.link_count() {
            levels.pop();
            continue;
        }
        let (range, cid) = (node.link_range(*next), node.link(*next).cid);
        let (offset, len) = (*base + range.start, range.end - range.start);
        *next += 1;
        seen += 1;
        if !node.inline().is_empty() || seen > 2 * LEAVES_MAX || leaves.len() == LEAVES_MAX {
            return Err(NoLeaves::Unfit);
        }
        if is_leaf(&dag, &cid, len) {
            let len = u32::try_from(len).map_err(|_| NoLeaves::Unfit)?;
            leaves.push(FileRange { cid, offset, len });
        } else {
            let file = inner(&dag, &cid, &mut nodes_bytes).await?;
            if file.node().file_len() != len || levels.len() == FILE_DEPTH_MAX as usize {
                return Err(NoLeaves::Unfit);
            }
            levels.push((file, 0, offset));
        }
        if seen.is_multiple_of(LEAVES_BEFORE_YIELD) {
            tokio::task::yield_now().await;
        }
    }
    Ok(leaves)
}

/// Tells whether a block with `len` bytes of a file is a leaf, as importers write them.
fn is_leaf(dag: &Dag, cid: &Cid, len: u64) -> bool {
    cid.codec() == codecs::RAW || dag.store().peek_len(cid) == Some(leaf_node_len(Kind::File, len))
}

/// Loads a node with links and counts what it takes.
async fn inner(dag: &Dag, cid: &Cid, nodes_bytes: &mut usize) -> Result<File, NoLeaves> {
    if cid.codec() != codecs::DAG_PB {
        return Err(NoLeaves::Unfit);
    }
    let node = dag.node(cid).await.map_err(|error| match error {
        DagError::Node { .. } | DagError::Refused { .. } => NoLeaves::Unfit,
        _ => NoLeaves::NotHere,
    })?;
    *nodes_bytes += node.memory_bytes();
    let file = File::new(node).filter(|file| file.node().link_count() > 0);
    file.filter(|_| *nodes_bytes <= NODES_BYTES_MAX).ok_or(NoLeaves::Unfit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::DagLimits;
    use crate::exchange::Network;
    use crate::testkit::dag_builder::DagBuilder;
    use crate::testkit::store::TestStore;

    /// Bytes of a leaf.
    const LEN: u64 = 4096;

    fn data(n: u8) -> Vec<u8> {
        [n; 4096].to_vec()
    }

    fn dag(builder: &DagBuilder) -> (Dag, Arc<TestStore>) {
        let store = Arc::new(TestStore::new(builder.blocks.iter().cloned()));
        let limits = DagLimits { node_cache_bytes: 0, ..DagLimits::default() };
        (Dag::new(store.clone(), Arc::new(Network::default()), limits), store)
    }

    #[tokio::test]
    async fn no_leaf_is_read_to_tell_that_it_is_one() {
        for kind in [Kind::File, Kind::Raw] {
            let mut builder = DagBuilder::new();
            let parts: Vec<_> =
                (0..50).map(|n| (builder.file_node(kind, &data(n), &[]), LEN)).collect();
            let inner = builder.file_node(Kind::File, b"", &parts);
            let raw = builder.raw(data(99));
            let root = builder.file_node(Kind::File, b"", &[(inner, 50 * LEN), (raw, LEN)]);
            let (dag, store) = dag(&builder);
            let found = leaves(&dag, &root).await.unwrap();
            let found: Vec<_> = found.iter().map(|leaf| (leaf.cid, leaf.offset)).collect();
            let cids = parts.iter().map(|(cid, _)| *cid).chain([raw]);
            assert_eq!(found, cids.zip((0..).map(|n| n * LEN)).collect::<Vec<_>>());
            assert_eq!(store.take_asked(), [root, inner], "{kind:?}");

            builder.blocks.retain(|block| *block.cid() != parts[49].0);
            let (dag, store) = self::tests::dag(&builder);
            assert_eq!(leaves(&dag, &root).await.unwrap_err(), NoLeaves::NotHere);
            assert_eq!(store.take_asked(), [root, inner, parts[49].0], "{kind:?}");
        }
    }

    #[tokio::test]
    async fn nodes_that_are_met_again_and_again_cost_a_bounded_time() {
        let mut builder = DagBuilder::new();
        let leaf = builder.raw(data(7));
        let mut parts = vec![(leaf, LEN)];
        parts.extend((0..10_000).map(|_| (leaf, 0)));
        let inner = builder.file_node(Kind::File, b"", &parts);
        let root = builder.file_node(Kind::File, b"", &vec![(inner, LEN); 10_000]);
        let (dag, store) = dag(&builder);
        assert_eq!(leaves(&dag, &root).await.unwrap_err(), NoLeaves::Unfit);
        let read = store.take_asked().len();
        assert!((2..200).contains(&read), "{read} nodes of half a megabyte");
    }
}
