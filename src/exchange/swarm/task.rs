//! The loop that drives a node: what the network says, what the rest of the node asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, autonat, identify, mdns, ping, upnp};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::book::{Book, KEPT_MAX};
use super::build::{Behaviour, BehaviourEvent, CONNECTIONS_PER_PEER, PENDING_MAX, build};
use super::introduction::Introduction;
use super::known::Known;
use super::rejoin::Rejoin;
use super::relays::Relays;
use super::{PeerInfo, Reach, Request, SwarmError, SwarmOptions, remote};
use crate::exchange::address::{is_near, is_relayed, peer_of};
use crate::exchange::bitswap::{self, Client};
use crate::exchange::limit::Limit;
use crate::store::BlockStore;
use crate::sys::memory::resident_bytes;

/// How often it is looked whether somebody is to be called, or an address listened on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Peers reached before that are called when few are connected.
const REJOIN_MAX: usize = 8;
/// When a listener of the configuration has ended, it is tried again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);
/// With more connected peers than this share of the bound, those not used for longest have to go, …
const TRIM_ABOVE: (usize, usize) = (3, 4);
/// … until this share is left; …
const TRIM_TO: (usize, usize) = (1, 2);
/// … but nobody who was used in this time.
const TRIM_GRACE: Duration = Duration::from_secs(30);

/// A peer that is connected.
#[derive(Debug)]
struct Connected {
    since: Instant,
    endpoint: ConnectedPoint,
    /// Connections to it.
    connections: u32,
    /// What it said of itself.
    said: Option<Introduction>,
    latency: Option<Duration>,
}

type Calls = HashMap<ConnectionId, oneshot::Sender<Result<PeerId, SwarmError>>>;

pub(super) struct Task {
    swarm: libp2p::Swarm<Behaviour>,
    requests: mpsc::Receiver<Request>,
    reach: Reach,
    connections_max: usize,
    /// Peers that are to be connected always.
    book: Book,
    /// Peers that were reached.
    known: Known,
    /// Peers that are called when few are connected, beside known ones.
    bootstrap: Vec<(PeerId, Multiaddr)>,
    /// `None` when nobody is called but who is named.
    rejoin: Option<Rejoin>,
    /// `None` when this node is not called over relays.
    relays: Option<Relays>,
    /// The listeners of the configuration, and those that have ended with the time of the next try.
    listeners: HashMap<ListenerId, Multiaddr>,
    ended: Vec<(Instant, Multiaddr)>,
    connected: HashMap<PeerId, Connected>,
    /// Who waits for a connection to be made.
    calls: Calls,
}

