//! Laying out a file whose leaves came one by one: they are copied from packs into an assembled file,
//! and their copies in packs are given back when that is durable.
//!
//! A crash before that leaves an unfinished file, which the next start removes, and one after it leaves
//! some leaves twice; at no moment is one nowhere. What another assembled file holds stays there: two
//! files that share a leaf cannot both be whole, and each would take it from the other in turn. A file
//! that was laid out and has lost some of its leaves since gets those alone (`fill`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::fill::{Gap, place_of};
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
pub(super) const BYTES_PER_S: u64 = 128 * 1024 * 1024;
/// Copies in packs that are given back with one sync for each pack.
const FREED_AT_ONCE: usize = 1024;

pub(super) const OTHER_LEAF: &str =
    "a leaf is not what its parent says, or none that can lie in a file";

pub(super) const NO_ROOM: &str = "there is no room for it";
const NO_ROOM_TWICE: &str = "there is no room for it twice";
const OTHER_FILE: &str = "it has leaves of another file";
const SHARED: &str = "another file has a part of it";

/// How a file can be laid out.
enum Plan {
    /// It is a file of the store already, of which these leaves went.
    Fill(Arc<Pack>, Vec<Gap>),
    /// As a new one of so many different bytes.
    LayOut { once: u64 },
}

/// What of a file was copied.
struct Placed {
    keys: HashSet<BlockKey>,
    /// Bytes of all its leaves, each counted once.
    once: u64,
    /// Bytes other than zeros that were copied before.
    again: u64,
}

/// What became of a file that was to be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gathered {
    /// It is an assembled file now.
    Done,
    /// It was one before.
    Whole,
    /// A leaf is not here, or only in a file of someone else.
    Missing,
    /// It stays as it is; why.
    Declined(&'static str),
    /// The callback broke off.
    Stopped,
}

