//! Blocks between cidfs nodes, and between cidfs and go-libp2p with boxo, or Helia.

use std::path::Path;
use std::time::{Duration, Instant};

use super::peers::{Node, Peer};
use crate::cli::sandbox::Sandbox;

/// Longer than Helia waits for something on a stream.
const REST: Duration = Duration::from_secs(12);

/// Bytes that compress badly and are other ones for each seed.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

/// Has a node and a peer give each other a file; who calls whom changes with the seed.
fn give_each_other(node: &Node, peer: &mut Peer, transport: &str, seed: u32) {
    if seed.is_multiple_of(2) {
        node.connect(&peer.address(transport));
    } else {
        peer.ok(&["connect", &node.address(transport)]);
    }
    let (theirs, ours) = (noise(2 * seed, 5_000_000), noise(2 * seed + 1, 5_000_000));
    node.sandbox.write("theirs", &theirs);
    let path = node.sandbox.path("theirs");
    let cid = peer.ok(&["add", path.to_str().unwrap()]);
    assert!(node.sandbox.run(&["cat", &cid]).stdout == theirs, "{transport}: to cidfs");
    node.sandbox.write("ours", &ours);
    let cid = node.sandbox.ok(&["add", "-Q", "ours"]);
    let copy = node.sandbox.path("copy");
    peer.ok(&["get", &cid, copy.to_str().unwrap()]);
    assert!(std::fs::read(copy).unwrap() == ours, "{transport}: from cidfs");
}

fn nothing_came_twice(node: &Node) {
    let stat = node.sandbox.ok(&["bitswap", "stat"]);
    assert!(stat.contains("came twice or too late: 0"), "{stat}");
}

#[test]
fn cidfs_and_go_give_each_other_files_over_every_transport() {
    let node = Node::start();
    for (seed, transport) in (0..).zip(["tcp", "quic-v1", "ws"]) {
        let test = "cidfs_and_go_give_each_other_files_over_every_transport";
        let Some(mut peer) = Peer::go(test) else { return };
        give_each_other(&node, &mut peer, transport, seed);
    }
    nothing_came_twice(&node);
}

#[test]
fn cidfs_and_helia_give_each_other_files_over_every_transport() {
    let node = Node::start();
    for (seed, transport) in (0..).zip(["tcp", "ws", "tcp"]) {
        let test = "cidfs_and_helia_give_each_other_files_over_every_transport";
        let Some(mut peer) = Peer::helia(test) else { return };
        give_each_other(&node, &mut peer, transport, seed);
    }
    nothing_came_twice(&node);
}

/// Helia opens a stream for each message, and fills its window with one frame.
#[test]
fn much_of_helia_comes_over_one_connection() {
    let Some(mut helia) = Peer::helia("much_of_helia_comes_over_one_connection") else { return };
    let node = Node::start();
    let theirs = noise(41, 100_000_000);
    node.sandbox.write("theirs", &theirs);
    let cid = helia.ok(&["add", node.sandbox.path("theirs").to_str().unwrap()]);
    node.connect(&helia.address("tcp"));
    node.sandbox.ok(&["get", "-o", "copy", &cid]);
    assert!(std::fs::read(node.sandbox.path("copy")).unwrap() == theirs);
    assert_eq!(node.sandbox.ok(&["swarm", "peers"]).lines().count(), 1, "they are still connected");
}

/// Helia gives up on streams that rest for ten seconds, and answers no question twice that was not called off.
#[test]
fn helia_and_cidfs_understand_each_other_after_a_rest() {
    let test = "helia_and_cidfs_understand_each_other_after_a_rest";
    let Some(mut helia) = Peer::helia(test) else { return };
    let node = Node::start();
    node.connect(&helia.address("tcp"));
    node.sandbox.write("nowhere", noise(50, 1000));
    let missing = node.sandbox.ok(&["add", "-Q", "--only-hash", "nowhere"]);
    let mut exchange = |seed: u32| {
        let (theirs, ours) = (noise(seed, 2_000_000), noise(seed + 1, 2_000_000));
        node.sandbox.write("theirs", &theirs);
        node.sandbox.write("ours", &ours);
        let (to_us, copy) = (node.sandbox.path("theirs"), node.sandbox.path("copy"));
        let to_us = helia.ok(&["add", to_us.to_str().unwrap()]);
        let to_them = node.sandbox.ok(&["add", "-Q", "ours"]);
        let begun = Instant::now();
        assert!(node.sandbox.run(&["cat", &to_us]).stdout == theirs);
        helia.ok(&["get", &to_them, copy.to_str().unwrap()]);
        assert!(std::fs::read(copy).unwrap() == ours);
        assert!(begun.elapsed() < REST / 2, "{:?}", begun.elapsed());
    };
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| node.sandbox.run(&["block", "get", "--timeout=20s", &missing]));
        exchange(51);
        std::thread::sleep(REST);
        exchange(53);
        assert_ne!(waits.join().unwrap().code, 0, "nobody has it");
    });
}

