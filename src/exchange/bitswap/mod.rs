//! Bitswap: wants to peers and blocks from them, and the other way round (spec 05).
//!
//! What is asked of whom is the [scheduler](super::schedule)'s business, which blocks there are the store's;
//! this room knows what is said on a connection. A peer has at most one message of wants on its way from us
//! and two of blocks, and one of short ones beside, so that nothing piles up behind a slow one.

mod client;
mod handler;
mod outbox;
mod proving;
mod server;
mod shelf;
pub(in crate::exchange) mod stream;
pub(in crate::exchange) mod throttle;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, FromSwarm};
use libp2p::swarm::{ConnectionDenied, ConnectionId, NetworkBehaviour, NotifyHandler, THandler};
use libp2p::swarm::{THandlerInEvent, THandlerOutEvent, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Sleep;

pub(in crate::exchange) use self::client::Client;
use self::handler::{Common, Event as HandlerEvent, Handler, Lane, Outgoing, STREAMS_MAX};
use self::outbox::Outbox;
use self::server::{REPLIES_MAX, Server, WANTS_MAX};
pub use self::shelf::Shared;
pub(in crate::exchange) use self::shelf::Shelf;
pub use self::throttle::Rates;
use super::Urgency;
use super::address::{is_near, is_relayed};
use super::limit::Limit;
use super::meter::Meter;
use super::schedule::{Ask, Totals, Verdict};
use crate::block::{Block, Cid};
use crate::codec::bitswap::{Message, Want, WantKind};

/// Blocks that nobody asked for before a peer is disconnected.
const UNASKED_MAX: u32 = 32;
/// Messages of wants that cannot be sent, one after another, before a connection is given up (boxo's number,
/// spec 05 §4).
const FAILURES_MAX: u32 = 3;
/// Priorities of one urgency; the older goes first among equals.
const PRIORITIES: i32 = 1 << 28;

/// What the rest of the node should know.
#[derive(Debug)]
pub(in crate::exchange) enum Event {
    /// Nobody who is connected has this block, so others should be searched for.
    Search(Box<Cid>),
    /// A peer keeps sending what is wrong.
    Misbehaved {
        /// The peer.
        peer: PeerId,
        /// What it did.
        what: String,
    },
}

/// Bitswap with one peer, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Bytes of blocks that came from it.
    pub received_bytes: u64,
    /// Bytes of blocks that were sent to it.
    pub sent_bytes: u64,
    /// Bytes of blocks that come from it in a second, over the last few.
    pub received_per_s: u64,
    /// Bytes of blocks that are sent to it in a second, over the last few.
    pub sent_per_s: u64,
    /// Wants of it that are remembered here.
    pub wants: usize,
}

/// What passed over bitswap since the start, and passes now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of blocks that came, wanted or not.
    pub received_bytes: u64,
    /// Blocks that were sent.
    pub sent_blocks: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Bytes of blocks that come in a second, over the last few.
    pub received_per_s: u64,
    /// Bytes of blocks that are sent in a second, over the last few.
    pub sent_per_s: u64,
}

/// Who may have what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    /// Every peer.
    All,
    /// Peers on the local network.
    Lan,
    /// Nobody.
    Nobody,
}

/// The bitswap side of a node.
pub(in crate::exchange) struct Behaviour {
    client: Client,
    serve: Serve,
    common: Arc<Common>,
    server: Server,
    peers: HashMap<PeerId, Peer>,
    events: VecDeque<ToSwarm<Event, (Lane, Outgoing)>>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Wants that were sent, for their priorities.
    asked: i32,
    /// Bytes of blocks that came from all peers.
    received: Meter,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour").field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Peer {
    /// Connections that carry bulk, the oldest first.
    connections: Vec<Connection>,
    outbox: Outbox,
    is_telling: bool,
    /// Messages of wants that could not be sent, one after another.
    failures: u32,
    unasked: u32,
    /// Bytes of blocks that came from it.
    received: Meter,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    /// Whether it is on the local network.
    is_near: bool,
    /// When something last came on it, or blocks or answers went.
    last_used: Option<Instant>,
}

