//! What peers want of this node: remembered within bounds, answered in turn, and who did not take what was sent
//! last. Those that take it slowly have a part of the room, so that they cannot hold up the others.
//!
//! While long blocks are on their way to a peer, what is short goes past them on a lane of its own: over a slow
//! link, names and small files would wait for seconds.
//!
//! Everything that touches the disk runs on threads of its own, a few at a time, and only when there is
//! room to send what is read. What is not here is remembered, as peers expect, and looked for again.

mod again;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Duration;

use self::again::Again;
use super::handler::{Lane, Outgoing, SENDING_MAX};
use super::shelf::Shelf;
use super::stream::Pressed;
use crate::block::{Cid, IDENTITY_CODE};
use crate::codec::bitswap::{Message, Presence, Want, WantKind};
use crate::exchange::meter::Meter;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::time::Instant;

/// Wants of one peer that are remembered (boxo and Helia, spec 05 §5); of more, those for blocks that are
/// not here go first, then the least urgent.
pub(super) const WANTS_MAX: usize = 1024;
/// Wants that are looked at for one reply.
const REPLY_WANTS_MAX: usize = 256;
/// Bytes of blocks after which a reply is full; one block more may be in it.
const REPLY_BYTES: usize = 512 * 1024;
/// How long a long block must be under way for others to go past it that could be sent behind it.
const BRIEF_AFTER: Duration = Duration::from_millis(20);
/// A block of more bytes does not go past others, …
const BRIEF_BLOCK_LEN: u64 = 16 * 1024;
/// … nor does more than this and one block at a time: with what is around it less than a piece, since longer
/// messages wait for each other where they come …
const BRIEF_BYTES: usize = 32 * 1024;
/// … nor more wants.
const BRIEF_WANTS_MAX: usize = 64;
/// A block of at most so many bytes is sent to who asks whether it is here (boxo and Helia, spec 05 §3).
const SMALL_BLOCK_LEN: u64 = 1024;
/// Replies that are read from disk at a time.
const READING_MAX: usize = 8;
/// Replies of all peers that are read or on their way, …
pub(super) const REPLIES_MAX: usize = 64;
/// … those of peers that take them slowly, so that there is room for the others, …
const SLOW_REPLIES_MAX: usize = 32;
/// … and those from which on each has one, who did not take the last one at once.
const CROWD: usize = 16;
/// Who took a long reply in this time is not slow.
const BRISK_TIME: Duration = Duration::from_secs(1);
/// Turns that a peer is behind the others for each reply that it did not take, …
const FAILURE_TURNS: u64 = 256;
/// … for at most so many one after another.
const FAILURES_MAX: u64 = 8;

/// Place of a want: the most urgent first, then as they came.
type Place = (Reverse<i32>, u64);

/// How a peer takes long replies; short ones say nothing of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Taking {
    /// It took none yet.
    #[default]
    Unknown,
    Brisk,
    Slow,
}

/// What one peer wants.
#[derive(Debug, Default)]
struct Peer {
    /// The turn that it joined at: what was begun for it before is not its own any more.
    joined: u64,
    /// Whether it may have what is here; who may not is told that nothing is.
    may_have: bool,
    queue: BTreeMap<Place, Want>,
    places: HashMap<Cid, Place>,
    /// Those of the queue that may be short.
    unseen: BTreeSet<Place>,
    /// Wants whose blocks are not here.
    absent: HashMap<Cid, Want>,
    /// What is looked for; who calls a want off takes it out.
    reading: HashMap<Cid, Asked>,
    next_reply: u64,
    /// Replies that are read or on their way, …
    replies: usize,
    /// … those of them that were read, …
    on_way: VecDeque<OnWay>,
    /// … when the last long one was begun, …
    long_since: Option<Instant>,
    /// … and whether a brief one is.
    is_brief: bool,
    /// Its place among those that wait: behind who waits since before its last reply was begun, or it joined.
    turn: u64,
    taking: Taking,
    /// Replies that it did not take since it took a long one.
    failures: u64,
    sent: Meter,
}

