//! What a directory entry leads to: proved by its block, claimed by its link, or not reachable.

use std::time::Duration;

use super::attr::{Attr, Ownership};
use super::inode::{Identity, PackedCid};
use super::{CLAIM_TTL, Error, FOREVER};
use crate::block::{BLOCK_LEN_MAX, codecs};
use crate::dag::{Dag, DagError};
use crate::unixfs::{self, DirEntry, FileType, Stat, UnixfsError};

/// Stands for the length of a file of which nothing plausible is claimed; no file is this long.
pub(super) const UNKNOWN_LEN: u64 = u64::MAX;

/// What is known of a child.
#[derive(Debug)]
pub(super) enum Child {
    /// Its root block is here and says so.
    Proved(Stat),
    /// A file, which the codec of its CID tells, of this length, which only the link says.
    Claimed(u64),
    /// Its block cannot be had now, or breaks the format.
    Unknown(UnixfsError),
}

impl Child {
    /// Looks at what is on this disk only; without `claims` what a link says counts for nothing.
    pub(super) async fn locally(local: &Dag, entry: &DirEntry, claims: bool) -> Self {
        match unixfs::stat(local, &entry.cid).await {
            Ok(stat) => Self::Proved(stat),
            Err(error) if claims && is_absent(&error) => match plausible_len(entry) {
                Some(len) => Self::Claimed(len),
                None => Self::Unknown(error),
            },
            Err(error) => Self::Unknown(error),
        }
    }

    /// Returns what the link says of a file that is one block, for where that was seen to be true.
    pub(super) fn as_linked(entry: &DirEntry) -> Option<Stat> {
        plausible_len(entry).map(Stat::plain_file)
    }

    /// Looks everywhere, and waits as long as the block may still come.
    pub(super) async fn anywhere(
        local: &Dag,
        dag: &Dag,
        entry: &DirEntry,
        claims: bool,
    ) -> Result<Self, Error> {
        match Self::locally(local, entry, claims).await {
            Self::Unknown(error) if dag.is_offline() => Err(error.into()),
            Self::Unknown(_) => Ok(Self::Proved(unixfs::stat(dag, &entry.cid).await?)),
            known => Ok(known),
        }
    }

    /// Tells whether waiting may make it known.
    pub(super) fn may_come(&self) -> bool {
        matches!(self, Self::Unknown(error) if is_absent(error))
    }

    /// Returns the inode that this child of `parent` is.
    pub(super) fn identity(&self, parent: u64, entry: &DirEntry) -> Identity {
        let cid = PackedCid::new(&entry.cid);
        match self.kind(entry) {
            FileType::Directory => Identity::Directory { parent, name: entry.name[..].into(), cid },
            FileType::File | FileType::Symlink => {
                let claimed_len = match self {
                    Self::Proved(_) => None,
                    Self::Claimed(len) => Some(*len),
                    Self::Unknown(_) => Some(UNKNOWN_LEN),
                };
                Identity::File { cid, claimed_len }
            }
        }
    }

    /// Returns the attributes to show, and for how long the kernel may keep them.
    pub(super) fn attr(&self, ino: u64, entry: &DirEntry, owner: &Ownership) -> (Attr, Duration) {
        let plain = |file_len| Stat { kind: self.kind(entry), ..Stat::plain_file(file_len) };
        match self {
            Self::Proved(stat) => (owner.attr(ino, stat), FOREVER),
            Self::Claimed(len) => (owner.attr(ino, &plain(*len)), CLAIM_TTL),
            Self::Unknown(_) => (owner.attr(ino, &plain(0)), Duration::ZERO),
        }
    }

    /// What is unknown is shown as a directory: a walker goes in and meets the error, where it
    /// would pass by a file. Only dag-pb can be one.
    fn kind(&self, entry: &DirEntry) -> FileType {
        match self {
            Self::Proved(stat) => stat.kind,
            Self::Unknown(_) if entry.cid.codec() == codecs::DAG_PB => FileType::Directory,
            Self::Claimed(_) | Self::Unknown(_) => FileType::File,
        }
    }
}

/// Tells whether the only trouble is that a block is not on this disk.
fn is_absent(error: &UnixfsError) -> bool {
    matches!(error, UnixfsError::Dag(DagError::Offline { .. }))
}

/// Returns the claimed length of a file that is one block, if a block can have it.
fn plausible_len(entry: &DirEntry) -> Option<u64> {
    let is_one_block = entry.cid.codec() != codecs::DAG_PB;
    entry.tsize.filter(|&len| is_one_block && len <= BLOCK_LEN_MAX as u64)
}
