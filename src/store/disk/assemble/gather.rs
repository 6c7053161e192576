//! Laying out a file whose leaves came one by one: they are copied from packs into an assembled file,
//! and their copies in packs are given back when that is durable.
//!
//! A crash before that leaves an unfinished file, which the next start removes, and one after it leaves
//! some leaves twice; at no moment is one nowhere. What another assembled file holds stays there: two
//! files that share a leaf cannot both be whole, and each would take it from the other in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Assembly, LEAVES_MAX, content_of};
use crate::block::{Block, Cid, codecs};
use crate::store::StoreError;
use crate::store::disk::check::Copy;
use crate::store::disk::{CopyState, DiskStore, FileRange};
use crate::store::extent::PackId;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::store::pace::Pace;
use crate::store::pack::{Entry, Pack};

/// Bytes that are copied in a second: a gigabyte takes eight, and whoever reads or writes meanwhile has
/// most of a disk and of a processor.
const BYTES_PER_S: u64 = 128 * 1024 * 1024;
/// Copies in packs that are given back with one sync for each pack.
const FREED_AT_ONCE: usize = 1024;

pub(super) const OTHER_LEAF: &str =
    "a leaf is not what its parent says, or none that can lie in a file";

/// What became of a file that was to be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gathered {
    /// It is an assembled file now.
    Done,
    /// A leaf is not here, or only in a file of someone else.
    Missing,
    /// It stays as it is; why.
    Declined(&'static str),
    /// The callback broke off.
    Stopped,
}

