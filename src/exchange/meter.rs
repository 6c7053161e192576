//! How much passes in a second. Pure: time is an argument.

use std::time::Instant;

/// Seconds over which a rate is taken.
const RATE_SECONDS: usize = 5;

/// Counts what passes, in all and in the last seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Meter {
    total: u64,
    /// When the first was counted.
    begun: Option<Instant>,
    /// What passed in each of the last seconds; that of a second lies at its number, modulo the length.
    lately: [u64; RATE_SECONDS],
    /// Number of the last second in which something passed.
    last: u64,
}

impl Meter {
    /// Counts so much now.
    pub(super) fn add(&mut self, amount: u64, now: Instant) {
        let second = now.saturating_duration_since(*self.begun.get_or_insert(now)).as_secs();
        for number in (self.last + 1..=second).take(RATE_SECONDS) {
            self.lately[place(number)] = 0;
        }
        self.last = second.max(self.last);
        self.lately[place(self.last)] += amount;
        self.total += amount;
    }

    /// Returns what passed in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns what passes in a second, over the last [`RATE_SECONDS`].
    pub(super) fn per_second(&self, now: Instant) -> u64 {
        let Some(begun) = self.begun else { return 0 };
        let time = now.saturating_duration_since(begun);
        let newest = time.as_secs().max(self.last);
        let first = (newest + 1).saturating_sub(RATE_SECONDS as u64);
        let lately: u64 = (first..=self.last).map(|number| self.lately[place(number)]).sum();
        // Less than a second says little.
        let millis = time.as_millis().saturating_sub(u128::from(first) * 1000).max(1000);
        u64::try_from(u128::from(lately) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second % RATE_SECONDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(meter.per_second(start), 0);
        meter.add(700, start);
        assert_eq!(meter.per_second(at(10)), 700, "not 70,000");
        for second in 0..100 {
            meter.add(300, at(second * 1000 + 500));
        }
        let rate = meter.per_second(at(99_999));
        assert!((299..=301).contains(&rate), "{rate}");
        assert_eq!(meter.per_second(at(100_000)), 300);
        assert_eq!(meter.per_second(at(103_400)), 68, "300 in 4.4 seconds");
        assert_eq!(meter.per_second(at(104_000)), 0);
        assert_eq!(meter.per_second(at(1_000_000)), 0);
        meter.add(40, at(1_000_000));
        assert_eq!((meter.total(), meter.per_second(at(1_000_500))), (30_740, 8));
    }

    #[test]
    fn time_that_stands_still_or_goes_back_breaks_nothing() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let later = start + Duration::from_mins(1);
        meter.add(5, later);
        meter.add(5, start);
        assert_eq!((meter.total(), meter.per_second(start)), (10, 10));
        assert_eq!(meter.per_second(later), 10);
    }
}