impl Peer {
    fn used(&mut self, connection: ConnectionId) {
        if let Some(known) = self.connections.iter_mut().find(|known| known.id == connection) {
            known.last_used = Some(Instant::now());
        }
    }
}

impl Behaviour {
    /// Returns the behaviour of a node that asks for what `client` wants and serves what `shelf` has.
    pub(in crate::exchange) fn new(
        client: Client,
        shelf: Shelf,
        serve: Serve,
        rates: Rates,
    ) -> Self {
        Self {
            client,
            serve,
            common: Arc::new(Common::new(rates)),
            server: Server::new(shelf),
            peers: HashMap::new(),
            events: VecDeque::new(),
            timer: None,
            asked: 0,
            received: Meter::default(),
        }
    }

    /// Returns when something was last exchanged with a peer; `None` when nothing was.
    pub(in crate::exchange) fn last_used(&self, peer: &PeerId) -> Option<Instant> {
        self.peers.get(peer)?.connections.iter().filter_map(|known| known.last_used).max()
    }

    /// Returns when something was last exchanged on a connection; `None` when nothing was.
    pub(in crate::exchange) fn last_used_on(
        &self,
        peer: &PeerId,
        connection: ConnectionId,
    ) -> Option<Instant> {
        let mut connections = self.peers.get(peer)?.connections.iter();
        connections.find(|known| known.id == connection)?.last_used
    }

    /// Notes how long a peer takes to answer a ping.
    pub(in crate::exchange) fn measured(&mut self, peer: PeerId, latency: Duration) {
        self.client.within(|wants| wants.scheduler.measured(peer, latency));
    }

    /// Returns what is wanted, the oldest first.
    pub(in crate::exchange) fn wanted(&self) -> Vec<Cid> {
        self.client.within(|wants| wants.scheduler.wanted().copied().collect())
    }

    /// Returns the sums since the start.
    pub(in crate::exchange) fn totals(&self) -> Totals {
        self.client.within(|wants| wants.scheduler.totals())
    }

    /// Returns what passed between this node and all peers.
    pub(in crate::exchange) fn traffic(&self, now: Instant) -> Traffic {
        let (sent, sent_blocks) = self.server.sent_to_all();
        Traffic {
            received_bytes: self.received.total(),
            sent_blocks,
            sent_bytes: sent.total(),
            received_per_s: self.received.per_second(now),
            sent_per_s: sent.per_second(now),
        }
    }

    /// Returns what passed between this node and each peer that is connected.
    pub(in crate::exchange) fn ledgers(&self, now: Instant) -> Vec<(PeerId, Ledger)> {
        let ledger = |(peer, known): (&PeerId, &Peer)| {
            let (wants, sent) = self.server.ledger(peer)?;
            let ledger = Ledger {
                received_bytes: known.received.total(),
                sent_bytes: sent.total(),
                received_per_s: known.received.per_second(now),
                sent_per_s: sent.per_second(now),
                wants,
            };
            Some((*peer, ledger))
        };
        self.peers.iter().filter_map(ledger).collect()
    }

    /// Returns the bounds of what peers may have this node do, on so many connections at most.
    pub(in crate::exchange) fn limits(&self, connections_max: usize) -> [Limit; 3] {
        let wants = self.peers.keys().filter_map(|peer| Some(self.server.ledger(peer)?.0));
        [
            Limit::of("streams from peers", self.common.streams(), STREAMS_MAX * connections_max),
            Limit::of("wants of one peer", wants.max().unwrap_or_default(), WANTS_MAX),
            Limit::of("replies under way", self.server.replies(), REPLIES_MAX),
        ]
    }

    /// Returns the handler of a connection, on the way that an address says.
    fn handler(&self, way: &Multiaddr) -> Handler {
        Handler::new(Arc::clone(&self.common), !is_relayed(way))
    }

    fn may_have(&self, is_near: bool) -> bool {
        match self.serve {
            Serve::All => true,
            Serve::Lan => is_near,
            Serve::Nobody => false,
        }
    }

