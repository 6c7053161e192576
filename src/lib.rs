//! cidfs shows the IPFS namespace as ordinary files.
//!
//! The layers, from the bottom up, are the modules below; each uses only those above it in this
//! list. `docs/ARCHITECTURE.md` says what each promises and what it must not know.

pub mod sys;

pub mod block;

pub mod codec;

pub mod store;

pub mod exchange;

pub mod dag;

pub mod unixfs;

pub mod keep;

pub mod vfs;

pub mod fuse;

pub mod api;

pub mod node;

pub mod cli;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
