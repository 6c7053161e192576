//! Whom this node calls, when, and where: kept peers, others when few are connected, those who are found near
//! by, and those whom somebody asks for.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use futures::channel::oneshot;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::book::{Book, KEPT_MAX};
use super::build::Behaviour;
use super::known::{Known, KnownPeer};
use super::rejoin::Rejoin;
use super::trouble::why_not_reached;
use super::{Reach, SwarmError};
use crate::exchange::address::{is_id_alone, is_near, is_relayed, peer_of, without_peer};

/// Peers reached before that are called when few are connected.
const REJOIN_MAX: usize = 8;
/// Addresses near by that are called when few are connected; who claims more than others has no more of them.
const NEAR_MAX: usize = 64;

/// What is answered to who asked for a connection.
pub(super) type Reply = oneshot::Sender<Result<PeerId, SwarmError>>;

/// The peers that a node calls.
#[derive(Debug)]
pub(super) struct Calling {
    reach: Reach,
    /// Peers that are to be connected always.
    book: Book,
    /// Peers that were reached.
    known: Known,
    /// Peers that are called when few are connected, beside known ones.
    bootstrap: Vec<(PeerId, Multiaddr)>,
    /// Peers that say that they are near by, the last one first.
    near: VecDeque<(PeerId, Multiaddr)>,
    /// `None` when nobody is called but who is named.
    rejoin: Option<Rejoin>,
    /// Who waits for a connection to be made.
    waiting: HashMap<ConnectionId, Reply>,
}

impl Calling {
    /// Calls nobody but kept peers without `others`; see [`SwarmOptions`](super::SwarmOptions).
    pub(super) fn new(
        own: PeerId,
        reach: Reach,
        others: Option<Vec<Multiaddr>>,
        known: Vec<KnownPeer>,
        now: Instant,
    ) -> Result<Self, SwarmError> {
        let rejoin = others.as_ref().map(|_| Rejoin::new(now));
        let others = others.unwrap_or_default().into_iter();
        Ok(Self {
            reach,
            book: Book::new(own),
            known: Known::new(known),
            bootstrap: others.map(with_peer).collect::<Result<_, _>>()?,
            near: VecDeque::new(),
            rejoin,
            waiting: HashMap::new(),
        })
    }

    /// Calls a peer until it answers, from now on.
    pub(super) fn keep(
        &mut self,
        swarm: &mut libp2p::Swarm<Behaviour>,
        peer: PeerId,
        address: Multiaddr,
    ) -> Result<(), SwarmError> {
        if !self.book.keep(peer, address, Instant::now()) {
            return Err(SwarmError::Full(KEPT_MAX));
        }
        swarm.behaviour_mut().limits.bypass_peer_id(&peer);
        if swarm.is_connected(&peer) {
            self.book.connected(&peer, Instant::now());
        }
        Ok(())
    }

    /// Does not keep a peer any more; tells whether it was kept.
    pub(super) fn release(&mut self, swarm: &mut libp2p::Swarm<Behaviour>, peer: &PeerId) -> bool {
        swarm.behaviour_mut().limits.remove_peer_id(peer);
        self.book.release(peer)
    }

    pub(super) fn keeps(&self, peer: &PeerId) -> bool {
        self.book.keeps(peer)
    }

    /// Returns the kept peers and their addresses.
    pub(super) fn kept(&self) -> impl ExactSizeIterator<Item = (PeerId, &[Multiaddr])> {
        self.book.kept()
    }

    /// Returns the peers that were reached, the last one first.
    pub(super) fn known(&self) -> Vec<KnownPeer> {
        self.known.list()
    }

    /// Calls kept peers that are due.
    pub(super) fn call_kept(&mut self, swarm: &mut libp2p::Swarm<Behaviour>, now: Instant) {
        while let Some((peer, addresses)) = self.book.next(now) {
            if !call(swarm, peer, addresses) {
                self.book.lost(&peer, now);
            }
        }
    }

    /// Calls those who help to find others, those near by, and those who were reached before, when few are
    /// connected.
    pub(super) fn call_others(
        &mut self,
        swarm: &mut libp2p::Swarm<Behaviour>,
        connected: usize,
        now: Instant,
    ) {
        let Some(rejoin) = &mut self.rejoin else { return };
        if !rejoin.is_due(connected, now) {
            return;
        }
        let known = self.known.list().into_iter().take(REJOIN_MAX);
        let known = known
            .flat_map(|peer| peer.addresses.into_iter().map(move |address| (peer.id, address)));
        let others = self.bootstrap.iter().chain(&self.near).cloned().chain(known);
        call_each(swarm, others.filter(|(_, address)| self.reach.includes(address)));
    }

    /// Calls those who were found near by.
    pub(super) fn call_near(
        &mut self,
        swarm: &mut libp2p::Swarm<Behaviour>,
        found: Vec<(PeerId, Multiaddr)>,
    ) {
        // Whoever answers may name any address.
        let found: Vec<_> = found.into_iter().filter(|(_, address)| is_near(address)).collect();
        call_each(swarm, found.iter().cloned());
        for near in found {
            self.near.push_front(near);
        }
        self.near.truncate(NEAR_MAX);
    }

