//! Where this node can be called: the addresses of the configuration, and relays when nobody finds another
//! way to it.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::StreamProtocol;
use libp2p::{Multiaddr, PeerId};

use super::build::Behaviour;
use super::relays::Relays;
use super::trouble::cause;
use crate::exchange::address::{is_relayed, without_peer};

/// When a listener of the configuration has ended, it is tried again after this time.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);

/// The listeners of a node.
#[derive(Debug)]
pub(super) struct Listening {
    configured: HashMap<ListenerId, Multiaddr>,
    /// Those that have ended, with the time of the next try.
    ended: Vec<(Instant, Multiaddr)>,
    /// `None` when this node is not called over relays unless the configuration names them.
    relays: Option<Relays>,
}

impl Listening {
    pub(super) fn new(uses_relays: bool, now: Instant) -> Self {
        let relays = uses_relays.then(|| Relays::new(now));
        Self { configured: HashMap::new(), ended: Vec::new(), relays }
    }

    /// Begins to listen at an address, unless somebody else does.
    ///
    /// The sockets of libp2p share their port with whoever shares it too, such as a second node of the same
    /// user, and calls would go to one or the other.
    pub(super) fn begin(&mut self, swarm: &mut libp2p::Swarm<Behaviour>, address: Multiaddr) {
        match tcp_socket(&address).map_or(Ok(()), |at| TcpListener::bind(at).map(drop)) {
            Ok(()) => self.listen(swarm, address),
            Err(error) => cannot_listen(&address, &error),
        }
    }

    /// Listens at an address from now on, as far as it can be had.
    fn listen(&mut self, swarm: &mut libp2p::Swarm<Behaviour>, address: Multiaddr) {
        match swarm.listen_on(address.clone()) {
            Ok(listener) => drop(self.configured.insert(listener, address)),
            Err(error) => cannot_listen(&address, &error),
        }
    }

    /// Tries again what has ended a while ago.
    pub(super) fn listen_again(&mut self, swarm: &mut libp2p::Swarm<Behaviour>, now: Instant) {
        let due: Vec<_> = self.ended.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, address) in due {
            self.listen(swarm, address);
        }
    }

    /// Has this node called over a relay, if nobody has found another way to it; `way` leads to a peer that is
    /// connected.
    pub(super) fn listen_over_relay(
        &mut self,
        swarm: &mut libp2p::Swarm<Behaviour>,
        way: impl Fn(&PeerId) -> Option<Multiaddr>,
        now: Instant,
    ) {
        let Some(relays) = &mut self.relays else { return };
        if swarm.external_addresses().any(|address| !is_relayed(address)) {
            return;
        }
        let Some(relay) = relays.next(now) else { return };
        let Some(way) = way(&relay) else { return relays.disconnected(&relay) };
        let address = without_peer(way).with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match swarm.listen_on(address) {
            Ok(listener) => relays.using(listener, relay),
            Err(error) => {
                tracing::debug!(%relay, %error, "a relay cannot be used");
                relays.refused(relay, now);
            }
        }
    }

    /// Notes that a listener has ended.
    pub(super) fn ended(
        &mut self,
        listener: ListenerId,
        addresses: &[Multiaddr],
        reason: Result<(), io::Error>,
        now: Instant,
    ) {
        if let Err(error) = reason {
            tracing::warn!(?addresses, %error, "no longer listening");
        }
        if let Some(relays) = &mut self.relays {
            relays.ended(listener, now);
        }
        if let Some(address) = self.configured.remove(&listener) {
            self.ended.push((now + LISTEN_AGAIN, address));
        }
    }

    /// Takes what a connected peer speaks.
    pub(super) fn speaks(&mut self, peer: PeerId, protocols: &[StreamProtocol]) {
        if let Some(relays) = &mut self.relays {
            relays.speaks(peer, protocols);
        }
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        if let Some(relays) = &mut self.relays {
            relays.disconnected(peer);
        }
    }
}

fn cannot_listen(address: &Multiaddr, error: &(dyn Error + 'static)) {
    let error = cause(error);
    tracing::warn!(%address, %error, "cannot listen; peers cannot call this node there");
}

/// Returns the socket of an address of this machine that is over TCP and of a certain port.
fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    if is_relayed(address) {
        return None;
    }
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) if port > 0 => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
