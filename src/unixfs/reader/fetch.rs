//! Fetching parts of a file before anybody reads them.
//!
//! What is here already costs a look-up. Nothing is kept and nothing is checked: who reads a part
//! meets its error then.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{FILE_DEPTH_MAX, File};
use crate::block::{BLOCK_LEN_MAX, Cid, codecs};
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

/// Memory in bytes for what is on its way ahead of all readers together.
#[derive(Debug)]
pub struct FetchBudget(Semaphore);

impl Default for FetchBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl FetchBudget {
    /// Returns a budget of `bytes`, at least one block.
    pub fn new(bytes: u64) -> Self {
        Self(Semaphore::new(permits(bytes.max(BLOCK_LEN_MAX as u64)) as usize))
    }

    /// Returns the bytes that are free.
    pub fn free(&self) -> u64 {
        self.0.available_permits() as u64 * PERMIT_BYTES
    }

    async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.0.acquire_many(permits(bytes.min(BLOCK_LEN_MAX as u64))).await.ok()
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
    fetch.enter(root, 0, 0);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < PARTS_MAX
            && let Some(part) = fetch.next()
        {
            running.push(fetch.load(part));
        }
        match running.next().await {
            None => return,
            Some(None) => {}
            Some(Some((file, part))) => running.extend(fetch.arrived(file, &part)),
        }
    }
}

struct Fetch<'a> {
    dag: &'a Dag,
    range: Range<u64>,
    budget: &'a FetchBudget,
    tally: &'a FetchTally,
    /// Inner nodes with parts to go, by depth and place: upper ones first, because more waits for what
    /// is below them.
    inner: BTreeMap<(u32, u64), Inner>,
    steps: usize,
}

struct Inner {
    file: File,
    links: Range<usize>,
}

/// A link of an inner node, at `start` in the whole file.
#[derive(Clone)]
struct Part {
    parent: File,
    index: usize,
    depth: u32,
    start: u64,
}

type Load<'a> = BoxFuture<'a, Option<(File, Part)>>;

impl Part {
    fn len(&self) -> u64 {
        let range = self.parent.node().link_range(self.index);
        range.end - range.start
    }

    fn cid(&self) -> Cid {
        self.parent.node().link(self.index).cid
    }

    /// Returns the part behind this one below the same parent.
    fn after(&self) -> Option<Self> {
        let index = self.index + 1;
        let is_there = index < self.parent.node().link_count();
        is_there.then(|| Self { index, start: self.start + self.len(), ..self.clone() })
    }
}

impl<'a> Fetch<'a> {
    /// Begins with the parts of a node that stands at `base`.
    fn enter(&mut self, file: File, base: u64, depth: u32) {
        let here = |at: u64| at.saturating_sub(base);
        let links = file.node().links_in(here(self.range.start)..here(self.range.end));
        if depth < FILE_DEPTH_MAX && !links.is_empty() {
            self.inner.insert((depth, base), Inner { file, links });
        }
    }

    fn next(&mut self) -> Option<Part> {
        let mut first = self.inner.first_entry()?;
        let (depth, base) = *first.key();
        let inner = first.get_mut();
        let index = inner.links.next()?;
        let parent = inner.file.clone();
        let start = base + parent.node().link_range(index).start;
        if inner.links.is_empty() {
            first.remove();
        }
        self.steps += 1;
        (self.steps <= STEPS_MAX).then_some(Part { parent, index, depth, start })
    }

    /// Fetches a part if it is not here; returns it if it is an inner node.
    fn load(&self, part: Part) -> Load<'a> {
        let (dag, budget, tally) = (self.dag, self.budget, self.tally);
        async move {
            let (cid, len) = (part.cid(), part.len());
            if dag.offline().block_len(&cid).await.is_err() {
                let fetch = async {
                    let _memory = budget.take(len).await;
                    dag.block_len(&cid).await.ok()
                };
                let fetched = tokio::time::timeout(PART_TIME, fetch).await.ok().flatten()?;
                let is_kept = matches!(dag.store().block_len(&cid), Ok(Some(_)));
                tally.count(fetched, is_kept);
            }
            if cid.codec() != codecs::DAG_PB {
                return None;
            }
            let file = dag.offline().node(&cid).await.ok().and_then(File::new)?;
            (file.node().link_count() > 0).then_some((file, part))
        }
        .boxed()
    }

    /// Goes on below an inner node. Behind the last one of the range come more of them.
    fn arrived(&mut self, file: File, part: &Part) -> Vec<Load<'a>> {
        self.enter(file, part.start, part.depth + 1);
        if part.start >= self.range.end || part.start + part.len() < self.range.end {
            return Vec::new();
        }
        let behind = std::iter::successors(part.after(), Part::after);
        behind.take(NODES_BEYOND).map(|node| self.load(node)).collect()
    }
}
