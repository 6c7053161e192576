//! What a mount shows at its root: one directory, or the namespace of all CIDs.

use std::fmt::Debug;

use tokio::sync::watch;

use crate::block::Cid;
use crate::dag::Dag;
use crate::store::Pins;
use crate::unixfs::{self, FileType, UnixfsError};

/// Where the tree of a mount begins.
pub trait Root: Debug + Send + Sync + 'static {
    /// Returns the directory that the root is; `None` when it is the namespace, in which every CID
    /// is a name.
    fn directory(&self) -> Option<Cid>;

    /// Returns the CIDs that a listing of the namespace shows, in any order, each once.
    fn listed(&self) -> Vec<Cid>;

    /// Returns a counter that changes whenever [`Root::listed`] does; `None` when it never does.
    fn changes(&self) -> Option<watch::Receiver<u64>>;
}

/// One directory, named by its CID.
#[derive(Debug, Clone, Copy)]
pub struct FixedRoot(Cid);

impl FixedRoot {
    /// Returns the root of a mount of the directory `cid`, fetched to see that it is one.
    ///
    /// # Errors
    /// [`UnixfsError::NotADirectory`], [`UnixfsError::Dag`].
    pub async fn new(dag: &Dag, cid: Cid) -> Result<Self, UnixfsError> {
        match unixfs::stat(dag, &cid).await?.kind {
            FileType::Directory => Ok(Self(cid)),
            FileType::File | FileType::Symlink => {
                Err(UnixfsError::NotADirectory { cid: Box::new(cid) })
            }
        }
    }
}

impl Root for FixedRoot {
    fn directory(&self) -> Option<Cid> {
        Some(self.0)
    }

    fn listed(&self) -> Vec<Cid> {
        Vec::new()
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// All CIDs; a listing shows what is pinned.
#[derive(Debug)]
pub struct Namespace(Pins);

impl Namespace {
    /// Returns the root of a mount of the whole namespace.
    pub fn new(pins: Pins) -> Self {
        Self(pins)
    }
}

impl Root for Namespace {
    fn directory(&self) -> Option<Cid> {
        None
    }

    fn listed(&self) -> Vec<Cid> {
        self.0.list().into_iter().map(|pin| pin.cid).collect()
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.subscribe())
    }
}
