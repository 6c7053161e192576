//! Models: what a plain buffer, map or file system says must be what the house says.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod reader;
mod reader_adversarial;
mod reader_fixtures;
mod reader_hostile;
