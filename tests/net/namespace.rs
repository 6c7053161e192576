//! A machine of its own for a node: a network namespace with a loopback and one interface, through which all
//! would leave that is not for the machine itself.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cli::sandbox::{Daemon, Sandbox};

/// The address of the machine on its network, …
pub(super) const ADDRESS: &str = "10.78.0.1";
/// … and another one that it has.
pub(super) const OTHER_ADDRESS: &str = "10.79.0.2";
/// The interface through which all leaves.
pub(super) const OUTSIDE: &str = "out0";
/// Its other end, at which nobody is.
const BEYOND: &str = "beyond0";
const ROUTER: &str = "10.78.0.254";

/// The namespace, gone with the value.
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; `None`, after saying so under the name of the test, where that is not possible.
    pub(super) fn new(test: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cidfs-machine-{}-{number}", std::process::id());
        let made = ip(&["netns", "add", &name]).and_then(|()| {
            let namespace = Self { name };
            namespace.set_up().map(|()| namespace)
        });
        made.inspect_err(|why| crate::report(&format!("NOT RUN: {test}: {why}"))).ok()
    }

    fn set_up(&self) -> Result<(), String> {
        let ip = |words: &str| {
            let words: Vec<_> = ["-n", &self.name].into_iter().chain(words.split(' ')).collect();
            ip(&words)
        };
        // What the kernel says by itself in IPv6 is not this test's matter.
        let sysctl = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        self.run("sh", &["-c", sysctl]).output().map_err(|error| error.to_string())?;
        ip("link set lo up")?;
        ip(&format!("link add {OUTSIDE} type veth peer name {BEYOND}"))?;
        ip(&format!("link set {OUTSIDE} up"))?;
        ip(&format!("link set {BEYOND} up"))?;
        ip(&format!("address add {ADDRESS}/24 dev {OUTSIDE}"))?;
        ip(&format!("address add {OTHER_ADDRESS}/24 dev {OUTSIDE}"))?;
        // Nobody answers who would say where the router is.
        ip(&format!("neigh add {ROUTER} lladdr 02:00:00:00:00:01 nud permanent dev {OUTSIDE}"))?;
        ip(&format!("route add default via {ROUTER}"))
    }

    /// A program on this machine.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program).args(args);
        command
    }

    /// A node on this machine, with some values of the configuration.
    pub(super) fn node(&self, values: &[(&str, &str)]) -> (Sandbox, Daemon) {
        let sandbox = Sandbox::new();
        for (key, value) in values {
            sandbox.ok(&["config", key, value]);
        }
        let daemon = sandbox.daemon_in(&self.name);
        (sandbox, daemon)
    }

    /// Begins to watch all packets of this machine.
    pub(super) fn watch(&self) -> Watch {
        let script = include_str!("packets.py");
        let mut watch = self.run("python3", &["-c", script, "lo", OUTSIDE]);
        let mut process = watch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "AF_PACKET needs root and Python");
        Watch { process, output }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.name]).unwrap();
    }
}

/// Sets up the network; what it refuses is not there to test with.
pub(super) fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {said}", words.join(" "))) }
}

/// Who watches.
pub(super) struct Watch {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Packet {
    pub(super) interface: String,
    pub(super) kind: String,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) port: u16,
}

impl Watch {
    /// Ends to watch; returns the different packets that were seen.
    pub(super) fn end(mut self) -> Vec<Packet> {
        drop(self.process.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.process.wait().unwrap().success());
        let packet = |line: &str| {
            let [interface, kind, source, _, destination, port] =
                line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            Packet {
                interface: interface.to_owned(),
                kind: kind.to_owned(),
                source: source.parse().ok(),
                destination: destination.parse().ok(),
                port: port.parse().unwrap(),
            }
        };
        let mut packets: Vec<_> = text.lines().map(packet).collect();
        packets.sort();
        packets.dedup();
        packets
    }
}
