//! Bytes of a file at an offset, by the sizes that its nodes record.
//!
//! The reader goes down from the root to the parts that cover the range, several siblings at a
//! time, and joins them in order. What a parent claims of a part's length is checked against the
//! part before any of its bytes are used, so a lie is an error and never shifted or missing bytes.
//! Parts outside the range are never loaded, memory is never taken by claim, and nothing is kept
//! from one read to the next: a seek costs what a first read costs, less the cached nodes.

mod fetch;
mod whole;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::Either;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use super::UnixfsError;
use crate::block::{Cid, codecs};
use crate::codec::node::{FileNode, Node};
use crate::dag::Dag;

pub use self::fetch::{FetchBudget, FetchTally, fetch_range};
pub use self::whole::{NoLeaves, leaves, whole_file};

/// Most bytes that one read returns; the kernel asks for 1 MiB at most, and whoever wants more
/// reads on at the next offset.
pub const READ_LEN_MAX: usize = 4 * 1024 * 1024;
/// Deepest file in levels of nodes: with two links in each node, 64 levels address every length
/// that an offset can have.
pub const FILE_DEPTH_MAX: u32 = 64;
/// Parts of one read that are loaded together: four MiB in leaves of the usual 256 KiB.
const PARTS_AHEAD: usize = 16;
/// Parts after which a read that never had to wait gives way to other tasks.
const PARTS_BEFORE_YIELD: usize = 256;

/// Returns bytes of the file `cid` from `offset` on: `len` or [`READ_LEN_MAX`] of them, fewer only
/// at the end of the file.
///
/// # Errors
/// [`UnixfsError::NotAFile`]; [`UnixfsError::PartLen`], [`UnixfsError::PartKind`] and
/// [`UnixfsError::TooDeep`] for a malformed file; [`UnixfsError::Dag`].
pub async fn read(dag: &Dag, cid: &Cid, offset: u64, len: usize) -> Result<Bytes, UnixfsError> {
    let end = offset.saturating_add(len.min(READ_LEN_MAX) as u64);
    if cid.codec() != codecs::DAG_PB {
        return Ok(dag.read(cid, offset..end).await?.bytes);
    }
    let root = File::new(dag.node(cid).await?)
        .ok_or_else(|| UnixfsError::NotAFile { cid: Box::new(*cid) })?;
    let range = offset..end.min(root.node().file_len());
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    collect(dag, cid, root, range).await
}

/// Goes through the parts of `root` that cover `range` in order, depth first.
async fn collect(
    dag: &Dag,
    cid: &Cid,
    root: File,
    range: Range<u64>,
) -> Result<Bytes, UnixfsError> {
    let len = usize::try_from(range.end - range.start).unwrap_or(READ_LEN_MAX);
    let mut out = Joined { first: Bytes::new(), all: BytesMut::new(), len };
    let mut loaded = 0_usize;
    let mut levels = vec![Level::new(dag, root, range, PARTS_AHEAD)];
    while let Some(level) = levels.last_mut() {
        let Some(part) = level.parts.next().await else {
            levels.pop();
            continue;
        };
        match part? {
            Part::Bytes(bytes) => out.push(bytes),
            Part::Inner(file, range) => {
                let ahead = level.ahead;
                levels.push(Level::new(dag, file, range, ahead));
            }
        }
        if levels.len() > FILE_DEPTH_MAX as usize {
            return Err(UnixfsError::TooDeep { cid: Box::new(*cid), levels: FILE_DEPTH_MAX });
        }
        loaded += 1;
        if loaded.is_multiple_of(PARTS_BEFORE_YIELD) {
            tokio::task::yield_now().await;
        }
    }
    Ok(out.finish())
}

/// The parts of one inner node that are still to come.
struct Level<'a> {
    parts: BoxStream<'a, Result<Part, UnixfsError>>,
    /// Parts that each level below may load together: the bound is halved wherever a range falls
    /// on several parts, so that a whole read never holds more than twice [`PARTS_AHEAD`].
    ahead: usize,
}

enum Part {
    Bytes(Bytes),
    Inner(File, Range<u64>),
}

impl<'a> Level<'a> {
    fn new(dag: &'a Dag, file: File, range: Range<u64>, ahead: usize) -> Self {
        let links = file.node().links_in(range.clone());
        let below = if links.len() > 1 { (ahead / 2).max(1) } else { ahead };
        let parts = file.parts(range).map(|part| part.load(dag)).buffered(ahead).boxed();
        Self { parts, ahead: below }
    }
}

/// A file node, kept alive by its place in the cache or by its readers.
#[derive(Clone)]
struct File(Arc<Node>);

impl File {
    fn new(node: Arc<Node>) -> Option<Self> {
        matches!(*node, Node::File(_)).then_some(Self(node))
    }

    fn node(&self) -> &FileNode {
        match &*self.0 {
            Node::File(file) => file,
            _ => unreachable!("checked when it was made"),
        }
    }

    /// Returns what covers `range`: the node's own bytes, then links.
    fn parts(self, range: Range<u64>) -> impl Stream<Item = Claim> {
        let inline = self.node().inline().clone();
        let inline = (range.start < inline.len() as u64)
            .then(|| Claim::Own(cut(&inline, range.start..range.end)));
        let links = self.node().links_in(range.clone()).map(move |index| {
            let part = self.node().link_range(index);
            let wanted = range.start.max(part.start)..range.end.min(part.end);
            Claim::Link {
                cid: self.node().link(index).cid,
                len: part.end - part.start,
                range: wanted.start - part.start..wanted.end - part.start,
            }
        });
        futures::stream::iter(inline.into_iter().chain(links))
    }
}

/// A part as its parent describes it.
enum Claim {
    Own(Bytes),
    Link { cid: Cid, len: u64, range: Range<u64> },
}

impl Claim {
    fn load(self, dag: &Dag) -> impl Future<Output = Result<Part, UnixfsError>> + Send {
        match self {
            Self::Own(bytes) => Either::Left(std::future::ready(Ok(Part::Bytes(bytes)))),
            Self::Link { cid, len, range } => Either::Right(load(dag, cid, len, range)),
        }
    }
}

/// Loads a part and checks its length against the claim.
async fn load(dag: &Dag, cid: Cid, len: u64, range: Range<u64>) -> Result<Part, UnixfsError> {
    let check = |real| {
        let lie = || UnixfsError::PartLen { cid: Box::new(cid), claimed: len, real };
        if real == len { Ok(()) } else { Err(lie()) }
    };
    let not_a_part = || UnixfsError::PartKind { cid: Box::new(cid) };
    match cid.codec() {
        codecs::RAW => {
            let read = dag.read(&cid, range).await?;
            check(read.block_len)?;
            Ok(Part::Bytes(read.bytes))
        }
        codecs::DAG_PB => {
            let file = File::new(dag.node(&cid).await?).ok_or_else(not_a_part)?;
            check(file.node().file_len())?;
            Ok(if file.node().link_count() == 0 {
                Part::Bytes(cut(file.node().inline(), range))
            } else {
                Part::Inner(file, range)
            })
        }
        _ => Err(not_a_part()),
    }
}

/// Returns the part of `bytes` in `range`, whose end may be beyond them.
fn cut(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let place = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(place(range.start)..place(range.end))
}

/// Parts joined in order; a single one is not copied, others once.
struct Joined {
    first: Bytes,
    all: BytesMut,
    /// Bytes of all parts together.
    len: usize,
}

impl Joined {
    fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.len);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&bytes);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[cfg(test)]
mod tests;
