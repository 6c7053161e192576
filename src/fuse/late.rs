//! Look-ups that timed out a moment ago.
//!
//! The kernel asks for a name again on its own when the first answer was an error and it had held
//! the name before, and it asks one by one for all who wait for the same name. Each of them would
//! wait its full time after the other. So a time-out is the answer to the same question for a
//! moment longer; this is no cache, since everybody who hears it has waited in that very queue or
//! asks within the second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

/// How long a time-out stays the answer: longer than the kernel takes to ask again, shorter than a
/// person.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Time-outs remembered; of more than these some questions wait twice.
const NAMES_MAX: usize = 1024;

/// Names whose look-up timed out less than [`ANSWER_TIME`] ago, in the order of time.
#[derive(Debug, Default)]
pub(super) struct LateNames(Mutex<VecDeque<LateName>>);

#[derive(Debug)]
struct LateName {
    since: Instant,
    parent: u64,
    name: Bytes,
}

impl LateNames {
    pub(super) fn note(&self, parent: u64, name: Bytes) {
        let mut names = self.0.lock();
        if names.len() == NAMES_MAX {
            names.pop_front();
        }
        names.push_back(LateName { since: Instant::now(), parent, name });
    }

    pub(super) fn contains(&self, parent: u64, name: &[u8]) -> bool {
        let mut names = self.0.lock();
        while names.front().is_some_and(|late| late.since.elapsed() > ANSWER_TIME) {
            names.pop_front();
        }
        names.iter().any(|late| late.parent == parent && late.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_late_for_a_moment() {
        let late = LateNames::default();
        late.note(1, Bytes::from_static(b"a"));
        assert!(late.contains(1, b"a"));
        assert!(!late.contains(1, b"b") && !late.contains(2, b"a"));
        late.0.lock()[0].since -= ANSWER_TIME;
        assert!(!late.contains(1, b"a"));
        assert!(late.0.lock().is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let late = LateNames::default();
        for parent in 0..2000 {
            late.note(parent, Bytes::new());
        }
        assert_eq!(late.0.lock().len(), NAMES_MAX);
        assert!(late.contains(1999, b"") && !late.contains(0, b""));
    }
}
