//! "This block, wherever it is": memory, then this disk, then other nodes.
//!
//! The promise: one fetch in flight per multihash however many ask for it, joined by all of them
//! and cancelled when the last one goes; and **when nothing has to be fetched, the first poll of
//! every future here is ready**, so a caller may answer at once and start a task only when it is
//! told to wait. This layer knows blocks and decoded nodes, no paths, names or sizes, and it sets
//! no deadlines: a caller that has waited long enough drops the future.

mod cache;
mod error;
mod fetch;
mod puts;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;

use self::cache::ByteLru;
pub use self::error::DagError;
use self::fetch::Fetches;
use crate::block::{Block, Cid, Multihash, check_hash};
use crate::codec::node::Node;
use crate::exchange::{Exchange, Session, Urgency};
use crate::store::{BlockRange, BlockStore, StoreError};

/// Memory in bytes for decoded nodes unless the configuration says otherwise: the directories and
/// inner nodes of some hundred thousand files, or 256 leaves of the old dag-pb kind.
pub const NODE_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Memory in bytes for fetched blocks that the disk had no room for: enough that the small reads
/// of one leaf by several readers do not fetch it again each time.
pub const UNSTORED_BYTES: usize = 16 * 1024 * 1024;
/// Memory in bytes for blocks that were fetched ahead, until they are read: what the largest window of one
/// reader holds, so that it need not be read from the disk and hashed once more.
pub const UNREAD_BYTES: usize = 64 * 1024 * 1024;
/// Fetches in flight at one time: the want-list that bitswap peers accept (1,024 entries), half of
/// them at most for what nobody waits for by itself. Others wait for their turn.
pub const FETCHES_MAX: usize = 1024;
/// Blocks of one batch that are waited for together; more would not fill a link any better.
pub const BATCH_AHEAD: usize = 32;

/// The bounds of a [`Dag`].
#[derive(Debug, Clone, Copy)]
pub struct DagLimits {
    /// Memory in bytes for decoded nodes.
    pub node_cache_bytes: usize,
    /// Memory in bytes for blocks that could not be stored.
    pub unstored_bytes: usize,
    /// Memory in bytes for blocks that were fetched ahead and not read yet.
    pub unread_bytes: usize,
    /// Fetches in flight at one time, half of them at most ahead.
    pub fetches_max: usize,
}

impl Default for DagLimits {
    fn default() -> Self {
        Self {
            node_cache_bytes: NODE_CACHE_BYTES,
            unstored_bytes: UNSTORED_BYTES,
            unread_bytes: UNREAD_BYTES,
            fetches_max: FETCHES_MAX,
        }
    }
}

/// Blocks and nodes by CID; cloning gives another handle to the same caches.
#[derive(Clone)]
pub struct Dag {
    shared: Arc<Shared>,
    offline: bool,
    urgency: Urgency,
    session: Session,
}

struct Shared {
    fetches: Fetches,
    /// Decoded nodes; the same bytes under another codec are another node.
    nodes: Mutex<ByteLru<(u64, Multihash), Arc<Node>>>,
    /// How often a block was found on this disk, …
    found: AtomicU64,
    /// … and how often it had to come from others.
    fetched: AtomicU64,
}

/// Where blocks came from since the start, as often as they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    /// From this disk.
    pub store: u64,
    /// From others.
    pub peers: u64,
}

