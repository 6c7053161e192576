//! Finished blocks → the store, in batches.

use std::fmt::Debug;
use std::sync::Arc;

use super::error::ImportError;
use super::nodes::BlockSink;
use crate::block::{Block, Cid, IDENTITY_CODE};
use crate::store::BlockStore;

/// Bytes of a batch: a store's cost for each call vanishes, and one `write` of it stays cheap (on
/// ext4, Linux 6.18, writes of 2 MiB and more cost the kernel several times as much per byte).
const BATCH_BYTES: usize = 1024 * 1024;
/// Blocks of a batch, for imports of many tiny files.
const BATCH_BLOCKS: usize = 1024;

/// Where blocks go; without a store nothing is kept (`--only-hash`).
#[derive(Debug)]
pub(super) struct Output {
    store: Option<Arc<dyn BlockStore>>,
    batch: Vec<Block>,
    batch_bytes: usize,
    last: Option<Cid>,
}

impl Output {
    pub(super) fn new(store: Option<Arc<dyn BlockStore>>) -> Self {
        Self { store, batch: Vec::new(), batch_bytes: 0, last: None }
    }

    /// Stores what is left and makes all of it durable.
    pub(super) fn commit(&mut self) -> Result<(), ImportError> {
        self.flush()?;
        if let Some(store) = &self.store {
            store.commit()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        if let Some(store) = &self.store {
            store.put(&self.batch)?;
        }
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}

impl BlockSink for Output {
    fn put(&mut self, block: Block) -> Result<(), ImportError> {
        // An inlined block is its own address.
        if self.store.is_none() || block.cid().hash().code() == IDENTITY_CODE {
            return Ok(());
        }
        // Holes of sparse files are long runs of one block.
        if self.last.replace(*block.cid()) == Some(*block.cid()) {
            return Ok(());
        }
        self.batch_bytes += block.data().len();
        self.batch.push(block);
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS {
            self.flush()?;
        }
        Ok(())
    }
}
