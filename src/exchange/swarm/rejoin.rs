//! When others are called because few are connected.

use std::time::{Duration, Instant};

/// Fewer connected peers than these are few.
const FEW: usize = 4;
/// How long after a call it is looked again, doubled each time in a row, …
const WAIT_FIRST: Duration = Duration::from_secs(10);
/// … up to this.
const WAIT_MAX: Duration = Duration::from_mins(10);

/// Tells when it is time to call.
#[derive(Debug)]
pub(super) struct Rejoin {
    at: Instant,
    wait: Duration,
}

impl Rejoin {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, wait: WAIT_FIRST }
    }

    /// Tells whether somebody is to be called now, when so many are connected.
    pub(super) fn is_due(&mut self, connected: usize, now: Instant) -> bool {
        if connected >= FEW {
            *self = Self::new(now);
            return false;
        }
        if now < self.at {
            return false;
        }
        self.at = now + self.wait;
        self.wait = (self.wait * 2).min(WAIT_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_calls_at_once_and_then_less_and_less_often() {
        let start = Instant::now();
        let mut rejoin = Rejoin::new(start);
        let calls = |rejoin: &mut Rejoin, connected, minutes: u64, from: Instant| {
            let is_due = |second| rejoin.is_due(connected, from + Duration::from_secs(second));
            (0..minutes * 60).map(is_due).filter(|is_due| *is_due).count()
        };
        assert_eq!(calls(&mut rejoin, 0, 1, start), 3, "after 0, 10 and 30 seconds");
        let later = start + Duration::from_hours(1);
        assert_eq!(calls(&mut rejoin, FEW - 1, 60, later), 9);
        assert_eq!(calls(&mut rejoin, FEW, 60, later), 0);
        assert!(rejoin.is_due(0, later + Duration::from_hours(1)), "somebody was lost");
    }
}