/// A reply that was read and is not with the peer yet.
#[derive(Debug)]
struct OnWay {
    since: Instant,
    is_long: bool,
}

/// A want that is looked for.
#[derive(Debug)]
struct Asked {
    /// For which reply; one that was begun before, for the same block, has nothing to say of it.
    reply: u64,
    place: Place,
    was_unseen: bool,
}

/// An answer as it comes from the disk.
#[derive(Debug)]
struct Reply {
    number: u64,
    lane: Lane,
    outgoing: Outgoing,
    absent: Vec<Want>,
    /// What had no room, …
    rest: Vec<Want>,
    /// … and what is too long for the lane.
    long: Vec<Want>,
}

/// The wants of all peers.
pub(super) struct Server {
    shelf: Shelf,
    peers: HashMap<PeerId, Peer>,
    next_want: u64,
    next_turn: u64,
    reading: FuturesUnordered<BoxFuture<'static, (PeerId, u64, Reply)>>,
    again: Again,
    /// Bytes of blocks that were sent to all peers, also those that are gone, …
    sent: Meter,
    /// … and how many blocks that were.
    sent_blocks: u64,
}

impl Server {
    pub(super) fn new(shelf: Shelf) -> Self {
        Self {
            again: Again::new(shelf.subscribe()),
            shelf,
            peers: HashMap::new(),
            next_want: 0,
            next_turn: 0,
            reading: FuturesUnordered::new(),
            sent: Meter::default(),
            sent_blocks: 0,
        }
    }

    /// Begins to answer a peer, which may have what is here or may not.
    pub(super) fn join(&mut self, peer: PeerId, may_have: bool) {
        self.next_turn += 1;
        let turn = self.next_turn;
        self.peers.insert(peer, Peer { joined: turn, may_have, turn, ..Peer::default() });
    }

    /// Forgets a peer.
    pub(super) fn leave(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Takes what a peer wants now, or no longer.
    pub(super) fn told(&mut self, peer: &PeerId, message: &Message) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        if message.is_full() {
            known.forget_all();
        }
        for want in message.wants() {
            if want.is_cancel {
                known.forget(&want.cid);
            } else if want.cid.hash().code() != IDENTITY_CODE {
                known.remember(want, self.next_want);
                self.next_want += 1;
            }
        }
    }

    /// Notes that a reply could not be sent.
    pub(super) fn failed(&mut self, peer: &PeerId, lane: Lane) {
        self.cut(peer, lane);
        if let Some(known) = self.peers.get_mut(peer) {
            known.failures = known.failures.saturating_add(1);
        }
    }

