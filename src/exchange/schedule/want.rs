//! One block that is wanted, and what each source said to that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::block::Cid;
use crate::exchange::{Session as SessionKey, Urgency};

/// Number of a want, in the order in which they came.
pub(super) type WantId = u64;

/// What is between a want and a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was asked whether it has the block.
    Asked(Instant),
    /// It said then that it has it.
    Has(Instant),
    /// It says it lacks it.
    Lacks,
    /// It was asked for the block.
    UnderWay(Instant),
    /// It was asked for the block and failed, so that it is not asked again until then.
    Late(Instant),
    /// It was asked, and what came of that, or will, is no longer known.
    Stale,
}

/// How long Helia goes by what it answered: it takes no want of a block that it spoke of a shorter time ago for a new
/// one, and drops it then (spec 05 §5).
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// A wanted block.
#[derive(Debug)]
pub(super) struct Want<S> {
    pub(super) cid: Cid,
    pub(super) urgency: Urgency,
    pub(super) session: SessionKey,
    pub(super) since: Instant,
    /// When sources for it were last searched for.
    pub(super) searched: Option<Instant>,
    pub(super) answers: BTreeMap<S, Answer>,
}

impl<S: Copy + Ord> Want<S> {
    pub(super) fn new(cid: Cid, urgency: Urgency, session: SessionKey, now: Instant) -> Self {
        Self { cid, urgency, session, since: now, searched: None, answers: BTreeMap::new() }
    }

    /// Returns from where it is under way, and since when.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (S, Instant)> {
        self.answers.iter().filter_map(|(source, answer)| match answer {
            Answer::UnderWay(since) => Some((*source, *since)),
            _ => None,
        })
    }

    /// Returns who says it has it.
    pub(super) fn holders(&self) -> impl Iterator<Item = S> {
        self.answers.iter().filter_map(|(source, answer)| match answer {
            Answer::Has(_) => Some(*source),
            _ => None,
        })
    }

    /// Tells whether a source may be asked for the block.
    pub(super) fn may_ask(&self, source: S, now: Instant) -> bool {
        match self.answers.get(&source) {
            None | Some(Answer::Asked(_) | Answer::Has(_) | Answer::Stale) => true,
            Some(Answer::Late(until)) => *until <= now,
            Some(Answer::Lacks | Answer::UnderWay(_)) => false,
        }
    }

    /// Tells whether a source is not known to have been asked anything, or not lately.
    pub(super) fn is_open(&self, source: &S) -> bool {
        matches!(self.answers.get(source), None | Some(Answer::Stale))
    }

    /// Tells whether a source may hold an earlier question for the same against a new one, as Helia does, unless that
    /// is called off first.
    pub(super) fn repeats(&self, source: &S, now: Instant) -> bool {
        match self.answers.get(source) {
            None | Some(Answer::UnderWay(_)) => false,
            Some(Answer::Asked(at) | Answer::Has(at)) => *at + ANSWER_TIME < now,
            Some(Answer::Lacks | Answer::Late(_) | Answer::Stale) => true,
        }
    }

    /// Tells whether a source failed that was asked for the block.
    pub(super) fn has_failed(&self) -> bool {
        self.answers.values().any(|answer| matches!(answer, Answer::Late(_)))
    }
}
