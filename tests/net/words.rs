//! What people see of peers: pings, what they say of themselves, what passes, what is fetched.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::exchange::noise;
use super::peers::{Node, Peer};
use crate::cli::sandbox::{ABSENT, Sandbox, wait_for};

/// A peer that is nowhere.
const NOBODY: &str = "12D3KooWKnDdG3iXw9eTFijk3EWSunZcFi54Zka4wmtqtt6rPxc8";

fn id_in(address: &str) -> &str {
    address.rsplit('/').next().unwrap()
}

#[track_caller]
fn json(sandbox: &Sandbox, args: &[&str]) -> Json {
    serde_json::from_str(&sandbox.ok(&[args, &["--json"]].concat())).unwrap()
}

/// Runs a command that would go on for long until it has printed so many lines, and interrupts it.
fn first_lines(sandbox: &Sandbox, args: &[&str], count: usize) -> Vec<String> {
    let mut child = sandbox.command().args(args).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines = lines.take(count).map(Result::unwrap).collect();
    interrupt(&child);
    child.wait().unwrap();
    lines
}

fn interrupt(child: &std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn a_peer_is_called_and_answers_pings() {
    let (node, other) = (Node::start(), Node::start());
    let address = other.address("tcp");
    let id = id_in(&address);
    let (sandbox, no_address) = (&node.sandbox, "no address of it is known");
    sandbox.fails(&["ping", id], 1, &["cannot connect to", no_address, "Hint:", "/p2p/"]);
    let said = sandbox.ok(&["ping", "-n", "2", &address]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, &*format!("PING {id}.")));
    for line in &lines[1..3] {
        assert!(line.starts_with("Pong received: time=") && line.ends_with(" ms"), "{line}");
    }
    assert!(lines[3].starts_with("Average latency: ") && lines[3].ends_with("ms"), "{said}");

    let started = Instant::now();
    let lines = first_lines(sandbox, &["ping", "-n", "60", "--json", id], 3);
    assert!(started.elapsed() < Duration::from_secs(30), "answers are told as they come");
    let pong: Json = serde_json::from_str(&lines[2]).unwrap();
    assert!(pong["Success"].as_bool().unwrap() && pong["Time"].as_u64().unwrap() > 0, "{lines:?}");

    sandbox.fails(&["ping", "-n", "0", id], 1, &["from 1 to 1000"]);
    sandbox.fails(&["ping", "-n", "1001", id], 1, &["from 1 to 1000"]);
    sandbox.fails(&["ping", "nobody"], 1, &["\"nobody\" is no address"]);
    let own = node.address("tcp");
    sandbox.fails(&["ping", &own], 1, &["is this node itself"]);
    for command in [&["swarm", "connect"][..], &["swarm", "peering", "add"]] {
        sandbox.fails(&[command, &[&own]].concat(), 1, &["is this node itself"]);
        sandbox.fails(&[command, &[""]].concat(), 1, &["is no address"]);
    }
    let nobody = format!("/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}");
    sandbox.fails(&["ping", &nobody], 1, &["cannot connect to", NOBODY]);
    sandbox.fails(
        &["ping", "--timeout=1ms", &nobody.replace("127.0.0.1", "192.0.2.7")],
        1,
        &["deadline"],
    );
}

#[test]
fn a_peer_says_who_it_is() {
    let (node, other) = (Node::start(), Node::start());
    let address = other.address("quic-v1");
    let id = id_in(&address);
    node.sandbox.fails(&["id", id], 1, &["no address of it is known"]);
    let said = node.sandbox.ok(&["id", &address]);
    assert!(said.starts_with(&format!("Peer id: {id}\nAgent:   cidfs/")), "{said}");
    assert!(said.contains(&address) && said.contains("\nSpeaks:  /ipfs/bitswap/1.2.0"), "{said}");
    let (theirs, of_itself) = (json(&node.sandbox, &["id", id]), json(&other.sandbox, &["id"]));
    for key in ["ID", "PublicKey", "AgentVersion"] {
        assert_eq!(theirs[key], of_itself[key], "{key}");
    }
}

#[test]
fn go_is_pinged_and_says_who_it_is() {
    let Some(go) = Peer::go("go_is_pinged_and_says_who_it_is") else { return };
    let node = Node::start();
    let address = go.address("tcp");
    assert_eq!(node.sandbox.ok(&["ping", "-n", "2", &address]).matches("Pong received").count(), 2);
    let said = node.sandbox.ok(&["id", id_in(&address)]);
    assert!(said.contains("Speaks:  /ipfs/ping/1.0.0"), "{said}");
}

#[test]
fn who_is_kept_is_called_and_the_bounds_are_told() {
    let (node, other) = (Node::start(), Node::start());
    let address = other.address("tcp");
    let (sandbox, id) = (&node.sandbox, id_in(&address));
    assert_eq!(sandbox.ok(&["swarm", "peering", "add", &address]), format!("add {id} success"));
    wait_for("the connection", || sandbox.ok(&["swarm", "peers"]).contains(id));
    assert_eq!(sandbox.ok(&["swarm", "peering", "ls"]), format!("{id}\n        {address}"));
    let limits = json(sandbox, &["swarm", "limits"]);
    let limit = |name: &str| {
        let all = limits["Limits"].as_array().unwrap();
        let limit = all.iter().find(|limit| limit["Name"] == name).unwrap();
        (limit["Used"].as_u64().unwrap(), limit["Limit"].as_u64().unwrap())
    };
    assert_eq!((limit("connections"), limit("kept peers")), ((1, 256), (1, 256)));
    assert!(limit("streams from peers").0 <= 16);
    let (used, max) = limit("bytes of memory");
    assert!(1_000_000 < used && used < max, "{used} of {max}");
    let shown = sandbox.ok(&["swarm", "limits"]);
    assert!(shown.lines().next().unwrap().ends_with("1 of 256"), "{shown}");
    assert_eq!(sandbox.ok(&["swarm", "peering", "rm", id]), format!("rm {id} success"));
    sandbox.fails(&["swarm", "peering", "rm", id], 1, &["not among the peers that are kept"]);
    sandbox.fails(
        &["swarm", "peering", "add", id, "/ip4/127.0.0.1/tcp/1"],
        1,
        &["does not end with"],
    );
}