    /// Notes that the rest of a reply was not sent, since it took its time and others waited. That a line is slow is
    /// no fault of the peer.
    pub(super) fn cut(&mut self, peer: &PeerId, lane: Lane) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.end(lane);
            known.taking = Taking::Slow;
        }
    }

    /// Tells whose room somebody waits for.
    pub(super) fn pressed(&self) -> Pressed {
        let room = self.room();
        let is_waiting = |peer: &&Peer| room.free_lane(peer).is_some() && !room.is_for(peer);
        let mut waiting = self.peers.values().filter(is_waiting).peekable();
        let slow = waiting.peek().is_some();
        Pressed { slow, brisk: waiting.any(|peer| room.has_part_for(peer)) }
    }

    /// Notes that a reply was sent.
    pub(super) fn sent(&mut self, peer: &PeerId, lane: Lane) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.took(lane);
        }
    }

    /// Returns the next reply to send, and on which lane.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(PeerId, Lane, Outgoing)> {
        loop {
            self.look_again(cx);
            self.read_more();
            match self.reading.poll_next_unpin(cx) {
                Poll::Ready(Some((peer, joined, reply))) => {
                    let known = self.peers.get_mut(&peer);
                    let Some(known) = known.filter(|known| known.joined == joined) else {
                        continue;
                    };
                    let lane = reply.lane;
                    if let Some(outgoing) = known.take(reply) {
                        let (bytes, now) = (outgoing.block_bytes(), std::time::Instant::now());
                        known.sent.add(bytes, now);
                        self.sent.add(bytes, now);
                        self.sent_blocks += outgoing.blocks.len() as u64;
                        return Poll::Ready((peer, lane, outgoing));
                    }
                    known.give_back(lane);
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Returns how many wants are remembered of a peer, and the bytes that were sent to it.
    pub(super) fn ledger(&self, peer: &PeerId) -> Option<(usize, &Meter)> {
        self.peers.get(peer).map(|known| (known.len(), &known.sent))
    }

    /// Returns the bytes of blocks that were sent to all peers, and how many blocks that were.
    pub(super) fn sent_to_all(&self) -> (&Meter, u64) {
        (&self.sent, self.sent_blocks)
    }

    /// Queues what was not here once more, when it is time.
    fn look_again(&mut self, cx: &mut Context<'_>) {
        let absent = self.peers.values().map(|peer| peer.absent.len()).sum();
        if !self.again.is_due(cx, absent) {
            return;
        }
        for peer in self.peers.values_mut() {
            for (_, want) in std::mem::take(&mut peer.absent) {
                // It was told once.
                let want = Want { send_dont_have: false, ..want };
                peer.remember(want, self.next_want);
                self.next_want += 1;
            }
        }
    }

    /// Returns how many replies are read or on their way.
    pub(super) fn replies(&self) -> usize {
        self.room().replies
    }

    fn room(&self) -> Room {
        let mut room = Room { replies: 0, slow: 0 };
        for peer in self.peers.values() {
            let replies = peer.replies + usize::from(peer.is_brief);
            room.replies += replies;
            room.slow += if peer.taking == Taking::Slow { replies } else { 0 };
        }
        room
    }

    /// Begins to read replies, as long as there is room for them.
    fn read_more(&mut self) {
        while self.reading.len() < READING_MAX {
            let room = self.room();
            let waiting = self.peers.iter_mut().filter(|(_, peer)| room.is_for(peer));
            let waiting = waiting.filter_map(|(id, peer)| Some((*id, room.free_lane(peer)?, peer)));
            let first = |(_, _, peer): &(_, _, &mut Peer)| peer.due();
            let Some((peer, lane, known)) = waiting.min_by_key(first) else { return };
            self.next_turn += 1;
            known.turn = self.next_turn;
            let (joined, (number, wants)) = (known.joined, known.next_wants(lane));
            let shelf = known.may_have.then(|| self.shelf.clone());
            match lane {
                Lane::Brief => known.is_brief = true,
                Lane::Wants | Lane::Blocks => known.replies += 1,
            }
            let reply = Reply::new(number, lane);
            let read = tokio::task::spawn_blocking(move || reply.of(shelf.as_ref(), wants));
            let read = read.map(move |reply| match reply {
                Ok(reply) => (peer, joined, reply),
                Err(error) => {
                    tracing::error!(%peer, %error, "reading blocks for a peer failed");
                    (peer, joined, Reply::new(number, lane))
                }
            });
            self.reading.push(read.boxed());
        }
    }
}

/// What room for replies is taken.
struct Room {
    /// Replies of all peers, …
    replies: usize,
    /// … and of those that take them slowly.
    slow: usize,
}

impl Room {
    /// Tells whether others leave room for one more reply to a peer.
    fn is_for(&self, peer: &Peer) -> bool {
        self.replies < REPLIES_MAX && self.has_part_for(peer)
    }

    /// Tells whether that part of it is not used up which a peer may take.
    fn has_part_for(&self, peer: &Peer) -> bool {
        peer.taking != Taking::Slow || self.slow < SLOW_REPLIES_MAX
    }

    /// Returns the lane on which a peer can be sent something that it waits for, as far as its own replies go.
    fn free_lane(&self, peer: &Peer) -> Option<Lane> {
        let is_alike = self.replies < CROWD || peer.taking == Taking::Brisk;
        let has_room = peer.replies < if is_alike { SENDING_MAX } else { 1 };
        let may_be_brief = !peer.is_brief && !peer.unseen.is_empty();
        if may_be_brief && peer.is_long_under_way(has_room) {
            return Some(Lane::Brief);
        }
        (has_room && !peer.queue.is_empty()).then_some(Lane::Blocks)
    }
}

impl Peer {
    fn len(&self) -> usize {
        self.queue.len() + self.absent.len()
    }

    /// Gives the room of a reply back.
    fn give_back(&mut self, lane: Lane) {
        match lane {
            Lane::Brief => self.is_brief = false,
            Lane::Wants | Lane::Blocks => self.replies = self.replies.saturating_sub(1),
        }
    }

    /// Returns the turn that it waits for.
    fn due(&self) -> u64 {
        self.turn + self.failures.min(FAILURES_MAX) * FAILURE_TURNS
    }

    /// Notes that a reply is no longer on its way, and returns it, but for a brief one.
    fn end(&mut self, lane: Lane) -> Option<OnWay> {
        self.give_back(lane);
        if lane == Lane::Brief { None } else { self.on_way.pop_front() }
    }

    /// Notes that it took a reply.
    fn took(&mut self, lane: Lane) {
        if let Some(OnWay { since, is_long: true }) = self.end(lane) {
            self.failures = 0;
            let is_brisk = since.elapsed() <= BRISK_TIME;
            self.taking = if is_brisk { Taking::Brisk } else { Taking::Slow };
        }
    }

    /// Tells whether something short would wait; with `has_room` for one more reply, if it would for long.
    fn is_long_under_way(&self, has_room: bool) -> bool {
        let since = self.long_since.filter(|_| self.replies > 0);
        since.is_some_and(|since| !has_room || since.elapsed() >= BRIEF_AFTER)
    }

    fn remember(&mut self, want: Want, number: u64) {
        self.forget(&want.cid);
        let place = (Reverse(want.priority), number);
        if self.queue_at(place, want) {
            self.unseen.insert(place);
        }
    }

    /// Queues a want, if there is room or one that can go for it.
    fn queue_at(&mut self, place: Place, want: Want) -> bool {
        if self.len() >= WANTS_MAX {
            let absent = self.absent.keys().next().copied();
            let last = self.queue.last_key_value().filter(|(last, _)| **last > place);
            match absent.or(last.map(|(_, want)| want.cid)) {
                Some(cid) => self.forget(&cid),
                None => return false,
            }
        }
        self.places.insert(want.cid, place);
        self.queue.insert(place, want);
        true
    }

    /// Puts a want that was not answered back to its place, unless it was called off.
    fn put_back(&mut self, reply: u64, want: Want, is_long: bool) {
        let Some(Asked { place, was_unseen, .. }) = self.dealt_with(reply, &want.cid) else {
            return;
        };
        if self.queue_at(place, want) && was_unseen && !is_long {
            self.unseen.insert(place);
        }
    }

    /// Takes out what a reply looked for, unless it was called off or asked for again.
    fn dealt_with(&mut self, reply: u64, cid: &Cid) -> Option<Asked> {
        self.is_asked(reply, cid).then(|| self.reading.remove(cid))?
    }

    fn is_asked(&self, reply: u64, cid: &Cid) -> bool {
        self.reading.get(cid).is_some_and(|asked| asked.reply == reply)
    }

    fn forget(&mut self, cid: &Cid) {
        if let Some(place) = self.places.remove(cid) {
            self.queue.remove(&place);
            self.unseen.remove(&place);
        }
        self.absent.remove(cid);
        self.reading.remove(cid);
    }

    fn forget_all(&mut self) {
        self.queue.clear();
        self.places.clear();
        self.unseen.clear();
        self.absent.clear();
        self.reading.clear();
    }

    /// Returns what to look for next, and the number of the reply.
    fn next_wants(&mut self, lane: Lane) -> (u64, Vec<Want>) {
        let reply = self.next_reply;
        self.next_reply += 1;
        let is_brief = lane == Lane::Brief;
        let places: Vec<_> = if is_brief {
            self.unseen.iter().take(BRIEF_WANTS_MAX).copied().collect()
        } else {
            self.queue.keys().take(REPLY_WANTS_MAX).copied().collect()
        };
        let mut wants = Vec::with_capacity(places.len());
        for place in places {
            let was_unseen = self.unseen.remove(&place);
            let Some(want) = self.queue.remove(&place) else { continue };
            self.places.remove(&want.cid);
            self.reading.insert(want.cid, Asked { reply, place, was_unseen });
            wants.push(want);
        }
        (reply, wants)
    }

    /// Takes a reply; what was called off meanwhile is left out, and `None` says that nothing is left.
    fn take(&mut self, reply: Reply) -> Option<Outgoing> {
        let Reply { number, lane, mut outgoing, absent, rest, long } = reply;
        outgoing.blocks.retain(|(cid, _)| self.dealt_with(number, cid).is_some());
        // What is absent is taken out below, when it is remembered.
        outgoing.presences.retain(|Presence { cid, has }| {
            if *has { self.dealt_with(number, cid).is_some() } else { self.is_asked(number, cid) }
        });
        for want in absent {
            if self.dealt_with(number, &want.cid).is_some() {
                self.absent.insert(want.cid, want);
            }
        }
        for want in rest {
            self.put_back(number, want, false);
        }
        for want in long {
            self.put_back(number, want, true);
        }
        if outgoing.blocks.is_empty() && outgoing.presences.is_empty() {
            return None;
        }
        if lane == Lane::Blocks {
            let (since, is_long) = (Instant::now(), is_long(outgoing.block_bytes()));
            self.on_way.push_back(OnWay { since, is_long });
            if is_long {
                self.long_since = Some(since);
            }
        }
        outgoing.is_brisk = self.taking != Taking::Slow;
        Some(outgoing)
    }
}

impl Reply {
    fn new(number: u64, lane: Lane) -> Self {
        let outgoing = Outgoing::default();
        Self { number, lane, outgoing, absent: Vec::new(), rest: Vec::new(), long: Vec::new() }
    }

    /// Looks for what is wanted, in order, until the reply is full; without a shelf there is nothing. A brief
    /// reply has no long blocks.
    fn of(mut self, shelf: Option<&Shelf>, wants: Vec<Want>) -> Self {
        let is_brief = self.lane == Lane::Brief;
        let bytes_max = if is_brief { BRIEF_BYTES } else { REPLY_BYTES };
        let mut bytes = 0;
        for want in wants {
            if is_brief && shelf.is_some_and(|shelf| would_be_long(shelf, &want)) {
                self.long.push(want);
                continue;
            }
            if bytes >= bytes_max {
                self.rest.push(want);
                continue;
            }
            match shelf.and_then(|shelf| look(shelf, &want)) {
                Some(Found::Block(data)) => {
                    bytes += data.len();
                    self.outgoing.blocks.push((want.cid, data));
                }
                Some(Found::Here) => {
                    self.outgoing.presences.push(Presence { cid: want.cid, has: true });
                }
                None => {
                    if want.send_dont_have {
                        self.outgoing.presences.push(Presence { cid: want.cid, has: false });
                    }
                    self.absent.push(want);
                }
            }
        }
        self
    }
}

fn is_long(len: u64) -> bool {
    len > BRIEF_BLOCK_LEN
}

fn would_be_long(shelf: &Shelf, want: &Want) -> bool {
    want.kind == WantKind::Block && shelf.block_len(&want.cid).is_some_and(is_long)
}

enum Found {
    Here,
    Block(Bytes),
}

fn look(shelf: &Shelf, want: &Want) -> Option<Found> {
    if want.kind == WantKind::Have && shelf.block_len(&want.cid)? > SMALL_BLOCK_LEN {
        return Some(Found::Here);
    }
    shelf.read(&want.cid).map(Found::Block)
}

#[cfg(test)]
mod tests;
