//! Nodes that talk to each other over the real protocols, on loopback.

mod exchange;
mod peers;
