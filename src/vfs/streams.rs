//! Read-ahead: what those who read a file in order will want next is fetched before they ask.
//!
//! A stream is one reader's way through a file, told from others by where it reads. It has a window,
//! the bytes that are fetched in front of it, which begins when a second read goes on where the first
//! ended (or at the beginning of the file), doubles each time the reader catches up with it, and
//! halves when memory is short. It never holds more than the network brings in [`HORIZON`], so that
//! on a slow link others do not wait behind it. Files of which everything is here have no streams.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::block::Cid;
use crate::dag::{Dag, UNSTORED_BYTES};
use crate::unixfs::{self, FetchBudget, FetchTally};

/// Readers of one file that are told apart.
const STREAMS_MAX: usize = 4;
/// Files with streams; each is a few hundred bytes.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How far from its place a read still belongs to a stream: the kernel's own read-ahead asks for two times a
/// mebibyte, in pieces and in any order.
const DISORDER: u64 = 2 * 1024 * 1024;
/// First window: what the kernel's own read-ahead asks for, and as much again.
const WINDOW_START: u64 = 2 * 1024 * 1024;
/// What waste and want of memory leave of a window.
const WINDOW_MIN: u64 = 256 * 1024;
/// A window may become this large however slow its blocks come: the first ones tell little.
const WINDOW_FREE: u64 = 4 * 1024 * 1024;
/// Largest window of blocks that the store has no room for: a quarter of the memory that keeps them.
const WINDOW_UNKEPT: u64 = UNSTORED_BYTES as u64 / 4;
/// Largest window: four times what is under way on 1 Gbit/s × 100 ms.
const WINDOW_MAX: u64 = 64 * 1024 * 1024;
/// This part of a window is used up before it is filled again: the rest is what keeps a link busy.
const REFILL_SHARE: u64 = 4;
/// A window holds no more than comes in this time.
const HORIZON: Duration = Duration::from_secs(1);
/// Rates are measured over at least this time.
const MEASURE_TIME: Duration = Duration::from_millis(100);

/// The streams of all files of a mount, or of whoever else reads files, told apart by numbers.
#[derive(Debug)]
pub struct Streams {
    budget: Arc<FetchBudget>,
    files: Mutex<LruCache<u64, FileStreams>>,
    /// Files with streams, for those who have none to pass by without the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct FileStreams {
    dag: Dag,
    cid: Cid,
    /// The least recently read first.
    streams: Vec<Stream>,
    window_start: u64,
}

#[derive(Debug)]
struct Stream {
    pace: Pace,
    tally: Arc<FetchTally>,
    /// They end with the stream.
    fetches: Vec<AbortOnDropHandle<()>>,
}

/// Where a reader is, and how far in front of it is fetched.
#[derive(Debug)]
struct Pace {
    /// End of what was read.
    next: u64,
    /// End of what was fetched or is on its way.
    ahead_to: u64,
    window: u64,
    /// The window has proved too small when the reader waits at or after this place.
    grow_from: u64,
    rate: Option<u64>,
    measured: Instant,
}

impl Streams {
    /// Returns none; what they fetch counts in `budget`.
    pub fn new(budget: Arc<FetchBudget>) -> Self {
        let files = Mutex::new(LruCache::new(FILES_MAX));
        Self { budget, files, count: AtomicUsize::new(0) }
    }

    /// Notes a read and fetches on in front of it, if it belongs to a stream.
    pub fn read(&self, ino: u64, range: &Range<u64>) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut files = self.files.lock();
        let Some(file) = files.get_mut(&ino) else { return };
        if let Some(at) = file.find(range) {
            file.streams[at].pace.read(range);
            file.go_on(at, self);
        }
    }

    /// Notes that a read has to wait. Runs in a runtime.
    pub fn stalled(&self, ino: u64, dag: &Dag, cid: &Cid, range: &Range<u64>) {
        let mut files = self.files.lock();
        let file = files.get_or_insert_mut(ino, || FileStreams::new(dag, *cid));
        let at = file.find(range).unwrap_or_else(|| file.begin(range));
        let stream = &mut file.streams[at];
        stream.pace.stalled(range, file.window_start, &stream.tally, Instant::now());
        file.go_on(at, self);
        self.count.store(files.len(), Ordering::Relaxed);
    }

    /// Ends the streams of a file that nobody has open any more; what they wasted is remembered.
    pub(super) fn close(&self, ino: u64) {
        if let Some(file) = self.files.lock().peek_mut(&ino) {
            while !file.streams.is_empty() {
                file.end_oldest();
            }
        }
    }

    /// Forgets a file.
    pub(super) fn forget(&self, ino: u64) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut files = self.files.lock();
            files.pop(&ino);
            self.count.store(files.len(), Ordering::Relaxed);
        }
    }
}

impl FileStreams {
    fn new(dag: &Dag, cid: Cid) -> Self {
        Self { dag: dag.ahead(), cid, streams: Vec::new(), window_start: WINDOW_START }
    }

