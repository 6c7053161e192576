//! What one source has too much of and another could send sooner.
//!
//! Whoever answers first may be given all that is wanted before others have said that they have it too; and a
//! source that becomes slow has what was asked of it while it was fast. What it has not begun to send is
//! called off and asked for elsewhere.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::source::Source;
use super::want::{Answer, WantId};
use super::{Ask, Scheduler};

/// Blocks in front of one that is called off, …
const AHEAD_MIN: usize = 3;
/// … and bytes of them, beside what is on its way: sources have about as much ready to send (boxo's and our own
/// replies, spec 05 §5).
const AHEAD_BYTES_MIN: u64 = 1024 * 1024;
/// It is worth it for half of the time again.
const GAIN: f64 = 1.5;
/// Blocks that stay where they are, since nobody else is known to have them, before the others do too.
const KEPT_MAX: usize = 8;

impl<S: Copy + Ord + Hash + Debug> Scheduler<S> {
    /// Calls off the last blocks of those who have too many under way, and asks others for them.
    pub(super) fn balance(&mut self, now: Instant) {
        let busy = self.sources.iter().filter(|(_, known)| is_far(known, known.under_way_count()));
        for source in busy.map(|(source, _)| *source).collect::<Vec<_>>() {
            self.relieve(source, now);
        }
    }

    /// Asks others for what comes last from a source and would come much sooner from them.
    fn relieve(&mut self, source: S, now: Instant) {
        let mut kept = 0;
        for (asked, id) in self.sources.get(&source).map(Source::last).unwrap_or_default() {
            let Some(busy) = self.sources.get(&source) else { return };
            let place = busy.under_way_count() - kept;
            if kept > KEPT_MAX || !is_far(busy, place) {
                return;
            }
            let want = self.wants.get(&id).filter(|want| want.under_way().count() == 1);
            let best = want.and_then(|want| self.others(want, now).min());
            // What is on its way comes sooner than what is called off, and from who failed maybe never.
            let is_much_sooner = |(expected, other): &(Duration, S)| {
                busy.time_of(place) > expected.mul_f64(GAIN) + busy.latency()
                    && self.sources.get(other).is_some_and(Source::is_clean)
            };
            match best.filter(is_much_sooner) {
                Some((_, other)) => self.shift(id, (source, asked), other, now),
                None => kept += 1,
            }
        }
    }

    fn shift(&mut self, id: WantId, (source, asked): (S, Instant), other: S, now: Instant) {
        let (Some(want), Some(busy)) = (self.wants.get_mut(&id), self.sources.get_mut(&source))
        else {
            return;
        };
        busy.forget(asked, id);
        want.answers.insert(source, Answer::Has(now));
        self.asks.push_back(Ask::Cancel(source, want.cid));
        self.ask(id, other, now);
    }
}

/// Tells whether a block is far from its turn that is in this place, from 1, of all that are under way.
fn is_far(known: &Source, place: usize) -> bool {
    let ahead = place.saturating_sub(1);
    let bytes = (ahead as u64).saturating_mul(known.block_len());
    ahead >= AHEAD_MIN && bytes >= AHEAD_BYTES_MIN + known.on_the_way()
}
