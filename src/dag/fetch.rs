//! Fetches in flight: at most one per multihash, owned by those who wait for it.
//!
//! A fetch is a shared future of which the table keeps only a weak handle. Whoever waits drives
//! it; when the last waiter is dropped, so is the fetch, which the exchange takes as "cancel".
//! There are no tasks here, and nothing outlives its callers but the put of what came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::sleep;

use super::cache::ByteLru;
use super::puts::Puts;
use super::{DagError, DagLimits};
use crate::block::{Block, Cid, Multihash};
use crate::exchange::{Exchange, Session, Urgency};
use crate::store::{BlockStore, StoreError};

/// Of so many turns one may be taken by what is fetched ahead or in bulk.
const TURNS_PER_AHEAD: usize = 2;
/// How often it is looked whether a block that others are asked for was added, imported or found here meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

type Fetch = BoxFuture<'static, Result<Block, DagError>>;

/// The store, the exchange, and what is on its way from one to the other.
#[derive(Debug)]
pub(super) struct Fetches {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn BlockStore>,
    exchange: Arc<dyn Exchange>,
    puts: Arc<Puts>,
    in_flight: Mutex<InFlight>,
    /// Blocks that the store would not take, so that a full disk does not stop reading.
    unstored: Mutex<ByteLru<Multihash, Block>>,
    /// Blocks that were fetched ahead, until somebody has read them to their end.
    unread: Mutex<ByteLru<Multihash, Block>>,
    turns: Semaphore,
    /// What is fetched ahead or in bulk waits for one of these first, so that it never takes all turns.
    ahead_turns: Semaphore,
}

#[derive(Debug, Default)]
struct InFlight {
    /// A fetch removes its own entry at its end, so this is never longer than what is waited for.
    by_hash: HashMap<Multihash, Flight>,
    /// Number of the next fetch: an ended fetch must not remove the entry of its successor.
    next: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    fetch: WeakShared<Fetch>,
    /// That of the most urgent caller so far.
    urgency: watch::Sender<Urgency>,
}

/// Removes a fetch from the table when it has ended or was cancelled.
struct Entry {
    inner: Arc<Inner>,
    hash: Multihash,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut in_flight = self.inner.in_flight.lock();
        if in_flight.by_hash.get(&self.hash).is_some_and(|flight| flight.number == self.number) {
            in_flight.by_hash.remove(&self.hash);
        }
    }
}

impl Fetches {
    pub(super) fn new(
        store: Arc<dyn BlockStore>,
        exchange: Arc<dyn Exchange>,
        limits: &DagLimits,
    ) -> Self {
        let inner = Inner {
            puts: Puts::new(Arc::clone(&store)),
            store,
            exchange,
            in_flight: Mutex::default(),
            unstored: Mutex::new(ByteLru::new(limits.unstored_bytes)),
            unread: Mutex::new(ByteLru::new(limits.unread_bytes)),
            turns: Semaphore::new(limits.fetches_max),
            ahead_turns: Semaphore::new(limits.fetches_max.div_ceil(TURNS_PER_AHEAD)),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.inner.store
    }

    pub(super) fn is_offline(&self) -> bool {
        self.inner.exchange.is_offline()
    }

    /// Returns a block that was fetched but could not be stored.
    pub(super) fn unstored(&self, cid: &Cid) -> Option<Block> {
        self.inner.unstored.lock().get(cid.hash())?.with_cid(*cid)
    }

    /// Returns a block that was fetched ahead, to read it up to `end`.
    pub(super) fn unread(&self, cid: &Cid, end: u64) -> Option<Block> {
        let mut unread = self.inner.unread.lock();
        let block = unread.get(cid.hash())?;
        if end >= block.data().len() as u64 {
            unread.remove(cid.hash());
        }
        block.with_cid(*cid)
    }

    /// Joins the fetch of this multihash, or starts it.
    pub(super) async fn join(
        &self,
        cid: &Cid,
        urgency: Urgency,
        session: Session,
    ) -> Result<Block, DagError> {
        let block = self.in_flight(cid, urgency, session).await?;
        named(&block, cid)
    }

    /// Tells whether nothing is in flight.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.inner.in_flight.lock().by_hash.is_empty()
    }

