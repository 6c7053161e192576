//! Not one packet goes where it must not: nodes of each preset on machines of their own, watched.

use std::net::IpAddr;
use std::time::Duration;

use super::exchange::noise;
use super::namespace::{ADDRESS, Namespace, OTHER_ADDRESS, OUTSIDE, Packet};
use crate::cli::sandbox::{ABSENT, Sandbox, wait_for};

/// How long a node is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(3);
/// Where mDNS goes to.
const MDNS: (&str, u16) = ("224.0.0.251", 5353);

/// A peer whose host has a name.
const NAMED: &str =
    "/dns4/peer.example.org/tcp/4001/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
/// Port of the resolvers that are asked for names.
const DNS: u16 = 53;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Has a node do what would be easier with others.
fn tempt(sandbox: &Sandbox) {
    sandbox.write("file", noise(1, 100_000));
    sandbox.ok(&["add", "-Q", "file"]);
    sandbox.fails(&["cat", "--timeout=1500ms", ABSENT], 1, &[]);
    sandbox.fails(&["resolve", "/ipns/example.org"], 1, &[]);
    std::thread::sleep(IDLE);
}

/// Returns the address of a node that listens on one only.
fn address(sandbox: &Sandbox) -> String {
    let mut address = String::new();
    wait_for("the address", || {
        address = sandbox.ok(&["swarm", "addrs", "local"]);
        !address.is_empty()
    });
    assert_eq!(address.lines().count(), 1);
    address
}

/// What is watched is seen: else the others would show nothing.
#[test]
fn the_watch_sees_what_leaves() {
    let Some(machine) = Namespace::new("the_watch_sees_what_leaves") else { return };
    let watch = machine.watch();
    let send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);\
                s.sendto(b'x', ('198.51.100.1', 9)); s.sendto(b'x', ('127.0.0.1', 10))";
    assert!(machine.run("python3", &["-c", send]).status().unwrap().success());
    let seen = watch.end();
    let is_seen = |interface: &str, to: &str, port| {
        seen.iter().any(|packet| {
            (&*packet.interface, packet.destination, packet.port) == (interface, Some(ip(to)), port)
        })
    };
    assert!(is_seen(OUTSIDE, "198.51.100.1", 9) && is_seen("lo", "127.0.0.1", 10), "{seen:?}");
}

#[test]
fn an_offline_node_sends_nothing() {
    let Some(machine) = Namespace::new("an_offline_node_sends_nothing") else { return };
    let watch = machine.watch();
    let (sandbox, daemon) = machine.node(&[("network.peers", NAMED)]);
    tempt(&sandbox);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(watch.end(), []);
}

#[test]
fn a_node_of_named_peers_talks_to_them_only() {
    let Some(machine) = Namespace::new("a_node_of_named_peers_talks_to_them_only") else { return };
    let preset = ("network.preset", "peers-only");
    let listen = format!("/ip4/{OTHER_ADDRESS}/tcp/0");
    let (giver, _giving) = machine.node(&[preset, ("network.listen", &listen)]);
    giver.write("file", noise(2, 1_000_000));
    let cid = giver.ok(&["add", "-Q", "file"]);
    let named = address(&giver);
    let watch = machine.watch();
    let (taker, daemon) =
        machine.node(&[preset, ("network.listen", "[]"), ("network.peers", &named)]);
    assert!(taker.run(&["cat", &cid]).stdout == noise(2, 1_000_000));
    tempt(&taker);
    assert_eq!(daemon.stop(), Some(0));
    let is_named = |packet: &Packet| {
        let named = Some(ip(OTHER_ADDRESS));
        packet.interface == "lo" && (packet.source == named || packet.destination == named)
    };
    let (named, other): (Vec<_>, Vec<_>) = watch.end().into_iter().partition(is_named);
    assert!(!named.is_empty(), "it talks to the one that is named");
    assert_eq!(other, []);
}

/// Two nodes that are told nothing of each other find each other, and nobody else hears of it.
#[test]
fn nodes_of_the_local_network_find_each_other_and_stay_there() {
    let test = "nodes_of_the_local_network_find_each_other_and_stay_there";
    let Some(machine) = Namespace::new(test) else { return };
    let watch = machine.watch();
    let listen = format!("/ip4/{ADDRESS}/tcp/0");
    let values = [("network.preset", "lan"), ("network.listen", &*listen)];
    let (giver, _giving) = machine.node(&values);
    let (taker, _taking) = machine.node(&values);
    wait_for("them to find each other", || !taker.ok(&["swarm", "peers"]).is_empty());
    giver.write("file", noise(3, 1_000_000));
    let cid = giver.ok(&["add", "-Q", "file"]);
    assert!(taker.run(&["cat", &cid]).stdout == noise(3, 1_000_000));
    tempt(&taker);
    let is_kept = |packet: &Packet| {
        let to = packet.destination;
        let is_mdns = (to, packet.port) == (Some(ip(MDNS.0)), MDNS.1);
        let is_here = to == Some(ip(ADDRESS)) || to == Some(ip(OTHER_ADDRESS));
        packet.kind == "igmp" || is_mdns || (packet.interface == "lo" && is_here)
    };
    let (kept, other): (Vec<_>, Vec<_>) = watch.end().into_iter().partition(is_kept);
    assert!(kept.iter().any(|packet| packet.port == MDNS.1), "it looks for others: {kept:?}");
    assert_eq!(other, []);
}

/// The one way in which a node of named peers asks for a name.
#[test]
fn names_of_hosts_are_looked_up_when_a_peer_has_one() {
    let Some(machine) = Namespace::new("names_of_hosts_are_looked_up_when_a_peer_has_one") else {
        return;
    };
    let watch = machine.watch();
    let values =
        [("network.preset", "peers-only"), ("network.listen", "[]"), ("network.peers", NAMED)];
    let (_sandbox, daemon) = machine.node(&values);
    std::thread::sleep(IDLE);
    assert_eq!(daemon.stop(), Some(0));
    let seen = watch.end();
    assert!(!seen.is_empty() && seen.iter().all(|packet| packet.port == DNS), "{seen:?}");
}
