//! What is known of one source: how fast it answers, how much may be under way from it.

#![expect(clippy::cast_precision_loss, reason = "lengths and counts are far below 2⁵²")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::want::WantId;
use crate::exchange::Urgency;

/// Weight of a new sample in a running mean.
const SAMPLE_WEIGHT: f64 = 0.25;
/// How long no block need be whole for parts of them to tell that the rate has fallen.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// How long after a part of a message came it is taken to be still coming; over a slow line that others share it
/// comes in pieces of 64 KiB.
const COMING_REST_MAX: Duration = Duration::from_secs(3);
/// Least time in which a rate is measured.
const MEASURE_TIME: Duration = Duration::from_millis(50);
/// What a block is taken to be long, in bytes, before one came.
const BLOCK_LEN_GUESS: f64 = 256.0 * 1024.0;
/// What a source is taken to send in a second, in bytes, before it was measured.
const RATE_GUESS: f64 = 2.0 * 1024.0 * 1024.0;
/// How long a source is taken to need for an answer before it gave one.
const LATENCY_GUESS: Duration = Duration::from_millis(200);

/// What may be under way is what the source sends in a round trip and this time together, …
const QUEUE_TIME: Duration = Duration::from_millis(50);
/// … so many times, to find out whether it can do more; TCP does that with as much.
const WINDOW_GAIN: f64 = 3.0;
/// Bytes that may be under way in any case, …
const WINDOW_BYTES_MIN: f64 = 2.0 * 1024.0 * 1024.0;
/// … but of one that was measured no more than it sends in so many seconds: what is wanted now waits behind them.
const WINDOW_SECONDS: f64 = 4.0;
/// Blocks that may be under way in any case: one that comes, and one that is asked for meanwhile.
const WINDOW_MIN: usize = 2;
/// Blocks that may be under way beside if somebody waits for them.
const WINDOW_DEMAND: usize = 8;
/// Blocks under way at most, but for those: the wants that peers remember (spec 05 §5).
const WINDOW_MAX: usize = 1024;

/// How long a source that never answered may be silent (boxo's time for the first answer, spec 05 §4).
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(5);
/// The same for one that did: four times what it should take, within these.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// How long a source that was silent, or lied, is left alone; doubled each time in a row.
const PENANCE: Duration = Duration::from_secs(2);
/// It is doubled so often at most.
const PENANCE_DOUBLINGS: u32 = 6;
/// How long a block may be under way in any case, whatever else the source answers meanwhile, …
const OVERDUE: Duration = Duration::from_secs(20);
/// … and how long if parts of it come and nobody else has it: the time that a reader waits if nothing else is set.
const OVERDUE_COMING: Duration = Duration::from_mins(1);

/// A peer, or whatever else gives blocks.
#[derive(Debug)]
pub(super) struct Source {
    /// Blocks that are under way, by when they were asked for.
    under_way: BTreeMap<(Instant, WantId), UnderWay>,
    /// The shortest time from question to answer.
    latency: Option<Duration>,
    /// Bytes in a second while the source had enough to do; 0 before the first measurement.
    rate: f64,
    /// Mean length in bytes of what came.
    block_len: f64,
    /// When the measurement of the rate began, and the bytes that came since.
    sample: (Instant, u64),
    /// Bytes of blocks that are not whole yet, as far as they came during the measurement.
    partial: u64,
    /// Whether there was always enough to do during the measurement.
    was_busy: bool,
    /// When it last gave a block that it was asked for, or said that it lacks one.
    last_heard: Instant,
    /// When a good part of a message last came.
    last_coming: Instant,
    /// Whether it ever gave a block that it was asked for.
    has_given: bool,
    record: Record,
}

/// A block that a source was asked for.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    /// How urgent it was then: sources go by that, and then by the order in which they were asked.
    urgency: Urgency,
    /// How many were under way with it.
    count: usize,
}

/// What is held against a source; a block that it was asked for wipes it out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Record {
    /// Failures one after another.
    failures: u32,
    left_alone_until: Option<Instant>,
}

impl Record {
    pub(super) fn is_clean(&self) -> bool {
        self.failures == 0
    }
}

