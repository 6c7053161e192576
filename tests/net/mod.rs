//! Nodes that talk to each other over the real protocols, on loopback and on machines of their own.

mod exchange;
mod namespace;
mod peers;
mod process;
mod rogues;
mod silence;
mod soak;
mod trees;
mod waiting;
