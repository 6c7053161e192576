//! The real binary, run as people and programs run it: messages, exit codes, output, life of the
//! daemon, and the control API as kubo's clients speak it.

mod adding;
mod archives;
mod configuration;
mod daemon;
mod damage;
mod errors;
mod mounts;
mod network;
mod nocopy;
mod packs;
mod pinning;
mod reading;
mod rpc;
pub(crate) mod sandbox;
mod sharing;
mod soak;
mod space;
mod tools;
