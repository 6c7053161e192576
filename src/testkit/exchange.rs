//! An exchange that a test holds in its hand: slow, silent, lying or honest, and counted.
//!
//! What it is given as bytes goes through [`Block::verify`] like bytes from a peer, so it can lie
//! to the node only as far as a peer can.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use parking_lot::Mutex;

use super::link::Link;
use crate::block::{Block, Cid};
use crate::exchange::{Exchange, ExchangeError, Session, Urgency};

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Fetches that were started.
    pub started: u64,
    /// Fetches that were answered, with a block or an error.
    pub ended: u64,
    /// Fetches that were dropped before their answer.
    pub cancelled: u64,
    /// Most fetches that waited at one time.
    pub concurrent_max: u64,
}

/// A test's exchange; cloning gives another handle to the same one.
#[derive(Debug, Clone, Default)]
pub struct TestExchange {
    state: Arc<Mutex<State>>,
    fetches: Arc<AtomicU64>,
    link: Link,
}

#[derive(Debug, Default)]
struct State {
    /// What each source sends, in the order in which they are asked; by multihash bytes.
    answers: HashMap<Vec<u8>, VecDeque<Bytes>>,
    silent: HashSet<Vec<u8>>,
    delay: Duration,
    lose_every: Option<u64>,
    resend: Option<Duration>,
    counts: Counts,
}

impl TestExchange {
    /// Returns an exchange that has `blocks` and answers at once.
    pub fn new(blocks: impl IntoIterator<Item = Block>) -> Self {
        let exchange = Self::default();
        exchange.add(blocks);
        exchange
    }

    /// Adds blocks.
    pub fn add(&self, blocks: impl IntoIterator<Item = Block>) {
        for block in blocks {
            self.answer(block.cid(), block.data().clone());
        }
    }

    /// Adds a source that sends these bytes for this CID, right or wrong; sources are asked in the
    /// order in which they were added.
    pub fn answer(&self, cid: &Cid, bytes: Bytes) {
        self.state.lock().answers.entry(cid.hash().to_bytes()).or_default().push_back(bytes);
    }

    /// Never answers for this CID.
    pub fn silence(&self, cid: &Cid) {
        self.state.lock().silent.insert(cid.hash().to_bytes());
    }

    /// Answers for this CID again; fetches that wait already stay unanswered.
    pub fn unsilence(&self, cid: &Cid) {
        self.state.lock().silent.remove(&cid.hash().to_bytes());
    }

    /// Lets every answer wait this long. Needs a tokio runtime with time.
    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// Lets all answers share one link of this rate, the urgent ones first. Needs a tokio runtime with
    /// time.
    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.link.set_rate(bytes_per_second);
    }

    /// Never answers every `n`th fetch.
    pub fn lose_every(&self, n: u64) {
        self.state.lock().lose_every = Some(n);
    }

    /// Answers this much later what [`TestExchange::lose_every`] loses, as who notices a loss does.
    pub fn resend_after(&self, time: Duration) {
        self.state.lock().resend = Some(time);
    }

    /// Returns what happened so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    fn begin(&self, cid: &Cid) -> (Waiting, Option<Answer>) {
        let number = self.fetches.fetch_add(1, Ordering::Relaxed) + 1;
        let mut state = self.state.lock();
        let counts = &mut state.counts;
        counts.started += 1;
        let waiting = counts.started - counts.ended - counts.cancelled;
        counts.concurrent_max = counts.concurrent_max.max(waiting);
        let hash = cid.hash().to_bytes();
        let is_lost = state.lose_every.is_some_and(|n| number.is_multiple_of(n));
        let resend = if is_lost { state.resend } else { Some(Duration::ZERO) };
        let answer = resend
            .filter(|_| !state.silent.contains(&hash))
            .and_then(|late| Some((late, state.answers.get(&hash)?.clone())))
            .map(|(late, sources)| Answer { wait: state.delay + late, sources });
        (Waiting { exchange: self.clone(), ended: false }, answer)
    }
}

struct Answer {
    sources: VecDeque<Bytes>,
    wait: Duration,
}

impl Answer {
    fn len(&self) -> u64 {
        self.sources.iter().map(|bytes| bytes.len() as u64).sum()
    }
}

/// Counts the end of a fetch, or its cancellation.
struct Waiting {
    exchange: TestExchange,
    ended: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let counts = &mut self.exchange.state.lock().counts;
        if self.ended { counts.ended += 1 } else { counts.cancelled += 1 }
    }
}

impl Exchange for TestExchange {
    fn fetch<'a>(
        &'a self,
        cid: &'a Cid,
        urgency: Urgency,
        _session: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>> {
        async move {
            let (mut waiting, answer) = self.begin(cid);
            let Some(answer) = answer else { return pending().await };
            if !answer.wait.is_zero() {
                tokio::time::sleep(answer.wait).await;
            }
            self.link.send(cid.hash().to_bytes(), answer.len(), urgency).await;
            waiting.ended = true;
            let mut blocks = answer.sources.into_iter().map(|bytes| Block::verify(*cid, bytes));
            blocks
                .find_map(Result::ok)
                .ok_or_else(|| ExchangeError::Lied { cid: *cid, from: "a test source".to_owned() })
        }
        .boxed()
    }

    fn hurry(&self, cid: &Cid) {
        self.link.hurry(&cid.hash().to_bytes());
    }

    fn is_offline(&self) -> bool {
        false
    }
}
