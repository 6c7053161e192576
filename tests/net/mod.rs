//! Nodes that talk to each other over the real protocols, on loopback and over a slow link.

mod company;
mod exchange;
mod link;
mod peers;
mod words;
