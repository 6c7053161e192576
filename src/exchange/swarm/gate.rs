//! Who may call this node: nobody from beyond the reach that it was given, and no host so often at once that
//! others find no room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, ListenFailure};
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler};
use libp2p::swarm::{THandlerInEvent, THandlerOutEvent, ToSwarm, dummy};
use libp2p::{Multiaddr, PeerId};

use super::Reach;

/// Calls of one host that are being answered at one time, of [`super::build::PENDING_MAX`].
const PENDING_PER_HOST: usize = 32;
/// One host makes at most one of so many connections.
const HOST_PART: usize = 2;
/// Bits of an IPv6 address that are a network's; who has one has all addresses in it.
const NETWORK_BITS: u32 = 64;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} is out of reach of network.preset")]
    TooFar(Multiaddr),
    #[error("{0} calls {PENDING_PER_HOST} times at once")]
    TooOften(Multiaddr),
    #[error("the host of {0} has its share of the connections")]
    HasItsShare(Multiaddr),
}

/// Refuses calls from too far away, and too many.
#[derive(Debug)]
pub(super) struct Gate {
    reach: Reach,
    /// Who makes the calls that are being answered; those through relays come from nowhere.
    pending: HashMap<ConnectionId, Option<IpAddr>>,
    /// Who made the connections that there are, …
    callers: HashMap<ConnectionId, Option<IpAddr>>,
    /// … and of how many a host may have made.
    callers_per_host: usize,
}

impl Gate {
    /// Returns a gate to a node of so many connections.
    pub(super) fn new(reach: Reach, connections_max: usize) -> Self {
        let (pending, callers) = (HashMap::new(), HashMap::new());
        Self { reach, pending, callers, callers_per_host: connections_max / HOST_PART }
    }
}

fn count(calls: &HashMap<ConnectionId, Option<IpAddr>>, host: Option<IpAddr>) -> usize {
    calls.values().filter(|other| **other == host).count()
}

/// Returns the address of a host, or for IPv6 of its network.
fn host(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => Some(ip.into()),
            None => Some(Ipv6Addr::from_bits(ip.to_bits() >> NETWORK_BITS << NETWORK_BITS).into()),
        },
        _ => None,
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if !self.reach.includes(remote) {
            return Err(ConnectionDenied::new(Refusal::TooFar(remote.clone())));
        }
        let host = host(remote);
        if count(&self.pending, host) >= PENDING_PER_HOST {
            return Err(ConnectionDenied::new(Refusal::TooOften(remote.clone())));
        }
        self.pending.insert(id, host);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
        let host = host(remote);
        if count(&self.callers, host) >= self.callers_per_host {
            return Err(ConnectionDenied::new(Refusal::HasItsShare(remote.clone())));
        }
        self.callers.insert(id, host);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending.remove(&connection_id);
                // Another bound may have refused what passed here.
                self.callers.remove(&connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.callers.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(gate: &mut Gate, number: usize, from: &str) -> bool {
        let (id, to) =
            (ConnectionId::new_unchecked(number), "/ip4/10.0.0.1/tcp/1".parse().unwrap());
        gate.handle_pending_inbound_connection(id, &to, &from.parse().unwrap()).is_ok()
    }

    #[test]
    fn on_the_local_network_only_it_may_call() {
        let call = |reach, from| calls(&mut Gate::new(reach, 256), 1, from);
        assert!(call(Reach::Near(Vec::new()), "/ip4/10.0.0.2/tcp/1"));
        assert!(!call(Reach::Near(Vec::new()), "/ip4/198.51.100.1/tcp/1"));
        assert!(call(Reach::World, "/ip4/198.51.100.1/tcp/1"));
    }

    #[test]
    fn a_host_has_a_share_of_the_calls() {
        let mut gate = Gate::new(Reach::World, 256);
        let host = |number| format!("/ip6/2001:db8::{number:x}/tcp/1");
        for number in 0..PENDING_PER_HOST {
            assert!(calls(&mut gate, number, &host(number)));
        }
        assert!(!calls(&mut gate, 100, &host(100)));
        assert!(calls(&mut gate, 101, "/ip6/2001:db8:0:1::1/udp/1/quic-v1"));
        assert!(calls(&mut gate, 102, "/ip4/198.51.100.1/tcp/1"));
        let (here, from) = ("/ip4/10.0.0.1/tcp/1".parse().unwrap(), host(0).parse().unwrap());
        let (id, peer) = (ConnectionId::new_unchecked(0), PeerId::random());
        gate.handle_established_inbound_connection(id, peer, &here, &from).unwrap();
        assert!(calls(&mut gate, 103, &host(103)), "who is connected does not call any more");
        assert!(!calls(&mut gate, 104, &host(104)));
    }

    #[test]
    fn a_host_has_a_share_of_the_connections() {
        let mut gate = Gate::new(Reach::World, 8);
        let (here, host) = ("/ip4/10.0.0.1/tcp/1".parse().unwrap(), "/ip4/198.51.100.1/tcp/1");
        let mut connects = |number, from: &str| {
            let (id, peer) = (ConnectionId::new_unchecked(number), PeerId::random());
            calls(&mut gate, number, from)
                && gate
                    .handle_established_inbound_connection(id, peer, &here, &from.parse().unwrap())
                    .is_ok()
        };
        for number in 0..4 {
            assert!(connects(number, host));
        }
        assert!(!connects(4, host));
        assert!(connects(5, "/ip4/198.51.100.2/tcp/1"));
    }
}