impl DiskStore {
    /// Lays out the file that is `leaves`, in order and without gaps, when all of them lie in our own
    /// packs, or in the file that it was laid out as before, and there is room to copy those in packs.
    /// `go_on` is called for each of these and may break off. Runs for long; belongs on a thread of its
    /// own.
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
        let plan = match self.look_over(leaves) {
            Ok(plan) => plan,
            Err(refused) => return Ok(refused),
        };
        // What no sync has failed for cannot be lost while it is copied.
        self.group_commit()?;
        match plan {
            Plan::Fill(file, gaps) => self.fill(&file, &gaps, go_on),
            Plan::LayOut { once } => self.lay_out(leaves, once, go_on),
        }
    }

    /// Copies all leaves, `once` different bytes of them, into a new file.
    fn lay_out(
        self: &Arc<Self>,
        leaves: &[FileRange],
        once: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Gathered, StoreError> {
        let mut assembly = self.assemble()?;
        let mut placed = Placed { keys: HashSet::new(), once, again: 0 };
        let pace = Pace::new(BYTES_PER_S);
        for leaf in leaves {
            if pace.wait(leaf.offset, go_on).is_break() {
                return Ok(Gathered::Stopped);
            }
            let Some(block) = self.read_packed(&leaf.cid)? else {
                return Ok(Gathered::Missing);
            };
            match assembly.place(&block, leaf, &mut placed) {
                Ok(None) => {}
                Ok(Some(why)) => return Ok(Gathered::Declined(why)),
                Err(error) if is_want_of_room(&error) => return Ok(Gathered::Declined(NO_ROOM)),
                Err(error) => return Err(error),
            }
        }
        let removing = self.removing.lock();
        if !assembly.entries.iter().all(|leaf| self.is_here(&leaf.key)) {
            return Ok(Gathered::Missing);
        }
        let packs = assembly.show()?;
        drop((removing, assembly));
        for pack in &packs {
            let entries: Vec<_> = pack.entries().into_iter().map(|(entry, _)| entry).collect();
            self.free_packed(pack, &entries)?;
        }
        Ok(Gathered::Done)
    }

    /// Tells how a file can be laid out, or why it cannot, as far as that can be told without reading
    /// anything of it.
    fn look_over(&self, leaves: &[FileRange]) -> Result<Plan, Gathered> {
        let declined = |why| Err(Gathered::Declined(why));
        let len = leaves.last().map_or(0, |last| last.offset + u64::from(last.len));
        let file = leaves.iter().find_map(|leaf| self.assembled_with(leaf, len));
        let (mut next, mut once, mut gaps) = (0, 0, Vec::new());
        let mut seen = HashMap::new();
        for leaf in leaves {
            let key = BlockKey::of(&leaf.cid);
            let Some(hit) = self.find_own(&key).filter(|hit| hit.state != CopyState::Damaged)
            else {
                return Err(Gathered::Missing);
            };
            if leaf.offset != next || hit.entry.block_len() != block_len(leaf) {
                return declined(OTHER_LEAF);
            }
            next += u64::from(leaf.len);
            match seen.insert(key, leaf.cid.codec()) {
                None => {}
                Some(other) if other == leaf.cid.codec() => continue,
                // What is framed in one place cannot be bare in another.
                Some(_) => return declined(OTHER_LEAF),
            }
            once += u64::from(leaf.len);
            match file.as_ref().map(|file| place_of(file, &key, leaf)) {
                None => {}
                Some(None) => return declined(SHARED),
                Some(Some((_, state))) if state < CopyState::Damaged => continue,
                Some(Some((entry, _))) => gaps.push(Gap { entry, cid: leaf.cid }),
            }
            if self.find_assembled(&key, |_, _| true).is_some() {
                return declined(SHARED);
            }
        }
        if next < self.options.assemble_min_bytes || leaves.len() > LEAVES_MAX {
            return declined("it is too short, or has too many leaves");
        }
        let Some(file) = file else {
            let has_room = self.has_room_to_spare(once, leaves.len());
            return if has_room { Ok(Plan::LayOut { once }) } else { declined(NO_ROOM_TWICE) };
        };
        let missing = gaps.iter().map(|gap| u64::from(gap.entry.len)).sum();
        match gaps.len() {
            0 => Err(Gathered::Whole),
            // What is written to one place must not take away what the file has in another.
            _ if file.entries().iter().any(|(entry, _)| !seen.contains_key(&entry.key)) => {
                declined(OTHER_FILE)
            }
            count if self.has_room_to_spare(missing, count) => Ok(Plan::Fill(file, gaps)),
            _ => declined(NO_ROOM_TWICE),
        }
    }

    /// Tells whether a good copy lies in our own packs.
    pub(super) fn is_here(&self, key: &BlockKey) -> bool {
        self.find_own(key).is_some_and(|hit| hit.state != CopyState::Damaged)
    }

    /// Reads and proves a block that lies in a pack, which is no use of it.
    pub(super) fn read_packed(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
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
    pub(super) fn free_packed(&self, file: &Pack, leaves: &[Entry]) -> Result<(), StoreError> {
        self.note_move();
        for group in leaves.chunks(FREED_AT_ONCE) {
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
        group: &[Entry],
    ) -> Result<BTreeMap<PackId, Vec<Entry>>, StoreError> {
        let _writer = self.writer()?;
        let list = Arc::clone(&self.packs.read());
        let now = self.now();
        let mut removed = BTreeMap::<_, Vec<_>>::new();
        for entry in group {
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
    /// Takes a leaf at its place, though it lies elsewhere too; returns why it cannot. Zeros are a hole.
    /// A leaf that was placed before is found where it was first, so that the file is known by its first
    /// leaf.
    fn place(
        &mut self,
        leaf: &Block,
        at: &FileRange,
        placed: &mut Placed,
    ) -> Result<Option<&'static str>, StoreError> {
        let key = BlockKey::of(leaf.cid());
        let Some((framing, content)) = content_of(leaf, &key, at.len.into()) else {
            return Ok(Some(OTHER_LEAF));
        };
        let (is_first, len) = (placed.keys.insert(key), u64::from(at.len));
        self.next += len;
        if !is_zeros(&content) {
            placed.again += if is_first { 0 } else { len };
            if placed.again > placed.once {
                return Ok(Some("most of it is the same again"));
            }
            if !self.store.has_room_to_spare(len, 1) {
                return Ok(Some(NO_ROOM));
            }
            self.write(&content, at.offset)?;
        }
        if is_first {
            self.add(key, at.offset, framing, &content);
        }
        Ok(None)
    }
}

/// Tells whether something failed because the disk or the cap is full.
pub(super) fn is_want_of_room(error: &StoreError) -> bool {
    matches!(error, StoreError::Full { .. } | StoreError::CapReached { .. })
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
