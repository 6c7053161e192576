//! Walking ahead of those who go through a whole tree: what `find`, `du` or `tar` will list next is
//! fetched before they ask.
//!
//! Who lists directory after directory below one that was listed just before is taken for a walker
//! as soon as something is missing. From then on the directories in front of it are expanded, many at
//! a time and in its order, depth first: the blocks of all children that may be directories or files
//! of more than one block are fetched. What was fetched is paid from a budget and paid back when the
//! walker gets there, so nobody brings in more than that beyond what was listed.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::block::{Cid, codecs};
use crate::codec::node::Node;
use crate::dag::Dag;
use crate::unixfs::{self, Cookie};

/// Blocks that are fetched ahead of one walker unless the mount says otherwise.
pub const WALKAHEAD_BLOCKS: usize = 1024;
/// Walkers that are walked ahead of at one time; others fetch as they go.
const WALKS_MAX: usize = 8;
/// Directories that are remembered as listed.
const LISTED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Listings below listed directories that make a walker.
const STEPS_MIN: u32 = 2;
/// How long a listing counts as just before, and a walk goes on for a walker that is not seen.
const WALKER_TIME: Duration = Duration::from_secs(10);
/// Directories that are expanded at one time.
const EXPANSIONS_MAX: usize = 32;
/// Directories that wait for it; the farthest are left out, and found again by who gets there.
const PENDING_MAX: usize = 4096;
/// Names that are listed in one piece.
const NAMES: usize = 1024;
/// Blocks that a piece of a sharded directory counts as when they had to be fetched.
const PIECE_BLOCKS: usize = 16;

/// The walkers of a mount.
#[derive(Debug)]
pub(super) struct Walks {
    dag: Dag,
    blocks_max: usize,
    listed: Mutex<LruCache<u64, Step>>,
    running: Mutex<Vec<Arc<Walk>>>,
}

/// A directory that was listed.
#[derive(Debug)]
struct Step {
    parent: u64,
    at: Instant,
    /// Listings that led here, and those of its children.
    steps: u32,
}

/// One walk.
#[derive(Debug)]
struct Walk {
    state: Mutex<State>,
    paid_back: Notify,
}

#[derive(Debug)]
struct State {
    /// Blocks that may still be fetched.
    credit: usize,
    /// What was paid for directories that the walker has not listed.
    ahead: HashMap<Cid, usize>,
    /// Directories that it has listed before they were expanded.
    passed: LruCache<Cid, ()>,
}

/// The way to a directory in numbers of children: their order is the walker's.
type Place = Vec<u32>;

impl Walks {
    /// Returns no walkers; ahead of each `blocks_max` blocks are fetched.
    pub(super) fn new(dag: &Dag, blocks_max: usize) -> Self {
        Self {
            dag: dag.ahead(),
            blocks_max,
            listed: Mutex::new(LruCache::new(LISTED_MAX)),
            running: Mutex::default(),
        }
    }

    /// Notes that somebody begins to list a directory; returns where its walk began if it is a walker.
    pub(super) fn listed(&self, ino: u64, parent: u64, cid: &Cid) -> Option<u64> {
        for walk in &*self.running.lock() {
            walk.listed(cid);
        }
        let mut listed = self.listed.lock();
        let now = Instant::now();
        let is_new = |step: &Step| now - step.at < WALKER_TIME;
        let steps = match listed.get_mut(&parent) {
            Some(step) if ino != parent && is_new(step) => {
                step.at = now;
                step.steps += 1;
                step.steps
            }
            _ => 0,
        };
        listed.put(ino, Step { parent, at: now, steps });
        let above = |ino: &u64| {
            let parent = listed.peek(ino)?.parent;
            listed.peek(&parent).filter(|step| parent != *ino && is_new(step)).map(|_| parent)
        };
        // Parents form no circles, but who remembers them may have been told so.
        let way = std::iter::successors(Some(ino), above).take(LISTED_MAX.get());
        way.last().filter(|_| steps >= STEPS_MIN)
    }

