//! Whether a file lies on this disk as one file: its leaves in order, for the store to compare.

use std::sync::Arc;

use super::{FILE_DEPTH_MAX, File};
use crate::block::{Cid, codecs};
use crate::dag::{Dag, DagError};
use crate::store::{FileRange, FileState};
use crate::unixfs::UnixfsError;

/// Most leaves of such a file, 64 GiB in leaves of 1 MiB: about 12 MB of memory while it is opened.
const LEAVES_MAX: usize = 65_536;
/// Leaves after which others get their turn on the same thread.
const LEAVES_BEFORE_YIELD: usize = 1024;

/// Looks whether the file `cid` lies on this disk as one file, and hashes what was not proved since
/// the start, at most `unproved_max` bytes. Asks nobody.
///
/// # Errors
/// [`UnixfsError::Dag`] when the disk fails.
pub async fn whole_file(dag: &Dag, cid: &Cid, unproved_max: u64) -> Result<FileState, UnixfsError> {
    let Some(leaves) = leaves(&dag.offline(), cid).await else { return Ok(FileState::Parts) };
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

/// Returns the leaves of a file in order; `None` when something of it is not here, is no raw leaf, or
/// is not as it should be, which reading it tells better.
pub async fn leaves(dag: &Dag, cid: &Cid) -> Option<Vec<FileRange>> {
    let node = |cid: Cid| async move { File::new(dag.node(&cid).await.ok()?) };
    if cid.codec() != codecs::DAG_PB {
        return None;
    }
    let mut leaves = Vec::new();
    let mut seen = 0_usize;
    let mut levels = vec![(node(*cid).await?, 0, 0)];
    while let Some((file, next, base)) = levels.last_mut() {
        let inner = file.node();
        if *next == inner.link_count() {
            levels.pop();
            continue;
        }
        let (range, cid) = (inner.link_range(*next), inner.link(*next).cid);
        let (offset, len) = (*base + range.start, range.end - range.start);
        *next += 1;
        seen += 1;
        if !inner.inline().is_empty() || seen > 2 * LEAVES_MAX {
            return None;
        }
        match cid.codec() {
            codecs::RAW if len == 0 => {}
            codecs::RAW if leaves.len() < LEAVES_MAX => {
                leaves.push(FileRange { cid, offset, len: u32::try_from(len).ok()? });
            }
            codecs::DAG_PB if levels.len() < FILE_DEPTH_MAX as usize => {
                let part = node(cid).await.filter(|part| part.node().file_len() == len)?;
                levels.push((part, 0, offset));
            }
            _ => return None,
        }
        if seen.is_multiple_of(LEAVES_BEFORE_YIELD) {
            tokio::task::yield_now().await;
        }
    }
    Some(leaves)
}
