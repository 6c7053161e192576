//! How far a node reaches: whom it lets call, and calls when it found them by itself.

use ipnet::IpNet;
use libp2p::Multiaddr;

use crate::exchange::address::{ip_of, is_near};

/// Networks beside the local one that a node may reach.
pub const NETWORKS_MAX: usize = 64;

/// Whom a node talks to, beside the peers that it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Anyone.
    World,
    /// Who is on this machine, on the local network, or on one of these.
    Near(Vec<IpNet>),
}

impl Reach {
    /// Tells whether an address is within reach.
    pub(super) fn includes(&self, address: &Multiaddr) -> bool {
        match self {
            Self::World => true,
            Self::Near(networks) => {
                let is_in = |ip| networks.iter().any(|network| network.contains(&ip));
                is_near(address) || ip_of(address).is_some_and(is_in)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_reaches_its_networks_and_no_further() {
        let includes = |reach: &Reach, text: &str| reach.includes(&text.parse().unwrap());
        let site =
            Reach::Near(vec!["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for inside in [
            "/ip4/203.0.113.9/tcp/1",
            "/ip6/2001:db8::1",
            "/ip6/::ffff:203.0.113.1",
            "/ip4/10.0.0.1",
        ] {
            assert!(includes(&site, inside), "{inside}");
        }
        for outside in ["/ip4/203.0.114.9/tcp/1", "/ip6/2001:db9::1", "/dns4/example.org/tcp/1"] {
            assert!(!includes(&site, outside), "{outside}");
            assert!(includes(&Reach::World, outside), "{outside}");
        }
        assert!(!includes(&Reach::Near(Vec::new()), "/ip4/203.0.113.9"));
    }
}