    fn joined(&mut self, peer: PeerId, connection: ConnectionId, is_near: bool) {
        let known = self.peers.entry(peer).or_default();
        known.connections.push(Connection { id: connection, is_near, last_used: None });
        if known.connections.len() == 1 {
            self.server.join(peer, self.may_have(is_near));
            self.client.with(|wants| wants.scheduler.join(peer, Instant::now()));
        }
    }

    /// Tells whether a connection is the one on which the peer is spoken to.
    fn is_first(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        let first = self.peers.get(peer).and_then(|known| known.connections.first());
        first.is_some_and(|first| first.id == connection)
    }

    /// Forgets a connection. What was on its way on the first one is lost, so all begins anew with the next one, if
    /// there is any.
    fn left(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(at) = known.connections.iter().position(|known| known.id == connection) else {
            return;
        };
        let gone = known.connections.remove(at);
        if let Some(other) = known.connections.first_mut() {
            other.last_used = other.last_used.max(gone.last_used);
        }
        if at > 0 {
            return;
        }
        self.server.leave(&peer);
        let now = Instant::now();
        if let Some(&Connection { is_near, .. }) = known.connections.first() {
            (known.outbox, known.is_telling, known.failures) = (Outbox::default(), false, 0);
            self.server.join(peer, self.may_have(is_near));
            self.client.with(|wants| wants.scheduler.interrupted(peer, now));
        } else {
            self.peers.remove(&peer);
            self.client.with(|wants| wants.scheduler.leave(peer, now));
        }
    }

    /// Notes that wants could not be sent: what the peer was told before on that stream may be lost too, or may
    /// not, so it is asked again. What it wants of this node has nothing to do with that.
    fn failed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.failures += 1;
        if known.failures > FAILURES_MAX {
            return self.left(peer, connection);
        }
        (known.outbox, known.is_telling) = (Outbox::default(), false);
        self.client.with(|wants| wants.scheduler.interrupted(peer, Instant::now()));
    }

    fn came(&mut self, peer: PeerId, message: &Message, blocks: Vec<Block>, refused: usize) {
        let now = Instant::now();
        self.server.told(&peer, message);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let mut unasked = refused;
        self.client.within(|wants| {
            for presence in message.presences() {
                wants.scheduler.told(peer, &presence.cid, presence.has, now);
            }
            for block in blocks {
                let len = block.data().len();
                known.received.add(len as u64, now);
                self.received.add(len as u64, now);
                match wants.scheduler.came(peer, block.cid(), len, now) {
                    Verdict::Wanted => wants.give(&block),
                    Verdict::Late => {}
                    Verdict::Unasked => unasked += 1,
                }
            }
            if unasked > 0 {
                wants.scheduler.distrust(peer, now);
            }
        });
        known.unasked = known.unasked.saturating_add(u32::try_from(unasked).unwrap_or(u32::MAX));
        if known.unasked > UNASKED_MAX {
            self.misbehaved(peer, "it sends blocks that nobody asked for".to_owned());
        }
    }

    fn misbehaved(&mut self, peer: PeerId, what: String) {
        self.client.within(|wants| wants.scheduler.distrust(peer, Instant::now()));
        self.events.push_back(ToSwarm::GenerateEvent(Event::Misbehaved { peer, what }));
    }

    /// Puts what the scheduler wants to know into the outboxes.
    fn ask(&mut self) {
        let now = Instant::now();
        while let Some(ask) = self.client.within(|wants| wants.scheduler.poll(now)) {
            let (peer, cid, kind, urgency, is_cancel, repeats) = match ask {
                Ask::Have(peer, cid, repeats) => {
                    (peer, cid, WantKind::Have, Urgency::Ahead, false, repeats)
                }
                Ask::Block(peer, cid, urgency, repeats) => {
                    (peer, cid, WantKind::Block, urgency, false, repeats)
                }
                Ask::Cancel(peer, cid) => (peer, cid, WantKind::Block, Urgency::Ahead, true, false),
                Ask::Search(cid) => {
                    let event = Event::Search(Box::new(cid));
                    self.events.push_back(ToSwarm::GenerateEvent(event));
                    continue;
                }
            };
            let Some(known) = self.peers.get_mut(&peer) else { continue };
            self.asked = (self.asked + 1) % PRIORITIES;
            let (priority, send_dont_have) = (base_of(urgency) - self.asked, !is_cancel);
            let want = Want { cid, priority, is_cancel, kind, send_dont_have };
            if repeats {
                known.outbox.push_again(want);
            } else {
                known.outbox.push(want);
            }
        }
    }

    /// Sends what is in the outboxes, one message at a time to each peer.
    fn tell(&mut self) {
        for (peer, known) in &mut self.peers {
            if !known.outbox.is_empty()
                && !known.is_telling
                && let Some(connection) = known.connections.first()
            {
                known.is_telling = true;
                let outgoing = Outgoing { wants: known.outbox.take(), ..Outgoing::default() };
                self.events.push_back(send(*peer, connection.id, Lane::Wants, outgoing));
            }
        }
    }

    /// Sends blocks and answers.
    fn serve(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready((peer, lane, outgoing)) = self.server.poll(cx) {
            let Some(known) = self.peers.get(&peer) else { continue };
            if let Some(connection) = known.connections.first() {
                self.events.push_back(send(peer, connection.id, lane, outgoing));
            }
        }
        self.common.press(self.server.pressed());
    }

    /// Sets the timer to when the scheduler has something to do by itself; tells whether that is now.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let Some(wakes) = self.client.within(|wants| wants.scheduler.wakes_at(now)) else {
            self.timer = None;
            return false;
        };
        let mut timer = Box::pin(tokio::time::sleep_until(wakes.into()));
        let is_due = timer.as_mut().poll(cx).is_ready();
        self.timer = Some(timer);
        is_due
    }
}

