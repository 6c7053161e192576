//! A store in memory that counts what is asked of it, and that a test can fill up or damage.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::block::{Block, Cid};
use crate::store::{BlockRange, BlockStore, FileRange, FileState, StoreError};

/// How a put ends that has a certain block in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With "no space left".
    Full,
    /// With a panic, that of a bug.
    Panic,
}

#[derive(Debug)]
struct Refused {
    cid: Cid,
    ending: Ending,
}

/// A test's store.
#[derive(Debug, Default)]
pub struct TestStore {
    state: Mutex<State>,
    /// Held while the disk does not answer.
    disk: Mutex<()>,
    came: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<Vec<u8>, Block>,
    asked: Vec<Cid>,
    is_full: bool,
    refused: Option<Refused>,
    put_lens: Vec<usize>,
    damaged: Vec<Vec<u8>>,
}

impl TestStore {
    /// Returns a store that holds `blocks`.
    pub fn new(blocks: impl IntoIterator<Item = Block>) -> Self {
        let store = Self::default();
        let blocks: Vec<_> = blocks.into_iter().collect();
        store.put(&blocks).expect("a new test store takes everything");
        store
    }

    /// From now on refuses new blocks as a full disk does, or takes them again.
    pub fn set_full(&self, is_full: bool) {
        self.state.lock().is_full = is_full;
    }

    /// From now on takes nothing together with this block.
    pub fn refuse(&self, cid: &Cid, ending: Ending) {
        self.state.lock().refused = Some(Refused { cid: *cid, ending });
    }

    /// Lets puts wait, as a disk that does not answer, until the guard is dropped.
    pub fn stall(&self) -> MutexGuard<'_, ()> {
        self.disk.lock()
    }

    /// Returns how many blocks each put was given so far, also those that wait.
    pub fn put_lens(&self) -> Vec<usize> {
        self.state.lock().put_lens.clone()
    }

    /// From now on finds this block damaged.
    pub fn damage(&self, cid: &Cid) {
        self.state.lock().damaged.push(cid.hash().to_bytes());
    }

    /// Returns the CIDs whose bytes were asked for, here or not, since the last call.
    pub fn take_asked(&self) -> Vec<Cid> {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// Returns the number of blocks.
    pub fn block_count(&self) -> usize {
        self.state.lock().blocks.len()
    }
}

impl BlockStore for TestStore {
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        let state = self.state.lock();
        Ok(state.blocks.get(&cid.hash().to_bytes()).map(|block| block.data().len() as u64))
    }

    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let mut state = self.state.lock();
        state.asked.push(*cid);
        let hash = cid.hash().to_bytes();
        if state.damaged.contains(&hash) {
            return Err(StoreError::Corrupt { cid: Box::new(*cid), place: "a test".to_owned() });
        }
        Ok(state.blocks.get(&hash).and_then(|block| block.with_cid(*cid)))
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
        self.state.lock().put_lens.push(blocks.len());
        let _answered = self.disk.lock();
        let mut state = self.state.lock();
        let refused = state.refused.as_ref();
        let refused = refused.filter(|it| blocks.iter().any(|block| *block.cid() == it.cid));
        let ending = refused.map(|it| it.ending);
        assert_ne!(ending, Some(Ending::Panic), "a bug that a test wants");
        if state.is_full || ending == Some(Ending::Full) {
            return Err(StoreError::Full { path: "test".into() });
        }
        for block in blocks {
            state.blocks.insert(block.cid().hash().to_bytes(), block.clone());
        }
        drop(state);
        self.came.send_replace(());
        Ok(())
    }

    fn commit(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.state.lock().blocks.remove(&cid.hash().to_bytes()).is_some())
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }
}
