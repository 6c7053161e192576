//! Where peers were reached, for the next time: what a restart must not forget.

use std::num::NonZeroUsize;

use libp2p::{Multiaddr, PeerId};
use lru::LruCache;

/// Peers that are remembered; the one not reached for longest goes first.
const PEERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("positive");
/// Addresses of one peer, the one that led to it last in front.
const ADDRESSES_MAX: usize = 4;

/// A peer, and the addresses under which this node reached it, the last one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its id.
    pub id: PeerId,
    /// Its addresses, without the id.
    pub addresses: Vec<Multiaddr>,
}

/// The peers that this node has reached. What others only claim is not among it.
#[derive(Debug)]
pub(super) struct Known {
    peers: LruCache<PeerId, Vec<Multiaddr>>,
}

impl Known {
    /// Takes up what was remembered, the last one reached first.
    pub(super) fn new(peers: Vec<KnownPeer>) -> Self {
        let mut known = Self { peers: LruCache::new(PEERS_MAX) };
        for peer in peers.into_iter().take(PEERS_MAX.get()).rev() {
            for address in peer.addresses.into_iter().take(ADDRESSES_MAX).rev() {
                known.reached(peer.id, address);
            }
        }
        known
    }

    /// Notes that an address led to a peer.
    pub(super) fn reached(&mut self, peer: PeerId, address: Multiaddr) {
        let addresses = self.peers.get_or_insert_mut(peer, Vec::new);
        addresses.retain(|known| *known != address);
        addresses.insert(0, address);
        addresses.truncate(ADDRESSES_MAX);
    }

    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.peek(peer).map_or(&[], Vec::as_slice)
    }

    /// Returns all, the last one reached first.
    pub(super) fn list(&self) -> Vec<KnownPeer> {
        let known = |(id, addresses): (&PeerId, &Vec<Multiaddr>)| KnownPeer {
            id: *id,
            addresses: addresses.clone(),
        };
        self.peers.iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn the_last_address_comes_first_and_survives() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let mut known = Known::new(Vec::new());
        for port in [1, 2, 1] {
            known.reached(a, address(port));
        }
        assert_eq!(known.addresses(&a), [address(1), address(2)]);
        known.reached(b, address(3));
        let list = known.list();
        assert_eq!(list.iter().map(|peer| peer.id).collect::<Vec<_>>(), [b, a]);
        assert_eq!(Known::new(list.clone()).list(), list);
        assert!(known.addresses(&PeerId::random()).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::new(Vec::new());
        let first = PeerId::random();
        for port in 0..2 * ADDRESSES_MAX {
            known.reached(first, address(port));
        }
        assert_eq!(known.addresses(&first).len(), ADDRESSES_MAX);
        for _ in 0..PEERS_MAX.get() {
            known.reached(PeerId::random(), address(1));
        }
        assert_eq!(known.list().len(), PEERS_MAX.get());
        assert!(known.addresses(&first).is_empty());
    }
}
