//! Relays that pass calls on to a node which cannot be called (spec 06 §7): which ones it has itself called
//! over.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::StreamProtocol;

/// What a peer speaks that can be a relay.
const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
/// Relays that are used at a time.
const IN_USE_MAX: usize = 2;
/// How long it is waited for somebody to find that this node can be called.
const UNREACHABLE_AFTER: Duration = Duration::from_mins(1);
/// How long a relay that refused, or ended, is left alone.
const LEAVE_ALONE: Duration = Duration::from_mins(10);

/// The relays among the peers that are connected.
#[derive(Debug)]
pub(super) struct Relays {
    since: Instant,
    offering: HashSet<PeerId>,
    in_use: HashMap<ListenerId, PeerId>,
    left_alone: HashMap<PeerId, Instant>,
}

impl Relays {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            offering: HashSet::new(),
            in_use: HashMap::new(),
            left_alone: HashMap::new(),
        }
    }

    /// Takes what a connected peer speaks.
    pub(super) fn speaks(&mut self, peer: PeerId, protocols: &[StreamProtocol]) {
        if protocols.contains(&HOP) {
            self.offering.insert(peer);
        } else {
            self.offering.remove(&peer);
        }
    }

    pub(super) fn disconnected(&mut self, peer: &PeerId) {
        self.offering.remove(peer);
    }

    /// Returns a relay that this node is to be called over from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<PeerId> {
        if now < self.since + UNREACHABLE_AFTER || self.in_use.len() >= IN_USE_MAX {
            return None;
        }
        self.left_alone.retain(|_, until| now < *until);
        let is_free = |peer: &&PeerId| {
            !self.in_use.values().any(|used| used == *peer) && !self.left_alone.contains_key(*peer)
        };
        self.offering.iter().find(is_free).copied()
    }

    /// Notes that a relay is asked to pass calls on.
    pub(super) fn using(&mut self, listener: ListenerId, relay: PeerId) {
        self.in_use.insert(listener, relay);
    }

    /// Notes that a relay does not, or no longer, pass calls on.
    pub(super) fn ended(&mut self, listener: ListenerId, now: Instant) {
        if let Some(relay) = self.in_use.remove(&listener) {
            self.refused(relay, now);
        }
    }

    /// Leaves a relay alone for a while.
    pub(super) fn refused(&mut self, relay: PeerId, now: Instant) {
        self.left_alone.insert(relay, now + LEAVE_ALONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_that_offer_it_are_used_once_it_is_clear_that_they_are_needed() {
        let start = Instant::now();
        let mut relays = Relays::new(start);
        let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
        for peer in &peers {
            relays.speaks(*peer, &[HOP]);
        }
        relays.speaks(PeerId::random(), &[StreamProtocol::new("/ipfs/ping/1.0.0")]);
        assert_eq!(relays.next(start), None);
        let now = start + UNREACHABLE_AFTER;
        let mut used = Vec::new();
        while let Some(relay) = relays.next(now) {
            let listener = ListenerId::next();
            relays.using(listener, relay);
            used.push((listener, relay));
        }
        assert_eq!(used.len(), IN_USE_MAX);
        let (listener, ended) = used[0];
        relays.ended(listener, now);
        assert!(relays.next(now).is_some_and(|next| !used.iter().any(|(_, relay)| *relay == next)));
        peers.iter().filter(|peer| **peer != ended).for_each(|peer| relays.disconnected(peer));
        assert_eq!(relays.next(now), None, "it is left alone");
        assert_eq!(relays.next(now + LEAVE_ALONE), Some(ended));
    }
}
