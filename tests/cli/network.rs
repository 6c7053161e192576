//! Words about peers, on a node that talks to nobody: what can be edited, what is refused and how it is said.

use super::sandbox::Sandbox;

/// A peer that is nowhere.
const PEER: &str = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";

#[test]
fn a_node_that_talks_to_nobody_says_how_that_is_changed() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.daemon();
    for args in [
        &["ping", PEER][..],
        &["id", PEER],
        &["swarm", "limits"],
        &["swarm", "peering", "ls"],
        &["stats", "bw"],
        &["stats", "bitswap"],
    ] {
        let words = ["does not talk to others", "Hint:", "network.preset public", "cidfs daemon"];
        sandbox.fails(args, 1, &words);
    }
    assert!(sandbox.ok(&["status"]).contains("Network:    off (network.preset)"));
    assert!(sandbox.ok(&["stats", "repo"]).contains("NumObjects:"));
    drop(daemon);
}