    /// Forgets those who do not say any more that they are near by.
    pub(super) fn forget_near(&mut self, gone: &[(PeerId, Multiaddr)]) {
        self.near.retain(|near| !gone.contains(near));
    }

    /// Connects to a peer because somebody asked.
    pub(super) fn connect(
        &mut self,
        swarm: &mut libp2p::Swarm<Behaviour>,
        address: Multiaddr,
        reply: Reply,
    ) {
        let peer = peer_of(&address);
        if let Some(peer) = peer.filter(|peer| swarm.is_connected(peer)) {
            return drop(reply.send(Ok(peer)));
        }
        let call = match peer {
            Some(peer) => call_at(peer, self.ways(peer, &address), PeerCondition::Always),
            None => call_whoever_is_at(address.clone()),
        };
        let id = call.connection_id();
        match swarm.dial(call) {
            Ok(()) => drop(self.waiting.insert(id, reply)),
            Err(DialError::NoAddresses) => {
                let reason = "no address of it is known".to_owned();
                drop(reply.send(Err(failed(&address.to_string(), reason))));
            }
            Err(error) => {
                drop(reply.send(Err(failed(&address.to_string(), why_not_reached(&error)))));
            }
        }
    }

    /// Returns the addresses to call a peer at: the one that was named, or where it is kept or was reached before.
    fn ways(&self, peer: PeerId, named: &Multiaddr) -> Vec<Multiaddr> {
        if is_id_alone(named) {
            return [self.book.addresses(&peer), self.known.addresses(&peer)].concat();
        }
        vec![named.clone()]
    }

    /// Notes that a peer is connected; `way` is the address that it was called at, if it was.
    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        way: Option<Multiaddr>,
    ) {
        self.book.connected(&peer, Instant::now());
        if let Some(way) = way.filter(|way| !is_relayed(way)) {
            self.known.reached(peer, without_peer(way));
        }
        if let Some(reply) = self.waiting.remove(&connection) {
            // Who does not wait any more needs no answer.
            let _gone = reply.send(Ok(peer));
        }
    }

    /// Notes that the last connection to a peer has ended.
    pub(super) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        self.book.lost(peer, now);
    }

    /// Notes that a call was in vain.
    pub(super) fn failed(
        &mut self,
        swarm: &libp2p::Swarm<Behaviour>,
        peer: Option<PeerId>,
        connection: ConnectionId,
        error: &DialError,
    ) {
        let name = peer.map_or_else(|| "the address".to_owned(), |peer| peer.to_string());
        tracing::debug!(peer = name, %error, "cannot connect");
        if let Some(peer) = peer.filter(|peer| !swarm.is_connected(peer)) {
            self.book.lost(&peer, Instant::now());
        }
        if let Some(reply) = self.waiting.remove(&connection) {
            let _gone = reply.send(Err(failed(&name, why_not_reached(error))));
        }
    }
}

/// Calls peers that are not connected yet, each at all addresses that are given for it.
fn call_each(
    swarm: &mut libp2p::Swarm<Behaviour>,
    addresses: impl Iterator<Item = (PeerId, Multiaddr)>,
) {
    let mut peers = Vec::<(PeerId, Vec<Multiaddr>)>::new();
    for (peer, address) in addresses {
        match peers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, addresses)) => addresses.push(address),
            None => peers.push((peer, vec![address])),
        }
    }
    for (peer, addresses) in peers {
        call(swarm, peer, addresses);
    }
}

/// Calls a peer that is not connected yet; tells whether it is called.
fn call(swarm: &mut libp2p::Swarm<Behaviour>, peer: PeerId, addresses: Vec<Multiaddr>) -> bool {
    let call = swarm.dial(call_at(peer, addresses, PeerCondition::default()));
    call.inspect_err(|error| tracing::debug!(%peer, %error, "a peer is not called")).is_ok()
}

/// A call from the port that this node listens at, which is how a router between learns the way back to it. Near by
/// there is none, and two who call each other at once from such ports would get one connection with two callers
/// (simultaneous open of TCP), which fails.
fn call_at(peer: PeerId, addresses: Vec<Multiaddr>, condition: PeerCondition) -> DialOpts {
    let is_near = addresses.iter().any(is_near);
    let call = DialOpts::peer_id(peer).condition(condition).addresses(addresses);
    if is_near { call.allocate_new_port().build() } else { call.build() }
}

fn call_whoever_is_at(address: Multiaddr) -> DialOpts {
    let is_near = is_near(&address);
    let call = DialOpts::unknown_peer_id().address(address);
    if is_near { call.allocate_new_port().build() } else { call.build() }
}

/// Returns an address that ends with a peer's id, and the id.
pub(super) fn with_peer(address: Multiaddr) -> Result<(PeerId, Multiaddr), SwarmError> {
    let peer = peer_of(&address).ok_or_else(|| SwarmError::NoPeerId(address.clone()))?;
    Ok((peer, address))
}

fn failed(peer: &str, reason: String) -> SwarmError {
    SwarmError::Connect { peer: peer.to_owned(), reason }
}
