//! The loop that drives a node: what the network says, what the rest of the node asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::{FutureExt as _, StreamExt as _};
use libp2p::core::ConnectedPoint;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, mdns, ping};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::book::Book;
use super::build::{Behaviour, BehaviourEvent, build};
use super::{PeerInfo, Request, SwarmError, SwarmOptions, remote};
use crate::exchange::address::{is_near, peer_of};
use crate::exchange::bitswap::{self, Client};
use crate::store::BlockStore;

/// How often it is looked for kept peers that are to be called.
const CALL_EVERY: Duration = Duration::from_millis(500);

/// A peer that is connected.
#[derive(Debug)]
struct Connected {
    endpoint: ConnectedPoint,
    agent: String,
    latency: Option<Duration>,
}

type Calls = HashMap<ConnectionId, oneshot::Sender<Result<PeerId, SwarmError>>>;

pub(super) struct Task {
    swarm: libp2p::Swarm<Behaviour>,
    requests: mpsc::Receiver<Request>,
    book: Book,
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
        let mut swarm = built.ok_or_else(|| SwarmError::Build("it waits".to_owned()))??;
        for address in &options.listen {
            if let Err(error) = swarm.listen_on(address.clone()) {
                tracing::warn!(%address, %error, "cannot listen; peers cannot call this node there");
            }
        }
        let mut book = Book::default();
        for address in options.peers {
            let peer = peer_of(&address).ok_or_else(|| SwarmError::NoPeerId(address.clone()))?;
            book.keep(peer, address, Instant::now());
        }
        Ok(Self { swarm, requests, book, connected: HashMap::new(), calls: HashMap::new() })
    }

    pub(super) async fn run(mut self) {
        let mut call = tokio::time::interval(CALL_EVERY);
        call.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.happened(event),
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request),
                    None => return,
                },
                _ = call.tick() => self.call_kept(),
            }
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
                self.book.release(&peer);
                let _gone = reply.send(self.swarm.disconnect_peer_id(peer).is_ok());
            }
            Request::Peers(reply) => drop(reply.send(self.peers())),
            Request::Addresses(reply) => drop(reply.send(self.addresses())),
            Request::Wanted(reply) => drop(reply.send(self.swarm.behaviour().bitswap.wanted())),
            Request::Totals(reply) => drop(reply.send(self.swarm.behaviour().bitswap.totals())),
        }
    }

    fn connect(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<PeerId, SwarmError>>) {
        let peer = peer_of(&address);
        if let Some(peer) = peer.filter(|peer| self.swarm.is_connected(peer)) {
            return drop(reply.send(Ok(peer)));
        }
        let call = match peer {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![address.clone()])
                .build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = call.connection_id();
        match self.swarm.dial(call) {
            Ok(()) => drop(self.calls.insert(id, reply)),
            Err(error) => drop(reply.send(Err(failed(&address.to_string(), &error)))),
        }
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let bitswap = &self.swarm.behaviour().bitswap;
        let ledgers: HashMap<_, _> = bitswap.ledgers().into_iter().collect();
        let info = |(id, known): (&PeerId, &Connected)| {
            let (address, is_outbound) = remote(&known.endpoint);
            let (agent, latency) = (known.agent.clone(), known.latency);
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
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::warn!(?addresses, %error, "no longer listening");
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.book.connected(&peer_id);
                let new = || Connected { endpoint, agent: String::new(), latency: None };
                self.connected.entry(peer_id).or_insert_with(new);
                if let Some(reply) = self.calls.remove(&connection_id) {
                    let _gone = reply.send(Ok(peer_id));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "a peer is gone");
                self.connected.remove(&peer_id);
                self.book.lost(&peer_id, Instant::now());
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

    fn said(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(known) = self.connected.get_mut(&peer_id) {
                    known.agent = info.agent_version;
                }
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(latency), .. }) => {
                if let Some(known) = self.connected.get_mut(&peer) {
                    known.latency = Some(latency);
                }
                self.swarm.behaviour_mut().bitswap.measured(peer, latency);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                // Whoever answers may name any address.
                for (peer, address) in found.into_iter().filter(|(_, address)| is_near(address)) {
                    let call = DialOpts::peer_id(peer).addresses(vec![address]).build();
                    if let Err(error) = self.swarm.dial(call) {
                        tracing::debug!(%peer, %error, "a peer near by is not called");
                    }
                }
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

fn failed(peer: &str, error: &impl std::fmt::Display) -> SwarmError {
    SwarmError::Connect { peer: peer.to_owned(), reason: error.to_string() }
}
