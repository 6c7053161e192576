//! The wants below one root, and which sources turned out to have what is there.

use std::collections::BTreeMap;

use super::Given;

/// Blocks that a member lacked one after another before it is none any more (boxo's number, spec 05 §4).
const MISSES_MAX: u32 = 16;
/// Blocks that a member gave without a miss before others are no longer asked beside it.
const PROVEN_AFTER: u32 = 4;
/// Sources of one session at most.
const MEMBERS_MAX: usize = 64;

/// The sources of a session.
#[derive(Debug)]
pub(super) struct Session<S> {
    members: BTreeMap<S, Member>,
    /// What each source gave of it, up to [`MEMBERS_MAX`] of them, also of those that are gone.
    given: BTreeMap<S, Given>,
}

#[derive(Debug, Default)]
struct Member {
    /// Blocks that came one after another without a miss.
    hits: u32,
    /// Blocks that it lacked one after another.
    misses: u32,
}

impl Member {
    fn is_proven(&self) -> bool {
        self.hits >= PROVEN_AFTER
    }
}

impl<S: Copy + Ord> Session<S> {
    pub(super) fn new() -> Self {
        Self { members: BTreeMap::new(), given: BTreeMap::new() }
    }

    pub(super) fn is_member(&self, source: S) -> bool {
        self.members.contains_key(&source)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = S> {
        self.members.keys().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Tells whether a source gave all that it was asked for lately.
    pub(super) fn is_proven(&self, source: S) -> bool {
        self.members.get(&source).is_some_and(Member::is_proven)
    }

    /// Returns who gave all that it was asked for lately.
    pub(super) fn proven(&self) -> impl Iterator<Item = S> {
        self.members.iter().filter(|(_, member)| member.is_proven()).map(|(source, _)| *source)
    }

    /// Notes that a source has, or gave, a block of the session.
    pub(super) fn hit(&mut self, source: S, gave: bool) {
        if self.members.len() >= MEMBERS_MAX && !self.is_member(source) {
            return;
        }
        let member = self.members.entry(source).or_default();
        if gave {
            // To say that one has it is no merit yet.
            member.misses = 0;
            member.hits = member.hits.saturating_add(1);
        }
    }

    /// Counts a block that a source gave.
    pub(super) fn gave(&mut self, source: S, len: usize) {
        if self.given.len() < MEMBERS_MAX || self.given.contains_key(&source) {
            self.given.entry(source).or_default().add(len);
        }
    }

    /// Returns what came from each source.
    pub(super) fn given(&self) -> impl Iterator<Item = (S, Given)> {
        self.given.iter().map(|(source, given)| (*source, *given))
    }

    /// Notes that a source lacks a block of the session.
    pub(super) fn miss(&mut self, source: S) {
        if let Some(member) = self.members.get_mut(&source) {
            (member.hits, member.misses) = (0, member.misses + 1);
            if member.misses >= MISSES_MAX {
                self.members.remove(&source);
            }
        }
    }

    pub(super) fn remove(&mut self, source: S) {
        self.members.remove(&source);
    }
}
