//! Peers that are to be kept: when to call them again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

/// How long after a failure a kept peer is called again, doubled each time, …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … up to this; one and a half times as long for the one of two with the greater id.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// A connection that ends sooner is a failure too: who breaks the rules is not called every second.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// Peers that are kept at most.
pub(super) const KEPT_MAX: usize = 256;
/// Addresses of one peer.
const ADDRESSES_MAX: usize = 16;

/// The kept peers.
#[derive(Debug)]
pub(super) struct Book {
    own: PeerId,
    kept: HashMap<PeerId, Kept>,
}

#[derive(Debug)]
struct Kept {
    addresses: Vec<Multiaddr>,
    connected_at: Option<Instant>,
    failures: u32,
    call_at: Instant,
}

impl Book {
    pub(super) fn new(own: PeerId) -> Self {
        Self { own, kept: HashMap::new() }
    }

    /// Keeps a peer from now on; tells whether there was room for it.
    pub(super) fn keep(&mut self, peer: PeerId, address: Multiaddr, now: Instant) -> bool {
        if self.kept.len() >= KEPT_MAX && !self.kept.contains_key(&peer) {
            return false;
        }
        let new = || Kept { addresses: Vec::new(), connected_at: None, failures: 0, call_at: now };
        let kept = self.kept.entry(peer).or_insert_with(new);
        if kept.addresses.len() < ADDRESSES_MAX && !kept.addresses.contains(&address) {
            kept.addresses.push(address);
        }
        true
    }

    /// Does not keep a peer any more; tells whether it was kept.
    pub(super) fn release(&mut self, peer: &PeerId) -> bool {
        self.kept.remove(peer).is_some()
    }

    /// Returns the kept peers.
    pub(super) fn kept(&self) -> impl ExactSizeIterator<Item = (PeerId, &[Multiaddr])> {
        self.kept.iter().map(|(peer, kept)| (*peer, &kept.addresses[..]))
    }

    /// Returns the addresses of a kept peer; none of another one.
    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.kept.get(peer).map_or(&[], |kept| &kept.addresses)
    }

    pub(super) fn keeps(&self, peer: &PeerId) -> bool {
        self.kept.contains_key(peer)
    }

    pub(super) fn connected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(kept) = self.kept.get_mut(peer) {
            kept.connected_at.get_or_insert(now);
        }
    }

    /// Notes that a peer could not be reached, or that the last connection to it has ended.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        if let Some(kept) = self.kept.get_mut(peer) {
            let connected_at = kept.connected_at.take();
            if connected_at.is_some_and(|at| now.saturating_duration_since(at) >= STEADY_AFTER) {
                kept.failures = 0;
            }
            let wait = (RETRY_FIRST * 2_u32.saturating_pow(kept.failures.min(16))).min(RETRY_MAX);
            kept.failures += 1;
            // Two who keep each other and call at the same moment would be in each other's way for ever.
            kept.call_at = now + if self.own < *peer { wait } else { wait + wait / 2 };
        }
    }

    /// Returns a peer that is to be called now; it is not returned again before it was connected or lost.
    pub(super) fn next(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        let is_due = |kept: &&mut Kept| kept.connected_at.is_none() && kept.call_at <= now;
        let (peer, kept) = self.kept.iter_mut().find(|(_, kept)| is_due(kept))?;
        kept.call_at = now + RETRY_MAX;
        Some((*peer, kept.addresses.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ids, the lesser one first.
    fn ids() -> (PeerId, PeerId) {
        let (a, b) = (PeerId::random(), PeerId::random());
        if a < b { (a, b) } else { (b, a) }
    }

    #[test]
    fn of_two_who_keep_each_other_one_waits_longer() {
        let ((less, greater), now) = (ids(), Instant::now());
        let [a, b] = [(less, greater), (greater, less)].map(|(own, peer)| {
            let mut book = Book::new(own);
            book.keep(peer, "/ip4/127.0.0.1/tcp/1".parse().unwrap(), now);
            book.lost(&peer, now);
            let mut due = |millis| book.next(now + Duration::from_millis(millis)).is_some();
            (0..3000).map_while(|millis| (!due(millis)).then_some(())).count()
        });
        assert_eq!((a, b), (1000, 1500));
    }

    #[test]
    fn a_kept_peer_is_called_until_it_answers_and_again_when_it_is_lost() {
        let (own, peer) = ids();
        let (mut book, now) = (Book::new(own), Instant::now());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        assert!(book.keep(peer, address.clone(), now));
        assert_eq!(book.next(now), Some((peer, vec![address])));
        assert_eq!(book.next(now), None, "it is being called");
        book.lost(&peer, now);
        assert_eq!(book.next(now), None);
        assert!(book.next(now + RETRY_FIRST).is_some());
        book.connected(&peer, now);
        assert_eq!(book.next(now + RETRY_MAX * 2), None);
        for _ in 0..20 {
            book.lost(&peer, now);
        }
        assert!(book.next(now + RETRY_MAX).is_some());
        assert!(book.release(&peer) && !book.release(&peer));
        assert_eq!(book.next(now + RETRY_MAX * 2), None);
    }

    #[test]
    fn a_kept_peer_that_does_not_stay_is_called_less_and_less_often() {
        let (own, peer) = ids();
        let (mut book, mut now) = (Book::new(own), Instant::now());
        book.keep(peer, "/ip4/127.0.0.1/tcp/1".parse().unwrap(), now);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            book.connected(&peer, now);
            now += STEADY_AFTER / 2;
            book.lost(&peer, now);
            assert!(book.next(now + Duration::from_millis(wait * 1000 - 1)).is_none(), "{wait} s");
            now += Duration::from_secs(wait);
            assert!(book.next(now).is_some(), "{wait} s");
        }
        book.connected(&peer, now);
        now += STEADY_AFTER;
        book.lost(&peer, now);
        assert!(book.next(now + RETRY_FIRST).is_some(), "it stayed");
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let (mut book, now) = (Book::new(PeerId::random()), Instant::now());
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let peers: Vec<_> = (0..=KEPT_MAX).map(|_| PeerId::random()).collect();
        let kept = peers.iter().filter(|peer| book.keep(**peer, address.clone(), now)).count();
        assert_eq!((kept, book.kept().len()), (KEPT_MAX, KEPT_MAX));
        for port in 0..100 {
            let address = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
            assert!(book.keep(peers[0], address, now), "it is there already");
        }
        assert_eq!(book.addresses(&peers[0]).len(), ADDRESSES_MAX);
        assert!(book.addresses(&peers[KEPT_MAX]).is_empty());
    }
}
