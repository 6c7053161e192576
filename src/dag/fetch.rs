//! Fetches in flight: at most one per multihash, owned by those who wait for it.
//!
//! A fetch is a shared future of which the table keeps only a weak handle. Whoever waits drives
//! it; when the last waiter is dropped, so is the fetch, which the exchange takes as "cancel".
//! There are no tasks here, and nothing outlives its callers.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::cache::ByteLru;
use super::{DagError, DagLimits, Multihash};
use crate::block::{Block, Cid};
use crate::exchange::{Exchange, Urgency};
use crate::store::{BlockStore, StoreError};

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
    in_flight: Mutex<InFlight>,
    /// Blocks that the store would not take, so that a full disk does not stop reading.
    unstored: Mutex<ByteLru<Multihash, Block>>,
    turns: Semaphore,
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
    urgency: Urgency,
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
            store,
            exchange,
            in_flight: Mutex::default(),
            unstored: Mutex::new(ByteLru::new(limits.unstored_bytes)),
            turns: Semaphore::new(limits.fetches_max),
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

    /// Joins the fetch of this multihash, or starts it.
    pub(super) async fn join(&self, cid: &Cid, urgency: Urgency) -> Result<Block, DagError> {
        let block = self.in_flight(cid, urgency).await?;
        named(&block, cid)
    }

    /// Tells whether nothing is in flight.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.inner.in_flight.lock().by_hash.is_empty()
    }

    fn in_flight(&self, cid: &Cid, urgency: Urgency) -> Shared<Fetch> {
        let mut in_flight = self.inner.in_flight.lock();
        if let Some(flight) = in_flight.by_hash.get_mut(cid.hash())
            && let Some(fetch) = flight.fetch.upgrade()
        {
            if flight.urgency < urgency {
                flight.urgency = urgency;
                drop(in_flight);
                self.inner.exchange.hurry(cid);
            }
            return fetch;
        }
        let number = in_flight.next;
        in_flight.next += 1;
        let entry = Entry { inner: Arc::clone(&self.inner), hash: *cid.hash(), number };
        let fetch = fetch(entry, *cid).boxed().shared();
        if let Some(weak) = fetch.downgrade() {
            in_flight.by_hash.insert(*cid.hash(), Flight { number, fetch: weak, urgency });
        }
        fetch
    }
}

impl Entry {
    /// Returns how much the block is wanted by now.
    fn urgency(&self) -> Urgency {
        let in_flight = self.inner.in_flight.lock();
        in_flight.by_hash.get(&self.hash).map_or(Urgency::Demand, |flight| flight.urgency)
    }
}

async fn fetch(entry: Entry, cid: Cid) -> Result<Block, DagError> {
    let inner = &entry.inner;
    let _turn = inner.turns.acquire().await;
    // Whoever looked before the previous fetch of this block ended comes here after it.
    if let Ok(Some(block)) = inner.store.get(&cid) {
        return Ok(block);
    }
    let block = named(&inner.exchange.fetch(&cid, entry.urgency()).await?, &cid)?;
    if let Err(error) = inner.store.put(std::slice::from_ref(&block)) {
        if matches!(error, StoreError::Full { .. } | StoreError::CapReached { .. }) {
            tracing::debug!(%cid, "no room to keep a fetched block");
        } else {
            tracing::warn!(%cid, %error, "cannot keep a fetched block");
        }
        inner.unstored.lock().insert(*cid.hash(), block.clone(), block.data().len());
    }
    Ok(block)
}

/// Returns the block under the CID that was asked for, after checking that it is that block.
fn named(block: &Block, cid: &Cid) -> Result<Block, DagError> {
    let lied = || DagError::Lied { cid: Box::new(*cid), from: format!("who gave {}", block.cid()) };
    block.with_cid(*cid).ok_or_else(lied)
}
