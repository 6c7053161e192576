//! Trees and bulk of other implementations, through the mount; and what is damaged here and whole elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::exchange::{noise, tree};
use super::peers::{Node, Peer};
use crate::cli::sandbox::{Sandbox, wait_for};
use crate::is_full_run;

/// Bytes that go each way at the same time, in full and otherwise.
const BULK: (usize, usize) = (1 << 30, 64 << 20);

/// Runs a tool that must succeed; returns what it prints.
fn tool(program: &str, args: &[&Path]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program}: {said}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    output.stdout
}

/// Goes through a tree on a mount as people do, and compares it with what was added.
fn walk(sandbox: &Sandbox, added: &Path, root: &str) {
    let shown: PathBuf = sandbox.path("m").join(root);
    let names = |path: &Path| {
        tool("ls", &[Path::new("-1R"), Path::new("--"), path]).len() - path.as_os_str().len()
    };
    let count = |path: &Path| tool("find", &[path, Path::new("-mindepth"), Path::new("1")]);
    assert_eq!(
        String::from_utf8(count(&shown)).unwrap().lines().count(),
        String::from_utf8(count(added)).unwrap().lines().count()
    );
    assert!(names(&shown) > 1000, "names of 300 files");
    let read = tool("cat", &[&shown.join("many/file 7")]);
    assert!(read == std::fs::read(added.join("many/file 7")).unwrap());
    let (archive, copy) = (sandbox.path("archive.tar"), sandbox.path("copy"));
    std::fs::create_dir(&copy).unwrap();
    tool("tar", &[Path::new("-C"), &shown, Path::new("-cf"), &archive, Path::new(".")]);
    tool("tar", &[Path::new("-C"), &copy, Path::new("-xf"), &archive]);
    tool("diff", &[Path::new("-r"), Path::new("--no-dereference"), &copy, added]);
    tool("chmod", &[Path::new("-R"), Path::new("u+w"), &copy]);
}

/// Reads a tree with a sharded directory from a peer.
fn read_tree_of(peer: &mut Peer) {
    let node = Node::start();
    tree(&node.sandbox, 0, 300);
    let added = node.sandbox.path("tree");
    // Neither peer adds symlinks.
    std::fs::remove_file(added.join("link")).unwrap();
    let root = peer.ok(&["tree", added.to_str().unwrap()]);
    node.connect(&peer.address("tcp"));
    std::fs::create_dir(node.sandbox.path("m")).unwrap();
    node.sandbox.ok(&["mount", "/ipfs", "m"]);
    let many = node.sandbox.ok(&["dag", "get", &format!("/ipfs/{root}/many")]);
    assert!(many.matches("\"Hash\"").count() < 300, "the directory is in one block");
    walk(&node.sandbox, &added, &root);
    node.sandbox.ok(&["umount", "m"]);
}

#[test]
fn a_tree_of_go_is_read_through_the_mount() {
    let Some(mut go) = Peer::go("a_tree_of_go_is_read_through_the_mount") else { return };
    read_tree_of(&mut go);
}

#[test]
fn a_tree_of_helia_is_read_through_the_mount() {
    let Some(mut helia) = Peer::helia("a_tree_of_helia_is_read_through_the_mount") else { return };
    read_tree_of(&mut helia);
}

