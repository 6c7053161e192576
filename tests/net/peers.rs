//! Nodes of the network that tests talk to, on loopback: cidfs daemons, and a peer in Go built of what kubo
//! is built of.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use crate::cli::sandbox::{Daemon, Sandbox, wait_for};

/// A repository whose daemon takes part in the network, on loopback only.
pub(crate) struct Node {
    pub(crate) sandbox: Sandbox,
    _daemon: Daemon,
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
        let node = Self { sandbox, _daemon: daemon };
        wait_for("the addresses", || node.addresses().len() == 3);
        node
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

/// The peer in Go, with its store in memory.
pub(crate) struct GoPeer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    addresses: Vec<String>,
}

impl GoPeer {
    /// Starts one; `None`, after saying so under the name of the test, where Go is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let binary = match build() {
            Ok(binary) => binary,
            Err(why) => {
                crate::report(&format!("NOT RUN: {test}: {why}"));
                return None;
            }
        };
        let mut command = Command::new(binary);
        command.args([
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/udp/0/quic-v1",
            "/ip4/127.0.0.1/tcp/0/ws",
        ]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut peer =
            Self { process, input, output: BufReader::new(output), addresses: Vec::new() };
        loop {
            let line = peer.line();
            match line.split_once(' ') {
                Some(("listening", address)) => peer.addresses.push(address.to_owned()),
                _ if line == "ready" => return Some(peer),
                _ => panic!("the Go peer says {line:?}"),
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the Go peer has ended");
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

impl Drop for GoPeer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Builds it once for all tests.
fn build() -> &'static Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-peer");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/go");
        let mut command = Command::new("go");
        command.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(".").current_dir(source);
        match command.output() {
            Err(error) => Err(format!("Go 1.26 is not installed: {error}")),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "the Go peer does not build: {said}");
                Ok(binary)
            }
        }
    })
}