#[test]
fn old_cids_are_as_good_as_new_ones() {
    let Some(mut go) = Peer::go("old_cids_are_as_good_as_new_ones") else { return };
    let node = Node::start();
    go.ok(&["connect", &node.address("tcp")]);
    let data = noise(1, 3_000_000);
    node.sandbox.write("old", &data);
    let cid = node.sandbox.ok(&["add", "-Q", "--cid-version=0", "old"]);
    assert!(cid.starts_with("Qm"), "{cid}");
    let copy = node.sandbox.path("copy");
    go.ok(&["get", &cid, copy.to_str().unwrap()]);
    assert!(std::fs::read(copy).unwrap() == data);
}

/// Makes a tree with a folder of so many names, files of all lengths, other ones for each seed, and a link.
pub(super) fn tree(sandbox: &Sandbox, seed: u32, names: u32) {
    for number in 0..names {
        let len = [0, 1, 700, 20_000][number as usize % 4];
        sandbox.write(format!("tree/many/file {number}"), noise(seed + number, len));
    }
    sandbox.write("tree/deep/er/big", noise(seed + names, 4_000_000));
    let link = sandbox.path("tree/link");
    if std::fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink("deep/er/big", link).unwrap();
    }
}

/// Requires that two trees have the same names, links and bytes.
pub(super) fn same_tree(one: &Path, other: &Path) {
    let mut diff = std::process::Command::new("diff");
    let diff = diff.args(["-r", "--no-dereference"]).args([one, other]).output().unwrap();
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
}

#[test]
fn a_tree_of_another_node_is_read_through_the_mount() {
    let (giver, taker) = (Node::start(), Node::start());
    tree(&giver.sandbox, 0, 300);
    // One name in each block: as many shards as there are.
    let cid = giver.sandbox.ok(&[
        "add",
        "-rQ",
        "--max-hamt-fanout=16",
        "--max-directory-links=20",
        "tree",
    ]);
    taker.connect(&giver.address("quic-v1"));
    let mount = taker.sandbox.path("mnt");
    std::fs::create_dir(&mount).unwrap();
    taker.sandbox.ok(&["mount", "/ipfs", "mnt"]);
    same_tree(&giver.sandbox.path("tree"), &mount.join(&cid));
    taker.sandbox.ok(&["umount", "mnt"]);
    taker.sandbox.ok(&["pin", "add", &cid]);
    assert!(taker.sandbox.ok(&["ls", "--offline", &cid]).contains("deep"), "it is here now");
}

#[test]
fn of_several_providers_nothing_much_comes_twice() {
    let (one, other, taker) = (Node::start(), Node::start(), Node::start());
    let data = noise(3, 40_000_000);
    for giver in [&one, &other] {
        giver.sandbox.write("file", &data);
        giver.sandbox.ok(&["add", "-Q", "file"]);
        taker.connect(&giver.address("tcp"));
    }
    let cid = one.sandbox.ok(&["add", "-Q", "file"]);
    assert!(taker.sandbox.run(&["cat", &cid]).stdout == data);
    let ledger = |node: &Node| {
        let address = node.address("tcp");
        let ledger = taker.sandbox.ok(&["bitswap", "ledger", "--json", &address]);
        let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
        ledger["Recv"].as_u64().unwrap()
    };
    let status = taker.sandbox.ok(&["status"]);
    assert!(status.contains("Network:    2 peers, 0 blocks wanted, 40 MB received"), "{status}");
    let (first, second) = (ledger(&one), ledger(&other));
    // How they share it depends on how busy this machine is; the scheduler's own tests hold it to that.
    assert!(first + second >= 40_000_000, "{first} and {second} of 40 MB");
    assert!(first + second < 44_000_000, "{first} and {second}: too much came twice");
}

#[test]
fn what_nobody_has_is_said_in_time() {
    let (node, other) = (Node::start(), Node::start());
    node.connect(&other.address("tcp"));
    let absent = crate::cli::sandbox::ABSENT;
    node.sandbox.fails(&["cat", "--timeout=1s", absent], 1, &["tim"]);
    let wanted = node.sandbox.ok(&["bitswap", "wantlist"]);
    assert_eq!(wanted, "", "nobody waits for it any more");
}

#[test]
fn nobody_gets_what_is_not_served() {
    let Some(mut go) = Peer::go("nobody_gets_what_is_not_served") else { return };
    let node = Node::start_with(&[("network.serve", "none")]);
    node.sandbox.write("private", noise(5, 2000));
    let cid = node.sandbox.ok(&["add", "-Q", "private"]);
    go.ok(&["connect", &node.address("tcp")]);
    assert!(go.error(&["fetch", "1s", &cid]).contains("deadline"));
}

#[test]
fn a_command_without_a_daemon_talks_to_nobody() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["config", "network.preset", "lan"]);
    assert!(sandbox.ok(&["id"]).starts_with("Peer id: 12D3KooW"));
    sandbox.fails(&["swarm", "peers"], 1, &["does not talk to others", "Hint"]);
    sandbox.fails(&["cat", crate::cli::sandbox::ABSENT], 1, &["offline"]);
}
