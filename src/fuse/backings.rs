//! Files that the kernel reads by itself (FUSE passthrough), each registered with it once as long as
//! any handle of its inode is open.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::BackingId;
use parking_lot::Mutex;

use crate::store::WholeFile;

/// The registrations, by inode number; `None` where the kernel refused, until the last handle of the
/// inode is closed.
#[derive(Debug, Default)]
pub(super) struct Backings {
    by_ino: Mutex<HashMap<u64, Option<Backing>>>,
    /// A refusal was told to the operator; others would say the same.
    was_told: AtomicBool,
}

/// A registration and the file that it is of.
#[derive(Debug, Clone)]
pub(super) struct Backing {
    pub(super) id: Arc<BackingId>,
    _file: Arc<WholeFile>,
}

impl Backings {
    /// Returns the registration of an open inode; `register` makes it for the first handle.
    pub(super) fn get(
        &self,
        ino: u64,
        file: &Arc<WholeFile>,
        register: impl FnOnce(&WholeFile) -> io::Result<BackingId>,
    ) -> Option<Backing> {
        let mut by_ino = self.by_ino.lock();
        let made = by_ino.entry(ino).or_insert_with(|| match register(file) {
            Ok(id) => Some(Backing { id: Arc::new(id), _file: Arc::clone(file) }),
            Err(error) => {
                if !self.was_told.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "the kernel does not read files by itself; they are read through the daemon");
                }
                None
            }
        });
        made.clone()
    }

    /// Ends the registration of an inode if `is_over` says that its last handle was closed; nobody
    /// gets a registration meanwhile.
    pub(super) fn end_if(&self, ino: u64, is_over: impl FnOnce() -> bool) {
        let mut by_ino = self.by_ino.lock();
        if is_over() {
            by_ino.remove(&ino);
        }
    }
}
