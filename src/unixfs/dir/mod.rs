//! Names of a directory, whether it is one block or sharded: look one up, list them in pieces.
//!
//! A listing keeps no state: a cookie says by itself where it goes on, after a restart too. It
//! never fetches what entries point to, and never holds more than a piece.

use bytes::Bytes;

use super::{UnixfsError, hamt};
use crate::block::{Cid, codecs};
use crate::codec::dag_pb::PbLink;
use crate::codec::node::Node;
use crate::dag::Dag;

/// Cookies up to this one mean the start: 0, and what follows `.` and `..` in a POSIX listing.
const COOKIE_START: u64 = 2;

/// A place in a listing, between an entry and the next one.
///
/// In one block it counts links; in a sharded directory it is a place in the order of name hashes.
/// It stays valid as long as the CID does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(u64);

impl Cookie {
    /// Before the first entry.
    pub const START: Self = Self(COOKIE_START);

    /// Returns the number of the cookie: over 2 and below 2⁶³ after any entry.
    pub fn to_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for Cookie {
    fn from(number: u64) -> Self {
        Self(number.max(COOKIE_START))
    }
}

/// A name in a directory; its target is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: legal on Linux ([`crate::codec::node::name_is_legal`]).
    pub name: Bytes,
    /// What it points to.
    pub cid: Cid,
    /// The author's claim of the cumulative size in bytes of what hangs below; for a raw block,
    /// of its length.
    pub tsize: Option<u64>,
}

impl From<PbLink<'_>> for DirEntry {
    fn from(link: PbLink<'_>) -> Self {
        Self { name: Bytes::copy_from_slice(link.name()), cid: link.cid, tsize: link.tsize }
    }
}

/// Looks up one name; in a sharded directory this costs its depth in blocks. `None` means that
/// the directory is here, proved, and lacks the name.
///
/// # Errors
/// [`UnixfsError::NotADirectory`], [`UnixfsError::Dag`], [`UnixfsError::RefusedLink`]; for a malformed sharded directory
/// [`UnixfsError::WrongBucket`], [`UnixfsError::Shard`] and [`UnixfsError::TooDeep`].
pub async fn lookup(dag: &Dag, dir: &Cid, name: &[u8]) -> Result<Option<DirEntry>, UnixfsError> {
    let not_a_directory = || UnixfsError::NotADirectory { cid: Box::new(*dir) };
    if dir.codec() != codecs::DAG_PB {
        return Err(not_a_directory());
    }
    let node = dag.node(dir).await?;
    match &*node {
        Node::Directory(block) if block.is_refused(name) => Err(UnixfsError::RefusedLink {
            cid: Box::new(*dir),
            name: Bytes::copy_from_slice(name),
        }),
        Node::Directory(block) => Ok(block.get(name).map(DirEntry::from)),
        Node::Shard(_) => hamt::lookup(dag, dir, node, name).await,
        _ => Err(not_a_directory()),
    }
}

/// Lists at most `max` entries after the place `from`, each with the cookie of the place after
/// it; an empty answer is the end. Names that Linux cannot show are left out, and of equal names
/// the first is shown.
///
/// The shards of a sharded directory are loaded a few ahead. An error that comes after the first
/// entries is given by the next call, which starts where they end.
///
/// # Errors
/// As [`lookup`], and [`UnixfsError::SamePlace`].
pub async fn list(
    dag: &Dag,
    dir: &Cid,
    from: Cookie,
    max: usize,
) -> Result<Vec<(Cookie, DirEntry)>, UnixfsError> {
    let not_a_directory = || UnixfsError::NotADirectory { cid: Box::new(*dir) };
    if dir.codec() != codecs::DAG_PB {
        return Err(not_a_directory());
    }
    let node = dag.node(dir).await?;
    match &*node {
        Node::Directory(block) => {
            let first = usize::try_from(from.0 - COOKIE_START).unwrap_or(usize::MAX);
            let after = |at: usize| Cookie(at as u64 + 1 + COOKIE_START);
            let entries = block.entries(first).map(|(at, link)| (after(at), link.into()));
            let mut names = Vec::with_capacity(max.min(block.link_count().saturating_sub(first)));
            names.extend(entries.take(max));
            Ok(names)
        }
        Node::Shard(_) => hamt::list(dag, dir, node, from, max).await,
        _ => Err(not_a_directory()),
    }
}

/// Returns the first name that a listing leaves out because no file can have it, or because its address is
/// not accepted.
///
/// # Errors
/// As [`list`].
pub async fn left_out(dag: &Dag, dir: &Cid) -> Result<Option<Bytes>, UnixfsError> {
    let node = dag.node(dir).await?;
    match &*node {
        Node::Directory(block) => Ok(block.left_out().next().map(Bytes::copy_from_slice)),
        Node::Shard(_) => hamt::left_out(dag, dir, node).await,
        _ => Err(UnixfsError::NotADirectory { cid: Box::new(*dir) }),
    }
}

#[cfg(test)]
mod tests;