/// Each side must go on reading while it writes, or both wait for ever.
#[test]
fn bulk_goes_both_ways_on_one_connection() {
    let Some(mut go) = Peer::go("bulk_goes_both_ways_on_one_connection") else { return };
    let len = if is_full_run() { BULK.0 } else { BULK.1 };
    let node = Node::start();
    let (theirs, ours) = (noise(21, len), noise(22, len));
    node.sandbox.write("theirs", &theirs);
    node.sandbox.write("ours", &ours);
    let path = |name: &str| node.sandbox.path(name).to_str().unwrap().to_owned();
    let from_go = go.ok(&["add", &path("theirs")]);
    let to_go = node.sandbox.ok(&["add", "-Q", "ours"]);
    node.connect(&go.address("tcp"));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| node.sandbox.run(&["get", "-o", "copy", &from_go]).ok());
        go.ok(&["get", &to_go, &path("copy-in-go")]);
        reader.join().unwrap();
    });
    let took = begun.elapsed();
    assert!(std::fs::read(path("copy")).unwrap() == theirs, "to cidfs");
    assert!(std::fs::read(path("copy-in-go")).unwrap() == ours, "from cidfs");
    assert_eq!(node.sandbox.ok(&["swarm", "peers"]).lines().count(), 1);
    #[expect(clippy::cast_precision_loss, reason = "far below 2⁵²")]
    let rate = len as f64 / 1e6 / took.as_secs_f64();
    crate::report(&format!("{} MB each way at once: {rate:.0} MB/s each", len / 1_000_000));
}

/// Changes a byte of what is stored of `data`; returns how many files had it.
fn damage(repo: &Path, data: &[u8]) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(repo.join("packs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "car") {
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(32).position(|window| *window == data[1000..1032]);
        if let Some(at) = found {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            count += 1;
        }
    }
    count
}

/// A node that has pinned what the giver has, and the root and content of that: a tree of one file, too short to
/// be assembled, so that it lies in a pack.
fn taken(giver: &Node) -> (Sandbox, String, Vec<u8>) {
    let data = noise(31, 200_000);
    giver.sandbox.write("tree/file", &data);
    let root = giver.sandbox.ok(&["add", "-rQ", "--chunker=size-65536", "tree"]);
    let taker = Sandbox::new();
    taker.ok(&["config", "network.preset", "peers-only"]);
    taker.ok(&["config", "network.listen", "/ip4/127.0.0.1/tcp/0"]);
    taker.ok(&["config", "network.peers", &giver.address("tcp")]);
    let daemon = taker.daemon();
    taker.ok(&["pin", "add", &root]);
    assert_eq!(daemon.stop(), Some(0));
    (taker, root, data)
}

#[test]
fn what_went_bad_here_is_fetched_again_from_who_has_it() {
    let giver = Node::start();
    let (taker, root, data) = taken(&giver);
    assert_eq!(damage(&taker.repo(), &data), 1);
    let daemon = taker.daemon();
    taker.fails(&["repo", "verify"], 1, &["1 blocks corrupt"]);
    let told = taker.ok(&["repo", "verify", "--repair"]);
    assert!(told.contains("is whole again"), "{told}");
    taker.ok(&["repo", "verify"]);
    assert_eq!(daemon.stop(), Some(0));
    taker.ok(&["pin", "verify"]);
    assert!(taker.run(&["cat", &format!("/ipfs/{root}/file")]).stdout == data);
}

#[test]
fn what_nobody_has_does_not_keep_the_rest_from_being_repaired() {
    let giver = Node::start();
    let (taker, _, data) = taken(&giver);
    let own = noise(32, 2000);
    taker.write("own", &own);
    let own_cid = taker.ok(&["add", "-Q", "own"]);
    for data in [&own, &data] {
        assert_eq!(damage(&taker.repo(), data), 1);
    }
    let daemon = taker.daemon();
    taker.fails(&["repo", "verify"], 1, &["2 blocks corrupt"]);
    let repair = taker.run(&["repo", "verify", "--repair", "--timeout=5s"]);
    assert_eq!(repair.code, 1, "nobody has what was added here");
    let told = String::from_utf8(repair.stdout).unwrap();
    assert!(told.contains("is whole again"), "{told}");
    let wanted = || taker.ok(&["bitswap", "wantlist"]).contains(&own_cid);
    wait_for("nobody to want the other", || !wanted());
    taker.fails(&["repo", "verify"], 1, &["1 blocks corrupt"]);
    taker.ok(&["add", "own"]);
    taker.ok(&["repo", "verify"]);
    assert_eq!(daemon.stop(), Some(0));
}
