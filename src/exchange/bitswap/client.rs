//! Our wants: who waits for which block, shared by those who wait and the task of the swarm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use libp2p::PeerId;
use parking_lot::Mutex;

use crate::block::{Block, Cid, Multihash};
use crate::exchange::schedule::{Given, Scheduler};
use crate::exchange::{Session, Urgency};

/// What is wanted, and from whom.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pub(super) scheduler: Scheduler<PeerId>,
    waiting: HashMap<Multihash, Vec<oneshot::Sender<Block>>>,
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
        self.with(|wants| {
            wants.waiting.entry(*cid.hash()).or_default().push(sender);
            wants.scheduler.want(*cid, urgency, session, Instant::now());
        });
        match receiver.await.map(|block| block.with_cid(*cid)) {
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
