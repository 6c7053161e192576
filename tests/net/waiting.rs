//! Who waits for what a peer does not give: until its time is over, or it is killed. The peer is told.

use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cidfs::block::{Cid, cid_from_text};
use cidfs::exchange::rogue::{Rogue, manners};
use tokio::runtime::Runtime;

use super::exchange::{noise, tree};
use super::peers::{Node, Peer};
use crate::cli::sandbox::{ABSENT, Sandbox, wait_for};

/// Bytes of a block of the files here.
const CHUNK_LEN: usize = 64 * 1024;

/// Bytes of all blocks of the tree that is pinned, and a little more.
const TREE_LEN_MAX: u64 = 5_650_000;

/// A mount of `/ipfs`.
fn mount(sandbox: &Sandbox, options: &str) {
    std::fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.ok(&["mount", "/ipfs", "m", "-o", options]);
}

/// Adds a file of two blocks and takes the second one away; returns both CIDs.
fn half_a_file(sandbox: &Sandbox) -> (String, Cid) {
    sandbox.write("file", noise(1, 2 * CHUNK_LEN));
    let file = sandbox.ok(&["add", "-Q", "--pin=false", "--chunker=size-65536", "file"]);
    let leaf = sandbox.ok(&["refs", &file]).lines().last().unwrap().to_owned();
    sandbox.ok(&["block", "rm", &leaf]);
    (file, cid_from_text(&leaf).unwrap())
}

#[test]
fn a_read_ends_in_time_and_the_peer_that_is_silent_is_told() {
    let runtime = Runtime::new().unwrap();
    let rogue = runtime.block_on(Rogue::start(manners::silence));
    let node = Node::start();
    let (file, leaf) = half_a_file(&node.sandbox);
    node.connect(&rogue.address().to_string());
    mount(&node.sandbox, "timeout=2s");
    let file = std::fs::File::open(node.sandbox.path(format!("m/{file}"))).unwrap();
    let mut bytes = [0; 4096];
    let begun = Instant::now();
    let error = file.read_exact_at(&mut bytes, CHUNK_LEN as u64).unwrap_err();
    let took = begun.elapsed();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    wait_for("the peer to be told", || {
        let heard = rogue.heard();
        assert!(heard.asked > 0, "it was not asked");
        heard.cancelled.contains(&leaf) && heard.wanted.is_empty()
    });
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..], noise(1, CHUNK_LEN)[..4096], "what is here is read");
    drop(file);
    node.sandbox.ok(&["umount", "m"]);
}

/// Reads through the mount, in a process of its own.
fn cat(node: &Node, path: &str) -> Child {
    let mut cat = Command::new("cat");
    cat.arg(node.sandbox.path(format!("m/{path}"))).stdout(Stdio::piped()).spawn().unwrap()
}

/// Wants of a node that another one remembers.
fn wants(giver: &Node, taker: &Node) -> u64 {
    let ledger = giver.sandbox.ok(&["bitswap", "ledger", "--json", &taker.address("tcp")]);
    serde_json::from_str::<serde_json::Value>(&ledger).unwrap()["Wants"].as_u64().unwrap()
}

#[test]
fn who_is_killed_wants_nothing_of_peers_any_more() {
    let (giver, taker) = (Node::start(), Node::start());
    taker.connect(&giver.address("tcp"));
    let mut go = Peer::go("who_is_killed_wants_nothing_of_peers_any_more");
    if let Some(go) = &mut go {
        taker.connect(&go.address("tcp"));
    }
    let (file, _) = half_a_file(&taker.sandbox);
    mount(&taker.sandbox, "timeout=60s");
    let address = taker.address("tcp");
    let mut wanted_of_go = || go.as_mut().map(|go| go.ok(&["wants", &address]));
    for path in [&file, ABSENT] {
        let mut cat = cat(&taker, path);
        wait_for("the want to be told", || wants(&giver, &taker) == 1);
        wait_for("the want to be told in Go", || {
            wanted_of_go().is_none_or(|wanted| !wanted.is_empty())
        });
        cat.kill().unwrap();
        let begun = Instant::now();
        cat.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let mut read = Vec::new();
        cat.stdout.take().unwrap().read_to_end(&mut read).unwrap();
        assert!(noise(1, 2 * CHUNK_LEN).starts_with(&read), "wrong bytes");
        wait_for("the want to be called off", || wants(&giver, &taker) == 0);
        wait_for("the want to be called off in Go", || {
            wanted_of_go().is_none_or(|wanted| wanted.is_empty())
        });
        assert_eq!(taker.sandbox.ok(&["bitswap", "wantlist"]), "");
    }
    taker.sandbox.ok(&["umount", "m"]);
}

