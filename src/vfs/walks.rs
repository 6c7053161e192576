//! Walking ahead of those who go through a whole tree: what `find`, `du` or `tar` will list next is
//! fetched before they ask.
//!
//! Who lists directory after directory below one that was listed just before is taken for a walker
//! as soon as something is missing. From then on the directories in front of it are expanded, many at
//! a time and in its order, depth first: the blocks of all children that may be directories or files
//! of more than one block are fetched. Each piece of a directory is paid from a budget before it is
//! fetched, and paid back when the walker has listed it, so nobody brings in more than that beyond
//! what was listed. A directory that the tree holds many times is expanded once.
//!
//! A walker that waits for the bytes of a few files is taken for a reader, as `tar` is one: from then on the
//! short files of one block are fetched with the directories that they are in, out of the same budget.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::block::{Cid, codecs};
use crate::codec::node::Node;
use crate::dag::{BATCH_AHEAD, Dag};
use crate::unixfs::{self, Cookie};

/// Blocks that are fetched ahead of one walker unless the mount says otherwise.
pub const WALKAHEAD_BLOCKS: usize = 1024;
/// Walkers that are walked ahead of at one time; others fetch as they go.
const WALKS_MAX: usize = 8;
/// Directories that are remembered as listed.
const LISTED_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Directories that one walk remembers as listed or expanded.
const MET_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Listings below listed directories that make a walker.
const STEPS_MIN: u32 = 2;
/// How long a listing counts as just before, and a walk goes on for a walker that is not seen.
const WALKER_TIME: Duration = Duration::from_secs(10);
/// Pieces of directories that are expanded at one time.
const EXPANSIONS_MAX: usize = 32;
/// Directories that wait for it; the farthest are left out, and found again by who gets there.
const PENDING_MAX: usize = 4096;
/// Levels below the beginning of a walk; deeper directories are left out too.
const DEPTH_MAX: usize = 64;
/// Files whose bytes a walker waits for before it is taken for a reader, …
const READS_MIN: u32 = 2;
/// … and those in one directory of somebody who walks nowhere.
const READS_ALONE_MIN: u32 = 4;
/// Longest file, as its link claims, that is fetched ahead of a reader.
const SHORT_FILE_LEN: u64 = 256 * 1024;
/// Threads of which it is remembered what they listed last.
const LISTERS_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Names that are looked at for one piece.
const NAMES: usize = 1024;
/// Blocks that are fetched for one piece, …
const PIECE_BLOCKS: usize = BATCH_AHEAD;
/// … and for one with files.
const PIECE_BLOCKS_WITH_FILES: usize = 128;

/// The walkers of a mount.
#[derive(Debug)]
pub(super) struct Walks {
    blocks_max: usize,
    listed: Mutex<LruCache<u64, Step>>,
    /// The directory that each thread listed last.
    listers: Mutex<LruCache<u32, u64>>,
    running: Mutex<Vec<Running>>,
}

/// A directory that was listed.
#[derive(Debug)]
struct Step {
    parent: u64,
    at: Instant,
    /// Listings that led here, and those of its children.
    steps: u32,
    to: Cookie,
    /// Files whose bytes were waited for by who listed it.
    reads: u32,
}

/// A walk and its task, which ends with the mount at the latest.
#[derive(Debug)]
struct Running {
    walk: Arc<Walk>,
    task: AbortOnDropHandle<()>,
}

/// One walk.
#[derive(Debug)]
struct Walk {
    /// The inode below which it goes.
    top: u64,
    state: Mutex<State>,
    paid_back: Notify,
    /// Told when the walker turns out to be a reader.
    begun_to_read: Notify,
}

#[derive(Debug)]
struct State {
    /// Blocks that may still be fetched.
    credit: usize,
    /// What was paid for pieces that the walker has not listed, by directory and end; at least one
    /// block each.
    ahead: BTreeMap<(Cid, Cookie), usize>,
    met: LruCache<Cid, Met>,
    /// When the walker last listed something, or waited for a file.
    seen: Instant,
    /// Files whose bytes it waited for.
    reads: u32,
}

/// What was done with a directory.
#[derive(Debug, Default)]
struct Met {
    is_expanded: bool,
    listed_to: Option<Cookie>,
}

/// The way to a directory in places of the listings above it: their order is the walker's.
type Place = Vec<Cookie>;

/// What is still to be expanded of a directory.
#[derive(Debug)]
struct Rest {
    dir: Cid,
    from: Cookie,
}

