//! Every block of a DAG is brought here; to pin it, that is made durable, and only then the pin is written.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::{KeepError, Keeper};
use crate::block::{Block, Cid};
use crate::dag::Dag;
use crate::store::{BlockStore as _, PinMode, StoreError};
use crate::unixfs::{self, BLOCKS_AHEAD, UnixfsError};

/// How far bringing a DAG here has come, for whoever wants to show it.
#[derive(Debug, Default)]
pub struct BringProgress {
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl BringProgress {
    /// Returns the number of blocks that are here.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Returns their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Keeper {
    /// Brings everything that a pin of `root` covers here and pins it. What was fetched before an
    /// error stays as cache, so a second try goes on from there.
    ///
    /// # Errors
    /// When a block cannot be had or stored; nothing is pinned then.
    pub async fn pin(
        &self,
        dag: &Dag,
        root: Cid,
        mode: PinMode,
        name: Option<String>,
        progress: &BringProgress,
    ) -> Result<(), KeepError> {
        let hold = self.hold().await;
        let dag = &dag.bulk();
        let cids = match mode {
            PinMode::Recursive => unixfs::walk(dag, root).map_ok(|visit| visit.cid).left_stream(),
            PinMode::Direct => stream::iter([Ok(root)]).right_stream(),
        };
        self.bring_all(dag, cids, progress).await?;
        let repository = self.inner.repository.clone();
        in_background(move || {
            // Who is called off now is not waited for, but the pin comes to be.
            let _hold = hold;
            // What was fetched was only cache until now.
            repository.blocks.commit()?;
            repository.pins.add(&root, mode, name.as_deref())
        })
        .await?;
        if mode == PinMode::Recursive {
            self.gather_soon(root);
        }
        Ok(())
    }

    /// Brings everything below `root` here. Nothing of it is removed meanwhile; afterwards it is cache.
    ///
    /// # Errors
    /// When a block cannot be had or stored; what came before stays.
    pub async fn fetch(
        &self,
        dag: &Dag,
        root: Cid,
        progress: &BringProgress,
    ) -> Result<(), KeepError> {
        let _hold = self.hold().await;
        let dag = &dag.bulk();
        self.bring_all(dag, unixfs::walk(dag, root).map_ok(|visit| visit.cid), progress).await
    }

    /// Returns how a CID itself is pinned.
    pub fn pinned(&self, cid: &Cid) -> Option<PinMode> {
        self.inner.repository.pins.get(cid).map(|pin| pin.mode)
    }

    /// Removes a pin; returns whether there was one.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn unpin(&self, cid: Cid) -> Result<bool, KeepError> {
        let repository = self.inner.repository.clone();
        in_background(move || Ok(repository.unpin(&cid)?.is_some())).await
    }

    async fn bring_all(
        &self,
        dag: &Dag,
        cids: impl Stream<Item = Result<Cid, UnixfsError>>,
        progress: &BringProgress,
    ) -> Result<(), KeepError> {
        let bring = |cid| async move { self.bring(dag, &cid).await };
        let brought =
            cids.map_err(KeepError::from).map_ok(bring).try_buffer_unordered(BLOCKS_AHEAD);
        let mut brought = std::pin::pin!(brought);
        while let Some(len) = brought.try_next().await? {
            progress.blocks.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(len, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes sure that a block is in the store and proved since the start; returns its length in
    /// bytes. A block that was fetched while there was no room for it gets room now.
    async fn bring(&self, dag: &Dag, cid: &Cid) -> Result<u64, KeepError> {
        if let Some(len) = self.proved_len(*cid).await? {
            return Ok(len);
        }
        let block = dag.block(cid).await.map_err(UnixfsError::from)?;
        let len = block.data().len() as u64;
        if Block::from_identity(cid).is_none() {
            self.put(block).await?;
        }
        Ok(len)
    }

    /// Returns the length of a block that is here, `None` when there is no good copy.
    async fn proved_len(&self, cid: Cid) -> Result<Option<u64>, KeepError> {
        let repository = self.inner.repository.clone();
        in_background(move || {
            let blocks = &repository.blocks;
            match blocks.read_range(&cid, 0..0) {
                Ok(Some(range)) => Ok(Some(range.block_len)),
                // Whoever fetches it next meets what is left of the error.
                Ok(None) | Err(StoreError::Corrupt { .. } | StoreError::ForeignLost { .. }) => {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    pub(super) async fn put(&self, block: Block) -> Result<(), KeepError> {
        let store = self.store();
        in_background(move || store.put(&[block])).await
    }
}

/// Runs work of the store on a thread where it disturbs nobody.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, KeepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(KeepError::Thread(error.to_string())),
    }
}
