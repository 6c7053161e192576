//! Entries → a directory: one block, or a HAMT when it would be too big (spec 03 §4, §5).
//!
//! The shape depends on the entries alone, never on the order in which they came.

use bytes::Bytes;

use super::error::ImportError;
use super::nodes::{BlockSink, Child, Nodes, link};
use super::profile::{HamtEstimate, Profile};
use crate::codec::dag_pb::{PbLink, encoded_link_len};
use crate::codec::node::{HAMT_HASH, Metadata, prefix_len};
use crate::codec::unixfs::{Kind, UnixFs};
use crate::unixfs::name_hash;

/// A name and what it stands for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    pub(super) child: Child,
}

/// Builds the directory of `entries`, which are sorted by name and have no name twice; `path` is
/// for messages.
pub(super) fn build(
    nodes: &Nodes,
    entries: &[Entry],
    metadata: Metadata,
    path: &str,
    out: &mut impl BlockSink,
) -> Result<Child, ImportError> {
    let message =
        UnixFs { mode: metadata.mode, mtime: metadata.mtime, ..UnixFs::new(Kind::Directory) };
    if needs_shards(nodes.profile(), entries, &message) {
        let mut slots: Vec<_> =
            entries.iter().map(|entry| (name_hash(&entry.name), entry)).collect();
        slots.sort_unstable_by_key(|&(hash, entry)| (hash, &entry.name));
        let mut shards = Shards { nodes, path, out };
        return shards.build(&slots, 0, metadata);
    }
    let links: Vec<_> = entries.iter().map(|entry| link(&entry.name, &entry.child)).collect();
    let below = entries.iter().map(|entry| entry.child.dag_size).sum();
    let made = nodes.directory(&links, &message, below)?;
    out.put(made.block)?;
    Ok(made.child)
}

fn needs_shards(profile: &Profile, entries: &[Entry], message: &UnixFs) -> bool {
    if profile.dir_links_max > 0 && entries.len() > profile.dir_links_max {
        return true;
    }
    let estimate: usize = match profile.hamt_estimate {
        HamtEstimate::Disabled => return false,
        HamtEstimate::Links => {
            entries.iter().map(|entry| entry.name.len() + entry.child.cid.encoded_len()).sum()
        }
        HamtEstimate::Block => {
            let links =
                entries.iter().map(|entry| encoded_link_len(&link(&entry.name, &entry.child)));
            // Under 128 bytes of data the length takes one byte, the tag another.
            links.sum::<usize>() + 2 + message.encode().len()
        }
    };
    estimate > profile.hamt_threshold
}

/// Builds shards from entries sorted by hash. It recurses by hash bits, so at most 21 deep
/// (3 bits of 64 at the narrowest fanout).
struct Shards<'a, S> {
    nodes: &'a Nodes,
    path: &'a str,
    out: &'a mut S,
}

impl<S: BlockSink> Shards<'_, S> {
    fn build(
        &mut self,
        slots: &[(u64, &Entry)],
        level: u32,
        metadata: Metadata,
    ) -> Result<Child, ImportError> {
        let fanout = self.nodes.profile().hamt_fanout;
        let bits = fanout.ilog2();
        let used = level * bits;
        if used + bits > u64::BITS {
            return Err(ImportError::HashCollision { path: self.path.to_owned() });
        }
        let bucket = |hash: u64| (hash << used) >> (u64::BITS - bits);
        let mut field = vec![0_u8; fanout as usize / 8];
        let mut names = Vec::new();
        let mut children = Vec::new();
        for group in slots.chunk_by(|(a, _), (b, _)| bucket(*a) == bucket(*b)) {
            let index = bucket(group[0].0);
            let byte = field.len() - 1 - (index / 8) as usize;
            field[byte] |= 1 << (index % 8);
            let mut name = format!("{index:0width$X}", width = prefix_len(fanout)).into_bytes();
            children.push(match group {
                [(_, entry)] => {
                    name.extend_from_slice(&entry.name);
                    entry.child
                }
                _ => self.build(group, level + 1, Metadata::default())?,
            });
            names.push(name);
        }
        self.shard(&names, &children, field, metadata)
    }

    fn shard(
        &mut self,
        names: &[Vec<u8>],
        children: &[Child],
        field: Vec<u8>,
        metadata: Metadata,
    ) -> Result<Child, ImportError> {
        let links: Vec<PbLink<'_>> =
            names.iter().zip(children).map(|(name, child)| link(name, child)).collect();
        let zeros = field.iter().take_while(|&&byte| byte == 0).count();
        let message = UnixFs {
            data: Some(Bytes::from(field).slice(zeros..)),
            hash_type: Some(HAMT_HASH),
            fanout: Some(u64::from(self.nodes.profile().hamt_fanout)),
            mode: metadata.mode,
            mtime: metadata.mtime,
            ..UnixFs::new(Kind::HamtShard)
        };
        let below = children.iter().map(|child| child.dag_size).sum();
        let made = self.nodes.directory(&links, &message, below)?;
        self.out.put(made.block)?;
        Ok(made.child)
    }
}