#[test]
fn a_tree_is_fetched_and_it_is_told_from_whom() {
    let (giver, taker) = (Node::start(), Node::start());
    giver.sandbox.write("d/big", noise(11, 5_000_000));
    giver.sandbox.write("d/small", "small");
    let cid = giver.sandbox.ok(&["add", "-rQ", "d"]);
    taker.connect(&giver.address("tcp"));
    let id = giver.address("tcp");
    let id = id_in(&id);
    let run = taker.sandbox.run(&["fetch", &cid]);
    assert_eq!(run.stderr, "", "no progress where there is no terminal");
    let said = run.ok();
    let all = "8 blocks, 5.0 MB";
    assert!(
        said.starts_with(&format!("{cid} is here: {all}; {all}, came from 1 peer in ")),
        "{said}"
    );
    assert_eq!(taker.sandbox.ok(&["fetch", &cid]), format!("{cid} is here: {all}"));
    let again = json(&taker.sandbox, &["fetch", &cid]);
    assert_eq!((&again["Blocks"], &again["ReceivedBlocks"]), (&8.into(), &0.into()));
    assert!(taker.sandbox.ok(&["ls", "--offline", &cid]).contains("small"), "it is here");
    assert_eq!(taker.sandbox.ok(&["pin", "ls"]), "", "it is not pinned");

    let (came, sent) =
        (json(&taker.sandbox, &["stats", "bw"]), json(&giver.sandbox, &["stats", "bw"]));
    assert!(came["TotalIn"].as_u64().unwrap() > 5_000_000, "{came}");
    assert_eq!((&came["TotalIn"], &came["TotalOut"]), (&sent["TotalOut"], &sent["TotalIn"]));
    assert_eq!(json(&taker.sandbox, &["stats", "bw", "--peer", id])["TotalIn"], came["TotalIn"]);
    taker.sandbox.fails(&["stats", "bw", "--peer", NOBODY], 1, &["not connected to"]);
    let polled = first_lines(&taker.sandbox, &["stats", "bw", "--poll", "-i", "100ms"], 3);
    assert!(polled[0].starts_with("Total Up") && polled[2].contains("5.0 MB"), "{polled:?}");
    let bitswap = json(&giver.sandbox, &["stats", "bitswap"]);
    assert_eq!((&bitswap["BlocksSent"], &bitswap["DataSent"]), (&8.into(), &sent["TotalOut"]));
    let status = taker.sandbox.ok(&["status"]);
    assert!(status.contains(" from the store, 8 from peers"), "{status}");
    assert!(status.contains(&format!("{id} gave 8 blocks, 5.0 MB")), "{status}");
    let status = json(&taker.sandbox, &["status"]);
    assert_eq!(status["Network"]["Givers"][0]["Peer"], id);
}

#[test]
fn who_pins_sees_what_comes() {
    let (giver, taker) = (Node::start(), Node::start());
    giver.sandbox.write("file", noise(12, 60_000_000));
    let cid = giver.sandbox.ok(&["add", "-Q", "file"]);
    taker.connect(&giver.address("tcp"));
    let told = taker.sandbox.ok(&["pin", "add", "--progress", "--json", &cid]);
    let told: Vec<Json> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (pinned, progress) = told.split_last().unwrap();
    assert_eq!(pinned["Pins"][0], *cid);
    for line in progress {
        assert!(line["Progress"].as_u64().unwrap() > 0 && line["Peers"] == 1, "{line}");
        assert!(line["ReceivedBytes"].as_u64().unwrap() <= 61_000_000, "{line}");
    }
}

#[test]
fn a_fetch_ends_when_nobody_waits_for_it() {
    let (node, other) = (Node::start(), Node::start());
    node.connect(&other.address("tcp"));
    node.sandbox.fails(&["fetch", "--timeout=300ms", ABSENT], 1, &["deadline"]);
    let mut fetch = node.sandbox.command().args(["fetch", ABSENT]).spawn().unwrap();
    let wanted = || node.sandbox.ok(&["bitswap", "wantlist"]);
    wait_for("the want", || wanted() == ABSENT);
    interrupt(&fetch);
    assert!(!fetch.wait().unwrap().success());
    wait_for("its end", || wanted().is_empty());
}

#[test]
fn two_nodes_do_not_share_a_port() {
    let first = Node::start();
    let address = first.address("tcp");
    let (socket, _) = address.split_once("/p2p/").unwrap();
    let other = Node::of(Sandbox::new(), &[("network.listen", &format!("[\"{socket}\"]"))]);
    assert!(other.addresses().is_empty(), "{:?}", other.addresses());
    let third = Node::start();
    for _ in 0..8 {
        third.connect(&address);
        third.sandbox.ok(&["swarm", "disconnect", &address]);
    }
}
