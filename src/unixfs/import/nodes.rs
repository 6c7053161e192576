//! Content → blocks under a profile: leaves, inner nodes of files, symlinks (spec 03 §1, §8).
//!
//! Field by field what kubo writes, because each byte decides a CID. Shapes are made elsewhere.

use std::sync::Arc;

use bytes::Bytes;
use cid::Version;

use super::error::ImportError;
use super::profile::{Layout, Profile};
use crate::block::{Block, Cid, HashFn, codecs};
use crate::codec::dag_pb::{self, PbLink};
use crate::codec::node::Metadata;
use crate::codec::unixfs::{Kind, UnixFs};

/// What a parent has to know of a block below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) cid: Cid,
    /// Bytes of the file below this block; 0 for directories and symlinks.
    pub(super) file_len: u64,
    /// This block and all below it, in bytes, as often as they are linked.
    pub(super) dag_size: u64,
}

/// A block and what its parent has to know of it.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) block: Block,
    pub(super) child: Child,
}

/// Where finished blocks go, children before their parents.
pub(super) trait BlockSink {
    fn put(&mut self, block: Block) -> Result<(), ImportError>;
}

impl BlockSink for Vec<Block> {
    fn put(&mut self, block: Block) -> Result<(), ImportError> {
        self.push(block);
        Ok(())
    }
}

/// Makes blocks under one profile.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    profile: Arc<Profile>,
}

impl Nodes {
    pub(super) fn new(profile: Arc<Profile>) -> Self {
        Self { profile }
    }

    pub(super) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// A piece of a file that has more than one, or that the layout puts below a root.
    pub(super) fn leaf(&self, data: Bytes) -> Result<Made, ImportError> {
        // The balanced builder of old go-ipfs wrote File instead of Raw; it is the format now.
        let kind = match self.profile.layout {
            Layout::Balanced => Kind::File,
            Layout::Trickle => Kind::Raw,
        };
        self.file_leaf(kind, data, Metadata::default())
    }

    /// A file in one block. Raw bytes have no room for metadata, so such a file is dag-pb.
    pub(super) fn single(&self, data: Bytes, metadata: Metadata) -> Result<Made, ImportError> {
        self.file_leaf(Kind::File, data, metadata)
    }

    fn file_leaf(&self, kind: Kind, data: Bytes, metadata: Metadata) -> Result<Made, ImportError> {
        let file_len = data.len() as u64;
        let block = if self.profile.raw_leaves && metadata == Metadata::default() {
            self.block(codecs::RAW, data)?
        } else {
            let message = UnixFs {
                data: (!data.is_empty()).then_some(data),
                file_size: Some(file_len),
                mode: metadata.mode,
                mtime: metadata.mtime,
                ..UnixFs::new(kind)
            };
            self.block(codecs::DAG_PB, message.encode_node().into())?
        };
        Ok(made(block, file_len, 0))
    }

    /// A node of a file above its leaves.
    pub(super) fn inner(
        &self,
        children: &[Child],
        metadata: Metadata,
    ) -> Result<Made, ImportError> {
        let file_len = children.iter().map(|child| child.file_len).sum();
        let links: Vec<_> = children.iter().map(|child| link(b"", child)).collect();
        let message = UnixFs {
            file_size: Some(file_len),
            block_sizes: children.iter().map(|child| child.file_len).collect(),
            mode: metadata.mode,
            mtime: metadata.mtime,
            ..UnixFs::new(Kind::File)
        };
        let below = children.iter().map(|child| child.dag_size).sum();
        Ok(made(self.pb(&links, &message)?, file_len, below))
    }

    pub(super) fn symlink(&self, target: &[u8], metadata: Metadata) -> Result<Made, ImportError> {
        let message = UnixFs {
            data: Some(Bytes::copy_from_slice(target)),
            mode: metadata.mode,
            mtime: metadata.mtime,
            ..UnixFs::new(Kind::Symlink)
        };
        Ok(made(self.pb(&[], &message)?, 0, 0))
    }

    /// A node of a directory; `below` is the cumulative size of all its links.
    pub(super) fn directory(
        &self,
        links: &[PbLink<'_>],
        message: &UnixFs,
        below: u64,
    ) -> Result<Made, ImportError> {
        Ok(made(self.pb(links, message)?, 0, below))
    }

    fn pb(&self, links: &[PbLink<'_>], message: &UnixFs) -> Result<Block, ImportError> {
        self.block(codecs::DAG_PB, dag_pb::encode(links, Some(&message.encode())).into())
    }

    fn block(&self, codec: u64, data: Bytes) -> Result<Block, ImportError> {
        let profile = &*self.profile;
        Ok(match profile.inline_limit {
            Some(limit) if data.len() <= limit => Block::hash(codec, HashFn::IDENTITY, data)?,
            _ if codec == codecs::DAG_PB && profile.cid_version == Version::V0 => {
                Block::hash_v0(data)?
            }
            _ => Block::hash(codec, profile.hash, data)?,
        })
    }
}

/// Returns the link to a child; links of UnixFS always have a name and a Tsize, empty and 0 too.
pub(super) fn link<'a>(name: &'a [u8], child: &Child) -> PbLink<'a> {
    PbLink { cid: child.cid, name: Some(name), tsize: Some(child.dag_size) }
}

fn made(block: Block, file_len: u64, below: u64) -> Made {
    let dag_size = block.data().len() as u64 + below;
    let child = Child { cid: *block.cid(), file_len, dag_size };
    Made { block, child }
}
