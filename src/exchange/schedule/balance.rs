//! What one source has too much of and another could send sooner.
//!
//! Whoever answers first may be given all that is wanted before others have said that they have it too; and a
//! source that becomes slow has what was asked of it while it was fast. What it has not begun to send is
//! called off and asked for elsewhere.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use super::session::Session;
use super::want::{Answer, WantId};
use super::{Ask, Scheduler};
use crate::exchange::Urgency;

/// Blocks in front of one that is called off, …
const AHEAD_MIN: usize = 3;
/// … and bytes of them: sources have about as much ready to send (boxo's and our own replies, spec 05 §5).
const AHEAD_BYTES_MIN: u64 = 1024 * 1024;
/// It is worth it for half of the time again.
const GAIN: f64 = 1.5;

impl<S: Copy + Ord + Hash + Debug> Scheduler<S> {
    /// Calls off the last blocks of those who have too many under way, and asks others for them.
    pub(super) fn balance(&mut self, now: Instant) {
        let busy = self.sources.iter().filter(|(_, known)| known.under_way_count() > AHEAD_MIN);
        for source in busy.map(|(source, _)| *source).collect::<Vec<_>>() {
            while let Some((id, asked, other)) = self.relief(source, now) {
                self.shift(id, (source, asked), other, now);
            }
        }
    }

    /// Returns the last block that is under way from a source, since when, and who would have sent it much sooner.
    fn relief(&self, source: S, now: Instant) -> Option<(WantId, Instant, S)> {
        let busy = self.sources.get(&source)?;
        let ahead = busy.under_way_count().checked_sub(1).filter(|ahead| *ahead >= AHEAD_MIN)?;
        if (ahead as u64).saturating_mul(busy.block_len()) < AHEAD_BYTES_MIN {
            return None;
        }
        let (asked, id) = busy.newest()?;
        let want = self.wants.get(&id).filter(|want| want.under_way().count() == 1)?;
        let session = self.sessions.peek(&want.session);
        let members = session.into_iter().flat_map(Session::members);
        let free = want.holders().chain(members).filter_map(|other| {
            let known = self.sources.get(&other).filter(|_| want.may_ask(other, now))?;
            let is_free = known.is_clean() && known.has_room(Urgency::Ahead, now);
            is_free.then(|| (known.expected(), other))
        });
        let (expected, other) = free.min()?;
        // What is on its way comes sooner than what is called off.
        let is_worth_it = busy.left() > expected.mul_f64(GAIN) + busy.latency();
        is_worth_it.then_some((id, asked, other))
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
