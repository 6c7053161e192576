//! The one integration-test binary: every folder beside this file is a module of it, so that all of
//! them link once. `tidy` fails on a test file that nobody declares.
//!
//! A test that cannot run here (no fixtures, no /dev/fuse) prints `NOT RUN: <test>: <reason>` and
//! returns; `scripts/test` lists these lines, and fails where they are not acceptable.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails; helpers are no exception")]

mod cli;
mod contract;
mod crash;
mod fuse;
mod model;
mod net;
mod remote;
mod tidy;
mod vectors;

/// Tells whether the long forms of tests run: `scripts/test --full` says so.
fn is_full_run() -> bool {
    std::env::var_os("CIDFS_TESTS").is_some_and(|value| value == "full")
}

/// Tells `scripts/bench` a figure in its unit, and the most that it may be.
fn figure(name: &str, value: f64, unit: &str, most: f64) {
    if is_full_run() {
        report(&format!("FIGURE\t{name}\t{unit}\t{most}\t{value}"));
    }
}

/// Tells the person who runs the tests something: what was left out, or what a seed was.
#[allow(clippy::print_stderr, reason = "the person who runs the tests must see what was left out")]
fn report(message: &str) {
    eprintln!("{message}");
}
