//! Files and directories as DAGs: resolve a path, look up, list, read at an offset, walk,
//! import.
//!
//! The promise: the right bytes and names, or an error, at a cost in blocks and memory that does
//! not depend on what a stranger's node claims. Sizes recorded in nodes are followed and checked
//! against what is really there. Every function walks from the root it is given, through the
//! cache of [`Dag`](crate::dag::Dag): nothing here keeps state, so nothing is shared by readers,
//! and when all blocks are here the first poll is ready (a long answer gives way between blocks).
//! This layer knows no inodes, no mounts and no mutable names, and it sets no deadlines.

mod ahead;
mod dir;
mod error;
mod hamt;
pub mod import;
pub mod path;
mod reader;
mod resolve;
mod stat;
mod walk;

pub use self::dir::{Cookie, DirEntry, left_out, list, lookup};
pub use self::error::UnixfsError;
pub use self::hamt::murmur3::name_hash;
pub use self::path::{ContentPath, PathRoot, Segment};
pub use self::reader::{
    FILE_DEPTH_MAX, FetchBudget, FetchTally, NoLeaves, READ_LEN_MAX, fetch_range, leaves, read,
    whole_file,
};
pub use self::resolve::{Resolved, resolve};
pub use self::stat::{FileType, Stat, read_link, stat};
pub use self::walk::{BLOCKS_AHEAD, Presence, Visit, fetch_below, files, presence, walk, walk_all};
