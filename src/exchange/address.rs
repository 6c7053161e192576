//! What an address says of the way to a peer.

use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Tells whether a connection goes over a relay, which carries no bulk.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Returns the IP address that an address begins with; an IPv4 one in the form of IPv6 as what it is.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

/// Tells whether an address is on this machine or the local network.
pub(super) fn is_near(address: &Multiaddr) -> bool {
    // Over a relay it is wherever the other end is.
    !is_relayed(address)
        && match ip_of(address) {
            Some(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Some(IpAddr::V6(ip)) => {
                ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
            }
            None => false,
        }
}

/// Returns the peer that an address ends with, as `/p2p/ID`.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// Tells whether a node can listen at an address: over TCP, WebSocket or QUIC at one of this machine, or over a
/// relay that is named.
pub fn can_be_called(address: &Multiaddr) -> bool {
    let names: Vec<_> = address.protocol_stack().collect();
    matches!(
        names.as_slice(),
        ["ip4" | "ip6", "tcp"]
            | ["ip4" | "ip6", "tcp", "ws"]
            | ["ip4" | "ip6", "udp", "quic-v1"]
            | [.., "p2p", "p2p-circuit"]
    )
}

/// Tells whether an address is the id of a peer and says not where that is.
pub fn is_id_alone(address: &Multiaddr) -> bool {
    address.iter().count() == 1 && peer_of(address).is_some()
}

/// Returns an address without the id of the peer that it leads to.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    #[test]
    fn near_is_what_no_router_passes_on() {
        let is_near = |text: &str| super::is_near(&text.parse().unwrap());
        for near in [
            "/ip4/127.0.0.1",
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/10.1.2.3",
            "/ip6/::1",
            "/ip6/fe80::1",
            "/ip6/fd00::1/udp/1/quic-v1",
            "/ip6/::ffff:172.16.0.1",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in [
            "/ip4/198.51.100.1/tcp/1",
            "/ip6/2001:db8::1",
            "/dns4/localhost/tcp/1",
            "/ip6/::ffff:8.8.8.8",
            "/ip4/127.0.0.1/tcp/1/p2p-circuit",
        ] {
            assert!(!is_near(far), "{far}");
        }
    }
}
