//! Nodes in network namespaces of their own, with a link between them that has a delay, a rate and losses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::exchange::{noise, same_tree, tree};
use super::namespace::ip;
use super::peers::{Absent, Node, build, told};
use crate::cli::sandbox::wait_for;

/// Addresses of the two ends; nothing else is in their namespaces.
const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

/// A network namespace, gone with the value.
struct Namespace(String);

impl Namespace {
    fn new() -> Result<Self, Absent> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("cidfs-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(why) = ip(&["netns", "del", &self.0]) {
            crate::report(&why);
        }
    }
}

/// A link between two namespaces, as slow and as lossy as `tests/peers/go/cmd/link` is told to be.
struct Link {
    // The devices go before the namespaces that they are in.
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    namespaces: [Namespace; 2],
}

/// Packets, both ways together.
#[derive(Debug)]
struct Counts {
    carried: u64,
    lost: u64,
}

impl Link {
    fn start(flags: &[&str]) -> Result<Self, Absent> {
        if !Path::new("/dev/net/tun").try_exists().unwrap() {
            return Err("/dev/net/tun is not there".to_owned());
        }
        let binary = build("go-link", "./cmd/link")?;
        let namespaces = [Namespace::new()?, Namespace::new()?];
        let end = |number: usize| format!("{}={}", namespaces[number].0, ADDRESSES[number]);
        let mut command = Command::new(binary);
        command.args(flags).args([end(0), end(1)]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut link = Self { process, input, output: BufReader::new(output), namespaces };
        assert_eq!(link.line(), "ready");
        Ok(link)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the link has ended");
        line.trim().to_owned()
    }

    fn counts(&mut self) -> Counts {
        writeln!(self.input).unwrap();
        let counts: Vec<_> = self.line().split(' ').map(|count| count.parse().unwrap()).collect();
        Counts { carried: counts[0], lost: counts[1] }
    }

    /// Starts a node at one end, with `/ipfs` mounted.
    fn node(&self, end: usize) -> Node {
        let node = Node::start_in(&self.namespaces[end].0, ADDRESSES[end]);
        std::fs::create_dir(node.sandbox.path("mnt")).unwrap();
        node.sandbox.ok(&["mount", "/ipfs", "mnt"]);
        node
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Connects two nodes that are not connected, over a transport.
fn connect(caller: &Node, called: &Node, transport: &str) {
    let peers = |node: &Node| node.sandbox.ok(&["swarm", "peers"]);
    wait_for("the end of the connection", || peers(caller).is_empty() && peers(called).is_empty());
    caller.connect(&called.address(transport));
    let over = if transport == "tcp" { "/tcp/" } else { "/quic-v1" };
    assert!(peers(caller).contains(over), "{}", peers(caller));
}

#[test]
fn files_and_trees_come_over_a_slow_lossy_way_by_tcp_and_quic() {
    let test = "files_and_trees_come_over_a_slow_lossy_way_by_tcp_and_quic";
    let link = Link::start(&["-delay=10ms", "-rate=100", "-loss=0.3"]);
    let Some(mut link) = told(test, link) else { return };
    let (one, other) = (link.node(0), link.node(1));
    for (seed, transport) in (1..).zip(["tcp", "quic-v1"]) {
        connect(&one, &other, transport);
        let data = noise(seed, 2_000_000);
        one.sandbox.write("file", &data);
        let cid = one.sandbox.ok(&["add", "-Q", "file"]);
        let read = std::fs::read(other.sandbox.path("mnt").join(cid)).unwrap();
        assert!(read == data, "{transport}: the file");
        tree(&other.sandbox, 100 * seed, 60);
        let cid = other.sandbox.ok(&["add", "-rQ", "tree"]);
        same_tree(&other.sandbox.path("tree"), &one.sandbox.path("mnt").join(cid));
        one.sandbox.ok(&["swarm", "disconnect", &other.address(transport)]);
    }
    let counts = link.counts();
    assert!(counts.lost > 0 && counts.lost < counts.carried / 20, "{counts:?}");
}

#[test]
fn a_peer_that_was_never_asked_gives_a_block_within_two_round_trips() {
    const ROUND_TRIP: Duration = Duration::from_millis(500);
    let test = "a_peer_that_was_never_asked_gives_a_block_within_two_round_trips";
    let Some(link) = told(test, Link::start(&["-delay=250ms", "-rate=100", "-loss=0"])) else {
        return;
    };
    let (one, other) = (link.node(0), link.node(1));
    connect(&one, &other, "tcp");
    // What both say to introduce themselves is not to be in the way.
    std::thread::sleep(ROUND_TRIP * 4);
    one.sandbox.write("file", b"a short one");
    let cid = one.sandbox.ok(&["add", "-Q", "file"]);
    let asked = Instant::now();
    assert_eq!(other.sandbox.ok(&["block", "get", &cid]), "a short one");
    let took = asked.elapsed();
    assert!(took < ROUND_TRIP * 14 / 5, "{took:?}");
}

/// One after the other, sixteen blocks of a file and sixty files would take three and twelve seconds.
#[test]
fn what_cat_and_get_will_read_is_fetched_ahead() {
    let test = "what_cat_and_get_will_read_is_fetched_ahead";
    let Some(link) = told(test, Link::start(&["-delay=100ms", "-rate=1000", "-loss=0"])) else {
        return;
    };
    let (one, other) = (link.node(0), link.node(1));
    connect(&one, &other, "tcp");
    for (seed, len, name) in [(1, 32_000_000, "first"), (2, 16 << 20, "file")] {
        other.sandbox.write(name, noise(seed, len));
    }
    tree(&other.sandbox, 100, 60);
    let [first, file] = ["first", "file"].map(|name| other.sandbox.ok(&["add", "-Q", name]));
    let root = other.sandbox.ok(&["add", "-rQ", "tree"]);
    // Then the connection has found its rate.
    one.sandbox.ok(&["fetch", &first]);
    let asked = Instant::now();
    let read = one.sandbox.run(&["cat", &file]).stdout;
    let took = asked.elapsed();
    assert!(read == noise(2, 16 << 20));
    assert!(took < Duration::from_millis(2600), "cat: {took:?}");
    let asked = Instant::now();
    one.sandbox.ok(&["get", "-o", "copy", &root]);
    let took = asked.elapsed();
    same_tree(&other.sandbox.path("tree"), &one.sandbox.path("copy"));
    assert!(took < Duration::from_secs(6), "get: {took:?}");
}

/// 10 Mbit/s, which a big file takes all of.
#[test]
fn small_files_do_not_wait_behind_a_big_one() {
    const SMALL_MAX: Duration = Duration::from_secs(2);
    let test = "small_files_do_not_wait_behind_a_big_one";
    let Some(link) = told(test, Link::start(&["-delay=10ms", "-rate=10", "-loss=0"])) else {
        return;
    };
    let (one, other) = (link.node(0), link.node(1));
    connect(&one, &other, "tcp");
    other.sandbox.write("big", noise(1, 20_000_000));
    let big = other.sandbox.ok(&["add", "-Q", "big"]);
    for name in ["dir/a", "dir/b", "dir/c"] {
        other.sandbox.write(name, name.repeat(500));
    }
    let dir = other.sandbox.ok(&["add", "-rQ", "dir"]);
    let mnt = one.sandbox.path("mnt");
    let mut cat = Command::new("cat");
    let mut cat = cat.arg(mnt.join(&big)).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    for name in ["a", "b", "c"] {
        let asked = Instant::now();
        let read = std::fs::read_to_string(mnt.join(&dir).join(name)).unwrap();
        let took = asked.elapsed();
        assert_eq!(read, format!("dir/{name}").repeat(500));
        assert!(took < SMALL_MAX, "{name}: {took:?}");
    }
    assert!(cat.try_wait().unwrap().is_none(), "it was in the way all the time");
    cat.kill().unwrap();
    cat.wait().unwrap();
}
