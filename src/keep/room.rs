//! Making room: what is pinned is searched, and the store lets go of the rest.
//!
//! The search begins an epoch of the store *before* it reads the list of pins, so a pin that is
//! written meanwhile is either in the list, or its blocks were used since.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::sync::watch;

use super::{KeepError, Keeper};
use crate::block::{Block, Cid};
use crate::dag::{Dag, DagLimits};
use crate::exchange::Network;
use crate::store::{
    BlockRange, BlockStore, DiskStore, FileRange, FileState, KeepSet, PinMode, SpaceReport,
    StoreError,
};
use crate::unixfs;

/// Times that a put makes room: others may take what was made.
const ROOM_ATTEMPTS_MAX: usize = 3;

impl Keeper {
    /// Evicts what was used longest ago until the store is well below its cap and `more` bytes are
    /// free. `step` is called after each batch and may break off. Waits for the disk.
    ///
    /// # Errors
    /// [`KeepError::PinsUnknown`], [`KeepError::Store`].
    pub fn make_room(
        &self,
        more: u64,
        step: &mut dyn FnMut(&SpaceReport) -> ControlFlow<()>,
    ) -> Result<SpaceReport, KeepError> {
        let _turn = self.inner.turn.lock();
        self.make_room_now(more, step)
    }

    fn make_room_now(
        &self,
        more: u64,
        step: &mut dyn FnMut(&SpaceReport) -> ControlFlow<()>,
    ) -> Result<SpaceReport, KeepError> {
        let keep = self.kept()?;
        let report = self.inner.repository.blocks.make_room(&keep, more, step)?;
        tracing::info!(
            kept = keep.len(),
            blocks = report.blocks,
            bytes = report.bytes,
            moved = report.moved,
            enough = report.enough,
            "made room in the store"
        );
        Ok(report)
    }

    /// Removes everything that is neither pinned nor in use now.
    ///
    /// # Errors
    /// As [`Keeper::make_room`].
    pub fn sweep(
        &self,
        step: &mut dyn FnMut(&SpaceReport) -> ControlFlow<()>,
    ) -> Result<SpaceReport, KeepError> {
        let _turn = self.inner.turn.lock();
        let keep = self.kept()?;
        Ok(self.inner.repository.blocks.sweep(&keep, step)?)
    }

    /// Returns what [`Keeper::sweep`] would remove.
    ///
    /// # Errors
    /// As [`Keeper::make_room`].
    pub fn sweep_dry_run(&self) -> Result<SpaceReport, KeepError> {
        let keep = self.kept()?;
        Ok(self.inner.repository.blocks.sweep_dry_run(&keep))
    }

    /// Returns what is pinned, and all below it. Waits for the disk.
    ///
    /// # Errors
    /// [`KeepError::PinsUnknown`].
    pub fn kept(&self) -> Result<KeepSet, KeepError> {
        let repository = &self.inner.repository;
        let mut keep = repository.blocks.keep_set();
        let mut roots = Vec::new();
        for pin in repository.pins.list() {
            match pin.mode {
                PinMode::Recursive => roots.push(pin.cid),
                PinMode::Direct => drop(keep.insert(&pin.cid)),
            }
        }
        let dag = self.unused_dag();
        let walk = async {
            let mut visits = std::pin::pin!(unixfs::walk_all(&dag, roots));
            while let Some(visit) = visits.try_next().await? {
                keep.insert(&visit.cid);
            }
            Ok(())
        };
        self.inner.runtime.block_on(walk).map_err(KeepError::PinsUnknown)?;
        Ok(keep)
    }

    /// Returns a dag of what is here; reading it is no use of it, and keeps nothing in memory.
    pub(super) fn unused_dag(&self) -> Dag {
        let store = Arc::new(Unused(self.inner.repository.blocks.clone()));
        let limits = DagLimits { node_cache_bytes: 0, unstored_bytes: 0, ..DagLimits::default() };
        Dag::new(store, Arc::new(Network::default()), limits)
    }
}

/// The store, read without keeping what is read from eviction.
#[derive(Debug)]
struct Unused(Arc<DiskStore>);

impl BlockStore for Unused {
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.get(cid)?.map(|block| block.data().len() as u64))
    }

    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.0.peek(cid)
    }

    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<BlockRange>, StoreError> {
        Ok(self.get(cid)?.map(|block| BlockRange::of(&block, range)))
    }

    fn whole_file(&self, blocks: &[FileRange], unproved_max: u64) -> Result<FileState, StoreError> {
        self.0.whole_file(blocks, unproved_max)
    }

    fn peek_len(&self, cid: &Cid) -> Option<u64> {
        self.0.peek_len(cid)
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.0.put(blocks)
    }

    fn commit(&self) -> Result<(), StoreError> {
        self.0.commit()
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.0.remove(cid)
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// The store as writers use it: who meets the cap or a full disk waits until there is room.
#[derive(Debug)]
pub(super) struct RoomyStore {
    keeper: Keeper,
    blocks: Arc<DiskStore>,
}

impl RoomyStore {
    pub(super) fn new(keeper: Keeper) -> Self {
        let blocks = keeper.inner.repository.blocks.clone();
        Self { keeper, blocks }
    }

    /// Others that wait for room find it made when their turn comes.
    fn put_in_turn(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let _turn = self.keeper.inner.turn.lock();
        let bytes = blocks.iter().map(|block| block.data().len() as u64).sum();
        let mut done = self.blocks.put(blocks);
        for _ in 0..ROOM_ATTEMPTS_MAX {
            if !wants_room(&done) {
                break;
            }
            let made = self.keeper.make_room_now(bytes, &mut |_| ControlFlow::Continue(()));
            if let Err(error) = &made {
                tracing::warn!(%error, "no room can be made");
            }
            done = self.blocks.put(blocks);
            if !made.is_ok_and(|report| report.blocks + report.moved > 0) {
                break;
            }
        }
        done
    }
}

fn wants_room(done: &Result<(), StoreError>) -> bool {
    matches!(done, Err(StoreError::CapReached { .. } | StoreError::Full { .. }))
}

impl BlockStore for RoomyStore {
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.blocks.block_len(cid)
    }

    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.blocks.get(cid)
    }

    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<BlockRange>, StoreError> {
        self.blocks.read_range(cid, range)
    }

    fn read_trusted(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        self.blocks.read_trusted(cid)
    }

    fn whole_file(&self, blocks: &[FileRange], unproved_max: u64) -> Result<FileState, StoreError> {
        self.blocks.whole_file(blocks, unproved_max)
    }

    fn peek_len(&self, cid: &Cid) -> Option<u64> {
        self.blocks.peek_len(cid)
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let done = self.blocks.put(blocks);
        if wants_room(&done) { self.put_in_turn(blocks) } else { done }
    }

    fn commit(&self) -> Result<(), StoreError> {
        self.blocks.commit()
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.blocks.remove(cid)
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.blocks.subscribe()
    }
}
