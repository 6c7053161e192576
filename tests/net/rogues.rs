//! A daemon among rogues: what each of them costs its readers in time, and the process in memory.

use std::time::{Duration, Instant};

use cidfs::exchange::rogue::{Rogue, manners};
use cidfs::testkit::dag_builder::DagBuilder;
use tokio::runtime::Runtime;

use super::exchange::noise;
use super::peers::Node;
use super::process;
use crate::cli::sandbox::wait_for;

/// How long it may take to read what an honest peer has, beside a rogue and on a loaded machine: a few
/// time-outs.
const UNDISTURBED: Duration = Duration::from_secs(15);
/// How long the answer that nobody has something may take that is asked for with `--timeout=500ms`.
const REFUSED: Duration = Duration::from_secs(6);
/// Rounds without a rogue before memory is measured.
const WARM_UP: u32 = 3;
/// Memory at the end against that before the first rogue, and what an allocator keeps, in KiB.
const GROWTH_MAX: f64 = 1.1;
const KEPT_MAX: f64 = 8.0 * 1024.0;

/// Reads something that the giver has and something that nobody has; returns how long the first took.
fn read(giver: &Node, taker: &Node, seed: u32) -> Duration {
    let data = noise(seed, 1_000_000);
    giver.sandbox.write("file", &data);
    let cid = giver.sandbox.ok(&["add", "-Q", "--chunker=size-16384", "file"]);
    let begun = Instant::now();
    let read = taker.sandbox.run(&["cat", &cid]);
    let took = begun.elapsed();
    assert!(read.stdout == data, "wrong bytes, or none: {}", read.stderr);
    let absent = DagBuilder::new().raw(noise(seed + 1000, 100)).to_string();
    let begun = Instant::now();
    taker.sandbox.fails(&["cat", "--timeout=500ms", &absent], 1, &["tim"]);
    assert!(begun.elapsed() < REFUSED, "{:?}", begun.elapsed());
    taker.sandbox.ok(&["repo", "gc"]);
    took
}

#[test]
fn rogues_cost_a_daemon_little() {
    let runtime = Runtime::new().unwrap();
    let giver = Node::start();
    let taker = Node::start_with(&[("store.node_cache", "1MiB")]);
    taker.connect(&giver.address("tcp"));
    for seed in 0..WARM_UP {
        read(&giver, &taker, seed);
    }
    let pid = taker.pid();
    let before = (process::resident_kib(pid), process::descriptors(pid));
    let mut times = Vec::new();
    for (seed, (name, manner)) in (WARM_UP..).zip(manners::ALL) {
        let rogue = runtime.block_on(Rogue::start(manner));
        if name == "leaving" {
            runtime.block_on(rogue.call(taker.address("tcp").parse().unwrap()));
        } else {
            taker.connect(&rogue.address().to_string());
        }
        let took = read(&giver, &taker, seed);
        assert!(took < UNDISTURBED, "beside {name}: {took:?}");
        assert!(rogue.heard().messages > 0, "{name} was told nothing");
        times.push(format!("{name} {:.1} s", took.as_secs_f64()));
        drop(rogue);
        wait_for("the rogue to be gone", || {
            taker.sandbox.ok(&["swarm", "peers"]).lines().count() == 1
        });
    }
    let after = (process::resident_kib(pid), process::descriptors(pid));
    crate::report(&format!(
        "beside rogues: {}; memory and descriptors {before:?} to {after:?}",
        times.join(", ")
    ));
    assert!(after.0 < before.0 * GROWTH_MAX + KEPT_MAX, "{} KiB became {} KiB", before.0, after.0);
    assert!(after.1 <= before.1 + 8.0, "{} descriptors became {}", before.1, after.1);
}
