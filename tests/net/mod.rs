//! Nodes that talk to each other over the real protocols: on loopback, over a slow link, and on machines of
//! their own.

mod company;
mod exchange;
mod link;
mod namespace;
mod peers;
mod process;
mod rogues;
mod silence;
mod soak;
mod trees;
mod waiting;
mod words;
