//! The loop that drives a node: what the network says, what the rest of the node asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, autonat, identify, mdns, ping, upnp};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::book::KEPT_MAX;
use super::build::{Behaviour, BehaviourEvent, CONNECTIONS_PER_PEER, PENDING_MAX, build};
use super::calling::{Calling, with_peer};
use super::introduction::Introduction;
use super::listening::Listening;
use super::{PeerInfo, Request, SwarmError, SwarmOptions, remote};
use crate::exchange::bitswap::{self, Client};
use crate::exchange::limit::Limit;
use crate::exchange::seldom::Seldom;
use crate::store::BlockStore;
use crate::sys::memory::resident_bytes;

/// How often it is looked whether somebody is to be called, or an address listened on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// With more connected peers than this share of the bound, those not used for longest have to go, …
const TRIM_ABOVE: (usize, usize) = (3, 4);
/// … until this share is left; …
const TRIM_TO: (usize, usize) = (1, 2);
/// … but nobody who was used in this time.
const TRIM_GRACE: Duration = Duration::from_secs(30);

/// How long nothing must have passed for a ping without an answer to mean that a peer is gone.
const SILENT_AFTER: Duration = Duration::from_mins(1);

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

pub(super) struct Task {
    swarm: libp2p::Swarm<Behaviour>,
    requests: mpsc::Receiver<Request>,
    connections_max: usize,
    calling: Calling,
    listening: Listening,
    connected: HashMap<PeerId, Connected>,
    /// Of what peers may cause often: calls that are not heard, and what ends a connection.
    unheard: Seldom,
    misbehaved: Seldom,
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
        let (own, now) = (*swarm.local_peer_id(), Instant::now());
        let calling = Calling::new(own, options.reach, options.others, options.known, now)?;
        let mut task = Self {
            swarm,
            requests,
            connections_max: options.connections_max as usize,
            calling,
            listening: Listening::new(options.hole_punching, now),
            connected: HashMap::new(),
            unheard: Seldom::default(),
            misbehaved: Seldom::default(),
        };
        for address in options.peers {
            let (peer, address) = with_peer(address)?;
            task.calling.keep(&mut task.swarm, peer, address)?;
        }
        for address in options.listen {
            task.listening.begin(&mut task.swarm, address);
        }
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
        let (now, swarm) = (Instant::now(), &mut self.swarm);
        self.calling.call_kept(swarm, now);
        self.calling.call_others(swarm, self.connected.len(), now);
        self.listening.listen_again(swarm, now);
        let way = |peer: &PeerId| Some(remote(&self.connected.get(peer)?.endpoint).0);
        self.listening.listen_over_relay(swarm, way, now);
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
        let others = self.connected.iter().filter(|(peer, _)| !self.calling.keeps(peer)).map(used);
        let too_many = count - max * TRIM_TO.0 / TRIM_TO.1;
        for peer in least_used(others, too_many, Instant::now()) {
            tracing::debug!(%peer, "disconnecting a peer that was not used for long");
            // It may be gone already.
            let _gone = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn answer(&mut self, request: Request) {
        // Who does not wait for the answer any more needs none.
        match request {
            Request::Connect(address, reply) => {
                self.calling.connect(&mut self.swarm, address, reply);
            }
            Request::Disconnect(peer, reply) => {
                self.calling.release(&mut self.swarm, &peer);
                let _gone = reply.send(self.swarm.disconnect_peer_id(peer).is_ok());
            }
            Request::Peers(reply) => drop(reply.send(self.peers())),
            Request::Addresses(reply) => drop(reply.send(self.addresses())),
            Request::Wanted(reply) => drop(reply.send(self.swarm.behaviour().bitswap.wanted())),
            Request::Totals(reply) => drop(reply.send(self.swarm.behaviour().bitswap.totals())),
            Request::Known(reply) => drop(reply.send(self.calling.known())),
            Request::Traffic(reply) => {
                let _gone = reply.send(self.swarm.behaviour().bitswap.traffic(Instant::now()));
            }
            Request::Limits(reply) => drop(reply.send(self.limits())),
            Request::Introduction(peer, reply) => {
                let known = self.connected.get(&peer);
                drop(reply.send(known.and_then(|known| known.said.clone())));
            }
            Request::Keep(peer, address, reply) => {
                drop(reply.send(self.calling.keep(&mut self.swarm, peer, address)));
            }
            Request::Release(peer, reply) => {
                let _gone = reply.send(self.calling.release(&mut self.swarm, &peer));
            }
            Request::Kept(reply) => {
                let kept = self.calling.kept().map(|(peer, addresses)| (peer, addresses.to_vec()));
                drop(reply.send(kept.collect()));
            }
            Request::Open(peer, reply) => self.swarm.behaviour_mut().probes.open(peer, reply),
            Request::Measured(peer, latency) => self.measured(peer, latency),
        }
    }

    fn measured(&mut self, peer: PeerId, latency: Duration) {
        if let Some(known) = self.connected.get_mut(&peer) {
            known.latency = Some(latency);
            self.swarm.behaviour_mut().bitswap.measured(peer, latency);
        }
    }

    /// Ends a connection on which a ping is not answered and nothing has passed for long: its other end is gone, and
    /// nobody calls a peer again that is taken for connected. A ping waits behind what is on its way.
    fn unanswered(&mut self, peer: PeerId, connection: ConnectionId, failure: &ping::Failure) {
        let used = self.swarm.behaviour().bitswap.last_used_on(&peer, connection);
        let is_in_use = used.is_some_and(|used| used.elapsed() < SILENT_AFTER);
        if !is_in_use && !matches!(failure, ping::Failure::Unsupported) {
            tracing::info!(%peer, %failure, "a peer does not answer any more");
            // It may be closed already.
            let _gone = self.swarm.close_connection(connection);
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
            Limit::of("kept peers", self.calling.kept().len(), KEPT_MAX),
        ];
        limits.extend(bitswap.limits(self.connections_max));
        let used = resident_bytes().unwrap_or_default();
        limits.push(Limit::of("bytes of memory", used, memory.max_allowed_bytes()));
        limits
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
            SwarmEvent::ListenerError { error, .. } => {
                if let Some(untold) = self.unheard.tells(Instant::now()) {
                    tracing::warn!(%error, untold, "cannot listen");
                }
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listening.ended(listener_id, &addresses, reason, Instant::now());
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                num_established,
                ..
            } => {
                let (address, is_outbound) = remote(&endpoint);
                self.calling.connected(peer_id, connection_id, is_outbound.then_some(address));
                self.connected(peer_id, endpoint, num_established.get());
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
                self.calling.disconnected(&peer_id, Instant::now());
                self.listening.disconnected(&peer_id);
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                tracing::info!(%address, "this node can be called");
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                self.calling.failed(&self.swarm, peer_id, connection_id, &error);
            }
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId, endpoint: ConnectedPoint, connections: u32) {
        let since = Instant::now();
        let new = || Connected { since, endpoint, connections, said: None, latency: None };
        self.connected.entry(peer).or_insert_with(new).connections = connections;
        self.trim();
    }

    fn said(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(known) = self.connected.get_mut(&peer_id) {
                    self.listening.speaks(peer_id, &info.protocols);
                    known.said = Some(Introduction::of(info));
                }
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(latency), .. }) => {
                self.measured(peer, latency);
            }
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(failure) }) => {
                self.unanswered(peer, connection, &failure);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                self.calling.call_near(&mut self.swarm, found);
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => self.calling.forget_near(&gone),
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
                if let Some(untold) = self.misbehaved.tells(Instant::now()) {
                    tracing::info!(%peer, what, untold, "disconnecting a peer");
                }
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
