//! Nodes that talk to each other over the real protocols, on loopback.

mod company;
mod exchange;
mod peers;
mod words;
