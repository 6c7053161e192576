//! The table of inodes that the kernel knows: number ↔ what it stands for, counted by look-ups.
//!
//! Numbers are keyed hashes, so they are the same after a restart and a stranger cannot aim two of
//! them at each other; a collision is noticed all the same and probed past. **A file is numbered by
//! its CID**: equal content is one inode and one page cache. **A directory is numbered by its
//! path**, because the kernel keeps one place in the tree for each directory inode and would move
//! it back and forth. The table holds exactly what FORGET has not yet taken back, no more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;

use crate::block::{Cid, cid_from_bytes};

/// Inode number of the root (`FUSE_ROOT_ID`).
pub const ROOT_INO: u64 = 1;

/// Numbers are below 2⁶³, so that programs with signed inode numbers live; 0 and 1 are taken.
const INO_MAX: u64 = (1 << 63) - 1;
const INO_MIN: u64 = 2;

/// Room for slots that is kept when they are freed; a larger table gives back what it does not use.
const SLOTS_KEPT: usize = 4096;

/// What an inode stands for; equal identities are one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// The root of a mount of all CIDs.
    Namespace,
    /// A directory at a path, or what is presumed to be one until its block is here.
    Directory { parent: u64, name: Box<[u8]>, cid: PackedCid },
    /// A file or symlink. As long as its length is only what a link claims, the claim is part of
    /// the identity: one tree's lie must not reach another tree's open file.
    File { cid: PackedCid, claimed_len: Option<u64> },
}

/// A CID in its binary form: 36 bytes where the type for all CIDs takes 160.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackedCid(Box<[u8]>);

/// An inode and what is remembered beside its identity.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) identity: Identity,
    /// The root below which it was first looked up; `None` for the namespace.
    pub(super) root: Option<Arc<Cid>>,
    /// What is left of the time in milliseconds that a listing of this directory may wait.
    pub(super) grace_ms: AtomicU32,
}

/// The inodes that the kernel holds.
#[derive(Debug)]
pub(super) struct InodeTable {
    key: [u8; 32],
    slots: Mutex<HashMap<u64, Slot>>,
}

#[derive(Debug)]
struct Slot {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Identity {
    fn cid(&self) -> Option<Cid> {
        match self {
            Self::Namespace => None,
            Self::Directory { cid, .. } | Self::File { cid, .. } => Some(cid.get()),
        }
    }
}

impl PackedCid {
    pub(super) fn new(cid: &Cid) -> Self {
        let mut bytes = Vec::with_capacity(cid.encoded_len());
        cid.write_bytes(&mut bytes).expect("memory takes what is written");
        Self(bytes.into())
    }

    pub(super) fn get(&self) -> Cid {
        cid_from_bytes(&self.0).expect("was packed from a CID")
    }
}

impl InodeTable {
    /// Returns a table with the root in it, which is never forgotten.
    pub(super) fn new(key: [u8; 32], root: Identity) -> Self {
        let inode =
            Inode { root: root.cid().map(Arc::new), identity: root, grace_ms: AtomicU32::new(0) };
        let slot = Slot { inode: Arc::new(inode), lookups: 1 };
        Self { key, slots: Mutex::new(HashMap::from([(ROOT_INO, slot)])) }
    }

    /// Returns what `ino` stands for; `None` when the kernel has forgotten it.
    pub(super) fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        self.slots.lock().get(&ino).map(|slot| Arc::clone(&slot.inode))
    }

    /// Returns the number of an identity in a directory and counts one look-up of it.
    pub(super) fn admit(&self, identity: Identity, directory: &Inode) -> u64 {
        let mut ino = self.first_ino(&identity);
        let mut slots = self.slots.lock();
        loop {
            match slots.entry(ino) {
                Entry::Vacant(slot) => {
                    let inode = Inode::new(identity, directory);
                    slot.insert(Slot { inode: Arc::new(inode), lookups: 1 });
                    return ino;
                }
                Entry::Occupied(mut slot) if slot.get().inode.identity == identity => {
                    slot.get_mut().lookups += 1;
                    return ino;
                }
                // Ends, since there are more numbers than memory for slots.
                Entry::Occupied(_) => ino = after(ino),
            }
        }
    }