    /// Walks ahead through the tree below `top`, unless that is done already.
    pub(super) fn start(self: &Arc<Self>, top: Cid) {
        let mut running = self.running.lock();
        let is_walked = running.iter().any(|walk| walk.has(&top));
        if is_walked || running.len() >= WALKS_MAX || self.blocks_max == 0 {
            return;
        }
        let walk = Arc::new(Walk::new(self.blocks_max));
        walk.listed(&top);
        running.push(Arc::clone(&walk));
        let all = Arc::clone(self);
        tokio::spawn(async move {
            walk.run(&all.dag, top).await;
            all.running.lock().retain(|other| !Arc::ptr_eq(other, &walk));
        });
    }
}

impl Walk {
    fn new(credit: usize) -> Self {
        let state = State { credit, ahead: HashMap::new(), passed: LruCache::new(LISTED_MAX) };
        Self { state: Mutex::new(state), paid_back: Notify::new() }
    }

    fn has(&self, cid: &Cid) -> bool {
        let state = self.state.lock();
        state.ahead.contains_key(cid) || state.passed.contains(cid)
    }

    fn listed(&self, cid: &Cid) {
        let mut state = self.state.lock();
        state.passed.put(*cid, ());
        if let Some(paid) = state.ahead.remove(cid) {
            state.credit += paid;
            self.paid_back.notify_one();
        }
    }

    fn pay(&self, cid: Cid, blocks: usize) {
        let mut state = self.state.lock();
        if !state.passed.contains(&cid) && !state.ahead.contains_key(&cid) {
            state.credit = state.credit.saturating_sub(blocks);
            state.ahead.insert(cid, blocks);
        }
    }

    async fn run(&self, dag: &Dag, top: Cid) {
        let mut pending = BTreeMap::from([(Place::new(), top)]);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < EXPANSIONS_MAX {
                let credit = self.state.lock().credit;
                if credit == 0 {
                    break;
                }
                let Some((place, dir)) = pending.pop_first() else { break };
                running.push(async move { (place, dir, expand(dag, &dir, credit).await) });
            }
            if running.is_empty() && pending.is_empty() {
                return;
            }
            tokio::select! {
                Some((place, dir, expanded)) = running.next() => {
                    self.pay(dir, expanded.blocks);
                    pending.extend((0..).zip(expanded.dirs).map(|(number, dir)| {
                        ([&place[..], &[number]].concat(), dir)
                    }));
                    while pending.len() > PENDING_MAX {
                        pending.pop_last();
                    }
                }
                () = self.paid_back.notified() => {}
                () = tokio::time::sleep(WALKER_TIME) => return,
            }
        }
    }
}

/// What is directly below a directory.
#[derive(Debug)]
struct Expanded {
    dirs: Vec<Cid>,
    /// Blocks that had to be fetched, and one for the directory.
    blocks: usize,
}

