//! When to look again for what was not here: soon after blocks came, and now and then in any case, since what
//! peers may have can change too.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest time between two looks.
pub(super) const REST_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two looks, and …
const REST_MIN: Duration = Duration::from_millis(20);
/// … for each want that is looked for: some fifty times what the look itself takes.
const REST_PER_WANT: Duration = Duration::from_micros(100);

type Blocks = watch::Receiver<()>;

/// The time of the next look.
pub(super) struct Again {
    /// Ends when blocks came since the last look.
    coming: BoxFuture<'static, Blocks>,
    /// Blocks came; of more it need not be told before the next look.
    came: Option<Blocks>,
    /// When the last look was, or the first want came that waits for one.
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Again {
    pub(super) fn new(blocks: Blocks) -> Self {
        Self { coming: next(blocks), came: None, last: None, timer: None }
    }

    /// Tells whether it is time to look for so many wants.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>, wants: usize) -> bool {
        if wants == 0 {
            (self.last, self.timer) = (None, None);
            return false;
        }
        if self.came.is_none()
            && let Poll::Ready(blocks) = self.coming.poll_unpin(cx)
        {
            self.came = Some(blocks);
        }
        let last = *self.last.get_or_insert_with(Instant::now);
        let due = last + if self.came.is_some() { rest(wants) } else { REST_MAX };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.last = Some(Instant::now());
        if let Some(blocks) = self.came.take() {
            self.coming = next(blocks);
        }
        true
    }
}

fn rest(wants: usize) -> Duration {
    let wants = u32::try_from(wants).unwrap_or(u32::MAX);
    REST_PER_WANT.saturating_mul(wants).clamp(REST_MIN, REST_MAX)
}

/// Waits for more blocks, those included that came after the last one was noted.
fn next(mut blocks: Blocks) -> BoxFuture<'static, Blocks> {
    async move {
        if blocks.changed().await.is_err() {
            // The store is gone.
            std::future::pending::<()>().await;
        }
        blocks
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    struct Bench {
        store: watch::Sender<()>,
        again: Again,
    }

    impl Bench {
        fn new() -> Self {
            let store = watch::Sender::default();
            Self { again: Again::new(store.subscribe()), store }
        }

        /// Returns after which time so many wants are looked for.
        async fn wait(&mut self, wants: usize) -> Duration {
            let begun = Instant::now();
            let mut is_due = |cx: &mut Context<'_>| self.again.is_due(cx, wants);
            poll_fn(|cx| if is_due(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
            begun.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_time_when_blocks_came_and_now_and_then() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(1).await, REST_MAX);
        bench.store.send_replace(());
        assert_eq!(bench.wait(1).await, REST_MIN);
        assert_eq!(bench.wait(1).await, REST_MAX, "nothing came since");
        let store = bench.store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REST_MAX / 2).await;
            store.send_replace(());
        });
        assert_eq!(bench.wait(1).await, REST_MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn more_wants_are_looked_for_less_often() {
        let mut bench = Bench::new();
        for (wants, rest) in [(1000, REST_PER_WANT * 1000), (1_000_000, REST_MAX)] {
            bench.store.send_replace(());
            assert_eq!(bench.wait(wants).await, rest);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_wants_it_never_is() {
        let mut bench = Bench::new();
        bench.store.send_replace(());
        let waited = tokio::time::timeout(10 * REST_MAX, bench.wait(0)).await;
        assert!(waited.is_err());
        assert_eq!(bench.wait(1).await, REST_MIN, "what came before may be what was not here");
    }
}