    /// Returns the number of an identity without counting a look-up: it may be another one next time, if
    /// two collide.
    pub(super) fn number(&self, identity: &Identity) -> u64 {
        let mut ino = self.first_ino(identity);
        let slots = self.slots.lock();
        while slots.get(&ino).is_some_and(|slot| slot.inode.identity != *identity) {
            ino = after(ino);
        }
        ino
    }

    /// Takes back `lookups` look-ups; the last one frees the inode, which is returned.
    pub(super) fn forget(&self, ino: u64, lookups: u64) -> bool {
        if ino == ROOT_INO {
            return false;
        }
        let mut is_freed = false;
        let mut slots = self.slots.lock();
        if let Entry::Occupied(mut slot) = slots.entry(ino) {
            slot.get_mut().lookups = slot.get().lookups.saturating_sub(lookups);
            is_freed = slot.get().lookups == 0;
            if is_freed {
                slot.remove();
            }
        }
        if slots.capacity() > SLOTS_KEPT && slots.len() < slots.capacity() / 8 {
            let enough = slots.len() * 2;
            slots.shrink_to(enough.max(SLOTS_KEPT / 2));
        }
        is_freed
    }

    /// Returns the place of a pinned root in the listing of the namespace: over 2, as cookies are.
    pub(super) fn place(&self, cid: &Cid) -> u64 {
        self.first_ino(&Identity::File { cid: PackedCid::new(cid), claimed_len: None }).max(3)
    }

    /// Returns how many inodes the kernel holds.
    pub(super) fn len(&self) -> usize {
        self.slots.lock().len()
    }