impl Source {
    pub(super) fn new(record: Record, now: Instant) -> Self {
        Self {
            under_way: BTreeMap::new(),
            latency: None,
            rate: 0.0,
            block_len: BLOCK_LEN_GUESS,
            sample: (now, 0),
            partial: 0,
            was_busy: true,
            last_heard: now,
            last_coming: now,
            has_given: false,
            record,
        }
    }

    /// Returns how many blocks may be under way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "cut by the limits"
    )]
    pub(super) fn window(&self) -> usize {
        let time = self.latency.unwrap_or_default() + QUEUE_TIME;
        let least = if self.rate > 0.0 { self.rate * WINDOW_SECONDS } else { WINDOW_BYTES_MIN };
        let bytes = self.rate * time.as_secs_f64() * WINDOW_GAIN;
        let bytes = bytes.max(least.min(WINDOW_BYTES_MIN));
        ((bytes / self.block_len.max(1.0)) as usize).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    /// Tells whether it may be asked for one more block. What somebody waits for does not wait for room behind
    /// what nobody waits for.
    pub(super) fn has_room(&self, urgency: Urgency, now: Instant) -> bool {
        let window = match (self.is_clean(), urgency) {
            // One that failed has one chance at a time.
            (false, _) => 1,
            (true, Urgency::Demand) => self.window() + WINDOW_DEMAND,
            (true, Urgency::Ahead | Urgency::Bulk) => self.window(),
        };
        self.returns_at(now).is_none() && self.under_way.len() < window
    }

    /// Returns how many bytes a block of it has, about.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of lengths"
    )]
    pub(super) fn block_len(&self) -> u64 {
        self.block_len as u64
    }

    /// Returns how long a block that is asked for now will take.
    pub(super) fn expected(&self) -> Duration {
        self.time_of(self.under_way.len() + 1)
    }

    /// Returns how long an answer takes, about.
    pub(super) fn latency(&self) -> Duration {
        self.latency.unwrap_or(LATENCY_GUESS)
    }

    /// Returns how long so many blocks take, asked for now.
    pub(super) fn time_of(&self, blocks: usize) -> Duration {
        let rate = if self.rate > 0.0 { self.rate } else { RATE_GUESS };
        let sending = (blocks as f64 * self.block_len / rate).min(60.0);
        self.latency() + Duration::from_secs_f64(sending)
    }

    /// Returns when it has been silent for too long; `None` when nothing is under way. Of one who is alone in having
    /// something, parts of it are signs of life; who has others does better to ask those.
    pub(super) fn fails_at(&self, is_alone: bool) -> Option<Instant> {
        let ((first, _), UnderWay { count, .. }) = self.under_way.first_key_value()?;
        let patience = match self.latency {
            None => PATIENCE_AT_FIRST,
            Some(_) => (self.time_of(1) * 4).clamp(PATIENCE.0, PATIENCE.1),
        };
        let is_coming = is_alone && self.last_coming > *first;
        let least = if is_coming { OVERDUE_COMING } else { OVERDUE };
        let overdue = (self.time_of(*count) * 4).max(least);
        let sign = if is_coming { self.last_heard.max(self.last_coming) } else { self.last_heard };
        Some((sign.max(*first) + patience).min(*first + overdue))
    }

    /// Tells whether it never gave anything, nor are parts coming of what it was asked for at that time.
    pub(super) fn gives_nothing(&self, asked: Instant, now: Instant) -> bool {
        let is_coming = self.last_coming > asked && now < self.last_coming + COMING_REST_MAX;
        !self.has_given && !is_coming
    }

    /// Tells whether nothing is held against it.
    pub(super) fn is_clean(&self) -> bool {
        self.record.is_clean()
    }

    /// Returns when it is no longer left alone, if it is.
    pub(super) fn returns_at(&self, now: Instant) -> Option<Instant> {
        self.record.left_alone_until.filter(|until| now < *until)
    }

    pub(super) fn asked(&mut self, want: WantId, urgency: Urgency, now: Instant) {
        if self.under_way.is_empty() {
            self.measure_from(now);
        }
        let count = self.under_way.len() + 1;
        self.under_way.insert((now, want), UnderWay { urgency, count });
    }

    /// Takes back that a block is under way, asked for at that time.
    pub(super) fn forget(&mut self, asked: Instant, want: WantId) {
        self.was_busy &= self.under_way.len() >= self.window();
        self.under_way.remove(&(asked, want));
    }

    /// Notes that nothing is under way any more, through no fault of the source.
    pub(super) fn interrupted(&mut self, now: Instant) {
        self.under_way.clear();
        self.measure_from(now);
    }

    /// Notes that an answer came so long after its question.
    pub(super) fn answered(&mut self, after: Duration) {
        // Blocks wait for each other, so only what is shorter says something of the way.
        self.latency = Some(self.latency.map_or(after, |known| known.min(after)));
    }

    /// Notes that so many bytes of a message came. If no block was whole for long, they tell that the rate has
    /// fallen.
    pub(super) fn coming(&mut self, bytes: u64, now: Instant) {
        self.last_coming = now;
        if self.under_way.is_empty() {
            return;
        }
        self.partial += bytes;
        let time = now.saturating_duration_since(self.sample.0);
        if time < SLOW_AFTER.max(self.latency.unwrap_or_default() * 4) {
            return;
        }
        let rate = (self.sample.1 + self.partial) as f64 / time.as_secs_f64();
        if rate < self.rate {
            self.rate += (rate - self.rate) * SAMPLE_WEIGHT;
        }
    }

    /// Returns the block that is under way for longest.
    pub(super) fn oldest(&self) -> Option<WantId> {
        self.under_way.first_key_value().map(|((_, want), _)| *want)
    }

    /// Returns the blocks that are under way and when they were asked for, what will come last in front.
    pub(super) fn last(&self) -> Vec<(Instant, WantId)> {
        let mut last: Vec<_> = self.under_way.iter().rev().collect();
        last.sort_by_key(|(_, asked)| asked.urgency);
        last.into_iter().map(|(key, _)| *key).collect()
    }

    /// Returns how many bytes are on the way while an answer takes its time.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below what a machine receives in a day"
    )]
    pub(super) fn on_the_way(&self) -> u64 {
        (self.rate * self.latency().as_secs_f64()) as u64
    }

    /// Notes that it dealt with a request for a block; what else it says is no sign that it gives any.
    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Notes how long an answer takes that needs no work. Behind blocks it waits for them, so only what is shorter
    /// counts then.
    pub(super) fn measured(&mut self, latency: Duration) {
        if !self.under_way.is_empty() {
            return self.answered(latency);
        }
        self.latency = Some(self.latency.map_or(latency, |known| (known + latency) / 2));
    }

    fn measure_from(&mut self, now: Instant) {
        (self.sample, self.partial, self.was_busy) = ((now, 0), 0, true);
    }

    /// Notes the length of a block that it was asked for and that came.
    pub(super) fn got(&mut self, len: usize, now: Instant) {
        self.heard(now);
        self.has_given = true;
        self.record = Record::default();
        self.block_len += (len as f64 - self.block_len) * SAMPLE_WEIGHT;
        self.sample.1 += len as u64;
        self.partial = self.partial.saturating_sub(len as u64);
        let time = now.saturating_duration_since(self.sample.0);
        if time < MEASURE_TIME.max(self.latency.unwrap_or_default()) {
            return;
        }
        let rate = self.sample.1 as f64 / time.as_secs_f64();
        if rate > self.rate {
            self.rate = rate;
        } else if self.was_busy {
            self.rate += (rate - self.rate) * SAMPLE_WEIGHT;
        }
        self.measure_from(now);
    }

    /// Notes that it was silent for too long or lied: nothing is under way from it any more, and it is left
    /// alone for a while. Returns until when, and what was under way.
    pub(super) fn fail(&mut self, now: Instant) -> (Instant, Vec<WantId>) {
        let until = now + PENANCE * 2_u32.pow(self.record.failures.min(PENANCE_DOUBLINGS));
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.left_alone_until = Some(until);
        let under_way = std::mem::take(&mut self.under_way);
        (until, under_way.into_keys().map(|(_, want)| want).collect())
    }

    /// Returns what is held against it when it leaves. To leave with something under way may happen to
    /// anybody once, but is a failure when nothing came since the last one.
    pub(super) fn leave(mut self, now: Instant) -> Record {
        match (self.under_way.is_empty(), self.record.is_clean()) {
            (true, _) => {}
            (false, true) => self.record.failures = 1,
            (false, false) => drop(self.fail(now)),
        }
        self.record
    }

    /// Returns how many blocks are under way.
    pub(super) fn under_way_count(&self) -> usize {
        self.under_way.len()
    }
}