    /// Returns the stream that a read belongs to, which is the most recent one now.
    fn find(&mut self, range: &Range<u64>) -> Option<usize> {
        let at = self.streams.iter().rposition(|stream| stream.pace.is_at(range.start))?;
        self.streams[at..].rotate_left(1);
        Some(self.streams.len() - 1)
    }

    fn begin(&mut self, range: &Range<u64>) -> usize {
        if self.streams.len() == STREAMS_MAX {
            self.end_oldest();
        }
        let stream = Stream { pace: Pace::new(range), tally: Arc::default(), fetches: Vec::new() };
        self.streams.push(stream);
        self.streams.len() - 1
    }

    /// Who left most of a window unread teaches the next one to begin with less.
    fn end_oldest(&mut self) {
        let ended = self.streams.remove(0).pace;
        if ended.window == 0 {
            return;
        }
        self.window_start = if ended.unread() > ended.window / 2 {
            (self.window_start / 2).max(WINDOW_MIN)
        } else {
            WINDOW_START
        };
    }

    fn go_on(&mut self, at: usize, all: &Streams) {
        let stream = &mut self.streams[at];
        let Some(range) = stream.pace.wants(all.budget.free()) else { return };
        let (dag, budget, tally) =
            (self.dag.clone(), Arc::clone(&all.budget), Arc::clone(&stream.tally));
        let cid = self.cid;
        let fetch = tokio::spawn(async move {
            unixfs::fetch_range(&dag, &cid, range, &budget, &tally).await;
        });
        stream.fetches.retain(|fetch| !fetch.is_finished());
        stream.fetches.push(AbortOnDropHandle::new(fetch));
    }
}

impl Pace {
    /// Begins behind a first read: nothing is fetched until a second one goes on from there.
    fn new(range: &Range<u64>) -> Self {
        Self {
            next: range.end,
            ahead_to: range.end,
            window: 0,
            grow_from: range.end,
            rate: None,
            measured: Instant::now(),
        }
    }

    fn is_at(&self, start: u64) -> bool {
        start.abs_diff(self.next) <= DISORDER
    }

    fn unread(&self) -> u64 {
        self.ahead_to.saturating_sub(self.next)
    }

    fn read(&mut self, range: &Range<u64>) {
        self.next = self.next.max(range.end);
    }

    /// The first read of a file is taken for the beginning of a stream; elsewhere the second is.
    fn stalled(&mut self, range: &Range<u64>, start: u64, tally: &FetchTally, now: Instant) {
        if self.window == 0 {
            if range.start == 0 || range.start >= self.grow_from {
                self.window = start;
            }
        } else if range.start >= self.grow_from {
            self.measure(tally, now);
            let largest =
                if tally.is_unkept() { self.window.min(WINDOW_UNKEPT) } else { self.largest() };
            self.window = (self.window * 2).min(largest);
            self.grow_from = self.ahead_to;
        }
    }

    fn measure(&mut self, tally: &FetchTally, now: Instant) {
        let time = now - self.measured;
        if time >= MEASURE_TIME {
            let bytes = u128::from(tally.take_bytes());
            self.rate = u64::try_from(bytes * HORIZON.as_millis() / time.as_millis()).ok();
            self.measured = now;
        }
    }

    fn largest(&self) -> u64 {
        let free = WINDOW_FREE.max(self.window);
        self.rate.map_or(WINDOW_MAX, |rate| rate.clamp(free, WINDOW_MAX.max(free)))
    }