    fn first_ino(&self, identity: &Identity) -> u64 {
        let number = match identity {
            Identity::Namespace => return ROOT_INO,
            Identity::Directory { parent, name, .. } => {
                self.hash(&[b"d", &parent.to_le_bytes(), name])
            }
            Identity::File { cid, claimed_len: None } => self.hash(&[b"f", &cid.0]),
            Identity::File { cid, claimed_len: Some(len) } => {
                self.hash(&[b"c", &len.to_le_bytes(), &cid.0])
            }
        };
        number % (INO_MAX - INO_MIN + 1) + INO_MIN
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// Returns the number that is tried after one that is taken.
fn after(ino: u64) -> u64 {
    if ino == INO_MAX { INO_MIN } else { ino + 1 }
}

impl Inode {
    /// What is in the namespace is a root itself; all else has that of its directory.
    fn new(identity: Identity, directory: &Self) -> Self {
        let root = directory.root.clone().or_else(|| identity.cid().map(Arc::new));
        Self { identity, root, grace_ms: AtomicU32::new(0) }
    }

    /// Returns the CID, `None` for the namespace.
    pub(super) fn cid(&self) -> Option<Cid> {
        self.identity.cid()
    }

    /// Returns the number of the directory that this one is in.
    pub(super) fn parent(&self) -> u64 {
        match &self.identity {
            Identity::Directory { parent, .. } => *parent,
            Identity::Namespace | Identity::File { .. } => ROOT_INO,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, HashFn, codecs};

    fn cid(data: &'static [u8]) -> PackedCid {
        let block = Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from_static(data)).unwrap();
        PackedCid::new(block.cid())
    }

    fn file(data: &'static [u8], claimed_len: Option<u64>) -> Identity {
        Identity::File { cid: cid(data), claimed_len }
    }

    fn dir(parent: u64, name: &[u8]) -> Identity {
        Identity::Directory { parent, name: name.into(), cid: cid(b"dir") }
    }

    fn table() -> InodeTable {
        InodeTable::new([7; 32], Identity::Namespace)
    }

    fn admit(table: &InodeTable, identity: Identity) -> u64 {
        table.admit(identity, &table.get(ROOT_INO).unwrap())
    }

    #[test]
    fn what_is_in_the_namespace_is_the_root_of_what_is_below() {
        let table = table();
        let top = table.get(admit(&table, dir(ROOT_INO, b"top"))).unwrap();
        assert_eq!(top.root.as_deref(), top.cid().as_ref());
        let below = table.get(table.admit(file(b"below", None), &top)).unwrap();
        assert_eq!(below.root, top.root);
    }

    #[test]
    fn files_are_numbered_by_content_and_directories_by_path() {
        let table = table();
        let a = admit(&table, file(b"a", None));
        assert_eq!(admit(&table, file(b"a", None)), a);
        assert_ne!(admit(&table, file(b"b", None)), a);
        let x = admit(&table, dir(ROOT_INO, b"x"));
        assert_ne!(admit(&table, dir(ROOT_INO, b"y")), x);
        assert_ne!(admit(&table, dir(x, b"x")), x);
        assert!((INO_MIN..=INO_MAX).contains(&a) && (INO_MIN..=INO_MAX).contains(&x));
    }

    #[test]
    fn a_claim_is_another_inode_than_the_truth() {
        let table = table();
        let inos = [None, Some(1), Some(2)].map(|claim| admit(&table, file(b"a", claim)));
        assert!(inos[0] != inos[1] && inos[1] != inos[2] && inos[0] != inos[2], "{inos:?}");
    }

    #[test]
    fn numbers_survive_a_restart_and_depend_on_the_key() {
        let ino = admit(&table(), file(b"a", None));
        assert_eq!(admit(&table(), file(b"a", None)), ino);
        let other = InodeTable::new([8; 32], Identity::Namespace);
        assert_ne!(admit(&other, file(b"a", None)), ino);
    }

    #[test]
    fn a_collision_is_probed_past() {
        let table = table();
        let ino = table.first_ino(&file(b"a", None));
        let squatter = Slot {
            inode: Arc::new(Inode::new(file(b"b", None), &table.get(ROOT_INO).unwrap())),
            lookups: 1,
        };
        table.slots.lock().insert(ino, squatter);
        assert_eq!(table.number(&file(b"a", None)), ino + 1);
        assert_eq!(table.len(), 2, "it counts nothing");
        assert_eq!(admit(&table, file(b"a", None)), ino + 1);
        assert_eq!(table.get(ino).unwrap().identity, file(b"b", None));
        assert_eq!(table.get(ino + 1).unwrap().identity, file(b"a", None));
    }

    #[test]
    fn inodes_live_until_each_look_up_is_forgotten() {
        let table = table();
        let ino = admit(&table, file(b"a", None));
        admit(&table, file(b"a", None));
        table.forget(ino, 1);
        assert!(table.get(ino).is_some());
        table.forget(ino, 1);
        assert!(table.get(ino).is_none());
        table.forget(ino, 5);
        table.forget(ROOT_INO, u64::MAX);
        assert_eq!(table.len(), 1, "the root stays");
    }

    #[test]
    fn memory_is_given_back() {
        let table = table();
        let inos: Vec<_> =
            (0..100_000_u64).map(|n| admit(&table, dir(ROOT_INO, &n.to_le_bytes()))).collect();
        for ino in inos {
            table.forget(ino, 1);
        }
        assert_eq!(table.len(), 1);
        assert!(table.slots.lock().capacity() <= SLOTS_KEPT);
    }

    #[test]
    fn packed_cids_are_the_same_cids() {
        let inode = Inode::new(file(b"a", None), &table().get(ROOT_INO).unwrap());
        assert_eq!(PackedCid::new(&inode.cid().unwrap()), cid(b"a"));
    }
}
