//! Fetches of nodes that will be needed soon.
//!
//! Their results are dropped: the store and the cache of [`Dag`] keep them until they are needed,
//! so looking ahead takes no memory of its own, and an error is met again where it belongs. They
//! run only while the one in front waits, and end with the listing or walk that started them.

use futures::future::{BoxFuture, Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

/// At most a given number of fetches beside the one that is waited for.
pub(super) struct Ahead {
    running: FuturesUnordered<BoxFuture<'static, ()>>,
    max: usize,
}

impl Ahead {
    pub(super) fn new(max: usize) -> Self {
        Self { running: FuturesUnordered::new(), max }
    }

    /// Returns how many fetches may be started.
    pub(super) fn free(&self) -> usize {
        self.max.saturating_sub(self.running.len())
    }

    /// Starts a fetch.
    pub(super) fn start(&mut self, fetch: impl Future<Output = ()> + Send + 'static) {
        self.running.push(fetch.boxed());
    }

    /// Waits for `wanted` while the others go on; returns it, or gives it back when one of the
    /// others has ended and there is room for the next.
    pub(super) async fn wait<T>(
        &mut self,
        wanted: BoxFuture<'static, T>,
    ) -> Either<T, BoxFuture<'static, T>> {
        if self.running.is_empty() {
            return Either::Left(wanted.await);
        }
        match select(wanted, self.running.next()).await {
            Either::Left((done, _)) => Either::Left(done),
            Either::Right((_, wanted)) => Either::Right(wanted),
        }
    }
}
