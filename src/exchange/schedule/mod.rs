//! Which source is asked for which block, and when: one scheduler for all wants and all sources.
//!
//! Pure: time comes in, questions come out ([`Ask`]); who carries them, and what a source is, this room
//! does not know. Wants below one root share a [session](super::Session): a source that gave one of its blocks
//! is asked for the others first. Each want goes to the source that will have sent it first, by measured
//! latency and rate, as long as that one has room in its window; so sources compete, the fast one gets
//! the work, and a dead one costs one time-out. What one has too much of is asked for elsewhere. Others are
//! asked only whether they have the block, and that only until somebody turned out to have them all.

mod balance;
mod hedge;
mod session;
mod source;
#[cfg(test)]
mod tests;
mod want;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use self::hedge::{HEDGE_EVERY, is_hedged};
use self::session::Session;
use self::source::{Record, Source};
use self::want::{Answer, Want, WantId};
use super::{Session as SessionKey, Urgency};
use crate::block::{Cid, Multihash};

/// Sessions that are remembered; the one not used for longest goes first.
const SESSIONS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("positive");
/// Sources that are asked whether they have a block that nobody known has.
const BROADCAST_MAX: usize = 64;
/// Sources, members first, that are asked whether they have a block while a member is asked for it.
const BESIDE_MAX: usize = 3;
/// Wants of a session without members that are asked for at a time (boxo's number, spec 05 §4).
const BLIND_MAX: usize = 64;
/// Wants of a session that a source which has just come is asked about.
const GREETING_MAX: usize = 8;
/// How long nobody is searched for who has a block (boxo's number, spec 05 §4), …
const SEARCH_AFTER: Duration = Duration::from_secs(1);
/// … and how long until all are asked and searched for again.
const SEARCH_AGAIN: Duration = Duration::from_secs(30);
/// Blocks that came or were given up lately: a second copy of one is no lie, and who has it is of use.
const RECENT_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("positive");
/// Copies that one source may send of such a block: it was asked whether it has it, for it, and once more.
const COPIES_MAX: u8 = 3;
/// Sources that left with something against them, which are known again when they come back.
const RECORDS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("positive");

/// Sources of which it is remembered what they gave; the one that gave nothing for longest goes first.
const GIVERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("positive");

/// The order in which sources are found for wants: the most urgent first, then the oldest.
type Place = (Reverse<Urgency>, WantId);

/// What is to be sent to a source, or found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask<S> {
    /// Ask whether the source has the block, once more or not.
    Have(S, Cid, Repeat),
    /// Ask for the block.
    Block(S, Cid, Urgency, Repeat),
    /// Tell that the block is no longer wanted.
    Cancel(S, Cid),
    /// Search for sources of the block.
    Search(Cid),
}

/// Whether what the source was asked before must be called off first, or it may take no notice.
pub(super) type Repeat = bool;

/// What a block that came is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was wanted.
    Wanted,
    /// It came too late, or twice.
    Late,
    /// Nobody wanted it.
    Unasked,
}

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks that were wanted.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Blocks that came twice or too late.
    pub late_blocks: u64,
    /// Bytes of them.
    pub late_bytes: u64,
    /// Blocks that nobody wanted.
    pub unasked_blocks: u64,
    /// Bytes of them.
    pub unasked_bytes: u64,
}

/// What came from one source, of what was wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Given {
    fn add(&mut self, len: usize) {
        self.blocks += 1;
        self.bytes += len as u64;
    }
}

/// The wants, the sources, and what is between them.
#[derive(Debug)]
pub(super) struct Scheduler<S: Copy + Ord + Hash + Debug> {
    sources: HashMap<S, Source>,
    sessions: LruCache<SessionKey, Session<S>>,
    ids: HashMap<Multihash, WantId>,
    wants: BTreeMap<WantId, Want<S>>,
    /// Wants that are under way from nowhere, the most urgent and oldest in front.
    idle: BTreeSet<Place>,
    next_id: WantId,
    recent: LruCache<Multihash, Recent<S>>,
    records: LruCache<S, Record>,
    asks: VecDeque<Ask<S>>,
    hedges_at: Option<Instant>,
    totals: Totals,
    /// What each source gave since the start.
    givers: LruCache<S, Given>,
}

