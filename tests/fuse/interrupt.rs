//! Signals while a call waits for a block.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{pb_file, take};

/// A tree in which `file` opens but its content never comes, and `name` is never found.
fn hung() -> (TempMount, TestExchange) {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("never");
    let file = builder.file_node(cidfs::codec::unixfs::Kind::File, b"", &[(leaf, 5)]);
    let name = pb_file(&mut builder, "never");
    let root = builder.directory(&[("file", file), ("name", name)]);
    take(&mut builder, &leaf);
    take(&mut builder, &name);
    let store = Arc::new(TestStore::new(builder.blocks));
    let exchange = TestExchange::default();
    (TempMount::directory(store, Arc::new(exchange.clone()), &root, "hard"), exchange)
}

fn wait_for_end(child: &mut Child) -> io::Result<(Duration, i32)> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((started.elapsed(), status.signal().unwrap_or_default()));
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it does not end");
        sleep(Duration::from_millis(10));
    }
}

fn check(program: &str, name: &str, signal: Signal) {
    let (mount, exchange) = hung();
    let mut child =
        Command::new(program).arg(mount.path(name)).stdout(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(5);
    while exchange.counts().started == 0 {
        assert!(Instant::now() < patience, "nothing was asked for");
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let (waited, by) = wait_for_end(&mut child).unwrap();
    assert_eq!(by, signal as i32);
    assert!(waited < Duration::from_secs(1), "{program} {name} {signal}: {waited:?}");
    let patience = Instant::now() + Duration::from_secs(5);
    while exchange.counts().cancelled < exchange.counts().started {
        assert!(Instant::now() < patience, "the fetch goes on for nobody");
        sleep(Duration::from_millis(10));
    }
    assert_eq!(super::names(mount.path("")).len(), 2, "the mount lives on");
}

/// > A waiting call ends within a second when a signal comes that ends or wakes its process, also
/// > with `-o hard`; the fetch is cancelled.
#[test]
fn a_waiting_reader_can_be_interrupted() {
    check("cat", "file", Signal::SIGINT);
}

#[test]
fn a_waiting_reader_can_be_killed() {
    check("cat", "file", Signal::SIGKILL);
}

#[test]
fn a_waiting_look_up_can_be_interrupted() {
    check("stat", "name", Signal::SIGTERM);
}

#[test]
fn a_waiting_look_up_can_be_killed() {
    check("stat", "name", Signal::SIGKILL);
}
