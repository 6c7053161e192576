//! Why a path, file or directory cannot be read.

use bytes::Bytes;

use crate::block::Cid;
use crate::codec::dag_pb::PbError;
use crate::codec::ipld::IpldError;
use crate::dag::DagError;

/// Why a path, file or directory cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnixfsError {
    /// A block or node cannot be had.
    #[error(transparent)]
    Dag(#[from] DagError),
    /// A path goes on below something that has no names.
    #[error("{cid} is not a directory")]
    NotADirectory {
        /// What is there instead.
        cid: Box<Cid>,
    },
    /// Bytes were asked of a directory or symlink.
    #[error("{cid} is not a file")]
    NotAFile {
        /// What is there instead.
        cid: Box<Cid>,
    },
    /// A target was asked of something else.
    #[error("{cid} is not a symlink")]
    NotASymlink {
        /// What is there instead.
        cid: Box<Cid>,
    },
    /// The directory is here, proved, and lacks the name.
    #[error("no entry \"{}\" in {cid}", name.escape_ascii())]
    NotFound {
        /// The name.
        name: Bytes,
        /// The directory.
        cid: Box<Cid>,
    },
    /// The entry is there, but its address has a longer digest than any that is accepted.
    #[error("{cid}: the address of \"{}\" is refused: its digest is too long", name.escape_ascii())]
    RefusedLink {
        /// The directory.
        cid: Box<Cid>,
        /// The name.
        name: Bytes,
    },
    /// The path is below a mutable name, which has to be resolved first.
    #[error(
        "/ipns/{name} is a name that has to be resolved first; give the /ipfs path it stands for"
    )]
    MutableName {
        /// The key or domain.
        name: String,
    },
    /// The nodes go deeper than any honest writer's.
    #[error("{cid}: over {levels} levels deep")]
    TooDeep {
        /// The node at the limit.
        cid: Box<Cid>,
        /// The limit.
        levels: u32,
    },
    /// A node claims another length for a part of the file than the part has.
    #[error("{cid} has {real} bytes, but the file above it claims {claimed}")]
    PartLen {
        /// The part.
        cid: Box<Cid>,
        /// Claimed length in bytes.
        claimed: u64,
        /// Real length in bytes.
        real: u64,
    },
    /// A file has a part that is neither raw bytes nor a file node.
    #[error("{cid} cannot be a part of a file")]
    PartKind {
        /// The part.
        cid: Box<Cid>,
    },
    /// An entry is not where the hash of its name belongs.
    #[error("{cid}: the entry \"{}\" is in the wrong bucket", name.escape_ascii())]
    WrongBucket {
        /// The shard.
        cid: Box<Cid>,
        /// The entry.
        name: Bytes,
    },
    /// A shard breaks a rule that only its parent shows.
    #[error("{cid}: {rule}")]
    Shard {
        /// The shard.
        cid: Box<Cid>,
        /// The rule.
        rule: &'static str,
    },
    /// Two names have the same place in the listing order; they can be looked up, not listed.
    #[error("{cid}: the hashes of two names differ in less than the listing can tell")]
    SamePlace {
        /// The directory.
        cid: Box<Cid>,
    },
    /// A node with links cannot be decoded.
    #[error("{cid}: {source}")]
    Pb {
        /// The node.
        cid: Box<Cid>,
        /// What is wrong with it.
        source: PbError,
    },
    /// A dag-cbor or dag-json node cannot be decoded.
    #[error("{cid}: {source}")]
    Ipld {
        /// The node.
        cid: Box<Cid>,
        /// What is wrong with it.
        source: IpldError,
    },
    /// Whether a node has links is not known.
    #[error("{cid}: links of codec 0x{codec:x} are not known, so what is below it cannot be found")]
    UnknownCodec {
        /// The node.
        cid: Box<Cid>,
        /// The codec of its CID.
        codec: u64,
    },
    /// A DAG is larger than what one walk may remember.
    #[error("{cid}: the dag up to here has more than {limit} {what}")]
    TooLarge {
        /// The block at which the limit was met.
        cid: Box<Cid>,
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}