/// Fetches the root blocks of children, about `blocks_max` at most. Whoever asks for one of them later
/// gets its error then.
async fn expand(dag: &Dag, dir: &Cid, blocks_max: usize) -> Expanded {
    let mut expanded = Expanded { dirs: Vec::new(), blocks: 1 };
    let mut from = Cookie::START;
    while expanded.blocks <= blocks_max {
        let mut list = std::pin::pin!(unixfs::list(dag, dir, from, NAMES));
        let names = if let Some(here) = list.as_mut().now_or_never() {
            here
        } else {
            expanded.blocks += PIECE_BLOCKS;
            list.await
        };
        let Ok(names) = names else { break };
        let Some((last, _)) = names.last() else { break };
        from = *last;
        let roots: Vec<Cid> = names
            .into_iter()
            .map(|(_, entry)| entry.cid)
            .filter(|cid| cid.codec() == codecs::DAG_PB)
            .collect();
        let mut is_here = Vec::with_capacity(roots.len());
        for cid in &roots {
            is_here.push(dag.offline().block_len(cid).await.is_ok());
        }
        expanded.blocks += is_here.iter().filter(|is_here| !**is_here).count();
        let mut nodes = std::pin::pin!(dag.nodes(roots));
        while let Some((cid, node)) = nodes.next().await {
            if let Ok(node) = node
                && matches!(*node, Node::Directory(_) | Node::Shard(_))
            {
                expanded.dirs.push(cid);
            }
        }
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::unixfs::Kind;
    use crate::dag::DagLimits;
    use crate::testkit::dag_builder::DagBuilder;
    use crate::testkit::exchange::TestExchange;
    use crate::testkit::store::TestStore;

    /// Directories of directories, each with a file of two blocks; nothing is here.
    struct Tree {
        exchange: TestExchange,
        dag: Dag,
        top: Cid,
        /// The directories below the top.
        dirs: Vec<Cid>,
    }

    fn tree(width: usize) -> Tree {
        let mut builder = DagBuilder::new();
        let mut dirs = Vec::new();
        for number in 0..width {
            let leaf = builder.raw(format!("leaf {number}"));
            let file = builder.file_node(Kind::File, b"", &[(leaf, 6)]);
            let below = builder.directory(&[("file", file)]);
            dirs.push(builder.directory(&[(format!("below-{number}"), below)]));
        }
        let names: Vec<String> = (0..width).map(|number| format!("dir-{number:05}")).collect();
        let entries: Vec<_> = names.iter().map(String::as_str).zip(dirs.iter().copied()).collect();
        let top = builder.directory(&entries);
        let exchange = TestExchange::new(builder.blocks);
        let store = Arc::new(TestStore::new([]));
        let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
        Tree { exchange, dag, top, dirs }
    }

    #[tokio::test]
    async fn listing_below_what_was_just_listed_makes_a_walker() {
        let tree = tree(1);
        let walks = Walks::new(&tree.dag, 100);
        let listed = |ino, parent| walks.listed(ino, parent, &tree.top);
        assert_eq!(listed(1, 1), None);
        assert_eq!(listed(10, 1), None, "one step may be anybody's");
        assert_eq!(listed(11, 1), Some(1), "the second child of one directory");
        assert_eq!(listed(100, 11), Some(1), "a child's child");
        assert_eq!(listed(200, 20), None, "nobody listed its parent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_stops_where_the_budget_ends_and_goes_on_when_it_is_paid_back() {
        const BUDGET: usize = 60;
        let tree = tree(200);
        let walks = Arc::new(Walks::new(&tree.dag, BUDGET));
        let settled = async || {
            tokio::time::sleep(WALKER_TIME / 4).await;
            tree.exchange.counts().started
        };
        // The children of the top itself come whole, and are paid by its walker already.
        walks.start(tree.top);
        let first = settled().await;
        let some = 201 + BUDGET as u64 / 2..201 + 2 * BUDGET as u64;
        assert!(some.contains(&first), "{first}");
        assert_eq!(settled().await, first);
        for dir in &tree.dirs {
            walks.listed(1, 1, dir);
            settled().await;
        }
        assert!(tree.exchange.counts().started >= 400, "{:?}", tree.exchange.counts());
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_ends_when_its_walker_is_gone() {
        let tree = tree(200);
        let walks = Arc::new(Walks::new(&tree.dag, 10));
        walks.start(tree.top);
        walks.start(tree.top);
        tokio::time::sleep(WALKER_TIME / 2).await;
        assert!(!walks.running.lock().is_empty());
        tokio::time::sleep(WALKER_TIME).await;
        assert!(walks.running.lock().is_empty());
        let off = Arc::new(Walks::new(&tree.dag, 0));
        off.start(tree.top);
        assert!(off.running.lock().is_empty());
    }
}