    /// Returns what is to be fetched now: nothing before its share of the window is used up.
    fn wants(&mut self, free: u64) -> Option<Range<u64>> {
        let from = self.ahead_to.max(self.next);
        let mut to = self.next.saturating_add(self.window);
        if self.window == 0 || from + self.window / REFILL_SHARE > to {
            return None;
        }
        if free < to - from {
            self.window = (self.window / 2).max(WINDOW_MIN);
            to = from + free;
        }
        self.ahead_to = to;
        (from < to).then_some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::DagLimits;
    use crate::exchange::Network;
    use crate::store::MemoryStore;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const MUCH: u64 = 1 << 40;

    fn pace(range: Range<u64>) -> Pace {
        Pace::new(&range)
    }

    fn stall(pace: &mut Pace, range: Range<u64>, came: u64, after: Duration) {
        let tally = FetchTally::default();
        tally.count(came, true);
        pace.stalled(&range, WINDOW_START, &tally, pace.measured + after);
    }

    #[tokio::test]
    async fn a_window_begins_at_the_beginning_or_with_the_second_read() {
        let mut first = pace(0..128 * KIB);
        stall(&mut first, 0..128 * KIB, 0, Duration::ZERO);
        assert_eq!(first.wants(MUCH), Some(128 * KIB..128 * KIB + WINDOW_START));
        let mut middle = pace(70 * MIB..71 * MIB);
        stall(&mut middle, 70 * MIB..71 * MIB, 0, Duration::ZERO);
        assert_eq!(middle.wants(MUCH), None, "one read is no stream");
        middle.read(&(71 * MIB..72 * MIB));
        stall(&mut middle, 71 * MIB..72 * MIB, 0, Duration::ZERO);
        assert_eq!(middle.wants(MUCH), Some(72 * MIB..72 * MIB + WINDOW_START));
    }

    #[tokio::test]
    async fn a_window_doubles_once_for_each_time_the_reader_catches_up() {
        let mut pace = pace(0..MIB);
        stall(&mut pace, 0..MIB, 0, Duration::ZERO);
        pace.wants(MUCH);
        stall(&mut pace, MIB..2 * MIB, 0, Duration::ZERO);
        assert_eq!(pace.window, 2 * WINDOW_START);
        stall(&mut pace, MIB..2 * MIB, 0, Duration::ZERO);
        assert_eq!(pace.window, 2 * WINDOW_START, "what was asked for before tells nothing new");
        for _ in 0..20 {
            let at = pace.ahead_to;
            pace.read(&(at..at + MIB));
            stall(&mut pace, at..at + MIB, 0, Duration::ZERO);
            pace.wants(MUCH);
        }
        assert_eq!(pace.window, WINDOW_MAX);
    }

    #[tokio::test]
    async fn a_window_holds_no_more_than_comes_in_a_second() {
        let mut pace = pace(0..MIB);
        pace.window = 4 * MIB;
        let second = Duration::from_secs(1);
        stall(&mut pace, MIB..2 * MIB, 10 * MIB, 2 * second);
        assert_eq!(pace.window, 5 * MIB);
        stall(&mut pace, MIB..2 * MIB, MIB, second);
        assert_eq!(pace.window, 5 * MIB, "it does not shrink by that");
    }

    #[tokio::test]
    async fn a_window_of_blocks_that_nobody_keeps_stays_small() {
        let mut pace = pace(0..MIB);
        pace.window = 8 * MIB;
        let tally = FetchTally::default();
        tally.count(MIB, false);
        pace.stalled(&(MIB..2 * MIB), WINDOW_START, &tally, pace.measured);
        assert_eq!(pace.window, WINDOW_UNKEPT);
    }

    #[tokio::test]
    async fn it_is_filled_when_a_quarter_of_it_is_used_up() {
        let mut pace = pace(0..MIB);
        pace.window = 8 * MIB;
        assert_eq!(pace.wants(MUCH), Some(MIB..9 * MIB));
        pace.read(&(MIB..2 * MIB));
        assert_eq!(pace.wants(MUCH), None);
        pace.read(&(2 * MIB..3 * MIB));
        assert_eq!(pace.wants(MUCH), Some(9 * MIB..11 * MIB));
    }

    #[tokio::test]
    async fn where_memory_is_short_it_halves() {
        let mut pace = pace(0..MIB);
        pace.window = 8 * MIB;
        assert_eq!(pace.wants(3 * MIB), Some(MIB..4 * MIB));
        assert_eq!(pace.window, 4 * MIB);
        pace.read(&(MIB..4 * MIB));
        assert_eq!(pace.wants(0), None);
        assert_eq!(pace.window, 2 * MIB);
    }

    fn file() -> FileStreams {
        let block = crate::testkit::dag_builder::DagBuilder::new().raw("x");
        let dag = Dag::new(
            Arc::new(MemoryStore::default()),
            Arc::new(Network::default()),
            DagLimits::default(),
        );
        FileStreams::new(&dag, block)
    }

    #[tokio::test]
    async fn what_the_kernel_asks_for_out_of_order_is_one_stream() {
        let mut file = file();
        file.begin(&(0..MIB));
        for window in [2, 1, 4, 3] {
            let range = window * MIB..(window + 1) * MIB;
            assert_eq!(file.find(&range), Some(0), "{range:?}");
            file.streams[0].pace.read(&range);
        }
    }

    #[tokio::test]
    async fn readers_of_one_file_are_told_apart_and_waste_is_remembered() {
        let mut file = file();
        for reader in 0..5 {
            let start = reader * 100 * MIB;
            assert_eq!(file.find(&(start..start + MIB)), None);
            file.begin(&(start..start + MIB));
        }
        assert_eq!(file.streams.len(), STREAMS_MAX);
        assert_eq!(file.find(&(0..MIB)), None, "the oldest made room");
        let second = file.find(&(101 * MIB..102 * MIB)).unwrap();
        assert_eq!((second, file.streams[second].pace.next), (3, 101 * MIB));
        let oldest = &mut file.streams[0].pace;
        (oldest.window, oldest.ahead_to) = (MIB, oldest.next + MIB);
        file.end_oldest();
        assert_eq!(file.window_start, WINDOW_START / 2);
    }
}
