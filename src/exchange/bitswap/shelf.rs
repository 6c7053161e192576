//! What is here for peers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::block::Cid;
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
}

impl Shelf {
    pub(in crate::exchange) fn new(store: Arc<dyn BlockStore>, shared: Option<Shared>) -> Self {
        Self { store, shared }
    }

    pub(super) fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        if self.has(cid) { self.store.block_len(cid) } else { Ok(None) }
    }

    /// Returns the bytes of a block, which were hashed once since the start: who gets them hashes them anyway.
    pub(super) fn read(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        if self.has(cid) { self.store.read_trusted(cid) } else { Ok(None) }
    }

    /// Returns a receiver that is told when there may be new blocks.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.store.subscribe()
    }

    fn has(&self, cid: &Cid) -> bool {
        self.shared.as_ref().is_none_or(|shared| (shared.0)(cid))
    }
}
