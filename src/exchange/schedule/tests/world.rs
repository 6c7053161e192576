//! Sources that are simulated, in a time of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;

use crate::block::{Block, HashFn, codecs};
use crate::exchange::schedule::*;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const MIB: usize = 1024 * 1024;
/// Blocks that a source sends or has ready: a reply on its way, and the next one.
const READY_MAX: usize = 2;
/// Bytes of a message that are told before it is whole.
const PIECE: usize = 64 * 1024;
/// Most time after which a block that is held back is asked for elsewhere.
pub(super) const OVERDUE_MAX: Duration = Duration::from_secs(25);

pub(super) fn cid(number: usize) -> Cid {
    let data = Bytes::copy_from_slice(&number.to_le_bytes());
    *Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap().cid()
}

/// What a simulated source does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Manner {
    Honest,
    /// Has every `of`th block, from `from` on.
    Part {
        of: usize,
        from: usize,
    },
    Silent,
    /// Says it has everything and sends bytes for ever, but no block.
    Trickler,
    /// Says it has everything and sends something else.
    Liar,
    /// Says it has everything and sends nothing.
    Promiser,
    /// Says it has everything until it is asked for it.
    Denier,
    /// Has every other block, and says nothing to a question that it answered before, as Helia does.
    Stubborn,
}

#[derive(Debug)]
pub(super) struct Peer {
    latency: Duration,
    /// Bytes in a second.
    pub(super) rate: f64,
    pub(super) manner: Manner,
    /// What it will send, the most urgent first, also what was called off meanwhile.
    queue: BTreeMap<(Reverse<Urgency>, u64), Cid>,
    /// What it sends, and what it has ready: that comes whether it is called off or not.
    sending: VecDeque<Cid>,
    wants: BTreeSet<Cid>,
    pub(super) asked: usize,
}

/// What a source is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Have,
    Block(Urgency),
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Asked(usize, Word, Cid),
    Told(usize, Cid, bool),
    Sent(usize, Cid),
    Coming(usize),
    Came(usize, Cid),
}

pub(super) struct World {
    pub(super) scheduler: Scheduler<usize>,
    pub(super) peers: Vec<Peer>,
    numbers: HashMap<Cid, usize>,
    pub(super) block_len: usize,
    /// Roots below which the blocks lie, one after the other; 0 for none.
    pub(super) roots: usize,
    pub(super) start: Instant,
    pub(super) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    pub(super) searches: Vec<Cid>,
    pub(super) came: HashSet<Cid>,
    /// What was called off before it came.
    pub(super) called_off: Vec<(usize, Cid)>,
}

impl World {
    pub(super) fn new(blocks: usize, block_len: usize) -> Self {
        let start = Instant::now();
        Self {
            scheduler: Scheduler::default(),
            peers: Vec::new(),
            numbers: (0..blocks).map(|number| (cid(number), number)).collect(),
            block_len,
            roots: 0,
            start,
            now: start,
            events: BTreeMap::new(),
            next_event: 0,
            searches: Vec::new(),
            came: HashSet::new(),
            called_off: Vec::new(),
        }
    }