#[test]
fn a_command_whose_time_is_over_wants_nothing_any_more() {
    let node = Node::start();
    let sandbox = &node.sandbox;
    let (file, leaf) = half_a_file(sandbox);
    std::fs::create_dir(sandbox.path("m")).unwrap();
    let nobodys = format!("/ipfs/{leaf}");
    let parent = sandbox.run(&["block", "get", &file]).stdout;
    sandbox.write("parent", &parent);
    for command in [
        &["get", "-o", "copy", &file][..],
        &["mount", &nobodys, "m"],
        &["block", "put", "--pin", "--cid-codec=dag-pb", "parent"],
        &["pin", "add", &file],
    ] {
        sandbox.fails(&[command, &["--timeout=1s"]].concat(), 1, &["--timeout"]);
        let wanted = || sandbox.ok(&["bitswap", "wantlist"]).contains(&leaf.to_string());
        wait_for("the end of the want", || !wanted());
    }
    sandbox.fails(&["mount", &nobodys, "m", "-o", "nonsense"], 1, &["unknown mount option"]);
    sandbox.fails(&["pin", "ls", &file], 1, &["not pinned"]);
    // Nothing is held any more.
    sandbox.ok(&["block", "rm", &file]);
}

#[test]
fn who_waits_for_peers_gets_what_is_added_here() {
    let node = Node::start();
    mount(&node.sandbox, "timeout=60s");
    node.sandbox.write("file", b"what nobody has yet");
    let cid = node.sandbox.ok(&["add", "-nQ", "file"]);
    let mut waiting = cat(&node, &cid);
    wait_for("the want", || node.sandbox.ok(&["bitswap", "wantlist"]).contains(&cid));
    node.sandbox.ok(&["add", "-Q", "file"]);
    let mut read = String::new();
    let begun = Instant::now();
    waiting.stdout.take().unwrap().read_to_string(&mut read).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((read.as_str(), waiting.wait().unwrap().success()), ("what nobody has yet", true));
    node.sandbox.ok(&["umount", "m"]);
}

#[test]
fn a_pin_that_is_broken_off_goes_on_where_it_was() {
    let (giver, taker) = (Node::start(), Node::start());
    tree(&giver.sandbox, 0, 300);
    let root = giver.sandbox.ok(&["add", "-rQ", "--pin=false", "--chunker=size-65536", "tree"]);
    // One block of the whole is missing for now, so that the pin waits.
    let leaf = giver.sandbox.ok(&["refs", &format!("/ipfs/{root}/deep/er/big")]);
    let leaf = leaf.lines().last().unwrap();
    let data = giver.sandbox.run(&["block", "get", leaf]).stdout;
    giver.sandbox.ok(&["block", "rm", leaf]);
    taker.connect(&giver.address("tcp"));
    let received = || {
        let stat = taker.sandbox.ok(&["bitswap", "stat", "--json"]);
        serde_json::from_str::<serde_json::Value>(&stat).unwrap()["DataReceived"].as_u64().unwrap()
    };
    let mut pin = taker.sandbox.command();
    let pin = pin.args(["pin", "add", &root]).stdout(Stdio::null());
    let mut pin = pin.stderr(Stdio::null()).spawn().unwrap();
    wait_for("the pin to wait for one block", || {
        received() > 3_000_000 && taker.sandbox.ok(&["bitswap", "wantlist"]) == leaf
    });
    pin.kill().unwrap();
    pin.wait().unwrap();
    wait_for("nobody to want it", || taker.sandbox.ok(&["bitswap", "wantlist"]).is_empty());
    taker.sandbox.fails(&["pin", "ls", &root], 1, &["not pinned"]);
    giver.sandbox.run_with_input(&["block", "put"], &data).ok();
    taker.sandbox.ok(&["pin", "add", &root]);
    let received = received();
    assert!(received <= TREE_LEN_MAX, "{received} bytes came, some of them again");
    taker.sandbox.ok(&["pin", "verify"]);
}
