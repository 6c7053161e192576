//! What an address says of the way to a peer.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Tells whether a connection goes over a relay, which carries no bulk.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Tells whether an address is on this machine or the local network.
pub(super) fn is_near(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Protocol::Ip6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            None => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        },
        _ => false,
    }
}

/// Returns the peer that an address ends with, as `/p2p/ID`.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
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
        ] {
            assert!(!is_near(far), "{far}");
        }
    }
}
