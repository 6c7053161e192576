//! Private networks, relays and who may have what, with daemons and a peer in Go.

use super::peers::{Node, Peer};
use crate::cli::sandbox::{Sandbox, wait_for};

#[test]
fn in_a_private_network_are_those_who_have_its_key() {
    let sandbox = Sandbox::new();
    let key = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "5e".repeat(32));
    std::fs::write(sandbox.repo().join("swarm.key"), key).unwrap();
    let path = sandbox.repo().join("swarm.key");
    let words = ["key", path.to_str().unwrap(), "/ip4/127.0.0.1/tcp/0"];
    let test = "in_a_private_network_are_those_who_have_its_key";
    let Some(mut go) = Peer::go_with(test, &words) else { return };
    let node = Node::of(sandbox, &[]);
    wait_for("the address", || node.addresses().len() == 1);
    node.connect(&go.address("tcp"));
    node.sandbox.write("ours", "among us");
    let cid = node.sandbox.ok(&["add", "-Q", "ours"]);
    let copy = node.sandbox.path("copy");
    go.ok(&["get", &cid, copy.to_str().unwrap()]);
    assert_eq!(std::fs::read(copy).unwrap(), b"among us");
    let stranger = Node::start();
    let address = node.address("tcp");
    stranger.sandbox.fails(&["swarm", "connect", &address], 1, &["cannot connect"]);
}

#[test]
fn over_a_relay_goes_no_bulk_until_there_is_a_direct_way() {
    let test = "over_a_relay_goes_no_bulk_until_there_is_a_direct_way";
    let Some(relay) = Peer::go_with(test, &["relay", "/ip4/127.0.0.1/tcp/0"]) else { return };
    let way = format!("{}/p2p-circuit", relay.address("tcp"));
    let id = |node: &Node| {
        let said = node.sandbox.ok(&["id", "--json"]);
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["ID"].as_str().unwrap().to_owned()
    };
    for hole_punching in ["off", "on"] {
        let listen = format!("[\"/ip4/127.0.0.1/tcp/0\", \"{way}\"]");
        let giver = Node::of(
            Sandbox::new(),
            &[("network.listen", &listen), ("network.hole_punching", hole_punching)],
        );
        let is_relayed = |address: &String| address.contains("p2p-circuit");
        wait_for("the relay", || giver.addresses().iter().any(is_relayed));
        let taker = Node::start_with(&[("network.hole_punching", hole_punching)]);
        giver.sandbox.write("file", "over the relay");
        let cid = giver.sandbox.ok(&["add", "-Q", "file"]);
        taker.connect(&format!("{way}/p2p/{}", id(&giver)));
        if hole_punching == "off" {
            assert!(taker.sandbox.ok(&["swarm", "peers"]).contains("p2p-circuit"));
            taker.sandbox.fails(&["cat", "--timeout=1s", &cid], 1, &["tim"]);
        } else {
            assert_eq!(taker.sandbox.ok(&["cat", "--timeout=30s", &cid]), "over the relay");
        }
    }
}

#[test]
fn what_is_not_pinned_is_not_given_where_only_pins_are_announced() {
    let giver = Node::start_with(&[("network.serve", "announced")]);
    let taker = Node::start();
    giver.sandbox.write("tree/pinned", "pinned");
    giver.sandbox.write("loose", "loose");
    let pinned = giver.sandbox.ok(&["add", "-rQ", "tree"]);
    let loose = giver.sandbox.ok(&["add", "-Q", "--pin=false", "loose"]);
    taker.connect(&giver.address("tcp"));
    assert_eq!(taker.sandbox.ok(&["cat", &format!("{pinned}/pinned")]), "pinned");
    taker.sandbox.fails(&["cat", "--timeout=1s", &loose], 1, &["tim"]);
}

#[test]
fn a_daemon_remembers_where_it_reached_peers() {
    let called = Node::start();
    let caller = Node::start();
    let address = called.address("quic-v1");
    caller.connect(&address);
    caller.sandbox.ok(&["shutdown"]);
    let peers = std::fs::read_to_string(caller.sandbox.repo().join("peers.json")).unwrap();
    let (way, id) = address.rsplit_once("/p2p/").unwrap();
    assert!(peers.contains(way) && peers.contains(id), "{peers}");
    let _again = caller.sandbox.daemon();
    caller.sandbox.ok(&["swarm", "connect", &format!("/p2p/{id}")]);
}
