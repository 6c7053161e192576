//! Going slowly: so many bytes a second, by sleeping when ahead of time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Longest sleep in one piece, so that whoever wants to stop is heard within a tenth of a second.
const NAP_MAX: Duration = Duration::from_millis(100);

/// A rate that a thread keeps to.
#[derive(Debug)]
pub(super) struct Pace {
    begun: Instant,
    bytes_per_s: u64,
}

impl Pace {
    /// Begins now; a rate of zero counts as one byte a second.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { begun: Instant::now(), bytes_per_s: bytes_per_s.max(1) }
    }

    /// Waits until `bytes` may have been read since the beginning, or `go_on` breaks off.
    pub(super) fn wait(
        &self,
        bytes: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_s);
        let due = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        loop {
            go_on()?;
            let ahead = due.saturating_sub(self.begun.elapsed());
            if ahead.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(ahead.min(NAP_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_stopping_is_heard() {
        let pace = Pace::new(1_000_000);
        let begun = Instant::now();
        assert!(pace.wait(150_000, &mut || ControlFlow::Continue(())).is_continue());
        assert!(begun.elapsed() >= Duration::from_millis(150));
        let mut naps = 0;
        let stopped = pace.wait(u64::MAX, &mut || {
            naps += 1;
            if naps == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(stopped.is_break());
    }
}
