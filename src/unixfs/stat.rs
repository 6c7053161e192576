//! What a node is, how long it is, and where a symlink points: the root block alone tells.

use std::sync::Arc;

use bytes::Bytes;

use super::UnixfsError;
use crate::block::{Cid, codecs};
use crate::codec::node::{Metadata, Node};
use crate::dag::Dag;

/// What a user sees at a CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// Another path.
    Symlink,
}

/// The attributes that a root block carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, directory or symlink.
    pub kind: FileType,
    /// Length in bytes of the file as its author claims it (true for a raw block), or of the
    /// symlink's target; 0 for a directory. Below 2⁶³.
    pub file_len: u64,
    /// Mode and time, as stored.
    pub metadata: Metadata,
}

/// Returns the attributes of `cid` from its root block; of a block that is not UnixFS the bytes
/// are not even read.
///
/// # Errors
/// [`UnixfsError::Dag`].
pub async fn stat(dag: &Dag, cid: &Cid) -> Result<Stat, UnixfsError> {
    if cid.codec() != codecs::DAG_PB {
        let file_len = dag.block_len(cid).await?;
        return Ok(Stat::plain_file(file_len));
    }
    Ok(Stat::of(&*dag.node(cid).await?))
}

impl Stat {
    /// Returns the attributes of a file of which nothing but the length is known, or stored.
    pub fn plain_file(file_len: u64) -> Self {
        Self { kind: FileType::File, file_len, metadata: Metadata::default() }
    }

    /// Returns the attributes that a decoded node carries.
    pub fn of(node: &Node) -> Self {
        let (kind, file_len, metadata) = match node {
            Node::Bytes(bytes) => (FileType::File, bytes.len() as u64, Metadata::default()),
            Node::File(file) => (FileType::File, file.file_len(), file.metadata),
            Node::Directory(dir) => (FileType::Directory, 0, dir.metadata),
            Node::Shard(shard) => (FileType::Directory, 0, shard.metadata),
            Node::Symlink(link) => (FileType::Symlink, link.target.len() as u64, link.metadata),
        };
        Self { kind, file_len, metadata }
    }
}

/// Returns the target of a symlink, byte for byte.
///
/// # Errors
/// [`UnixfsError::NotASymlink`], [`UnixfsError::Dag`].
pub async fn read_link(dag: &Dag, cid: &Cid) -> Result<Bytes, UnixfsError> {
    let not_a_symlink = || UnixfsError::NotASymlink { cid: Box::new(*cid) };
    if cid.codec() != codecs::DAG_PB {
        return Err(not_a_symlink());
    }
    let node: Arc<Node> = dag.node(cid).await?;
    match &*node {
        Node::Symlink(link) => Ok(link.target.clone()),
        _ => Err(not_a_symlink()),
    }
}
