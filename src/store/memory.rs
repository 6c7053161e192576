//! Blocks in memory: for commands that must leave no trace, and for tests.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::key::BlockKey;
use super::{BlockRange, BlockStore, FileRange, FileState, StoreError};
use crate::block::{Block, Cid};

/// Keeps blocks as long as it lives; its owner bounds what is put.
#[derive(Debug, Default)]
pub struct MemoryStore {
    blocks: RwLock<HashMap<BlockKey, Block>>,
    came: watch::Sender<()>,
}

impl BlockStore for MemoryStore {
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.get(cid)?.map(|block| block.data().len() as u64))
    }

    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        if let Some(block) = Block::from_identity(cid) {
            return Ok(Some(block));
        }
        Ok(self.blocks.read().get(&BlockKey::of(cid)).and_then(|block| block.with_cid(*cid)))
    }

    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<BlockRange>, StoreError> {
        Ok(self.get(cid)?.map(|block| BlockRange::of(&block, range)))
    }

    fn whole_file(&self, _: &[FileRange], _: u64) -> Result<FileState, StoreError> {
        Ok(FileState::Parts)
    }

    fn peek_len(&self, cid: &Cid) -> Option<u64> {
        self.block_len(cid).ok().flatten()
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let mut stored = self.blocks.write();
        for block in blocks.iter().filter(|block| Block::from_identity(block.cid()).is_none()) {
            stored.entry(BlockKey::of(block.cid())).or_insert_with(|| block.clone());
        }
        drop(stored);
        self.came.send_replace(());
        Ok(())
    }

    fn commit(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.blocks.write().remove(&BlockKey::of(cid)).is_some())
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }
}
