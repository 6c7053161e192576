//! Listings that the kernel has kept and must ask for again.
//!
//! The kernel keeps the listing of a directory for ever. That is wrong for the root of the
//! namespace when pins change, and for a listing that showed something unknown.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{ROOT_INO, Vfs};

/// Directories noted to be asked for again; no larger than the inode table.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    inos: Mutex<BTreeSet<u64>>,
    noted: Notify,
}

impl Unkept {
    pub(super) fn note(&self, ino: u64) {
        self.inos.lock().insert(ino);
        self.noted.notify_one();
    }

    async fn next(&self) -> Vec<u64> {
        loop {
            let inos = std::mem::take(&mut *self.inos.lock());
            if !inos.is_empty() {
                return inos.into_iter().collect();
            }
            self.noted.notified().await;
        }
    }
}

/// Tells, one after the other, whose listing the kernel must drop.
#[derive(Debug)]
pub struct Changes {
    pins: Option<watch::Receiver<u64>>,
    vfs: Vfs,
}

impl Changes {
    pub(super) fn new(pins: Option<watch::Receiver<u64>>, vfs: Vfs) -> Self {
        Self { pins, vfs }
    }

    /// Waits for the next directories whose listing is no longer right.
    pub async fn next(&mut self) -> Vec<u64> {
        let Some(pins) = &mut self.pins else { return self.vfs.inner.unkept.next().await };
        tokio::select! {
            inos = self.vfs.inner.unkept.next() => inos,
            changed = pins.changed() => {
                if changed.is_err() {
                    // The pins are gone, so they change no more.
                    self.pins = None;
                }
                vec![ROOT_INO]
            }
        }
    }
}
