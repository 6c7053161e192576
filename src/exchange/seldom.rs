//! What the log tells of what peers can cause as often as they like.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const MINUTE: Duration = Duration::from_mins(1);
/// Lines of one kind in a minute.
const TOLD_MAX: u32 = 10;

/// Lets the log tell of one kind of thing, [`TOLD_MAX`] times in a minute.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    since: Option<Instant>,
    told: u32,
    untold: u32,
}

impl Seldom {
    /// Returns whether it is told this time, then with how many there were since of which it was not.
    pub(super) fn tells(&self, now: Instant) -> Option<u32> {
        let mut minute = self.0.lock();
        if minute.since.is_none_or(|since| now.saturating_duration_since(since) >= MINUTE) {
            (minute.since, minute.told) = (Some(now), 0);
        }
        if minute.told == TOLD_MAX {
            minute.untold = minute.untold.saturating_add(1);
            return None;
        }
        minute.told += 1;
        Some(std::mem::take(&mut minute.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_not_filled_by_what_peers_do() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let told = (0..100).filter_map(|_| seldom.tells(start)).collect::<Vec<_>>();
        assert_eq!(told, [0; TOLD_MAX as usize]);
        assert_eq!(seldom.tells(start + MINUTE), Some(100 - TOLD_MAX));
        assert_eq!(seldom.tells(start + MINUTE), Some(0));
    }
}