impl Task {
    pub(super) fn new(
        options: SwarmOptions,
        client: Client,
        store: Arc<dyn BlockStore>,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Self, SwarmError> {
        // Only files are read to build it, so there is nothing to wait for.
        let built = build(&options, client, store).now_or_never();
        let swarm = built.ok_or_else(|| SwarmError::Build("it waits".to_owned()))??;
        let now = Instant::now();
        let rejoin = options.others.as_ref().map(|_| Rejoin::new(now));
        let others = options.others.unwrap_or_default();
        let mut task = Self {
            swarm,
            requests,
            connections_max: options.connections_max as usize,
            book: Book::default(),
            known: Known::new(options.known),
            bootstrap: others.into_iter().map(with_peer).collect::<Result<_, _>>()?,
            rejoin,
            relays: options.hole_punching.then(|| Relays::new(now)),
            reach: options.reach,
            listeners: HashMap::new(),
            ended: Vec::new(),
            connected: HashMap::new(),
            calls: HashMap::new(),
        };
        for address in options.peers {
            let (peer, address) = with_peer(address)?;
            task.keep(peer, address)?;
        }
        options.listen.into_iter().for_each(|address| task.listen(address));
        Ok(task)
    }

    pub(super) async fn run(mut self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.happened(event),
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request),
                    None => return,
                },
                _ = look.tick() => self.look_around(),
            }
        }
    }

    /// Does what time alone makes due.
    fn look_around(&mut self) {
        self.call_kept();
        self.call_others();
        self.listen_again();
        self.listen_over_relay();
    }

    fn listen(&mut self, address: Multiaddr) {
        match self.swarm.listen_on(address.clone()) {
            Ok(listener) => drop(self.listeners.insert(listener, address)),
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen; peers cannot call this node there");
            }
        }
    }

    fn listen_again(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self.ended.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, address) in due {
            self.listen(address);
        }
    }

    /// Has this node called over a relay, if nobody has found another way to it.
    fn listen_over_relay(&mut self) {
        let Some(relays) = &mut self.relays else { return };
        if self.swarm.external_addresses().any(|address| !is_relayed(address)) {
            return;
        }
        let now = Instant::now();
        let Some(relay) = relays.next(now) else { return };
        let Some(known) = self.connected.get(&relay) else { return relays.disconnected(&relay) };
        let (way, _) = remote(&known.endpoint);
        let address = without_peer(way).with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(address) {
            Ok(listener) => relays.using(listener, relay),
            Err(error) => {
                tracing::debug!(%relay, %error, "a relay cannot be used");
                relays.refused(relay, now);
            }
        }
    }

    /// Calls those who help to find others, and those who were reached before, when few are connected.
    fn call_others(&mut self) {
        let Some(rejoin) = &mut self.rejoin else { return };
        if !rejoin.is_due(self.connected.len(), Instant::now()) {
            return;
        }
        let known = self.known.list().into_iter().take(REJOIN_MAX);
        let known = known
            .flat_map(|peer| peer.addresses.into_iter().map(move |address| (peer.id, address)));
        let others = self.bootstrap.iter().cloned().chain(known);
        let others = others.filter(|(_, address)| self.reach.includes(address));
        for (peer, address) in others.collect::<Vec<_>>() {
            self.call(peer, vec![address]);
        }
    }

    /// Calls a peer that is not connected yet.
    fn call(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let call = DialOpts::peer_id(peer).addresses(addresses).build();
        if let Err(error) = self.swarm.dial(call) {
            tracing::debug!(%peer, %error, "a peer is not called");
        }
    }

    /// Ends connections that were not used for longest when there are too many.
    fn trim(&mut self) {
        let (max, count) = (self.connections_max, self.connected.len());
        if count * TRIM_ABOVE.1 <= max * TRIM_ABOVE.0 {
            return;
        }
        let bitswap = &self.swarm.behaviour().bitswap;
        let used = |(peer, known): (&PeerId, &Connected)| {
            (*peer, bitswap.last_used(peer).map_or(known.since, |used| used.max(known.since)))
        };
        let others = self.connected.iter().filter(|(peer, _)| !self.book.keeps(peer)).map(used);
        let too_many = count - max * TRIM_TO.0 / TRIM_TO.1;
        for peer in least_used(others, too_many, Instant::now()) {
            tracing::debug!(%peer, "disconnecting a peer that was not used for long");
            // It may be gone already.
            let _gone = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn call_kept(&mut self) {
        let now = Instant::now();
        while let Some((peer, addresses)) = self.book.next(now) {
            let call = DialOpts::peer_id(peer).addresses(addresses).build();
            if let Err(error) = self.swarm.dial(call) {
                tracing::debug!(%peer, %error, "cannot call a peer");
                self.book.lost(&peer, now);
            }
        }
    }

    fn answer(&mut self, request: Request) {
        // Who does not wait for the answer any more needs none.
        match request {
            Request::Connect(address, reply) => self.connect(address, reply),
            Request::Disconnect(peer, reply) => {
                self.release(&peer);
                let _gone = reply.send(self.swarm.disconnect_peer_id(peer).is_ok());
            }
            Request::Peers(reply) => drop(reply.send(self.peers())),
            Request::Addresses(reply) => drop(reply.send(self.addresses())),
            Request::Wanted(reply) => drop(reply.send(self.swarm.behaviour().bitswap.wanted())),
            Request::Totals(reply) => drop(reply.send(self.swarm.behaviour().bitswap.totals())),
            Request::Known(reply) => drop(reply.send(self.known.list())),
            Request::Traffic(reply) => {
                let _gone = reply.send(self.swarm.behaviour().bitswap.traffic(Instant::now()));
            }
            Request::Limits(reply) => drop(reply.send(self.limits())),
            Request::Introduction(peer, reply) => {
                let known = self.connected.get(&peer);
                drop(reply.send(known.and_then(|known| known.said.clone())));
            }
            Request::Keep(peer, address, reply) => drop(reply.send(self.keep(peer, address))),
            Request::Release(peer, reply) => drop(reply.send(self.release(&peer))),
            Request::Kept(reply) => {
                let kept = self.book.kept().map(|(peer, addresses)| (peer, addresses.to_vec()));
                drop(reply.send(kept.collect()));
            }
            Request::Open(peer, reply) => self.swarm.behaviour_mut().probes.open(peer, reply),
            Request::Measured(peer, latency) => self.measured(peer, latency),
        }
    }

    fn keep(&mut self, peer: PeerId, address: Multiaddr) -> Result<(), SwarmError> {
        if !self.book.keep(peer, address, Instant::now()) {
            return Err(SwarmError::Full(KEPT_MAX));
        }
        self.swarm.behaviour_mut().limits.bypass_peer_id(&peer);
        if self.swarm.is_connected(&peer) {
            self.book.connected(&peer);
        }
        Ok(())
    }

    /// Does not keep a peer any more; tells whether it was kept.
    fn release(&mut self, peer: &PeerId) -> bool {
        self.swarm.behaviour_mut().limits.remove_peer_id(peer);
        self.book.release(peer)
    }

    fn measured(&mut self, peer: PeerId, latency: Duration) {
        if let Some(known) = self.connected.get_mut(&peer) {
            known.latency = Some(latency);
            self.swarm.behaviour_mut().bitswap.measured(peer, latency);
        }
    }

    fn limits(&self) -> Vec<Limit> {
        let counts = self.swarm.network_info().connection_counters().clone();
        let per_peer = self.connected.values().map(|known| known.connections).max();
        let count = |name, used: u32, max: u32| Limit::of(name, used as usize, max as usize);
        let Behaviour { bitswap, memory, .. } = self.swarm.behaviour();
        let mut limits = vec![
            Limit::of("connections", counts.num_established() as usize, self.connections_max),
            count("connections to one peer", per_peer.unwrap_or_default(), CONNECTIONS_PER_PEER),
            count("calls that come in", counts.num_pending_incoming(), PENDING_MAX),
            count("calls that go out", counts.num_pending_outgoing(), PENDING_MAX),
            Limit::of("kept peers", self.book.kept().len(), KEPT_MAX),
        ];
        limits.extend(bitswap.limits(self.connections_max));
        let used = resident_bytes().unwrap_or_default();
        limits.push(Limit::of("bytes of memory", used, memory.max_allowed_bytes()));
        limits
    }

    fn connect(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<PeerId, SwarmError>>) {
        let peer = peer_of(&address);
        if let Some(peer) = peer.filter(|peer| self.swarm.is_connected(peer)) {
            return drop(reply.send(Ok(peer)));
        }
        let call = match peer {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(self.ways(peer, &address))
                .build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = call.connection_id();
        match self.swarm.dial(call) {
            Ok(()) => drop(self.calls.insert(id, reply)),
            Err(DialError::NoAddresses) => {
                let reason = "no address of it is known";
                drop(reply.send(Err(failed(&address.to_string(), &reason))));
            }
            Err(error) => drop(reply.send(Err(failed(&address.to_string(), &error)))),
        }
    }

    /// Returns the addresses to call a peer at: the one that was named, or where it is kept or was reached before.
    fn ways(&self, peer: PeerId, named: &Multiaddr) -> Vec<Multiaddr> {
        if without_peer(named.clone()).is_empty() {
            return [&self.book.addresses(&peer)[..], self.known.addresses(&peer)].concat();
        }
        vec![named.clone()]
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let bitswap = &self.swarm.behaviour().bitswap;
        let ledgers: HashMap<_, _> = bitswap.ledgers(Instant::now()).into_iter().collect();
        let info = |(id, known): (&PeerId, &Connected)| {
            let (address, is_outbound) = remote(&known.endpoint);
            let said = known.said.as_ref();
            let agent = said.map(|said| said.agent.clone()).unwrap_or_default();
            let latency = known.latency;
            let ledger = ledgers.get(id).copied();
            PeerInfo { id: *id, address, is_outbound, agent, latency, ledger }
        };
        self.connected.iter().map(info).collect()
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().chain(self.swarm.external_addresses()).cloned().collect()
    }

    fn happened(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.said(event),
            SwarmEvent::NewListenAddr { address, .. } => tracing::info!(%address, "listening"),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "cannot listen"),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.stopped_listening(listener_id, &addresses, reason);
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => {
                self.connected(peer_id, endpoint, num_established.get());
                if let Some(reply) = self.calls.remove(&connection_id) {
                    let _gone = reply.send(Ok(peer_id));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established, .. }
                if num_established > 0 =>
            {
                if let Some(known) = self.connected.get_mut(&peer_id) {
                    known.connections = num_established;
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "a peer is gone");
                self.connected.remove(&peer_id);
                self.book.lost(&peer_id, Instant::now());
                if let Some(relays) = &mut self.relays {
                    relays.disconnected(&peer_id);
                }
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                tracing::info!(%address, "this node can be called");
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                let name =
                    peer_id.map_or_else(|| "the address".to_owned(), |peer| peer.to_string());
                tracing::debug!(peer = name, %error, "cannot connect");
                if let Some(peer) = peer_id.filter(|peer| !self.swarm.is_connected(peer)) {
                    self.book.lost(&peer, Instant::now());
                }
                if let Some(reply) = self.calls.remove(&connection_id) {
                    let _gone = reply.send(Err(failed(&name, &error)));
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId, endpoint: ConnectedPoint, connections: u32) {
        self.book.connected(&peer);
        let (address, is_outbound) = remote(&endpoint);
        if is_outbound && !is_relayed(&address) {
            self.known.reached(peer, without_peer(address));
        }
        let since = Instant::now();
        let new = || Connected { since, endpoint, connections, said: None, latency: None };
        self.connected.entry(peer).or_insert_with(new).connections = connections;
        self.trim();
    }

    fn stopped_listening(
        &mut self,
        listener: ListenerId,
        addresses: &[Multiaddr],
        reason: Result<(), std::io::Error>,
    ) {
        if let Err(error) = reason {
            tracing::warn!(?addresses, %error, "no longer listening");
        }
        let now = Instant::now();
        if let Some(relays) = &mut self.relays {
            relays.ended(listener, now);
        }
        if let Some(address) = self.listeners.remove(&listener) {
            self.ended.push((now + LISTEN_AGAIN, address));
        }
    }

    fn said(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(known) = self.connected.get_mut(&peer_id) {
                    if let Some(relays) = &mut self.relays {
                        relays.speaks(peer_id, &info.protocols);
                    }
                    known.said = Some(Introduction::of(info));
                }
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(latency), .. }) => {
                self.measured(peer, latency);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                // Whoever answers may name any address.
                let near = found.into_iter().filter(|(_, address)| is_near(address));
                for (peer, address) in near {
                    self.call(peer, vec![address]);
                }
            }
            BehaviourEvent::PortMapping(upnp::Event::NewExternalAddr { external_addr, .. }) => {
                tracing::info!(address = %external_addr, "the router lets calls in");
            }
            BehaviourEvent::Reachability(autonat::v2::client::Event {
                tested_addr,
                result: Err(error),
                ..
            }) => {
                tracing::debug!(address = %tested_addr, %error, "this node cannot be called there");
            }
            BehaviourEvent::Bitswap(bitswap::Event::Misbehaved { peer, what }) => {
                tracing::info!(%peer, what, "disconnecting a peer");
                // It may be gone already.
                let _gone = self.swarm.disconnect_peer_id(peer);
            }
            BehaviourEvent::Bitswap(bitswap::Event::Search(cid)) => {
                tracing::debug!(%cid, "nobody who is connected has it");
            }
            _ => {}
        }
    }
}

/// Returns those who were not used for longest, `count` of them at most.
fn least_used(
    used: impl Iterator<Item = (PeerId, Instant)>,
    count: usize,
    now: Instant,
) -> Vec<PeerId> {
    let mut idle: Vec<_> = used.filter(|(_, used)| *used + TRIM_GRACE < now).collect();
    idle.sort_unstable_by_key(|(_, used)| *used);
    idle.into_iter().take(count).map(|(peer, _)| peer).collect()
}

/// Returns an address that ends with a peer's id, and the id.
fn with_peer(address: Multiaddr) -> Result<(PeerId, Multiaddr), SwarmError> {
    let peer = peer_of(&address).ok_or_else(|| SwarmError::NoPeerId(address.clone()))?;
    Ok((peer, address))
}

/// Returns an address without the id of the peer that it leads to.
fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

fn failed(peer: &str, error: &impl std::fmt::Display) -> SwarmError {
    SwarmError::Connect { peer: peer.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_used_lately_does_not_have_to_go() {
        let start = Instant::now();
        let now = start + TRIM_GRACE * 3;
        let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        let used = [now, start + TRIM_GRACE, start, start + TRIM_GRACE * 2];
        let of = |count| least_used(peers.iter().copied().zip(used), count, now);
        assert_eq!(of(1), [peers[2]]);
        assert_eq!(of(9), [peers[2], peers[1]]);
    }
}
