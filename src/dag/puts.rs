//! Fetched blocks on their way into the store, which may have to wait for the disk.
//!
//! One thread at a time does, apart from those that read, fetch and talk to others; what comes in the
//! meantime is put together after it. Each fetch waits for its own block, so that no more wait here than
//! fetches may be in flight.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::block::Block;
use crate::store::{BlockStore, StoreError};

/// Most blocks that are put together: whoever else writes has a turn after so many.
const PUT_TOGETHER_MAX: usize = 16;

/// The way into a store.
#[derive(Debug)]
pub(super) struct Puts {
    store: Arc<dyn BlockStore>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// A thread puts what waits.
    is_served: bool,
}

#[derive(Debug)]
struct Waiting {
    block: Block,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The right to put what waits. Lost in a panic, it fails what waits and goes to who comes next.
struct Server {
    puts: Arc<Puts>,
    is_serving: bool,
}

impl Puts {
    pub(super) fn new(store: Arc<dyn BlockStore>) -> Arc<Self> {
        Arc::new(Self { store, queue: Mutex::default() })
    }

    /// Puts a block, which happens also if the caller does not wait for it. Runs in a runtime.
    ///
    /// # Errors
    /// As [`BlockStore::put`].
    pub(super) async fn put(self: &Arc<Self>, block: Block) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        let was_served = {
            let mut queue = self.queue.lock();
            queue.waiting.push_back(Waiting { block, done });
            std::mem::replace(&mut queue.is_served, true)
        };
        if !was_served {
            let server = Server { puts: Arc::clone(self), is_serving: true };
            tokio::task::spawn_blocking(move || server.run());
        }
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Puts blocks together; when the store refuses that, each has its own answer.
    fn put_all(&self, group: Vec<Waiting>) {
        let (blocks, waiters): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.block, waiting.done)).unzip();
        let together = self.store.put(&blocks).is_ok();
        for (block, waiter) in blocks.iter().zip(waiters) {
            let own = if together { Ok(()) } else { self.store.put(std::slice::from_ref(block)) };
            // Nobody waits for a block whose reader has gone.
            drop(waiter.send(own));
        }
    }
}

impl Server {
    fn run(mut self) {
        while let Some(group) = self.next() {
            self.puts.put_all(group);
        }
    }

    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.puts.queue.lock();
        let len = queue.waiting.len().min(PUT_TOGETHER_MAX);
        if len == 0 {
            self.is_serving = false;
            queue.is_served = false;
            return None;
        }
        Some(queue.waiting.drain(..len).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_serving {
            *self.puts.queue.lock() = Queue::default();
        }
    }
}
