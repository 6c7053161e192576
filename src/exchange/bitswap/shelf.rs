//! What is here for peers.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::block::Cid;
use crate::exchange::seldom::Seldom;
use crate::store::{BlockStore, StoreError};

/// Tells of a block that is here whether peers may have it.
#[derive(Clone)]
pub struct Shared(Arc<dyn Fn(&Cid) -> bool + Send + Sync>);

impl Shared {
    /// Lets peers have what `may_have` says. It is asked often, and must not wait for anything.
    pub fn new(may_have: impl Fn(&Cid) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(may_have))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// The store as peers see it. Looking waits for the disk.
#[derive(Debug, Clone)]
pub(in crate::exchange) struct Shelf {
    store: Arc<dyn BlockStore>,
    shared: Option<Shared>,
    failures: Arc<Seldom>,
}

impl Shelf {
    pub(in crate::exchange) fn new(store: Arc<dyn BlockStore>, shared: Option<Shared>) -> Self {
        Self { store, shared, failures: Arc::default() }
    }

    /// Returns the length of a block in bytes. What the disk cannot give is not here, as far as peers are concerned.
    pub(super) fn block_len(&self, cid: &Cid) -> Option<u64> {
        self.found(cid, self.has(cid).then(|| self.store.block_len(cid))?)
    }

    /// Returns the bytes of a block, which were hashed once since the start: who gets them hashes them anyway.
    pub(super) fn read(&self, cid: &Cid) -> Option<Bytes> {
        self.found(cid, self.has(cid).then(|| self.store.read_trusted(cid))?)
    }

    fn found<T>(&self, cid: &Cid, found: Result<Option<T>, StoreError>) -> Option<T> {
        found.unwrap_or_else(|error| {
            if let Some(untold) = self.failures.tells(Instant::now()) {
                tracing::warn!(%cid, %error, untold, "cannot give a peer a block");
            }
            None
        })
    }

    /// Returns a receiver that is told when there may be new blocks.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.store.subscribe()
    }

    fn has(&self, cid: &Cid) -> bool {
        self.shared.as_ref().is_none_or(|shared| (shared.0)(cid))
    }
}