    fn in_flight(&self, cid: &Cid, urgency: Urgency, session: Session) -> Shared<Fetch> {
        let mut in_flight = self.inner.in_flight.lock();
        if let Some(flight) = in_flight.by_hash.get(cid.hash())
            && let Some(fetch) = flight.fetch.upgrade()
        {
            flight.urgency.send_if_modified(|before| {
                let is_more = *before < urgency;
                *before = urgency.max(*before);
                is_more
            });
            return fetch;
        }
        let number = in_flight.next;
        in_flight.next += 1;
        let entry = Entry { inner: Arc::clone(&self.inner), hash: *cid.hash(), number };
        let (urgency, wanted) = watch::channel(urgency);
        let fetch = fetch(entry, *cid, session, wanted).boxed().shared();
        if let Some(weak) = fetch.downgrade() {
            in_flight.by_hash.insert(*cid.hash(), Flight { number, fetch: weak, urgency });
        }
        fetch
    }
}

impl Inner {
    /// Waits for a turn; what nobody waits for by itself does so in a queue of its own.
    async fn turn(
        &self,
        wanted: &mut watch::Receiver<Urgency>,
    ) -> [Option<SemaphorePermit<'_>>; 2] {
        let ahead = tokio::select! {
            biased;
            () = demanded(wanted) => None,
            turn = self.ahead_turns.acquire() => turn.ok(),
        };
        [ahead, self.turns.acquire().await.ok()]
    }

    /// Asks others when it is the turn of this block, and keeps what they send.
    async fn fetch(
        &self,
        cid: &Cid,
        session: Session,
        mut wanted: watch::Receiver<Urgency>,
    ) -> Result<Block, DagError> {
        let _turn = self.turn(&mut wanted).await;
        // Whoever looked before the previous fetch of this block ended comes here after it.
        if let Ok(Some(block)) = self.store.get(cid) {
            return Ok(block);
        }
        let urgency = *wanted.borrow();
        let block = named(&self.ask(cid, session, wanted).await?, cid)?;
        self.keep(cid, &block, urgency).await;
        Ok(block)
    }

    /// Waits until somebody else has put the block into the store.
    async fn arrives(&self, cid: &Cid) -> Block {
        loop {
            sleep(LOOK_AGAIN).await;
            if let Ok(Some(block)) = self.store.get(cid) {
                return block;
            }
        }
    }

    /// Asks others, and tells them when somebody comes to wait for what nobody waited for: after the
    /// first poll, since before it they know nothing of this fetch.
    async fn ask(
        &self,
        cid: &Cid,
        session: Session,
        mut wanted: watch::Receiver<Urgency>,
    ) -> Result<Block, DagError> {
        let urgency = *wanted.borrow();
        let mut fetch = self.exchange.fetch(cid, urgency, session);
        tokio::select! {
            biased;
            fetched = &mut fetch => return Ok(fetched?),
            () = demanded(&mut wanted), if urgency < Urgency::Demand => self.exchange.hurry(cid),
        }
        Ok(fetch.await?)
    }

    /// Puts a block into the store. What came ahead can be read from memory at once, and so can for a
    /// while what the store does not take.
    async fn keep(&self, cid: &Cid, block: &Block, urgency: Urgency) {
        let hash = *cid.hash();
        if urgency == Urgency::Ahead {
            self.unread.lock().insert(hash, block.clone(), block.data().len());
        }
        let Err(error) = self.puts.put(block.clone()).await else { return };
        self.unstored.lock().insert(hash, block.clone(), block.data().len());
        self.unread.lock().remove(&hash);
        match error {
            StoreError::Full { .. } | StoreError::CapReached { .. } => {
                tracing::debug!(%cid, "no room to keep a fetched block");
            }
            error => tracing::warn!(%cid, %error, "cannot keep a fetched block"),
        }
    }
}

/// Waits until somebody waits for the block.
async fn demanded(wanted: &mut watch::Receiver<Urgency>) {
    // Who would say so is gone only with this fetch.
    drop(wanted.wait_for(|urgency| *urgency == Urgency::Demand).await);
}

async fn fetch(
    entry: Entry,
    cid: Cid,
    session: Session,
    wanted: watch::Receiver<Urgency>,
) -> Result<Block, DagError> {
    let inner = &entry.inner;
    tokio::select! {
        biased;
        fetched = inner.fetch(&cid, session, wanted) => fetched,
        block = inner.arrives(&cid) => Ok(block),
    }
}

/// Returns the block under the CID that was asked for, after checking that it is that block.
fn named(block: &Block, cid: &Cid) -> Result<Block, DagError> {
    let lied = || DagError::Lied { cid: Box::new(*cid), from: format!("who gave {}", block.cid()) };
    block.with_cid(*cid).ok_or_else(lied)
}