impl Walks {
    /// Returns no walkers; ahead of each `blocks_max` blocks are fetched.
    pub(super) fn new(blocks_max: usize) -> Self {
        Self {
            blocks_max,
            listed: Mutex::new(LruCache::new(LISTED_MAX)),
            listers: Mutex::new(LruCache::new(LISTERS_MAX)),
            running: Mutex::default(),
        }
    }

    /// Notes that somebody begins to list a directory; returns where its walk began if it is a walker
    /// that nobody walks ahead of.
    pub(super) fn begun(&self, ino: u64, parent: u64) -> Option<u64> {
        let mut listed = self.listed.lock();
        let now = Instant::now();
        let steps = match listed.get_mut(&parent) {
            Some(step) if ino != parent && step.is_new(now) => {
                step.at = now;
                step.steps += 1;
                step.steps
            }
            _ => 0,
        };
        listed.put(ino, Step { parent, at: now, steps, to: Cookie::START, reads: 0 });
        let way = way(&mut listed, ino);
        let top = topmost(&listed, &way, now).filter(|_| steps >= STEPS_MIN);
        drop(listed);
        let running = self.running.lock();
        top.filter(|_| !running.iter().any(|running| running.is_on(&way)))
    }

    /// Notes that a directory was listed up to a place.
    pub(super) fn listed(&self, ino: u64, dir: &Cid, to: Cookie) {
        let mut listed = self.listed.lock();
        if let Some(step) = listed.get_mut(&ino) {
            step.to = step.to.max(to);
        }
        let way = way(&mut listed, ino);
        drop(listed);
        for running in self.running.lock().iter().filter(|running| running.is_on(&way)) {
            running.walk.listed(dir, to);
        }
    }

    /// Notes which directory a thread lists.
    pub(super) fn listed_by(&self, tid: u32, ino: u64) {
        self.listers.lock().put(tid, ino);
    }

    /// Notes that a thread waits for the bytes of a file, and takes it for one in the directory that it listed
    /// last; returns where to begin if files are to be fetched ahead of it and nobody does.
    pub(super) fn waits_for_bytes(&self, tid: u32) -> Option<u64> {
        let dir = *self.listers.lock().get(&tid)?;
        let mut listed = self.listed.lock();
        let step = listed.get_mut(&dir)?;
        let now = Instant::now();
        (step.at, step.reads) = (now, step.reads + 1);
        let (is_reader, is_walker) = (step.reads >= READS_ALONE_MIN, step.steps >= STEPS_MIN);
        let way = way(&mut listed, dir);
        let top = topmost(&listed, &way, now).filter(|_| is_walker).unwrap_or(dir);
        drop(listed);
        let running = self.running.lock();
        let walks: Vec<_> = running.iter().filter(|running| running.is_on(&way)).collect();
        for running in &walks {
            running.walk.waits_for_bytes();
        }
        (is_reader && walks.is_empty()).then_some(top)
    }

    /// Walks ahead of a reader through the tree below a directory, as [`Walks::start`] does.
    pub(super) fn start_reading(&self, dag: &Dag, ino: u64, top: Cid) {
        self.start_at(dag, ino, top, READS_MIN);
    }

    /// Walks ahead through the tree below the directory `top`, whose inode number is `ino`, unless that
    /// is done already.
    pub(super) fn start(&self, dag: &Dag, ino: u64, top: Cid) {
        self.start_at(dag, ino, top, 0);
    }

    fn start_at(&self, dag: &Dag, ino: u64, top: Cid, reads: u32) {
        let mut running = self.running.lock();
        running.retain(|running| !running.task.is_finished());
        let is_walked = running.iter().any(|running| running.walk.top == ino);
        if is_walked || running.len() >= WALKS_MAX || self.blocks_max == 0 {
            return;
        }
        let walk = Arc::new(Walk::new(ino, self.blocks_max, reads));
        if let Some(step) = self.listed.lock().peek(&ino) {
            walk.listed(&top, step.to);
        }
        let (this, dag) = (Arc::clone(&walk), dag.ahead());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = this.walker_is_gone() => {}
                () = this.run(&dag, top) => {}
            }
        });
        running.push(Running { walk, task: AbortOnDropHandle::new(task) });
    }
}

impl Step {
    fn is_new(&self, now: Instant) -> bool {
        now - self.at < WALKER_TIME
    }
}

/// Returns the topmost directory of a way that was listed just before, with all those below it on the way.
fn topmost(listed: &LruCache<u64, Step>, way: &[u64], now: Instant) -> Option<u64> {
    let is_new = |ino: &&u64| listed.peek(*ino).is_some_and(|step| step.is_new(now));
    way.iter().take_while(is_new).last().copied()
}

