//! Known answers: fixtures of other implementations and the vectors of the specifications.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod codec;
mod codec_car;
mod import;
mod import_assembled;
mod import_nocopy;
mod import_round_trip;
mod import_tree;