/// A block that came or was given up.
#[derive(Debug)]
struct Recent<S> {
    session: SessionKey,
    /// How many copies may still come from whom.
    copies: Vec<(S, u8)>,
}

impl<S: Copy + Ord + Hash + Debug> Default for Scheduler<S> {
    fn default() -> Self {
        Self {
            sources: HashMap::new(),
            sessions: LruCache::new(SESSIONS_MAX),
            ids: HashMap::new(),
            wants: BTreeMap::new(),
            idle: BTreeSet::new(),
            next_id: 0,
            recent: LruCache::new(RECENT_MAX),
            records: LruCache::new(RECORDS_MAX),
            asks: VecDeque::new(),
            hedges_at: None,
            totals: Totals::default(),
            givers: LruCache::new(GIVERS_MAX),
        }
    }
}

impl<S: Copy + Ord + Hash + Debug> Scheduler<S> {
    /// Wants a block. Who wants one twice waits for the same.
    pub(super) fn want(&mut self, cid: Cid, urgency: Urgency, session: SessionKey, now: Instant) {
        if self.ids.contains_key(cid.hash()) {
            return self.hurry(&cid, urgency, now);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(*cid.hash(), id);
        self.wants.insert(id, Want::new(cid, urgency, session, now));
        self.idle.insert((Reverse(urgency), id));
    }

    /// Wants a block at least that much, if it is wanted.
    pub(super) fn hurry(&mut self, cid: &Cid, urgency: Urgency, now: Instant) {
        let Some(&id) = self.ids.get(cid.hash()) else { return };
        let Some(want) = self.wants.get_mut(&id).filter(|want| want.urgency < urgency) else {
            return;
        };
        if self.idle.remove(&(Reverse(want.urgency), id)) {
            self.idle.insert((Reverse(urgency), id));
        }
        want.urgency = urgency;
        // Who has it under way is not asked again: it may have sent it, and would do so twice.
        if want.under_way().next().is_some() {
            self.hedges_at.get_or_insert(now + HEDGE_EVERY);
        }
    }

    /// No longer wants a block.
    pub(super) fn cancel(&mut self, cid: &Cid) {
        if let Some((id, want)) = self.take(cid) {
            self.call_off(id, &want, None);
        }
    }

    /// Begins to use a source.
    pub(super) fn join(&mut self, source: S, now: Instant) {
        if self.sources.contains_key(&source) {
            return;
        }
        let record = self.records.pop(&source).unwrap_or_default();
        self.sources.insert(source, Source::new(record, now));
        let mut greeted = HashMap::<SessionKey, usize>::new();
        for want in self.wants.values_mut().rev() {
            let count = greeted.entry(want.session).or_default();
            if *count < GREETING_MAX && want.under_way().next().is_some() {
                *count += 1;
                inquire(want, source, now, &mut self.asks);
            }
        }
    }

    /// Notes how long a source takes for an answer that needs no work.
    pub(super) fn measured(&mut self, source: S, latency: Duration) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.measured(latency);
        }
    }

    /// Notes that so many bytes of a message came from a source: at a low rate, a block takes its time.
    pub(super) fn coming(&mut self, source: S, bytes: u64, now: Instant) {
        if let Some(known) = self.sources.get_mut(&source) {
            known.coming(bytes, now);
        }
    }

    /// Ends to use a source: what was under way from it is asked for elsewhere.
    pub(super) fn leave(&mut self, source: S, now: Instant) {
        let record = self.sources.remove(&source).map(|known| known.leave(now));
        if let Some(record) = record.filter(|record| !record.is_clean()) {
            self.records.put(source, record);
        }
        for (_, session) in &mut self.sessions {
            session.remove(source);
        }
        for (&id, want) in &mut self.wants {
            if let Some(Answer::UnderWay(_)) = want.answers.remove(&source) {
                rest(&mut self.idle, id, want);
            }
        }
    }

    /// Notes that what a source was told may be lost, or not: what was under way from it is asked for again.
    pub(super) fn interrupted(&mut self, source: S, now: Instant) {
        let Some(known) = self.sources.get_mut(&source) else { return };
        known.interrupted(now);
        for (&id, want) in &mut self.wants {
            let Some(answer) = want.answers.get_mut(&source) else { continue };
            if matches!(answer, Answer::UnderWay(_) | Answer::Asked(_)) {
                *answer = Answer::Stale;
                rest(&mut self.idle, id, want);
            }
        }
    }

    /// Notes what a source says of a block.
    pub(super) fn told(&mut self, source: S, cid: &Cid, has: bool, now: Instant) {
        let Some(&id) = self.ids.get(cid.hash()) else {
            return self.told_late(source, cid, has);
        };
        let (Some(want), Some(known)) = (self.wants.get_mut(&id), self.sources.get_mut(&source))
        else {
            return;
        };
        let before = want.answers.get(&source).copied();
        if let Some(Answer::Asked(asked) | Answer::UnderWay(asked)) = before {
            known.answered(now.saturating_duration_since(asked));
        }
        let session = self.sessions.get_or_insert_mut(want.session, Session::new);
        if has {
            session.hit(source, false);
            if !matches!(before, Some(Answer::UnderWay(_))) {
                want.answers.insert(source, Answer::Has(now));
            }
            return;
        }
        if matches!(before, Some(Answer::UnderWay(_) | Answer::Has(_))) {
            session.miss(source);
        }
        want.answers.insert(source, Answer::Lacks);
        if let Some(Answer::UnderWay(since)) = before {
            known.heard(now);
            known.forget(since, id);
            rest(&mut self.idle, id, want);
        }
    }

    /// Who has a block that came from somebody faster may have the next one too.
    fn told_late(&mut self, source: S, cid: &Cid, has: bool) {
        if let Some(recent) = self.recent.peek(cid.hash())
            && let Some(session) = self.sessions.get_mut(&recent.session)
            && self.sources.contains_key(&source)
            && has
        {
            session.hit(source, false);
        }
    }

    /// Notes that a block came, of so many bytes, and says what it is.
    pub(super) fn came(&mut self, source: S, cid: &Cid, len: usize, now: Instant) -> Verdict {
        let was_recent = self.recent.contains(cid.hash());
        let is_owed = self.owes_copy(source, cid);
        let taken = self.take(cid);
        let sums = &mut self.totals;
        let (verdict, blocks, bytes) = match (&taken, was_recent) {
            (Some(_), _) => (Verdict::Wanted, &mut sums.blocks, &mut sums.bytes),
            (None, true) if is_owed => (Verdict::Late, &mut sums.late_blocks, &mut sums.late_bytes),
            // It may have been asked before it came back, so it is no liar; but it gets no credit either.
            (None, true) => (Verdict::Late, &mut sums.unasked_blocks, &mut sums.unasked_bytes),
            (None, false) => (Verdict::Unasked, &mut sums.unasked_blocks, &mut sums.unasked_bytes),
        };
        *blocks += 1;
        *bytes += len as u64;
        let known = self.sources.get_mut(&source);
        if let Some(known) = known.filter(|_| taken.is_some() || is_owed) {
            let answer =
                taken.as_ref().and_then(|(id, want)| Some((*id, want.answers.get(&source)?)));
            if let Some((id, Answer::UnderWay(since))) = answer {
                known.forget(*since, id);
                known.answered(now.saturating_duration_since(*since));
            }
            known.got(len, now);
        }
        if let Some((id, want)) = taken {
            let session = self.sessions.get_or_insert_mut(want.session, Session::new);
            session.hit(source, true);
            session.gave(source, len);
            self.givers.get_or_insert_mut(source, Given::default).add(len);
            self.call_off(id, &want, Some(source));
        }
        verdict
    }

    /// Tells whether a copy of a block that came, or was given up, was to be expected of a source.
    fn owes_copy(&mut self, source: S, cid: &Cid) -> bool {
        let recent = self.recent.peek_mut(cid.hash());
        let copies = recent.and_then(|recent| {
            recent.copies.iter_mut().find(|(asked, left)| *asked == source && *left > 0)
        });
        copies.map(|(_, left)| *left -= 1).is_some()
    }

    /// Notes that a source sent what nobody asked for or what cannot be read: nothing is asked of it for a
    /// while, and what was under way is asked for elsewhere.
    pub(super) fn distrust(&mut self, source: S, now: Instant) {
        let Some(known) = self.sources.get_mut(&source) else { return };
        let (until, under_way) = known.fail(now);
        for id in under_way {
            let Some(want) = self.wants.get_mut(&id) else { continue };
            want.answers.insert(source, Answer::Late(until));
            rest(&mut self.idle, id, want);
        }
    }

    /// Returns the next thing to do.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Ask<S>> {
        if self.asks.is_empty() {
            self.fail_silent(now);
            self.assign(now);
            self.balance(now);
            self.hedge(now);
        }
        self.asks.pop_front()
    }

    /// Returns when [`Scheduler::poll`] will have something to do if nothing comes until then.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let failing =
            self.sources.iter().filter_map(|(source, known)| self.fails_at(*source, known, now));
        let doubtful = self.sources.values().filter_map(|known| known.fails_at(false));
        let doubtful = doubtful.filter(|at| *at > now);
        let returning = self.sources.values().filter_map(|source| source.returns_at(now));
        let returning = returning.filter(|_| !self.idle.is_empty());
        let searching = self.idle.iter().filter_map(|(_, id)| self.wants.get(id));
        let searching = searching.map(Want::searches_at).filter(|at| *at > now);
        failing.chain(doubtful).chain(returning).chain(searching).chain(self.hedges_at).min()
    }

    /// Returns the sums since the start.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns what each source gave since the start, up to [`GIVERS_MAX`] of them.
    pub(super) fn givers(&self) -> impl Iterator<Item = (S, Given)> {
        self.givers.iter().map(|(source, given)| (*source, *given))
    }

    /// Returns what each source gave of a session, as long as the session is remembered.
    pub(super) fn given(&self, session: &SessionKey) -> Vec<(S, Given)> {
        self.sessions.peek(session).map(|session| session.given().collect()).unwrap_or_default()
    }

    /// Returns what is wanted, the oldest first.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Cid> {
        self.wants.values().map(|want| &want.cid)
    }

    /// Removes a want from all tables but those of the sources.
    fn take(&mut self, cid: &Cid) -> Option<(WantId, Want<S>)> {
        let id = self.ids.remove(cid.hash())?;
        let want = self.wants.remove(&id)?;
        self.idle.remove(&(Reverse(want.urgency), id));
        let copies = want.answers.keys().map(|source| (*source, COPIES_MAX)).collect();
        self.recent.put(*cid.hash(), Recent { session: want.session, copies });
        if self.wants.is_empty() {
            self.hedges_at = None;
        }
        Some((id, want))
    }

    /// Tells all who were asked, but the one who gave it, that a block is no longer wanted.
    fn call_off(&mut self, id: WantId, want: &Want<S>, giver: Option<S>) {
        for (&source, answer) in &want.answers {
            if Some(source) == giver {
                continue;
            }
            if let (Answer::UnderWay(since), Some(known)) = (answer, self.sources.get_mut(&source))
            {
                known.forget(*since, id);
            }
            // Who lacks it remembers the want and would send it later.
            if self.sources.contains_key(&source) {
                self.asks.push_back(Ask::Cancel(source, want.cid));
            }
        }
    }

    /// Returns when a source has been silent for too long.
    fn fails_at(&self, source: S, known: &Source, now: Instant) -> Option<Instant> {
        let want = self.wants.get(&known.oldest()?)?;
        let is_of_use = |other: S| {
            let known = self.sources.get(&other).filter(|_| want.may_ask(other, now));
            known.is_some_and(Source::is_clean)
        };
        let session = self.sessions.peek(&want.session);
        let mut others = session.into_iter().flat_map(Session::members);
        known.fails_at(!others.any(|other| other != source && is_of_use(other)))
    }

    /// Gives up on sources that have been silent for too long. When parts are all that comes of one, others are
    /// asked whether they have what it is slow with.
    fn fail_silent(&mut self, now: Instant) {
        let (mut silent, mut slow) = (Vec::new(), Vec::new());
        for (source, known) in &self.sources {
            if self.fails_at(*source, known, now).is_some_and(|at| at <= now) {
                silent.push(*source);
            } else if known.fails_at(false).is_some_and(|at| at <= now) {
                slow.extend(known.oldest());
            }
        }
        for source in silent {
            tracing::debug!(?source, known = ?self.sources.get(&source), "a source is silent for too long");
            self.distrust(source, now);
        }
        for id in slow {
            self.inquire_of_all(id, now);
        }
    }

    /// Asks all whether they have a block who were not asked about it, or not lately.
    fn inquire_of_all(&mut self, id: WantId, now: Instant) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        let open = self
            .sources
            .iter()
            .filter(|(source, known)| want.is_open(source) && known.returns_at(now).is_none());
        let open = open.map(|(source, _)| *source).take(BROADCAST_MAX);
        for source in open.collect::<Vec<_>>() {
            inquire(want, source, now, &mut self.asks);
        }
    }

    /// Finds a source for each want that is under way from nowhere.
    fn assign(&mut self, now: Instant) {
        let mut blind = HashMap::<SessionKey, usize>::new();
        for id in self.idle_in_order() {
            let Some(want) = self.wants.get(&id) else { continue };
            let session = self.sessions.get_or_insert_mut(want.session, Session::new);
            if session.is_empty() {
                let count = blind.entry(want.session).or_default();
                *count += 1;
                if *count > BLIND_MAX {
                    continue;
                }
            }
            match choose(want, session, &self.sources, now) {
                Choice::Ask(source) => self.ask(id, source, now),
                Choice::Wait => {}
                Choice::Nobody => self.search(id, now),
            }
        }
    }

    /// Returns the wants that are under way from nowhere, of equal urgency those behind for which a source failed: it
    /// has one chance at a time, and that may be the very block that it lacks.
    fn idle_in_order(&self) -> Vec<WantId> {
        let has_failed = |id| self.wants.get(id).is_some_and(Want::has_failed);
        let mut idle = self.idle.iter().collect::<Vec<_>>();
        idle.sort_by_key(|(urgency, id)| (*urgency, has_failed(id)));
        idle.into_iter().map(|(_, id)| *id).collect()
    }

    /// Asks a source for a block, and others whether they have it.
    fn ask(&mut self, id: WantId, source: S, now: Instant) {
        let (Some(want), Some(known)) = (self.wants.get_mut(&id), self.sources.get_mut(&source))
        else {
            return;
        };
        self.idle.remove(&(Reverse(want.urgency), id));
        known.asked(id, want.urgency, now);
        let repeats = want.repeats(&source, now);
        want.answers.insert(source, Answer::UnderWay(now));
        self.asks.push_back(Ask::Block(source, want.cid, want.urgency, repeats));
        if is_hedged(want) {
            self.hedges_at.get_or_insert(now + HEDGE_EVERY);
        }
        let session = self.sessions.get_or_insert_mut(want.session, Session::new);
        let may_inquire = |other: &S| {
            let known = self.sources.get(other).filter(|known| known.returns_at(now).is_none());
            known.is_some() && want.is_open(other)
        };
        let beside: Vec<S> = if session.is_proven(source) {
            Vec::new()
        } else if session.is_member(source) {
            // Others for each block, so that it is not always the same who are asked.
            let (count, turn) = (self.sources.len(), usize::try_from(id).unwrap_or_default());
            let others = self
                .sources
                .keys()
                .copied()
                .cycle()
                .skip(turn.wrapping_mul(BESIDE_MAX) % count)
                .take(count);
            let others = others.filter(|other| !session.is_member(*other));
            session.members().chain(others).filter(may_inquire).take(BESIDE_MAX).collect()
        } else {
            self.sources.keys().copied().filter(may_inquire).take(BROADCAST_MAX).collect()
        };
        for other in beside {
            inquire(want, other, now, &mut self.asks);
        }
    }

    /// Asks everybody whether they have a block that nobody known has, and searches for others.
    fn search(&mut self, id: WantId, now: Instant) {
        self.inquire_of_all(id, now);
        let Some(want) = self.wants.get_mut(&id).filter(|want| want.searches_at() <= now) else {
            return;
        };
        if want.searched.replace(now).is_some() {
            // They may have got it meanwhile.
            want.answers.values_mut().for_each(|answer| *answer = Answer::Stale);
        }
        self.asks.push_back(Ask::Search(want.cid));
    }
}