    pub(super) fn peer(mut self, latency: Duration, mbit: f64, manner: Manner) -> Self {
        let rate = mbit * 1e6 / 8.0;
        let number = self.peers.len();
        let (queue, sending, wants) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new());
        self.peers.push(Peer { latency, rate, manner, queue, sending, wants, asked: 0 });
        self.scheduler.join(number, self.now);
        self.scheduler.measured(number, latency);
        self
    }

    /// One source from which 39 blocks are wanted ahead, so many of which have come.
    pub(super) fn reading_ahead(latency: Duration, mbit: f64, came: usize) -> Self {
        let mut world = Self::new(40, MIB).peer(latency, mbit, Manner::Honest);
        for number in 0..39 {
            world.scheduler.want(cid(number), Urgency::Ahead, None, world.now);
        }
        let ideal = Duration::from_secs_f64((came * MIB) as f64 * 8.0 / (mbit * 1e6));
        while world.came.len() < came {
            assert!(world.step(world.start + ideal * 2));
        }
        world
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.events.insert((time, self.next_event), event);
        self.next_event += 1;
    }

    fn has(&self, peer: usize, cid: &Cid) -> bool {
        let Some(number) = self.numbers.get(cid) else { return false };
        match self.peers[peer].manner {
            Manner::Honest
            | Manner::Trickler
            | Manner::Liar
            | Manner::Promiser
            | Manner::Denier => true,
            Manner::Part { of, from } => number % of == from,
            Manner::Stubborn => number % 2 == 1,
            Manner::Silent => false,
        }
    }

    fn carry(&mut self, ask: Ask<usize>) {
        let (peer, word, cid, repeats) = match ask {
            Ask::Have(peer, cid, repeats) => (peer, Word::Have, cid, repeats),
            Ask::Block(peer, cid, urgency, repeats) => (peer, Word::Block(urgency), cid, repeats),
            Ask::Cancel(peer, cid) => (peer, Word::Cancel, cid, false),
            Ask::Search(cid) => return self.searches.push(cid),
        };
        if word == Word::Cancel && !self.came.contains(&cid) {
            self.called_off.push((peer, cid));
        }
        self.peers[peer].asked += usize::from(matches!(word, Word::Block(_)));
        let time = self.now + self.peers[peer].latency / 2;
        if repeats {
            self.at(time, Event::Asked(peer, Word::Cancel, cid));
        }
        self.at(time, Event::Asked(peer, word, cid));
    }

    /// Takes what is sent next out of the queue, and begins to send.
    fn send_next(&mut self, peer: usize) {
        let known = &mut self.peers[peer];
        let was_idle = known.sending.is_empty();
        while known.sending.len() < READY_MAX
            && let Some((_, cid)) = known.queue.pop_first()
        {
            if known.wants.remove(&cid) {
                known.sending.push_back(cid);
            }
        }
        if was_idle {
            self.begin_to_send(peer);
        }
    }

    fn begin_to_send(&mut self, peer: usize) {
        let known = &self.peers[peer];
        let Some(&cid) = known.sending.front() else { return };
        let (rate, arrives) = (known.rate, self.now + known.latency / 2);
        let sent = |len: usize| Duration::from_secs_f64(len as f64 / rate);
        for len in (PIECE..self.block_len).step_by(PIECE) {
            self.at(arrives + sent(len), Event::Coming(peer));
        }
        self.at(self.now + sent(self.block_len), Event::Sent(peer, cid));
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Asked(peer, _, _) if self.peers[peer].manner == Manner::Silent => {}
            Event::Asked(peer, Word::Cancel, cid) => drop(self.peers[peer].wants.remove(&cid)),
            Event::Asked(peer, word, cid) => {
                let manner = self.peers[peer].manner;
                let denies = manner == Manner::Denier && word != Word::Have;
                let has = self.has(peer, &cid) && !denies;
                if manner == Manner::Stubborn && !has && !self.peers[peer].wants.insert(cid) {
                    return;
                }
                let Word::Block(urgency) = word else { return self.tell(peer, cid, has) };
                if !has || manner == Manner::Promiser {
                    return self.tell(peer, cid, has);
                }
                if manner == Manner::Trickler {
                    return (1..60).for_each(|n| self.at(now + MS * 3000 * n, Event::Coming(peer)));
                }
                let known = &mut self.peers[peer];
                if known.wants.insert(cid) {
                    known.queue.insert((Reverse(urgency), self.next_event), cid);
                    self.next_event += 1;
                    self.send_next(peer);
                }
            }
            Event::Sent(peer, cid) => {
                self.at(now + self.peers[peer].latency / 2, Event::Came(peer, cid));
                self.peers[peer].sending.pop_front();
                self.begin_to_send(peer);
                self.send_next(peer);
            }
            Event::Coming(peer) => self.scheduler.coming(peer, PIECE as u64, now),
            Event::Told(peer, cid, has) => self.scheduler.told(peer, &cid, has, now),
            Event::Came(peer, asked) if self.peers[peer].manner == Manner::Liar => {
                let other = cid(usize::MAX - self.numbers[&asked]);
                let verdict = self.scheduler.came(peer, &other, self.block_len, now);
                assert_eq!(verdict, Verdict::Unasked);
                self.scheduler.distrust(peer, now);
            }
            Event::Came(peer, cid) => {
                if self.scheduler.came(peer, &cid, self.block_len, now) == Verdict::Wanted {
                    self.came.insert(cid);
                }
            }
        }
    }

    fn tell(&mut self, peer: usize, cid: Cid, has: bool) {
        self.at(self.now + self.peers[peer].latency / 2, Event::Told(peer, cid, has));
    }

    /// Lets time go on to the next event; tells whether there was one before `end`.
    pub(super) fn step(&mut self, end: Instant) -> bool {
        while let Some(ask) = self.scheduler.poll(self.now) {
            self.carry(ask);
        }
        let wakes = self.scheduler.wakes_at(self.now);
        let event = self.events.keys().next().map(|(time, _)| *time);
        let Some(next) = wakes.into_iter().chain(event).min().filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        assert!(next > self.now || event == Some(next), "it wakes up for nothing");
        self.now = self.now.max(next);
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now)
        {
            let event = entry.remove();
            self.happen(event);
        }
        true
    }

    /// Reads all blocks in order, so many at a time; returns how long it took.
    pub(super) fn read_all(&mut self, at_once: usize, limit: Duration) -> Duration {
        let total = self.numbers.len();
        let end = self.now + limit;
        let (mut asked, mut read) = (0, 0);
        while read < total {
            while read < total && self.came.contains(&cid(read)) {
                read += 1;
            }
            while asked < total.min(read + at_once) {
                let urgency = if asked == read { Urgency::Demand } else { Urgency::Ahead };
                let session =
                    (self.roots > 0).then(|| *cid(usize::MAX - asked % self.roots).hash());
                self.scheduler.want(cid(asked), urgency, session, self.now);
                asked += 1;
            }
            if read < total {
                self.scheduler.hurry(&cid(read), Urgency::Demand, self.now);
                assert!(self.step(end), "{read} of {total} blocks after {limit:?}");
            }
        }
        self.now - self.start
    }

    /// Returns the share of `mbit` at which all was read.
    pub(super) fn share(&mut self, at_once: usize, mbit: f64) -> f64 {
        let ideal = (self.numbers.len() * self.block_len) as f64 * 8.0 / (mbit * 1e6);
        ideal / self.read_all(at_once, Duration::from_secs_f64(ideal * 10.0 + 20.0)).as_secs_f64()
    }
}