impl DiskStore {
    /// Lays out the file that is `leaves`, in order and without gaps, when all of them lie in our own
    /// packs and there is room for them twice. `go_on` is called for each leaf and may break off. Runs
    /// for long; belongs on a thread of its own.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::NotDurable`] and [`StoreError::Io`]: every leaf is where it
    /// was, or in the file.
    pub fn gather(
        self: &Arc<Self>,
        leaves: &[FileRange],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Gathered, StoreError> {
        let _one_at_a_time = self.gathering.lock();
        if let Some(refused) = self.look_over(leaves)? {
            return Ok(refused);
        }
        // What no sync has failed for cannot be lost while it is copied.
        self.group_commit()?;
        let mut assembly = self.assemble()?;
        let (pace, mut placed) = (Pace::new(BYTES_PER_S), HashSet::new());
        for leaf in leaves {
            if pace.wait(leaf.offset, go_on).is_break() {
                return Ok(Gathered::Stopped);
            }
            let Some(block) = self.read_packed(&leaf.cid)? else {
                return Ok(Gathered::Missing);
            };
            match assembly.place(&block, leaf, &mut placed) {
                Ok(true) => {}
                Ok(false) => return Ok(Gathered::Declined(OTHER_LEAF)),
                Err(StoreError::Full { .. } | StoreError::CapReached { .. }) => {
                    return Ok(Gathered::Declined("there is no room for it"));
                }
                Err(error) => return Err(error),
            }
        }
        let removing = self.removing.lock();
        if !assembly.entries.iter().all(|leaf| self.is_here(&leaf.key)) {
            return Ok(Gathered::Missing);
        }
        let packs = assembly.show()?;
        drop((removing, assembly));
        packs.iter().try_for_each(|pack| self.free_packed(pack))?;
        Ok(Gathered::Done)
    }

    /// Returns why a file cannot be laid out, as far as that can be told without copying it.
    fn look_over(&self, leaves: &[FileRange]) -> Result<Option<Gathered>, StoreError> {
        let declined = |why| Ok(Some(Gathered::Declined(why)));
        let (mut next, mut once, mut again) = (0, 0, 0);
        // Whether it is zeros, known from the second time on.
        let mut seen = HashMap::<BlockKey, (u64, Option<bool>)>::new();
        for leaf in leaves {
            let key = BlockKey::of(&leaf.cid);
            let Some(hit) = self.find_own(&key).filter(|hit| hit.state != CopyState::Damaged)
            else {
                return Ok(Some(Gathered::Missing));
            };
            if self.is_assembled(&key) {
                return declined("another file has a part of it");
            }
            if leaf.offset != next || hit.entry.block_len() != block_len(leaf) {
                return declined(OTHER_LEAF);
            }
            next += u64::from(leaf.len);
            let codec = leaf.cid.codec();
            let before = match seen.get(&key) {
                // What is framed in one place cannot be bare in another.
                Some((other, _)) if *other != codec => return declined(OTHER_LEAF),
                found => found.map(|(_, is_zeros)| *is_zeros),
            };
            let is_zeros = match before {
                Some(None) => self.read_packed(&leaf.cid)?.is_some_and(|leaf| is_zero_leaf(&leaf)),
                Some(Some(known)) => known,
                None => false,
            };
            seen.insert(key, (codec, before.map(|_| is_zeros)));
            match before {
                None => once += u64::from(leaf.len),
                Some(_) if is_zeros => {}
                Some(_) => again += u64::from(leaf.len),
            }
        }
        if next < self.options.assemble_min_bytes || leaves.len() > LEAVES_MAX {
            return declined("it is too short, or has too many leaves");
        }
        if again > once {
            return declined("most of it is the same again");
        }
        if !self.space.has_spare(once + again, leaves.len()) {
            return declined("there is no room for it twice");
        }
        Ok(None)
    }

    /// Tells whether a good copy lies in our own packs.
    fn is_here(&self, key: &BlockKey) -> bool {
        self.find_own(key).is_some_and(|hit| hit.state != CopyState::Damaged)
    }

    /// Tells whether an assembled file has a good copy of a block.
    fn is_assembled(&self, key: &BlockKey) -> bool {
        let list = Arc::clone(&self.packs.read());
        let mut files = list.candidates(key).filter(|pack| matches!(***pack, Pack::Assembled(_)));
        files.any(|file| file.find(key).is_some_and(|(_, state)| state < CopyState::Damaged))
    }

    /// Reads and proves a block that lies in a pack, which is no use of it.
    fn read_packed(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        // Ends: each turn but the last finds a copy removed or damaged.
        while let Some(hit) =
            self.find_own(&BlockKey::of(cid)).filter(|hit| hit.state != CopyState::Damaged)
        {
            if matches!(*hit.pack, Pack::Assembled(_)) {
                break;
            }
            if let Copy::Good(block) = self.read_copy(hit.pack.id(), &hit.entry)? {
                return Ok(block.with_cid(*cid));
            }
        }
        Ok(None)
    }

    /// Gives back the copies in packs of what an assembled file has, which is durable.
    fn free_packed(&self, file: &Pack) -> Result<(), StoreError> {
        for group in file.entries().chunks(FREED_AT_ONCE) {
            for (id, removed) in self.remove_packed(file, group)? {
                self.give_back(id, &removed)?;
            }
        }
        Ok(())
    }

    /// Marks copies in packs as removed, after those who read them have left.
    fn remove_packed(
        &self,
        file: &Pack,
        group: &[(Entry, CopyState)],
    ) -> Result<BTreeMap<PackId, Vec<Entry>>, StoreError> {
        let _writer = self.writer()?;
        let list = Arc::clone(&self.packs.read());
        let now = self.now();
        let mut removed = BTreeMap::<_, Vec<_>>::new();
        for (entry, _) in group {
            // Whoever relied on a copy that goes relies on this one now.
            let _in_use = file.usage().enter(entry.start, now);
            if !matches!(file.find(&entry.key), Some((_, CopyState::Proved))) {
                continue;
            }
            let packs = list.candidates(&entry.key);
            for pack in packs.filter(|pack| !matches!(***pack, Pack::Assembled(_))) {
                let Some((copy, _)) = pack.find(&entry.key) else { continue };
                // A tombstone must not point beyond what a power cut leaves.
                if copy.end() > pack.covered_len() {
                    continue;
                }
                let _claim = pack.usage().clear(copy.start);
                if pack.mark(&copy, CopyState::Removed) {
                    removed.entry(pack.id()).or_default().push(copy);
                }
            }
        }
        Ok(removed)
    }
}

impl Assembly {
    /// Takes a leaf at its place, though it lies elsewhere too; returns whether it is such a leaf. Zeros
    /// are a hole. A leaf that was `placed` before is found where it was first, so that the file is known
    /// by its first leaf.
    fn place(
        &mut self,
        leaf: &Block,
        at: &FileRange,
        placed: &mut HashSet<BlockKey>,
    ) -> Result<bool, StoreError> {
        let key = BlockKey::of(leaf.cid());
        let Some((framing, content)) = content_of(leaf, &key, at.len.into()) else {
            return Ok(false);
        };
        self.next += content.len() as u64;
        if !is_zeros(&content) {
            self.write(&content, at.offset)?;
        }
        if placed.insert(key) {
            self.add(key, at.offset, framing, &content);
        }
        Ok(true)
    }
}

/// Tells whether a block is a leaf of zeros.
fn is_zero_leaf(leaf: &Block) -> bool {
    Framing::of_leaf(leaf).is_some_and(|(_, content)| is_zeros(&content))
}

/// Returns the length that the block of a leaf has with its framing, which is the same for every type.
fn block_len(leaf: &FileRange) -> u64 {
    let is_framed = leaf.cid.codec() == codecs::DAG_PB;
    let framing = if is_framed { Framing::PbFile } else { Framing::Bare };
    framing.block_len(leaf.len)
}

fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}
