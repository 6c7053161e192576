//! One block that is wanted, and what each source said to that.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::block::Cid;
use crate::exchange::{Session as SessionKey, Urgency};

/// Number of a want, in the order in which they came.
pub(super) type WantId = u64;

/// What is between a want and a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was asked whether it has the block.
    Asked(Instant),
    /// It says it has it.
    Has,
    /// It says it lacks it.
    Lacks,
    /// It was asked for the block.
    UnderWay(Instant),
    /// It was asked for the block and failed, so that it is not asked again until then.
    Late(Instant),
}

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

    /// Tells whether a source may be asked for the block.
    pub(super) fn may_ask(&self, source: S, now: Instant) -> bool {
        match self.answers.get(&source) {
            None | Some(Answer::Asked(_) | Answer::Has) => true,
            Some(Answer::Late(until)) => *until <= now,
            Some(Answer::Lacks | Answer::UnderWay(_)) => false,
        }
    }
}
