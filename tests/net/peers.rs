//! Nodes of the network that tests talk to, on loopback: cidfs daemons, a peer in Go built of what kubo is
//! built of, and Helia in JavaScript.

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
        let sandbox = Sandbox::new();
        sandbox.ok(&["config", "network.preset", "peers-only"]);
        for (key, value) in values {
            sandbox.ok(&["config", key, value]);
        }
        let listen = r#"["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"]"#;
        sandbox.ok(&["config", "network.listen", listen]);
        let daemon = sandbox.daemon();
        let node = Self { sandbox, daemon };
        wait_for("the addresses", || node.addresses().len() == 3);
        node
    }

    /// Returns the process of its daemon.
    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    fn addresses(&self) -> Vec<String> {
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

/// Why a peer is not there to test with.
type Absent = String;

impl Peer {
    /// Starts go-libp2p with boxo, over TCP, QUIC and WebSocket; `None`, after saying so under the name of the
    /// test, where Go is not installed.
    pub(crate) fn go(test: &str) -> Option<Self> {
        let binary = told(test, go_peer())?;
        let listen =
            ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"];
        Some(Self::start(Command::new(binary).args(listen)))
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

fn told<T>(test: &str, found: &'static Result<T, Absent>) -> Option<&'static T> {
    let say = |why: &Absent| crate::report(&format!("NOT RUN: {test}: {why}"));
    found.as_ref().inspect_err(|why| say(why)).ok()
}

/// Builds the peer in Go, once for all tests.
fn go_peer() -> &'static Result<PathBuf, Absent> {
    static BUILT: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-peer");
        let mut build = Command::new("go");
        build.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(".");
        run(build.current_dir(source("go")))?;
        Ok(binary)
    })
}

/// Installs Helia, with the Node.js that it needs, once for all tests.
fn helia_peer() -> &'static Result<PathBuf, Absent> {
    static INSTALLED: OnceLock<Result<PathBuf, Absent>> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helia-peer");
        std::fs::create_dir_all(&folder).unwrap();
        let lock = "package-lock.json";
        let is_new =
            std::fs::read(folder.join(lock)).ok() != std::fs::read(source("js").join(lock)).ok();
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