/// Returns a directory and those above it that are remembered as listed, the topmost last.
fn way(listed: &mut LruCache<u64, Step>, ino: u64) -> Vec<u64> {
    let mut above = |ino: &u64| {
        let parent = listed.get(ino)?.parent;
        (parent != *ino && listed.contains(&parent)).then_some(parent)
    };
    // Parents form no circles, but who remembers them may have been told so.
    std::iter::successors(Some(ino), |ino| above(ino)).take(LISTED_MAX.get()).collect()
}

impl Running {
    fn is_on(&self, way: &[u64]) -> bool {
        !self.task.is_finished() && way.contains(&self.walk.top)
    }
}

impl Walk {
    fn new(top: u64, credit: usize, reads: u32) -> Self {
        let met = LruCache::new(MET_MAX);
        let state = State { credit, ahead: BTreeMap::new(), met, seen: Instant::now(), reads };
        let (paid_back, begun_to_read) = (Notify::new(), Notify::new());
        Self { top, state: Mutex::new(state), paid_back, begun_to_read }
    }

    fn waits_for_bytes(&self) {
        let mut state = self.state.lock();
        (state.seen, state.reads) = (Instant::now(), state.reads.saturating_add(1));
        if state.reads == READS_MIN {
            // What was expanded until now lacks the files.
            for (_, met) in &mut state.met {
                met.is_expanded = false;
            }
            self.begun_to_read.notify_one();
        }
    }

    fn is_for_reader(&self) -> bool {
        self.state.lock().reads >= READS_MIN
    }

    fn listed(&self, dir: &Cid, to: Cookie) {
        let mut state = self.state.lock();
        state.seen = Instant::now();
        let met = state.met.get_or_insert_mut(*dir, Met::default);
        met.listed_to = met.listed_to.max(Some(to));
        let pieces = (*dir, Cookie::START)..=(*dir, to);
        let paid: usize = state.ahead.extract_if(pieces, |_, _| true).map(|(_, paid)| paid).sum();
        state.credit += paid;
        if paid > 0 {
            self.paid_back.notify_one();
        }
    }

    /// Tells whether a directory was not expanded before, which it is from now on.
    fn expands(&self, dir: &Cid) -> bool {
        let mut state = self.state.lock();
        let met = state.met.get_or_insert_mut(*dir, Met::default);
        !std::mem::replace(&mut met.is_expanded, true)
    }

    /// Pays for a piece before it is fetched; returns its blocks, or `None` when there is no credit.
    fn pay(&self) -> Option<usize> {
        let mut state = self.state.lock();
        let is_for_reader = state.reads >= READS_MIN;
        let most = if is_for_reader { PIECE_BLOCKS_WITH_FILES } else { PIECE_BLOCKS };
        let paid = state.credit.min(most);
        state.credit -= paid;
        (paid > 0).then_some(paid)
    }

    /// Gives back what a piece did not take, or all of it if it was listed meanwhile.
    fn settle(&self, paid: usize, dir: Cid, piece: &Piece) {
        let mut state = self.state.lock();
        let is_listed = state.met.peek(&dir).is_some_and(|met| met.listed_to >= Some(piece.to));
        let kept = if is_listed { 0 } else { piece.blocks };
        let before = (kept > 0).then(|| state.ahead.insert((dir, piece.to), kept)).flatten();
        state.credit += paid - kept + before.unwrap_or(0);
    }

