//! What must stay on this disk and what may go: whole DAGs are pinned, the rest makes room.
//!
//! The promise: after [`Keeper::pin`] returned, every block below the root is here, durable, and is
//! not removed until the pin is; the store is brought below its cap without touching anything that
//! is pinned or that a [`Hold`] covers. Reading and writing go on meanwhile. This layer knows no
//! inodes, no requests and no settings.

mod gather;
mod pinning;
mod repair;
mod room;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use self::gather::Gathering;
pub use self::pinning::BringProgress;
use self::room::RoomyStore;
use crate::store::{BlockStore, Protection, Repository, StoreError};
use crate::unixfs::UnixfsError;

/// Why something cannot be kept, or nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block of the DAG to be pinned cannot be had.
    #[error(transparent)]
    Content(#[from] UnixfsError),
    /// What is pinned cannot be told, so everything might be.
    #[error("nothing is removed, because something pinned cannot be read: {0}")]
    PinsUnknown(UnixfsError),
    /// Work on another thread ended without an answer.
    #[error("keeping blocks failed: {0}")]
    Thread(String),
}

/// Pins, and makes room for what is not pinned; clones share everything.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    repository: Arc<Repository>,
    /// Drives walks on threads that may wait for the disk.
    runtime: Handle,
    /// Held shared while something becomes kept, and exclusively while named blocks are removed.
    keeping: Arc<RwLock<()>>,
    /// One search for what is kept at a time: the second would mostly find room made already.
    turn: Mutex<()>,
    gathering: Gathering,
}

/// As long as this is held, nothing that is stored, found or read since is removed: from the first
/// look at a block to its pin.
#[derive(Debug)]
#[must_use = "blocks may go when this is dropped"]
pub struct Hold {
    _protection: Protection,
    _keeping: OwnedRwLockReadGuard<()>,
}

impl Keeper {
    /// Returns the keeper of a repository.
    pub fn new(repository: Arc<Repository>, runtime: Handle) -> Self {
        let (keeping, turn, gathering) = (Arc::default(), Mutex::default(), Gathering::default());
        Self { inner: Arc::new(Inner { repository, runtime, keeping, turn, gathering }) }
    }

    /// Begins to keep; waits while named blocks are removed.
    pub async fn hold(&self) -> Hold {
        let keeping = self.inner.keeping.clone().read_owned().await;
        Hold { _protection: self.inner.repository.blocks.protect(), _keeping: keeping }
    }

    /// Begins to remove named blocks; `None` while something is becoming kept.
    pub fn remove_named(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        self.inner.keeping.clone().try_write_owned().ok()
    }

    /// Returns the store as writers use it: a put that meets the cap or a full disk waits until
    /// what nobody keeps has made room. For threads that may wait for the disk.
    pub fn store(&self) -> Arc<dyn BlockStore> {
        Arc::new(RoomyStore::new(self.clone()))
    }
}
