//! Nodes of the network that tests talk to, on loopback: cidfs daemons, a peer in Go built of what kubo is
//! built of, and Helia in JavaScript.

use std::borrow::Borrow;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use crate::cli::sandbox::{Daemon, Sandbox, wait_for};

/// A repository whose daemon takes part in the network, on loopback only.
pub(crate) struct Node {
    pub(crate) sandbox: Sandbox,
    daemon: Daemon,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with some values of the configuration.
    pub(crate) fn start_with(values: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1", values, Sandbox::daemon)
    }

    /// Starts it in a network namespace, where it listens on an address.
    pub(super) fn start_in(namespace: &str, ip: &str) -> Self {
        Self::start_at(ip, &[], |sandbox| sandbox.daemon_in(namespace))
    }

    fn start_at(
        ip: &str,
        values: &[(&str, &str)],
        daemon: impl FnOnce(&Sandbox) -> Daemon,
    ) -> Self {
        let node = Self::begin(Sandbox::new(), ip, values, daemon);
        wait_for("the addresses", || node.addresses().len() == 3);
        node
    }

    /// Starts a daemon for a repository that is there.
    pub(crate) fn of(sandbox: Sandbox, values: &[(&str, &str)]) -> Self {
        Self::begin(sandbox, "127.0.0.1", values, Sandbox::daemon)
    }

    fn begin(
        sandbox: Sandbox,
        ip: &str,
        values: &[(&str, &str)],
        daemon: impl FnOnce(&Sandbox) -> Daemon,
    ) -> Self {
        sandbox.ok(&["config", "network.preset", "peers-only"]);
        let listen = ["tcp/0", "udp/0/quic-v1", "tcp/0/ws"].map(|rest| format!("/ip4/{ip}/{rest}"));
        sandbox.ok(&["config", "network.listen", &serde_json::to_string(&listen).unwrap()]);
        for (key, value) in values {
            sandbox.ok(&["config", key, value]);
        }
        let daemon = daemon(&sandbox);
        Self { sandbox, daemon }
    }

    /// Returns the process of its daemon.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.sandbox.ok(&["swarm", "addrs", "local"]).lines().map(str::to_owned).collect()
    }

    /// Returns its address for a transport: `tcp`, `quic-v1` or `ws`.
    pub(crate) fn address(&self, transport: &str) -> String {
        pick(self.addresses(), transport)
    }

    pub(crate) fn connect(&self, address: &str) {
        self.sandbox.ok(&["swarm", "connect", address]);
    }
}

/// Returns the address that is of just this transport.
fn pick(addresses: Vec<String>, transport: &str) -> String {
    let is_of = |address: &String| {
        let parts: Vec<_> = address.split('/').collect();
        parts.iter().rposition(|part| *part == "p2p").is_some_and(|at| match transport {
            "tcp" => parts[at - 2] == "tcp",
            other => parts[at - 1] == other,
        })
    };
    addresses.into_iter().find(is_of).unwrap_or_else(|| panic!("no address for {transport}"))
}

/// A peer of another implementation, with its store in memory.
pub(crate) struct Peer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    addresses: Vec<String>,
}

/// Why a peer, or something else, is not there to test with.
pub(super) type Absent = String;

impl Peer {
    /// Starts go-libp2p with boxo, over TCP, QUIC and WebSocket; `None`, after saying so under the name of the
    /// test, where Go is not installed.
    pub(crate) fn go(test: &str) -> Option<Self> {
        let listen =
            ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"];
        Self::go_with(test, &listen)
    }

    /// Starts it with other words on its command line.
    pub(crate) fn go_with(test: &str, words: &[&str]) -> Option<Self> {
        let binary = told(test, go_peer())?;
        Some(Self::start(Command::new(binary).args(words)))
    }

    /// Starts Helia, over TCP and WebSocket; `None` as above where npm is not installed.
    pub(crate) fn helia(test: &str) -> Option<Self> {
        let folder = told(test, helia_peer())?;
        let mut command = Command::new(folder.join("node_modules/.bin/node"));
        command.arg(folder.join("peer.js"));
        Some(Self::start(command.args(["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"])))
    }

    fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut peer =
            Self { process, input, output: BufReader::new(output), addresses: Vec::new() };
        loop {
            let line = peer.line();
            match line.split_once(' ') {
                Some(("listening", address)) => peer.addresses.push(address.to_owned()),
                _ if line == "ready" => return peer,
                _ => panic!("the peer says {line:?}"),
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the peer has ended");
        line.trim().to_owned()
    }

    /// Returns its address for a transport: `tcp`, `quic-v1` or `ws`.
    pub(crate) fn address(&self, transport: &str) -> String {
        pick(self.addresses.clone(), transport)
    }

    /// Has it do something, and returns what it answers after `ok`.
    #[track_caller]
    pub(crate) fn ok(&mut self, words: &[&str]) -> String {
        self.answer("ok", words)
    }

    /// Has it try something in vain, and returns why.
    #[track_caller]
    pub(crate) fn error(&mut self, words: &[&str]) -> String {
        self.answer("error", words)
    }

    #[track_caller]
    fn answer(&mut self, begin: &str, words: &[&str]) -> String {
        writeln!(self.input, "{}", words.join(" ")).unwrap();
        let answer = self.line();
        let rest = answer.strip_prefix(begin).unwrap_or_else(|| panic!("{words:?}: {answer}"));
        rest.trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Says under the name of a test why it cannot run.
pub(super) fn told<T, E: Borrow<Absent>>(test: &str, found: Result<T, E>) -> Option<T> {
    let say = |why: &Absent| crate::report(&format!("NOT RUN: {test}: {why}"));
    found.inspect_err(|why| say(why.borrow())).ok()
}

/// Builds the peer in Go, once for all tests.
fn go_peer() -> Result<&'static PathBuf, &'static Absent> {
    static BUILT: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    BUILT.get_or_init(|| build("go-peer", ".")).as_ref()
}

/// Builds a command of the peers in Go.
pub(super) fn build(name: &str, package: &str) -> Result<PathBuf, Absent> {
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(package);
    run(build.current_dir(source("go")))?;
    Ok(binary)
}

/// Installs Helia, with the Node.js that it needs, once for all tests.
fn helia_peer() -> Result<&'static PathBuf, &'static Absent> {
    static INSTALLED: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helia-peer");
            std::fs::create_dir_all(&folder).unwrap();
            let lock = "package-lock.json";
            let is_new = std::fs::read(folder.join(lock)).ok()
                != std::fs::read(source("js").join(lock)).ok();
            for name in ["package.json", lock, "peer.js"] {
                std::fs::copy(source("js").join(name), folder.join(name)).unwrap();
            }
            if is_new || !folder.join("node_modules/.bin/node").try_exists().unwrap() {
                let mut install = Command::new("npm");
                install.args(["ci", "--no-audit", "--no-fund"]);
                run(install.current_dir(&folder))?;
            }
            Ok(folder)
        })
        .as_ref()
}

fn source(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(language)
}

/// Runs a tool that may be absent; one that fails is a fault.
fn run(command: &mut Command) -> Result<(), Absent> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{tool} is not installed: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} cannot make the peer: {said}");
    Ok(())
}