    async fn walker_is_gone(&self) {
        loop {
            let until = self.state.lock().seen + WALKER_TIME;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    async fn run(&self, dag: &Dag, top: Cid) {
        self.expands(&top);
        let mut pending = BTreeMap::from([(Place::new(), Rest { dir: top, from: Cookie::START })]);
        let mut running = FuturesUnordered::new();
        while !(pending.is_empty() && running.is_empty()) {
            while running.len() < EXPANSIONS_MAX
                && !pending.is_empty()
                && let Some(paid) = self.pay()
                && let Some((place, rest)) = pending.pop_first()
            {
                running.push(async move {
                    let piece = expand(dag, &rest, paid, self.is_for_reader()).await;
                    self.settle(paid, rest.dir, &piece);
                    (place, rest.dir, piece)
                });
            }
            tokio::select! {
                Some((place, dir, piece)) = running.next() => {
                    let below = |(at, dir)| {
                        ([&place[..], &[at]].concat(), Rest { dir, from: Cookie::START })
                    };
                    let dirs = piece.dirs.into_iter().filter(|_| place.len() < DEPTH_MAX);
                    pending.extend(dirs.filter(|(_, dir)| self.expands(dir)).map(below));
                    if !piece.is_last {
                        pending.insert(place, Rest { dir, from: piece.to });
                    }
                    while pending.len() > PENDING_MAX {
                        pending.pop_last();
                    }
                }
                () = self.paid_back.notified() => {}
                () = self.begun_to_read.notified() => {
                    self.expands(&top);
                    let rest = Rest { dir: top, from: Cookie::START };
                    pending = BTreeMap::from([(Place::new(), rest)]);
                }
            }
            consume_budget().await;
        }
    }
}

/// A piece of a directory.
#[derive(Debug)]
struct Piece {
    /// The directories that its names lead to, by place.
    dirs: Vec<(Cookie, Cid)>,
    /// Where it ends.
    to: Cookie,
    is_last: bool,
    /// Blocks that it took, at least one.
    blocks: usize,
}

/// Fetches the root blocks of the next children, `blocks_max` at most, short files of one block only
/// `with_files`. Whoever asks for one of them later gets its error then.
async fn expand(dag: &Dag, rest: &Rest, blocks_max: usize, with_files: bool) -> Piece {
    let mut list = std::pin::pin!(unixfs::list(dag, &rest.dir, rest.from, NAMES));
    let (names, is_here) = match list.as_mut().now_or_never() {
        Some(here) => (here, true),
        None => (list.await, false),
    };
    let names = names.unwrap_or_default();
    let (mut to, mut is_last) = (rest.from, names.len() < NAMES);
    let (mut places, mut roots, mut files, mut missing) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (at, entry) in names {
        let is_node = entry.cid.codec() == codecs::DAG_PB;
        let is_file = entry.cid.codec() == codecs::RAW
            && with_files
            && entry.tsize.is_some_and(|claimed| claimed <= SHORT_FILE_LEN);
        if is_node || is_file {
            let is_missing = dag.offline().block_len(&entry.cid).await.is_err();
            missing += usize::from(is_missing);
            if missing > blocks_max {
                (is_last, missing) = (false, blocks_max);
                break;
            }
            if is_node {
                places.push(at);
                roots.push(entry.cid);
            } else if is_missing {
                files.push(entry.cid);
            }
        }
        to = at;
    }
    let dirs = async {
        let mut dirs = Vec::new();
        let mut nodes = std::pin::pin!(dag.nodes(roots).zip(futures::stream::iter(places)));
        while let Some(((cid, node), at)) = nodes.next().await {
            if node.is_ok_and(|node| matches!(*node, Node::Directory(_) | Node::Shard(_))) {
                dirs.push((at, cid));
            }
            consume_budget().await;
        }
        dirs
    };
    let fetch = |cid| async move { dag.block(&cid).await.map(drop) };
    let files = futures::stream::iter(files).map(fetch).buffer_unordered(PIECE_BLOCKS_WITH_FILES);
    let (dirs, _) = join(dirs, files.count()).await;
    // Shards are not counted; a piece that waited for some is taken for a whole one.
    let blocks = if is_here { missing.max(1) } else { blocks_max };
    Piece { dirs, to, is_last, blocks }
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
        /// The directories below the top, in the order of a walker.
        dirs: Vec<Cid>,
    }

    fn tree(width: usize) -> Tree {
        let mut builder = DagBuilder::new();
        let (mut dirs, mut entries) = (Vec::new(), Vec::new());
        for number in 0..width {
            let leaf = builder.raw(format!("leaf {number}"));
            let file = builder.file_node(Kind::File, b"", &[(leaf, 6)]);
            let below = builder.directory(&[("file", file)]);
            let dir = builder.directory(&[(format!("below-{number}"), below)]);
            entries.push((format!("dir-{number:05}"), dir));
            dirs.extend([dir, below]);
        }
        let top = builder.directory(&entries);
        let exchange = TestExchange::new(builder.blocks);
        let store = Arc::new(TestStore::new([]));
        let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
        Tree { exchange, dag, top, dirs }
    }

    /// Names of a directory that was listed whole.
    fn whole() -> Cookie {
        Cookie::from(u64::MAX)
    }

    fn is_running(walks: &Walks) -> bool {
        walks.running.lock().iter().any(|running| !running.task.is_finished())
    }

    #[tokio::test]
    async fn listing_below_what_was_just_listed_makes_a_walker() {
        let tree = tree(1);
        let walks = Walks::new(100);
        assert_eq!(walks.begun(1, 1), None);
        assert_eq!(walks.begun(10, 1), None, "one step may be anybody's");
        assert_eq!(walks.begun(11, 1), Some(1), "the second child of one directory");
        assert_eq!(walks.begun(100, 11), Some(1), "a child's child");
        assert_eq!(walks.begun(200, 20), None, "nobody listed its parent");
        walks.start(&tree.dag, 1, tree.top);
        assert_eq!(walks.begun(101, 11), None, "somebody walks ahead of it");
        assert_eq!(walks.begun(201, 200), None);
        assert_eq!(walks.begun(202, 200), Some(200), "another walker");
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_stops_where_the_budget_ends_and_goes_on_when_it_is_paid_back() {
        const BUDGET: usize = 60;
        let tree = tree(200);
        let walks = Walks::new(BUDGET);
        let settled = async || {
            tokio::time::sleep(WALKER_TIME / 4).await;
            usize::try_from(tree.exchange.counts().started).unwrap()
        };
        // The children of the top itself come whole, and are paid by its walker already.
        walks.begun(1, 1);
        walks.listed(1, &tree.top, whole());
        walks.start(&tree.dag, 1, tree.top);
        let first = settled().await;
        assert!((201 + BUDGET / 2..=201 + BUDGET).contains(&first), "{first}");
        assert_eq!(settled().await, first);
        for (ino, dir) in (2..).zip(&tree.dirs) {
            walks.begun(ino, 1);
            walks.listed(ino, dir, whole());
            settled().await;
        }
        assert_eq!(tree.exchange.counts().started, 1 + 3 * 200, "all but the leaves");
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_one_for_all_directories_however_wide() {
        const BUDGET: usize = 100;
        let mut builder = DagBuilder::new();
        let mut dirs = Vec::new();
        for dir in 0..40 {
            let leaf = builder.raw("leaf");
            let mut file = |number| {
                let own = format!("{dir} {number}");
                (
                    format!("{number:04}"),
                    builder.file_node(Kind::File, own.as_bytes(), &[(leaf, 4)]),
                )
            };
            let files: Vec<_> = (0..200).map(&mut file).collect();
            dirs.push((format!("{dir:04}"), builder.directory(&files)));
        }
        let top = builder.directory(&dirs);
        let exchange = TestExchange::new(builder.blocks);
        exchange.set_delay(Duration::from_millis(20));
        let store = Arc::new(TestStore::new([]));
        let dag = Dag::new(store, Arc::new(exchange.clone()), DagLimits::default());
        let walks = Walks::new(BUDGET);
        walks.start(&dag, 1, top);
        tokio::time::sleep(WALKER_TIME / 2).await;
        assert_eq!(exchange.counts().started, 1 + BUDGET as u64, "and the top");
        walks.begun(1, 1);
        walks.listed(1, &top, whole());
        tokio::time::sleep(WALKER_TIME / 2).await;
        assert_eq!(exchange.counts().started, 1 + 40 + BUDGET as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_the_tree_holds_many_times_is_expanded_once() {
        let mut builder = DagBuilder::new();
        let mut dir = builder.directory::<&str>(&[]);
        for _ in 0..40 {
            dir = builder.directory(&[("a", dir), ("b", dir)]);
        }
        let store = Arc::new(TestStore::new(builder.blocks));
        let dag = Dag::new(store, Arc::new(TestExchange::default()), DagLimits::default());
        let walks = Walks::new(WALKAHEAD_BLOCKS);
        walks.start(&dag, 1, dir);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!is_running(&walks));
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_ends_when_its_walker_or_its_mount_is_gone() {
        let tree = tree(200);
        let walks = Walks::new(10);
        walks.begun(1, 1);
        walks.start(&tree.dag, 1, tree.top);
        walks.start(&tree.dag, 1, tree.top);
        assert_eq!(walks.running.lock().len(), 1);
        let walk = Arc::downgrade(&walks.running.lock()[0].walk);
        for _ in 0..4 {
            tokio::time::sleep(WALKER_TIME / 2).await;
            assert!(is_running(&walks));
            walks.listed(1, &tree.top, Cookie::START);
            // Others do not keep it alive.
            walks.begun(7, 7);
        }
        tokio::time::sleep(WALKER_TIME / 2).await;
        walks.listed(7, &tree.dirs[0], whole());
        tokio::time::sleep(WALKER_TIME).await;
        assert!(!is_running(&walks));
        walks.start(&tree.dag, 1, tree.top);
        assert!(is_running(&walks) && walks.running.lock().len() == 1);
        assert!(walk.upgrade().is_none());
        let walk = Arc::downgrade(&walks.running.lock()[0].walk);
        drop(walks);
        tokio::task::yield_now().await;
        assert!(walk.upgrade().is_none(), "it ends with the mount");
        let off = Walks::new(0);
        off.start(&tree.dag, 1, tree.top);
        assert!(!is_running(&off));
    }
}
