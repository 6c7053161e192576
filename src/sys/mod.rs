//! The kernel calls that need `unsafe` or care: mounting, mapping, syncing, signals, leases, volumes,
//! memory, bounds.
//!
//! The promise: what is dangerous or odd about these interfaces is dealt with here, once, so that
//! the layers above speak in paths, descriptors, numbers and typed errors. It knows nothing of blocks,
//! files of the network, or the requests that travel over a descriptor it hands out.

pub mod clone;
pub mod disk;
pub mod files;
pub mod lease;
pub mod memory;
pub mod mmap;
pub mod mount;
pub mod thread;
pub mod volume;
pub mod writeback;
