//! Finding out at which addresses this node can be called (`AutoNAT` v2), of what peers say that they see.

use std::collections::HashSet;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::autonat::v2::client;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler};
use libp2p::swarm::{THandlerInEvent, THandlerOutEvent, ToSwarm};
use libp2p::{Multiaddr, PeerId};

/// Addresses that are looked into in a period: any peer can claim any, and each is remembered.
const CLAIMS_MAX: usize = 64;
const PERIOD: Duration = Duration::from_hours(1);

/// libp2p's client, told of no more addresses than it should look into.
pub(super) struct Reachability {
    client: client::Behaviour,
    claims: Claims,
}

/// The addresses of a period.
struct Claims {
    since: Instant,
    seen: HashSet<Multiaddr>,
}

impl Claims {
    fn new(now: Instant) -> Self {
        Self { since: now, seen: HashSet::new() }
    }

    /// Tells whether an address is to be looked into.
    fn takes(&mut self, address: &Multiaddr, now: Instant) -> bool {
        if now >= self.since + PERIOD {
            *self = Self::new(now);
        }
        if self.seen.len() < CLAIMS_MAX && !self.seen.contains(address) {
            self.seen.insert(address.clone());
        }
        self.seen.contains(address)
    }
}

impl Reachability {
    pub(super) fn new() -> Self {
        Self { client: client::Behaviour::default(), claims: Claims::new(Instant::now()) }
    }
}

impl NetworkBehaviour for Reachability {
    type ConnectionHandler = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let FromSwarm::NewExternalAddrCandidate(claim) = &event
            && !self.claims.takes(claim.addr, Instant::now())
        {
            return;
        }
        self.client.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.client.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.client.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_claims_are_looked_into_than_there_may_be() {
        let start = Instant::now();
        let mut claims = Claims::new(start);
        let address = |port: usize| format!("/ip4/203.0.113.1/tcp/{port}").parse().unwrap();
        let taken = (1..1000).filter(|port| claims.takes(&address(*port), start)).count();
        assert_eq!(taken, CLAIMS_MAX);
        assert!(claims.takes(&address(1), start), "more peers say the same");
        assert!(claims.takes(&address(999), start + PERIOD));
    }
}
