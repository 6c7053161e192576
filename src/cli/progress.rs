//! Progress for people: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;

use crate::api::fetch::Arrivals;
use crate::cli::output::counted;

const WITH_TOTAL: &str = " {bytes} / {total_bytes} [{bar:40}] {percent}% {bytes_per_sec} {eta}";
const WITHOUT_TOTAL: &str = " {spinner} {bytes} {bytes_per_sec}";
const ARRIVALS: &str = " {spinner} {msg} {bytes} received {bytes_per_sec}";

/// A bar of bytes; without a known total it shows what has passed and how fast.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts a bar if standard error is a terminal, or if `wanted` says so.
    pub(crate) fn start(wanted: Option<bool>, total: Option<u64>) -> Self {
        if !Self::is_wanted(wanted) {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        set_style(&bar, if total.is_some() { WITH_TOTAL } else { WITHOUT_TOTAL });
        Self(bar)
    }

    /// Returns what tells the total when it becomes known.
    pub(crate) fn total(&self) -> Total {
        Total(self.0.clone())
    }

    /// Starts a counter of things called `what`.
    pub(crate) fn count(wanted: Option<bool>, what: &str) -> Self {
        if !Self::is_wanted(wanted) {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        set_style(&bar, &format!(" {{spinner}} {{pos}} {what}"));
        Self(bar)
    }

    /// Starts to show how blocks arrive from peers.
    pub(crate) fn arrivals(wanted: bool) -> Self {
        if !wanted {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        set_style(&bar, ARRIVALS);
        Self(bar)
    }

    /// Sets how many blocks are here, and what came from peers.
    pub(crate) fn set_arrivals(&self, blocks: u64, arrivals: Arrivals) {
        self.0.set_position(arrivals.received_bytes);
        let (blocks, peers) = (counted(blocks, "block"), counted(arrivals.peers, "peer"));
        self.0.set_message(format!("{blocks} here, {peers},"));
    }

    /// Tells whether a bar is shown.
    pub(crate) fn is_wanted(wanted: Option<bool>) -> bool {
        wanted.unwrap_or_else(|| std::io::stderr().is_terminal())
    }

    /// Sets how many bytes have passed.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Counts bytes that have passed.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// Takes the bar away while `write` prints lines.
    pub(crate) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

/// The total of a bar, found out meanwhile.
#[derive(Debug)]
pub(crate) struct Total(ProgressBar);

impl Total {
    /// Sets the total in bytes.
    pub(crate) fn set(&self, bytes: u64) {
        self.0.set_length(bytes);
        set_style(&self.0, WITH_TOTAL);
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    let style = ProgressStyle::with_template(template).expect("the templates are in this file");
    bar.set_style(style.progress_chars("=>-"));
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