/// Asks a source whether it has a block.
fn inquire<S: Copy + Ord>(
    want: &mut Want<S>,
    source: S,
    now: Instant,
    asks: &mut VecDeque<Ask<S>>,
) {
    asks.push_back(Ask::Have(source, want.cid, want.repeats(&source, now)));
    want.answers.insert(source, Answer::Asked(now));
}

/// Puts a want among those that are under way from nowhere, if it is.
fn rest<S: Copy + Ord>(idle: &mut BTreeSet<Place>, id: WantId, want: &Want<S>) {
    if want.under_way().next().is_none() {
        idle.insert((Reverse(want.urgency), id));
    }
}

/// Who is to be asked for a block.
enum Choice<S> {
    Ask(S),
    /// Those who have it have enough to do.
    Wait,
    /// Nobody is known who has it.
    Nobody,
}

/// Chooses the source that will have sent a block first: of those that have it or gave others of its session,
/// or of all when there are none yet.
fn choose<S: Copy + Ord + Hash>(
    want: &Want<S>,
    session: &Session<S>,
    sources: &HashMap<S, Source>,
    now: Instant,
) -> Choice<S> {
    let says_so = want.holders().map(|source| (source, true));
    let members = session.members().map(|source| (source, false));
    let mut may_wait = false;
    let mut best = None;
    for (source, says_so) in says_so.chain(members) {
        let Some(known) = sources.get(&source).filter(|_| want.may_ask(source, now)) else {
            continue;
        };
        may_wait |= known.returns_at(now).is_none();
        if known.has_room(want.urgency, now) {
            let rank = (Reverse(says_so), known.expected(), source);
            best = Some(best.map_or(rank, |best| rank.min(best)));
        }
    }
    match best {
        Some((.., source)) => Choice::Ask(source),
        None if may_wait => Choice::Wait,
        None if session.is_empty() => {
            let is_open = |(source, known): &(&S, &Source)| {
                want.may_ask(**source, now) && known.has_room(want.urgency, now)
            };
            let open = sources.iter().filter(is_open);
            let best = open.min_by_key(|(source, known)| (known.expected(), **source));
            best.map_or(Choice::Nobody, |(source, _)| Choice::Ask(*source))
        }
        None => Choice::Nobody,
    }
}

impl<S: Copy + Ord> Want<S> {
    /// Returns when sources are searched for, if nobody is known who has it.
    fn searches_at(&self) -> Instant {
        self.searched.map_or(self.since + SEARCH_AFTER, |searched| searched + SEARCH_AGAIN)
    }
}
