//! How many bytes a second all connections together carry, one way, or how much else a second.

use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// What was not used in this time may be caught up with.
const BURST: Duration = Duration::from_millis(100);
/// Longest wait for one piece: who is at the other end must not take this for silence.
const PIECE_TIME: Duration = Duration::from_millis(250);

/// Bytes a second that messages may take each way; `None` for as many as there can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// To peers.
    pub up: Option<NonZeroU64>,
    /// From peers.
    pub down: Option<NonZeroU64>,
}

/// Lets bytes pass at a rate; whoever comes first passes first.
#[derive(Debug)]
pub(in crate::exchange) struct Throttle {
    rate: Option<NonZeroU64>,
    /// When what has passed until now is paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    pub(in crate::exchange) fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, paid: Mutex::new(Instant::now()) }
    }

    /// Returns how many bytes are to pass at a time, at most `len`.
    pub(super) fn piece(&self, len: usize) -> usize {
        let Some(rate) = self.rate else { return len };
        let most = rate.get() * u64::try_from(PIECE_TIME.as_millis()).unwrap_or(1) / 1000;
        usize::try_from(most).unwrap_or(len).clamp(1, len)
    }

    /// Waits until so many bytes may pass.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        let turn = {
            let mut paid = self.paid.lock();
            let turn = (*paid).max(now.checked_sub(BURST).unwrap_or(now));
            #[expect(clippy::cast_precision_loss, reason = "pieces and rates are far below 2⁵²")]
            let cost = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            *paid = turn + cost;
            turn
        };
        // Even a sleep that is over takes a turn of the timer.
        if turn > now {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_pass_at_the_rate() {
        let throttle = Throttle::new(NonZeroU64::new(1_000_000));
        let piece = throttle.piece(64 * 1024);
        assert_eq!((piece, throttle.piece(10)), (64 * 1024, 10));
        let start = Instant::now();
        let one = || async {
            for _ in 0..20 {
                throttle.pass(25_000).await;
            }
        };
        join_all((0..4).map(|_| one())).await;
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(1850) && took < Duration::from_millis(2010),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_goes_in_small_pieces_and_none_costs_nothing() {
        let slow = Throttle::new(NonZeroU64::new(20_000));
        assert_eq!(slow.piece(64 * 1024), 5000);
        let start = Instant::now();
        slow.pass(5000).await;
        assert!(start.elapsed() < Duration::from_millis(1), "the first passes at once");
        slow.pass(5000).await;
        assert!(start.elapsed() >= Duration::from_millis(150));
        let free = Throttle::new(None);
        let start = Instant::now();
        free.pass(usize::MAX).await;
        assert_eq!((free.piece(usize::MAX), start.elapsed()), (usize::MAX, Duration::ZERO));
    }
}
