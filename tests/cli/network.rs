//! Words about peers, on a node that talks to nobody: what can be edited, what is refused and how it is said.

use super::sandbox::{ABSENT, Sandbox, TREE, vector_tree};

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

#[test]
fn the_bootstrap_list_is_edited_in_the_configuration() {
    let sandbox = Sandbox::new();
    let file = || std::fs::read_to_string(sandbox.repo().join("config.toml")).unwrap();
    let (before, default) = (file(), sandbox.ok(&["bootstrap"]));
    assert_eq!((default.lines().count(), sandbox.ok(&["bootstrap", "list"])), (7, default.clone()));
    let removed = sandbox.ok(&["bootstrap", "rm", "--all"]);
    assert!(removed.lines().all(|line| line.starts_with("removed /")), "{removed}");
    assert_eq!((removed.lines().count(), sandbox.ok(&["bootstrap", "list"])), (7, String::new()));

    let (one, other) =
        (format!("/ip4/192.0.2.7/tcp/1/p2p/{PEER}"), format!("/ip4/192.0.2.8/tcp/1/p2p/{PEER}"));
    assert_eq!(sandbox.ok(&["bootstrap", "add", &one, &one]), format!("added {one}"));
    assert_eq!(sandbox.ok(&["bootstrap", "add", &one]), "", "it is there");
    assert_eq!(sandbox.ok(&["bootstrap", "add", &other, &one]), format!("added {other}"));
    assert_eq!(sandbox.ok(&["bootstrap"]), format!("{one}\n{other}"));
    let shown = sandbox.ok(&["config", "network.bootstrap"]);
    assert_eq!(shown, format!("[\"{one}\",\"{other}\"]"));
    assert_eq!(sandbox.ok(&["bootstrap", "rm", &other]), format!("removed {other}"));
    sandbox.fails(&["bootstrap", "rm", &other], 1, &[&other, "is not in the list"]);
    assert_eq!(sandbox.ok(&["bootstrap", "rm", PEER]), format!("removed {one}"), "by its id");
    assert_eq!(sandbox.ok(&["bootstrap", "add", "--default"]).lines().count(), 7);
    assert_eq!(sandbox.ok(&["bootstrap", "add", "--default"]), "");
    assert_eq!(file(), before);

    let kept = |args: &[&str], code, words: &[&str]| {
        sandbox.fails(args, code, words);
        assert_eq!(file(), before);
    };
    kept(&["bootstrap", "add", "nowhere"], 1, &["\"nowhere\" is no address", "Hint:"]);
    kept(&["bootstrap", "add", &one, "/ip4/192.0.2.7/tcp/1"], 1, &["does not end with /p2p/"]);
    kept(&["bootstrap", "add", PEER], 1, &["says not where the peer is"]);
    kept(&["bootstrap", "add"], 2, &["PEERS"]);
    kept(&["bootstrap", "rm", "--all", &one], 2, &["--all"]);
    sandbox.fails(
        &["config", "network.bootstrap", "/ip4/192.0.2.7/tcp/1"],
        1,
        &["network.bootstrap", "/p2p/"],
    );
}

#[test]
fn what_is_here_is_fetched_from_nobody() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "--pin=false", "d"]);
    let run = sandbox.run(&["fetch", TREE]);
    assert_eq!(run.stderr, "", "no progress where there is no terminal");
    let said = run.ok();
    assert!(said.starts_with(&format!("{TREE} is here: 4 blocks, ")), "{said}");
    assert_eq!(sandbox.ok(&["pin", "ls"]), "", "it is not pinned");
    assert_eq!(sandbox.ok(&["fetch", "--quiet", TREE]), "");
    let json = sandbox.ok(&["fetch", "--json", &format!("/ipfs/{TREE}/hello.txt")]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["Blocks"], &json["Bytes"], &json["Peers"]),
        (&1.into(), &12.into(), &0.into())
    );
    sandbox.fails(&["fetch", ABSENT], 1, &["is not here", "Hint:", "network.preset", "dag import"]);
    sandbox.fails(&["fetch", &format!("{TREE}/nope")], 1, &["nope"]);
    sandbox.fails(&["fetch", "--quiet", "--progress", TREE], 2, &["--progress"]);
    sandbox.fails(&["fetch"], 2, &["PATH"]);
}
