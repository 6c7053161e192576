//! Our wants: who waits for which block, shared by those who wait and the task of the swarm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use libp2p::PeerId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::block::{Block, Cid, Multihash};
use crate::exchange::schedule::{Given, Scheduler};
use crate::exchange::{Session, Urgency};

/// Bytes of blocks that were given to who did not take them any more.
const UNTAKEN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is wanted, and from whom.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pub(super) scheduler: Scheduler<PeerId>,
    waiting: HashMap<Multihash, Vec<oneshot::Sender<Block>>>,
    untaken: Untaken,
}

/// Blocks that came and that nobody has taken yet. Who waits may be dropped at that very moment, and who then
/// asks again would ask in vain: Helia sends no block again within five seconds (spec 05 §5).
#[derive(Debug)]
struct Untaken {
    blocks: LruCache<Multihash, Block>,
    bytes: usize,
}

impl Default for Untaken {
    fn default() -> Self {
        Self { blocks: LruCache::unbounded(), bytes: 0 }
    }
}

impl Untaken {
    fn put(&mut self, block: &Block) {
        self.take(block.cid().hash());
        self.bytes += block.data().len();
        self.blocks.put(*block.cid().hash(), block.clone());
        while self.bytes > UNTAKEN_BYTES_MAX
            && let Some((_, oldest)) = self.blocks.pop_lru()
        {
            self.bytes -= oldest.data().len();
        }
    }

    fn take(&mut self, hash: &Multihash) -> Option<Block> {
        let block = self.blocks.pop(hash)?;
        self.bytes -= block.data().len();
        Some(block)
    }
}

/// A handle to the wants of a node; all clones are the same wants.
#[derive(Debug, Clone, Default)]
pub(in crate::exchange) struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    wants: Mutex<Wants>,
    /// Of the task that carries questions to peers.
    waker: AtomicWaker,
}

/// Calls off what was not waited for to its end.
struct Waiter<'a> {
    client: &'a Client,
    cid: &'a Cid,
}

impl Client {
    /// Waits for a block of some peer; dropping the future calls it off.
    pub(in crate::exchange) async fn fetch(
        &self,
        cid: &Cid,
        urgency: Urgency,
        session: Session,
    ) -> Block {
        let (sender, receiver) = oneshot::channel();
        let _waiter = Waiter { client: self, cid };
        let untaken = self.with(|wants| {
            let untaken = wants.untaken.take(cid.hash());
            if untaken.is_none() {
                wants.waiting.entry(*cid.hash()).or_default().push(sender);
                wants.scheduler.want(*cid, urgency, session, Instant::now());
            }
            untaken
        });
        let came = match untaken {
            Some(block) => Ok(block),
            None => receiver.await,
        };
        self.within(|wants| wants.untaken.take(cid.hash()));
        match came.map(|block| block.with_cid(*cid)) {
            Ok(Some(block)) => block,
            // Only a node that has stopped drops the other end.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Tells that a block is waited for now.
    pub(in crate::exchange) fn hurry(&self, cid: &Cid) {
        self.with(|wants| wants.scheduler.hurry(cid, Urgency::Demand, Instant::now()));
    }

    /// Returns what each peer gave below a root.
    pub(in crate::exchange) fn given(&self, session: &Session) -> Vec<(PeerId, Given)> {
        self.within(|wants| wants.scheduler.given(session))
    }

    /// Returns what each peer gave since the start.
    pub(in crate::exchange) fn givers(&self) -> Vec<(PeerId, Given)> {
        self.within(|wants| wants.scheduler.givers().collect())
    }

    /// Looks at, or changes, the wants, and wakes the task that carries what comes of it.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Wants) -> T) -> T {
        let result = change(&mut self.shared.wants.lock());
        self.shared.waker.wake();
        result
    }

    /// Looks at the wants, or changes them from the task itself.
    pub(super) fn within<T>(&self, change: impl FnOnce(&mut Wants) -> T) -> T {
        change(&mut self.shared.wants.lock())
    }

    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.shared.waker.register(waker);
    }
}

impl Wants {
    /// Gives a block to those who wait for it.
    pub(super) fn give(&mut self, block: &Block) {
        self.untaken.put(block);
        for waiter in self.waiting.remove(block.cid().hash()).unwrap_or_default() {
            // Who does not wait any more has called it off.
            let _gone = waiter.send(block.clone());
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.client.with(|wants| {
            let Some(waiting) = wants.waiting.get_mut(self.cid.hash()) else { return };
            waiting.retain(|waiter| !waiter.is_canceled());
            if waiting.is_empty() {
                wants.waiting.remove(self.cid.hash());
                wants.scheduler.cancel(self.cid);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::block::{HashFn, codecs};

    fn block(number: u8, len: usize) -> Block {
        Block::hash(codecs::RAW, HashFn::SHA2_256, vec![number; len].into()).unwrap()
    }

    #[test]
    fn a_block_that_came_for_who_is_gone_is_there_for_the_next() {
        let (client, block) = (Client::default(), block(1, 100));
        let mut fetch = Box::pin(client.fetch(block.cid(), Urgency::Ahead, None));
        assert!(fetch.as_mut().now_or_never().is_none());
        client.with(|wants| wants.give(&block));
        drop(fetch);
        let again = client.fetch(block.cid(), Urgency::Demand, None);
        assert_eq!(again.now_or_never(), Some(block.clone()));
        assert!(client.fetch(block.cid(), Urgency::Demand, None).now_or_never().is_none());
    }

    #[test]
    fn what_nobody_takes_has_a_bound() {
        let mut untaken = Untaken::default();
        for number in 0..20 {
            untaken.put(&block(number, 1024 * 1024));
            untaken.put(&block(number, 1024 * 1024));
        }
        assert_eq!((untaken.blocks.len(), untaken.bytes), (8, UNTAKEN_BYTES_MAX));
        let newest = block(19, 1024 * 1024);
        assert_eq!(untaken.take(newest.cid().hash()), Some(newest));
    }
}
