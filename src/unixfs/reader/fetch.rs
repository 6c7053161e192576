//! Fetching parts of a file before anybody reads them.
//!
//! What is here already costs a look-up. What parts claim of themselves is what is paid for them, so
//! the first that is not what it claims ends the fetch: who reads it meets the error then. Only inner
//! nodes are kept, as long as parts below them are to come.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::coop::consume_budget;

use super::{FILE_DEPTH_MAX, File};
use crate::block::{BLOCK_LEN_MAX, Cid, codecs};
use crate::codec::node::FileNode;
use crate::dag::Dag;

/// Parts that are on their way at one time: 64 MiB in leaves of the usual 256 KiB.
const PARTS_MAX: usize = 256;
/// Parts that one call fetches at most; a file of parts this small is not worth more.
const STEPS_MAX: usize = 65_536;
/// Inner nodes that are fetched beyond the end of the range, so that the next range can go on with
/// their parts at once.
const NODES_BEYOND: usize = 2;
/// How long a part may take. Nobody waits for it, and it keeps others from being fetched.
const PART_TIME: Duration = Duration::from_secs(30);
/// A budget unless the configuration says otherwise: two streams at full width.
const BUDGET_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes of one permit of a [`FetchBudget`].
const PERMIT_BYTES: u64 = 1024;
/// Part of a budget that inner nodes may take beside what is on its way.
const NODES_SHARE: u64 = 8;
/// Least bytes that are paid for a part, those of a usual leaf: a claim of less may be a lie.
const PART_BYTES_MIN: u64 = 256 * 1024;
/// Bytes of a dag-pb leaf beside those of the file, at most.
const FRAMING_BYTES_MAX: u64 = 1024;

/// Memory in bytes for what is on its way ahead of all readers together, and an eighth as much for
/// inner nodes that came.
#[derive(Debug)]
pub struct FetchBudget {
    under_way: Semaphore,
    nodes: Semaphore,
}

impl Default for FetchBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl FetchBudget {
    /// Returns a budget of `bytes`, at least one block.
    pub fn new(bytes: u64) -> Self {
        let bytes = bytes.max(BLOCK_LEN_MAX as u64);
        let semaphore = |bytes| Semaphore::new(permits(bytes) as usize);
        Self { under_way: semaphore(bytes), nodes: semaphore(bytes / NODES_SHARE) }
    }

    /// Returns the bytes that are free.
    pub fn free(&self) -> u64 {
        self.under_way.available_permits() as u64 * PERMIT_BYTES
    }

    async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.under_way.acquire_many(permits(bytes)).await.ok()
    }

    /// Takes room for an inner node if there is some. Nobody waits for it: others that do might hold it.
    fn keep(&self, node: &File) -> Option<SemaphorePermit<'_>> {
        self.nodes.try_acquire_many(permits(node.0.memory_bytes() as u64)).ok()
    }
}

fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// What has become of fetches so far.
#[derive(Debug, Default)]
pub struct FetchTally {
    bytes: AtomicU64,
    is_unkept: AtomicBool,
}

impl FetchTally {
    /// Returns the bytes that came since the last call.
    pub fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    /// Tells whether the store had no room for something, which may be gone before it is read.
    pub fn is_unkept(&self) -> bool {
        self.is_unkept.load(Ordering::Relaxed)
    }

    /// Counts bytes that came.
    pub fn count(&self, bytes: u64, is_kept: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.is_unkept.fetch_or(!is_kept, Ordering::Relaxed);
    }
}

/// Fetches the parts of the file `cid` that cover `range`, in order, many at a time, and the next inner
/// nodes behind it; what came is counted as it comes.
pub async fn fetch_range(
    dag: &Dag,
    cid: &Cid,
    range: Range<u64>,
    budget: &FetchBudget,
    tally: &FetchTally,
) {
    if cid.codec() != codecs::DAG_PB {
        return;
    }
    let Some(root) = dag.node(cid).await.ok().and_then(File::new) else { return };
    let mut fetch = Fetch { dag, range, budget, tally, inner: BTreeMap::new(), steps: 0 };
    fetch.enter(Kept { file: root, _memory: None }, 0, 0);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < PARTS_MAX
            && let Some(part) = fetch.next()
        {
            running.push(fetch.load(part));
        }
        match running.next().await {
            None | Some(Loaded::False) => return,
            Some(Loaded::Leaf) => {}
            Some(Loaded::Inner(file, part)) => running.extend(fetch.arrived(file, &part)),
        }
        consume_budget().await;
    }
}

struct Fetch<'a> {
    dag: &'a Dag,
    range: Range<u64>,
    budget: &'a FetchBudget,
    tally: &'a FetchTally,
    /// Inner nodes with parts to go, by depth and place: upper ones first, because more waits for what
    /// is below them.
    inner: BTreeMap<(u32, u64), Inner<'a>>,
    steps: usize,
}

