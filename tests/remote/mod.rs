//! Mounts of content that is not here, over a link with a delay, a rate and losses: how long things
//! take, and what is fetched for whom.
//!
//! The long form has the sizes of the figures that cidfs promises and tells them; their bounds are those
//! of a release build on a quiet machine, with which `scripts/bench` runs it.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

mod reading;
mod walking;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes a second of a link of 1 Gbit/s.
const GBIT: u64 = 125_000_000;
const MIB: u64 = 1 << 20;

/// Lets the tests that measure run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` and returns what it returns, and its time.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}
