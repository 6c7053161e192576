//! More copies of a block that somebody waits for, when those that were asked are slow with it.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::session::Session;
use super::source::Source;
use super::want::{Answer, Want};
use super::{Scheduler, Urgency};

/// Of a block that is no guess: when another source would have sent it in a part of the time that it
/// is under way already, that one is asked too.
const HEDGE_PART: u32 = 2;
/// How often it is looked for such blocks.
pub(super) const HEDGE_EVERY: Duration = Duration::from_millis(50);
/// Sources that are asked at a time for a block while none of them ever gave one: each time the number is doubled.
const UNTRIED_MAX: usize = 16;
/// Bytes that may come twice for that, in any case and of all that came.
pub(super) const HEDGE_BYTES: u64 = 4 * 1024 * 1024;
pub(super) const HEDGE_SHARE: u64 = 20;

impl<S: Copy + Ord + Hash + Debug> Scheduler<S> {
    /// Returns who else would send a block, of those who are known or proven to have it and have room, and how long that
    /// would take.
    pub(super) fn others(
        &self,
        want: &Want<S>,
        now: Instant,
    ) -> impl Iterator<Item = (Duration, S)> {
        let session = self.sessions.peek(&want.session);
        let has_said =
            |source: &S| !matches!(want.answers.get(source), None | Some(Answer::Asked(_)));
        let proven =
            session.into_iter().flat_map(Session::proven).filter(move |source| !has_said(source));
        want.holders().chain(proven).filter_map(move |source| {
            let known = self.sources.get(&source)?;
            known.has_room(Urgency::Ahead, now).then(|| (known.expected(), source))
        })
    }

    /// Returns how many more sources may be asked for a block that is under way from these, since then: one in
    /// all, but of those that never gave any most may be liars, unless parts of it come.
    fn more(&self, asked: &[(S, Instant)], now: Instant) -> usize {
        let gives_nothing = |(source, since): &(S, Instant)| {
            self.sources.get(source).is_none_or(|known| known.gives_nothing(*since, now))
        };
        match asked.len() {
            0 => 0,
            count if asked.iter().all(gives_nothing) => {
                UNTRIED_MAX.saturating_sub(count).min(count)
            }
            count => 2_usize.saturating_sub(count),
        }
    }

    /// Asks other sources for blocks that will be needed and that the first ones are slow with.
    pub(super) fn hedge(&mut self, now: Instant) {
        if self.hedges_at.is_none_or(|at| now < at) {
            return;
        }
        let mut budget = HEDGE_BYTES + self.totals.bytes / HEDGE_SHARE;
        budget = budget.saturating_sub(self.totals.late_bytes);
        let mut is_waited_for = false;
        let mut late = Vec::new();
        for (&id, want) in self.wants.iter().filter(|(_, want)| is_hedged(want)) {
            let asked: Vec<_> = want.under_way().collect();
            let Some(last) = asked.iter().map(|(_, since)| *since).max() else { continue };
            is_waited_for = true;
            for (second, _) in &asked[1..] {
                let known = self.sources.get(second);
                budget = budget.saturating_sub(known.map_or(0, Source::block_len));
            }
            let more = self.more(&asked, now);
            if more > 0 {
                let waited = now.saturating_duration_since(last);
                let others = self.others(want, now);
                let mut sooner: Vec<_> =
                    others.filter(|(expected, _)| *expected * HEDGE_PART < waited).collect();
                sooner.sort_unstable();
                late.extend(sooner.into_iter().take(more).map(|(_, other)| (id, other)));
            }
        }
        self.hedges_at = is_waited_for.then(|| now + HEDGE_EVERY);
        for (id, other) in late {
            let has_room = |known: &&Source| known.has_room(Urgency::Ahead, now);
            let known = self.sources.get(&other).filter(has_room);
            let len = known.map(Source::block_len).filter(|len| *len <= budget);
            if let Some(len) = len {
                budget -= len;
                self.ask(id, other, now);
            }
        }
    }
}

/// Tells whether a block will be needed for certain, so that it is worth a second copy.
pub(super) fn is_hedged<S>(want: &Want<S>) -> bool {
    want.urgency != Urgency::Ahead
}
