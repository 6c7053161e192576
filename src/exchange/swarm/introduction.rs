//! What a peer says of itself, cut to what a person reads: strangers choose all of it.

use libp2p::identity::PublicKey;
use libp2p::{Multiaddr, identify};

/// Characters of its name for itself that are kept.
const AGENT_CHARS_MAX: usize = 128;
/// Protocols of one peer that are kept; kubo speaks some twenty.
const PROTOCOLS_MAX: usize = 64;
/// Characters of the name of one of them.
const PROTOCOL_CHARS_MAX: usize = 128;
/// Addresses of one peer that are kept, …
const ADDRESSES_MAX: usize = 32;
/// … and how long one may be as text; a longer one is left out.
const ADDRESS_CHARS_MAX: usize = 256;

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// What it calls itself: visible ASCII, at most 128 characters.
    pub agent: String,
    /// Its public key, which made its id.
    pub public_key: PublicKey,
    /// Where it says it can be called: at most 32 addresses, of visible ASCII when written.
    pub addresses: Vec<Multiaddr>,
    /// The protocols that it says it speaks: at most 64, each visible ASCII and at most 128 characters.
    pub protocols: Vec<String>,
}

impl Introduction {
    pub(super) fn of(said: identify::Info) -> Self {
        let is_readable = |address: &Multiaddr| {
            let text = address.to_string();
            text.len() <= ADDRESS_CHARS_MAX && text.chars().all(is_visible)
        };
        let addresses = said.listen_addrs.into_iter().filter(is_readable).take(ADDRESSES_MAX);
        let protocols = said.protocols.iter().take(PROTOCOLS_MAX);
        Self {
            agent: readable(&said.agent_version, AGENT_CHARS_MAX),
            public_key: said.public_key,
            addresses: addresses.collect(),
            protocols: protocols.map(|name| readable(name.as_ref(), PROTOCOL_CHARS_MAX)).collect(),
        }
    }
}

/// Returns the beginning of a text; what does not belong into a line of a terminal becomes a `?`.
fn readable(text: &str, chars_max: usize) -> String {
    let shown = |character| if is_visible(character) { character } else { '?' };
    text.chars().take(chars_max).map(shown).collect()
}

fn is_visible(character: char) -> bool {
    matches!(character, ' '..='~')
}

#[cfg(test)]
mod tests {
    use libp2p::StreamProtocol;
    use libp2p::identity::Keypair;

    use super::*;

    fn said(agent: &str, protocols: Vec<String>, addresses: Vec<Multiaddr>) -> Introduction {
        let protocol = |name| StreamProtocol::try_from_owned(name).unwrap();
        Introduction::of(identify::Info {
            public_key: Keypair::generate_ed25519().public(),
            protocol_version: "ipfs/0.1.0".to_owned(),
            agent_version: agent.to_owned(),
            listen_addrs: addresses,
            protocols: protocols.into_iter().map(protocol).collect(),
            observed_addr: Multiaddr::empty(),
            signed_peer_record: None,
        })
    }

    #[test]
    fn what_a_person_can_read_stays_as_it_is() {
        let address: Multiaddr = "/dns4/example.org/tcp/4001".parse().unwrap();
        let said =
            said("kubo/0.40.0", vec!["/ipfs/bitswap/1.2.0".to_owned()], vec![address.clone()]);
        assert_eq!(said.agent, "kubo/0.40.0");
        assert_eq!(
            (said.protocols, said.addresses),
            (vec!["/ipfs/bitswap/1.2.0".to_owned()], vec![address])
        );
    }

    #[test]
    fn nothing_of_it_moves_a_cursor_or_is_without_end() {
        let evil = "\x1b[2J\r\n\u{202e}\u{9b}é";
        let host: Multiaddr = format!("/dns4/a{evil}/tcp/1").parse().unwrap();
        let long: Multiaddr = format!("/dns4/{}/tcp/1", "a".repeat(300)).parse().unwrap();
        let near: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let protocols = (0..1000).map(|number| format!("/{number}{evil}{}", "x".repeat(999)));
        let addresses = [vec![host, long], vec![near.clone(); 1000]].concat();
        let said = said(&format!("{evil}{}", "x".repeat(5000)), protocols.collect(), addresses);
        assert!(said.agent.starts_with("?[2J?????x"), "{}", said.agent);
        assert_eq!((said.agent.len(), said.protocols.len()), (128, 64));
        for name in &said.protocols {
            assert!(name.len() == 128 && name.chars().all(is_visible), "{name}");
        }
        assert_eq!(said.addresses, vec![near; 32]);
    }
}
