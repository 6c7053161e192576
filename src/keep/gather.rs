//! Files whose blocks came one by one become files of the store, which the kernel can read by itself.
//!
//! Whoever opened or pinned something asks for it and goes on; one thread does what was asked for when
//! it gets to it. What cannot be done is not tried again for a while, however often it is opened.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{KeepError, Keeper};
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::{Gathered, StoreError};
use crate::unixfs::{self, NoLeaves};

/// Roots that wait for their turn; further ones are forgotten, and asked for when they are opened
/// again.
const WAITING_MAX: usize = 256;
/// Files of which it is remembered that they were tried, of about 200 bytes each.
const TRIED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// After this time a file that cannot be laid out is tried again: what was in the way may be gone.
const DECLINED_FOR: Duration = Duration::from_hours(1);
/// After this time one is tried again for which the disk, or this process, failed.
const FAILED_FOR: Duration = Duration::from_mins(5);

/// What is to be laid out, and what was tried.
#[derive(Debug)]
pub(super) struct Gathering {
    wanted: Mutex<Wanted>,
    asked: Notify,
}

#[derive(Debug)]
struct Wanted {
    waiting: VecDeque<Cid>,
    /// Until when a file is not to be tried again.
    tried: LruCache<Cid, Instant>,
}

impl Default for Gathering {
    fn default() -> Self {
        let wanted = Wanted { waiting: VecDeque::new(), tried: LruCache::new(TRIED_MAX) };
        Self { wanted: Mutex::new(wanted), asked: Notify::new() }
    }
}

impl Wanted {
    fn was_tried(&self, file: &Cid) -> bool {
        self.tried.peek(file).is_some_and(|until| Instant::now() < *until)
    }

    fn note_tried(&mut self, file: Cid, gathered: &Result<Gathered, StoreError>) {
        let pause = match gathered {
            // Its leaves may be on their way, or may go again.
            Ok(Gathered::Missing | Gathered::Stopped | Gathered::Whole | Gathered::Done) => return,
            Ok(Gathered::Declined(_)) => DECLINED_FOR,
            Err(_) => FAILED_FOR,
        };
        self.tried.put(file, Instant::now() + pause);
    }
}

impl Keeper {
    /// Asks for the files below and including `root` to be laid out in the store, each as one file.
    pub fn gather_soon(&self, root: Cid) {
        let gathering = &self.inner.gathering;
        let mut wanted = gathering.wanted.lock();
        let is_new = !wanted.was_tried(&root) && !wanted.waiting.contains(&root);
        if is_new && wanted.waiting.len() < WAITING_MAX {
            wanted.waiting.push_back(root);
            gathering.asked.notify_one();
        }
    }

    /// Waits until something was asked for since the last call.
    pub async fn gather_asked(&self) {
        self.inner.gathering.asked.notified().await;
    }

    /// Lays out what was asked for and returns how many files it laid out. `go_on` is called often and
    /// may break off. Waits for the disk.
    ///
    /// # Errors
    /// [`KeepError::Store`]: what still waits is done by the next call.
    pub fn gather(&self, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<u64, KeepError> {
        let dag = self.unused_dag();
        let mut done = 0;
        while let Some(root) = self.next_wanted() {
            let mut files = std::pin::pin!(unixfs::files(&dag, root));
            while let Some(file) = self.inner.runtime.block_on(files.next()) {
                if go_on().is_break() {
                    return Ok(done);
                }
                let Some(file) = file else { continue };
                done += u64::from(self.gather_file(&dag, file, go_on)?);
            }
        }
        Ok(done)
    }

    #[cfg(test)]
    pub(super) fn gather_waiting(&self) -> Vec<Cid> {
        self.inner.gathering.wanted.lock().waiting.iter().copied().collect()
    }

    fn next_wanted(&self) -> Option<Cid> {
        self.inner.gathering.wanted.lock().waiting.pop_front()
    }

    /// Lays one file out; returns whether it did.
    fn gather_file(
        &self,
        dag: &Dag,
        file: Cid,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<bool, StoreError> {
        if self.inner.gathering.wanted.lock().was_tried(&file) {
            return Ok(false);
        }
        let blocks = &self.inner.repository.blocks;
        let leaves = async {
            let stat = unixfs::stat(dag, &file).await.ok()?;
            // Others would be tried for nothing, and push out of memory what was.
            let is_long = stat.file_len >= blocks.assemble_min_bytes();
            if is_long { Some(unixfs::leaves(dag, &file).await) } else { None }
        };
        let gathered = match self.inner.runtime.block_on(leaves) {
            None => return Ok(false),
            Some(Ok(leaves)) => blocks.gather(&leaves, go_on),
            Some(Err(NoLeaves::NotHere)) => Ok(Gathered::Missing),
            Some(Err(NoLeaves::Unfit)) => Ok(Gathered::Declined("its leaves cannot be told")),
        };
        tracing::debug!(%file, ?gathered, "laid out a file");
        self.inner.gathering.wanted.lock().note_tried(file, &gathered);
        Ok(gathered? == Gathered::Done)
    }
}
