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
    let leaves = list(&dag.offline(), cid, Where::InFiles).await;
    let Some(leaves) = leaves else { return Ok(FileState::Parts) };
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

/// Returns the leaves of a file in order, wherever they lie on this disk; `None` when something of it is
/// not here, is no leaf that a file can hold, or is not as it should be, which reading it tells better.
/// Those of dag-pb are all read for it.
pub async fn leaves(dag: &Dag, cid: &Cid) -> Option<Vec<FileRange>> {
    list(&dag.offline(), cid, Where::Anywhere).await
}

/// Where leaves may lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In assembled files: leaves of dag-pb are not read, because the store knows their lengths.
    InFiles,
    Anywhere,
}

/// What a link of a file leads to.
enum Part {
    Leaf,
    Inner(File),
}

async fn list(dag: &Dag, cid: &Cid, place: Where) -> Option<Vec<FileRange>> {
    if cid.codec() != codecs::DAG_PB {
        return None;
    }
    let mut leaves = Vec::new();
    let mut seen = 0_usize;
    let mut levels = vec![(File::new(dag.node(cid).await.ok()?)?, 0, 0)];
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
        match part(dag, &cid, len, place).await? {
            Part::Leaf if leaves.len() < LEAVES_MAX => {
                leaves.push(FileRange { cid, offset, len: u32::try_from(len).ok()? });
            }
            Part::Inner(file) if levels.len() < FILE_DEPTH_MAX as usize => {
                levels.push((file, 0, offset));
            }
            Part::Leaf | Part::Inner(_) => return None,
        }
        if seen.is_multiple_of(LEAVES_BEFORE_YIELD) {
            tokio::task::yield_now().await;
        }
    }
    Some(leaves)
}

/// Tells what holds `len` bytes of a file; `None` when it is not here or no part of a file.
async fn part(dag: &Dag, cid: &Cid, len: u64, place: Where) -> Option<Part> {
    match cid.codec() {
        codecs::RAW => Some(Part::Leaf),
        codecs::DAG_PB if dag.store().framed_len(cid).map(u64::from) == Some(len) => {
            Some(Part::Leaf)
        }
        codecs::DAG_PB => {
            let file = File::new(dag.node(cid).await.ok()?)?;
            match file.node().link_count() {
                _ if file.node().file_len() != len => None,
                0 => (place == Where::Anywhere).then_some(Part::Leaf),
                _ => Some(Part::Inner(file)),
            }
        }
        _ => None,
    }
}