/// Returns the priority of the first want of an urgency; later ones have less.
fn base_of(urgency: Urgency) -> i32 {
    match urgency {
        Urgency::Demand => 3 * PRIORITIES,
        Urgency::Ahead => 2 * PRIORITIES,
        Urgency::Bulk => PRIORITIES,
    }
}

fn send(
    peer_id: PeerId,
    connection: ConnectionId,
    lane: Lane,
    outgoing: Outgoing,
) -> ToSwarm<Event, (Lane, Outgoing)> {
    let handler = NotifyHandler::One(connection);
    ToSwarm::NotifyHandler { peer_id, handler, event: (lane, outgoing) }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(local))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) if !endpoint.is_relayed() => {
                self.joined(peer_id, connection_id, is_near(endpoint.get_remote_address()));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.left(peer_id, connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some(known) = self.peers.get_mut(&peer).filter(|_| event.is_sign_of_life()) {
            known.used(connection);
        }
        match event {
            // It was given up, and what it tells of its streams is not about those that took their place.
            HandlerEvent::Sent(_) | HandlerEvent::Failed(_) | HandlerEvent::Cut(_)
                if !self.is_first(&peer, connection) => {}
            HandlerEvent::Came { message, blocks, refused } => {
                self.came(peer, &message, blocks, refused);
            }
            HandlerEvent::Coming(bytes) => {
                self.client.within(|wants| wants.scheduler.coming(peer, bytes, Instant::now()));
            }
            HandlerEvent::Sent(lane @ (Lane::Blocks | Lane::Brief)) => {
                self.server.sent(&peer, lane);
            }
            HandlerEvent::Failed(lane @ (Lane::Blocks | Lane::Brief)) => {
                self.server.failed(&peer, lane);
            }
            HandlerEvent::Cut(lane) => self.server.cut(&peer, lane),
            HandlerEvent::Sent(Lane::Wants) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    (known.is_telling, known.failures) = (false, 0);
                }
            }
            HandlerEvent::Failed(Lane::Wants) => self.failed(peer, connection),
            HandlerEvent::Unsupported => self.left(peer, connection),
            HandlerEvent::Misbehaved(what) => self.misbehaved(peer, what),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.client.register(cx.waker());
        loop {
            self.ask();
            self.tell();
            self.serve(cx);
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if !self.is_due(cx) {
                return Poll::Pending;
            }
        }
    }
}