struct Inner<'a> {
    node: Arc<Kept<'a>>,
    links: Range<usize>,
}

/// An inner node and the room that it takes; the root takes none, so that a fetch can always begin.
struct Kept<'a> {
    file: File,
    _memory: Option<SemaphorePermit<'a>>,
}

/// A link of an inner node, at `start` in the whole file.
#[derive(Clone)]
struct Part<'a> {
    parent: Arc<Kept<'a>>,
    index: usize,
    depth: u32,
    start: u64,
}

/// What has become of a part.
enum Loaded<'a> {
    /// Nothing is below it, or it did not come.
    Leaf,
    Inner(File, Part<'a>),
    /// It is not what its parent claims.
    False,
}

type Load<'a> = BoxFuture<'a, Loaded<'a>>;

impl Part<'_> {
    fn node(&self) -> &FileNode {
        self.parent.file.node()
    }

    fn len(&self) -> u64 {
        let range = self.node().link_range(self.index);
        range.end - range.start
    }

    fn cid(&self) -> Cid {
        self.node().link(self.index).cid
    }

    /// Returns the bytes that its block may have.
    fn block_len_max(&self) -> u64 {
        let claimed = self.len().saturating_add(FRAMING_BYTES_MAX);
        claimed.clamp(PART_BYTES_MIN, BLOCK_LEN_MAX as u64)
    }

    /// Returns the part behind this one below the same parent.
    fn after(&self) -> Option<Self> {
        let index = self.index + 1;
        let is_there = index < self.node().link_count();
        is_there.then(|| Self { index, start: self.start + self.len(), ..self.clone() })
    }
}

impl<'a> Fetch<'a> {
    /// Begins with the parts of a node that stands at `base`.
    fn enter(&mut self, node: Kept<'a>, base: u64, depth: u32) {
        let here = |at: u64| at.saturating_sub(base);
        let links = node.file.node().links_in(here(self.range.start)..here(self.range.end));
        if depth < FILE_DEPTH_MAX && !links.is_empty() {
            self.inner.insert((depth, base), Inner { node: Arc::new(node), links });
        }
    }

    fn next(&mut self) -> Option<Part<'a>> {
        let mut first = self.inner.first_entry()?;
        let (depth, base) = *first.key();
        let inner = first.get_mut();
        let index = inner.links.next()?;
        let parent = Arc::clone(&inner.node);
        let start = base + parent.file.node().link_range(index).start;
        if inner.links.is_empty() {
            first.remove();
        }
        self.steps += 1;
        (self.steps <= STEPS_MAX).then_some(Part { parent, index, depth, start })
    }

    /// Fetches a part if it is not here.
    fn load(&self, part: Part<'a>) -> Load<'a> {
        let (dag, budget, tally) = (self.dag, self.budget, self.tally);
        async move {
            match bring(dag, &part, budget, tally).await {
                None => Loaded::Leaf,
                Some(block_len) => look(dag, part, block_len).await,
            }
        }
        .boxed()
    }

    /// Goes on below an inner node. Behind the last one of the range come more of them.
    fn arrived(&mut self, file: File, part: &Part<'a>) -> Vec<Load<'a>> {
        if let Some(memory) = self.budget.keep(&file) {
            self.enter(Kept { file, _memory: Some(memory) }, part.start, part.depth + 1);
        }
        if part.start >= self.range.end || part.start + part.len() < self.range.end {
            return Vec::new();
        }
        let behind = std::iter::successors(part.after(), Part::after);
        behind.take(NODES_BEYOND).map(|node| self.load(node)).collect()
    }
}

/// Fetches a part if it is not here; returns the length of its block unless it did not come.
async fn bring(
    dag: &Dag,
    part: &Part<'_>,
    budget: &FetchBudget,
    tally: &FetchTally,
) -> Option<u64> {
    let cid = part.cid();
    if let Ok(here) = dag.offline().block_len(&cid).await {
        return Some(here);
    }
    let fetch = async {
        let _memory = budget.take(part.block_len_max()).await;
        dag.block_len(&cid).await.ok()
    };
    let fetched = tokio::time::timeout(PART_TIME, fetch).await.ok().flatten()?;
    let is_kept = matches!(dag.store().block_len(&cid), Ok(Some(_)));
    tally.count(fetched, is_kept);
    Some(fetched)
}

/// Tells what a part is that has come.
async fn look<'a>(dag: &Dag, part: Part<'a>, block_len: u64) -> Loaded<'a> {
    let cid = part.cid();
    match cid.codec() {
        codecs::RAW if block_len == part.len() => Loaded::Leaf,
        codecs::DAG_PB if block_len <= part.block_len_max() => {
            match dag.offline().node(&cid).await.ok().and_then(File::new) {
                Some(file) if file.node().file_len() != part.len() => Loaded::False,
                Some(file) if file.node().link_count() > 0 => Loaded::Inner(file, part),
                _ => Loaded::Leaf,
            }
        }
        _ => Loaded::False,
    }
}