impl fmt::Debug for Dag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dag")
            .field("store", self.store())
            .field("offline", &self.offline)
            .field("urgency", &self.urgency)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Dag {
    /// Returns a dag over `store` that asks `exchange` for what is not there.
    pub fn new(store: Arc<dyn BlockStore>, exchange: Arc<dyn Exchange>, limits: DagLimits) -> Self {
        let shared = Shared {
            fetches: Fetches::new(store, exchange, &limits),
            nodes: Mutex::new(ByteLru::new(limits.node_cache_bytes)),
            found: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), offline: false, urgency: Urgency::Demand, session: None }
    }

    /// Returns a handle to the same store and caches that never asks the exchange.
    #[must_use]
    pub fn offline(&self) -> Self {
        Self { offline: true, ..self.clone() }
    }

    /// Returns a handle to the same store and caches for what somebody may want soon: what others wait
    /// for overtakes it.
    #[must_use]
    pub fn ahead(&self) -> Self {
        Self { urgency: Urgency::Ahead, ..self.clone() }
    }

    /// Returns a handle to the same store and caches for who brings all of a DAG here: who reads, and what is
    /// fetched ahead of readers, overtakes it.
    #[must_use]
    pub fn bulk(&self) -> Self {
        Self { urgency: Urgency::Bulk, ..self.clone() }
    }

    /// Returns a handle to the same store and caches for what lies below a root: who has one block of that
    /// is asked for the others first.
    #[must_use]
    pub fn below(&self, root: &Cid) -> Self {
        Self { session: Some(*root.hash()), ..self.clone() }
    }

    /// Tells whether what is not here cannot be fetched.
    pub fn is_offline(&self) -> bool {
        self.offline || self.shared.fetches.is_offline()
    }

    /// Returns where blocks came from. What the kernel reads by itself, and what lies in memory as a decoded
    /// node, is not counted.
    pub fn sources(&self) -> Sources {
        let Shared { found, fetched, .. } = &*self.shared;
        Sources { store: found.load(Ordering::Relaxed), peers: fetched.load(Ordering::Relaxed) }
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        self.shared.fetches.store()
    }

    /// Returns a block, fetched and stored when it is not here.
    ///
    /// # Errors
    /// [`DagError`].
    pub async fn block(&self, cid: &Cid) -> Result<Block, DagError> {
        let local = |store: &dyn BlockStore| match self.shared.fetches.unread(cid, u64::MAX) {
            Some(block) => Ok(Some(block)),
            None => store.get(cid),
        };
        self.find(cid, local, |block| block).await
    }

    /// Returns the length of a block in bytes; the block is fetched when it is not here.
    ///
    /// # Errors
    /// [`DagError`].
    pub async fn block_len(&self, cid: &Cid) -> Result<u64, DagError> {
        let local = |store: &dyn BlockStore| store.block_len(cid);
        self.find(cid, local, |block| block.data().len() as u64).await
    }

    /// Returns bytes of one block, `range` cut at its end, and its length.
    ///
    /// # Errors
    /// [`DagError`].
    pub async fn read(&self, cid: &Cid, range: Range<u64>) -> Result<BlockRange, DagError> {
        let local = |store: &dyn BlockStore| match self.shared.fetches.unread(cid, range.end) {
            Some(block) => Ok(Some(BlockRange::of(&block, range.clone()))),
            None => store.read_range(cid, range.clone()),
        };
        self.find(cid, local, |block| BlockRange::of(&block, range.clone())).await
    }

    /// Returns a decoded node.
    ///
    /// # Errors
    /// [`DagError`]; [`DagError::Node`] when the bytes are right but break the format.
    pub async fn node(&self, cid: &Cid) -> Result<Arc<Node>, DagError> {
        let key = (cid.codec(), *cid.hash());
        if let Some(node) = self.shared.nodes.lock().get(&key) {
            return Ok(node);
        }
        let block = self.block(cid).await?;
        let node = Node::decode(&block)
            .map_err(|source| DagError::Node { cid: Box::new(*cid), source })?;
        let node = Arc::new(node);
        // Plain bytes gain nothing by decoding, so they are left to the store.
        if !matches!(*node, Node::Bytes(_)) {
            let bytes = node.memory_bytes();
            self.shared.nodes.lock().insert(key, Arc::clone(&node), bytes);
        }
        Ok(node)
    }

    /// Returns many decoded nodes in the order of `cids`, waiting for [`BATCH_AHEAD`] at a time.
    pub fn nodes(
        &self,
        cids: impl IntoIterator<Item = Cid>,
    ) -> impl Stream<Item = (Cid, Result<Arc<Node>, DagError>)> {
        let load = |cid| {
            let dag = self.clone();
            async move { (cid, dag.node(&cid).await) }
        };
        futures::stream::iter(cids).map(load).buffered(BATCH_AHEAD)
    }

    /// Looks in the CID itself, on this disk and in memory, then asks others.
    ///
    /// A disk that fails is worth asking others too; when that is in vain, its failure is the
    /// answer, because it says more than "not reachable".
    async fn find<T>(
        &self,
        cid: &Cid,
        local: impl FnOnce(&dyn BlockStore) -> Result<Option<T>, StoreError>,
        of_block: impl FnOnce(Block) -> T,
    ) -> Result<T, DagError> {
        check_hash(cid.hash().code(), cid.hash().digest().len())
            .map_err(|source| DagError::Refused { cid: Box::new(*cid), source })?;
        if let Some(block) = Block::from_identity(cid) {
            return Ok(of_block(block));
        }
        let failure = match local(&**self.store()) {
            Ok(Some(found)) => {
                self.shared.found.fetch_add(1, Ordering::Relaxed);
                return Ok(found);
            }
            Ok(None) => None,
            Err(failure) => Some(Arc::new(failure)),
        };
        if let Some(failure) = &failure {
            tracing::warn!(%cid, %failure, "the store cannot give a block; asking others");
        }
        match self.fetch(cid).await {
            Ok(block) => {
                self.shared.fetched.fetch_add(1, Ordering::Relaxed);
                Ok(of_block(block))
            }
            Err(error) => Err(failure.map_or(error, DagError::Store)),
        }
    }

    async fn fetch(&self, cid: &Cid) -> Result<Block, DagError> {
        if let Some(block) = self.shared.fetches.unstored(cid) {
            return Ok(block);
        }
        if self.offline {
            return Err(DagError::Offline { cid: Box::new(*cid) });
        }
        self.shared.fetches.join(cid, self.urgency, self.session).await
    }
}

#[cfg(test)]
mod tests;
