//! The one integration-test binary: every folder beside this file is a module of it.

mod cli;
mod contract;
mod crash;
mod fuse;
mod model;
mod tidy;
mod vectors;
