//! Who may call this node: nobody from beyond the reach that it was given.

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler};
use libp2p::swarm::{THandlerInEvent, THandlerOutEvent, ToSwarm, dummy};
use libp2p::{Multiaddr, PeerId};

use super::Reach;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0} is out of reach of network.preset")]
struct TooFar(Multiaddr);

/// Refuses calls from too far away.
#[derive(Debug)]
pub(super) struct Gate(pub(super) Reach);

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.0.includes(remote) {
            return Ok(());
        }
        Err(ConnectionDenied::new(TooFar(remote.clone())))
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
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

    fn on_swarm_event(&mut self, _: FromSwarm) {}

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

    #[test]
    fn on_the_local_network_only_it_may_call() {
        let call = |reach, from: &str| {
            let (id, to) = (ConnectionId::new_unchecked(1), "/ip4/10.0.0.1/tcp/1".parse().unwrap());
            Gate(reach).handle_pending_inbound_connection(id, &to, &from.parse().unwrap()).is_ok()
        };
        assert!(call(Reach::Near(Vec::new()), "/ip4/10.0.0.2/tcp/1"));
        assert!(!call(Reach::Near(Vec::new()), "/ip4/198.51.100.1/tcp/1"));
        assert!(call(Reach::World, "/ip4/198.51.100.1/tcp/1"));
    }
}
