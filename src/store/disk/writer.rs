//! The one writer: appends sections to the active pack, rolls to the next, seals, removes.
//!
//! A run of blocks is one `pwritev` straight from the callers' buffers, at an offset that only
//! moves on success: a write that failed half-way is cut off again and no reader ever saw it.
//! What a failed sync leaves in doubt is forgotten and the pack is never written again.

use std::collections::HashSet;
use std::fs::File;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::{CopyState, DiskStore, PackList};
use crate::block::Block;
use crate::store::StoreError;
use crate::store::diskio::{sync_parent, write_all};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::store::pack::index::{self, SealedPack};
use crate::store::pack::open::OpenPack;
use crate::store::pack::section::{PACK_HEADER, push_head};
use crate::store::pack::tombs;
use crate::store::pack::usage::Usage;
use crate::store::pack::{Entry, Pack};
use crate::sys::writeback;

/// Most blocks in one write: two slices each stay within one `pwritev`.
const RUN_BLOCKS_MAX: usize = 500;
/// The kernel is asked to write back after this many new bytes, so that a final `fdatasync` finds
/// at most this much left; smaller steps cost calls, larger ones idle the disk.
const WRITEBACK_STEP: u64 = 8 * 1024 * 1024;

/// What the thread that holds the writer's lock may change.
#[derive(Debug, Default)]
pub(super) struct Writer {
    active: Option<Active>,
    next_id: u64,
    stopped: bool,
}

/// The pack that sections are appended to.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) pack: Arc<OpenPack>,
    pub(super) file: Arc<File>,
    /// Where the next section goes.
    pub(super) len: u64,
    blocks: usize,
    /// Up to here the kernel was asked to write back.
    written_back: u64,
}

impl DiskStore {
    /// Takes over the packs found at start; the last goes on being written unless it is full.
    /// `unused_id` is the number of the next new one.
    pub(super) fn resume(
        &self,
        mut packs: Vec<Arc<Pack>>,
        unused_id: u64,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        writer.next_id = unused_id;
        let last = packs.iter().rposition(|pack| matches!(**pack, Pack::Open(_) | Pack::Sealed(_)));
        if let Some(at) = last.filter(|at| self.has_room(&packs[*at])) {
            let last = Arc::clone(&packs[at]);
            let (id, len, entries) = (last.id(), last.covered_len(), last.entries());
            let blocks = entries.len();
            let pack = Arc::new(OpenPack::new(id, len, entries, self.usage_to_be()));
            let file = self.files.file(id)?;
            packs[at] = Arc::new(Pack::Open(Arc::clone(&pack)));
            writer.active = Some(Active { pack, file, len, blocks, written_back: len });
        }
        self.leaves().add(&packs);
        self.edit_packs(|own| *own = packs);
        Ok(())
    }

    /// Tells whether a pack found at start can go on being written.
    ///
    /// Not if a tombstone waits beyond its end, where it would bury what comes to lie there: no
    /// crash leaves that, but a copy of files that were in use may. Nor if it has no index file: with one,
    /// what could not be read of it would not be looked for any more.
    fn has_room(&self, pack: &Pack) -> bool {
        let (id, len) = (pack.id(), pack.covered_len());
        let tombs = tombs::load(&self.files.tombs(id));
        matches!(pack, Pack::Sealed(_))
            && len < self.options.pack_len_max
            && pack.entries().len() < self.options.pack_blocks_max
            && tombs.is_ok_and(|tombs| tombs.iter().all(|tomb| tomb.start < len))
    }

    /// Appends the blocks that are not here yet.
    pub(super) fn write(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        let written = blocks
            .chunks(RUN_BLOCKS_MAX)
            .try_for_each(|group| self.write_group(&mut writer, group));
        if written.is_ok() {
            self.written.fetch_add(1, Ordering::AcqRel);
        }
        // Also when only some could be written.
        self.came.send_replace(());
        written
    }

    fn write_group(&self, writer: &mut Writer, group: &[Block]) -> Result<(), StoreError> {
        let fresh = self.fresh(group)?;
        let bytes = fresh.iter().map(|(_, block)| block.data().len() as u64).sum();
        if !fresh.is_empty() {
            self.space.check(bytes, fresh.len())?;
        }
        self.append_all(writer, &fresh)
    }

    /// Appends blocks of a pack once more, those whose copy there is still the one that counts.
    pub(super) fn write_again(
        &self,
        from: PackId,
        blocks: &[(Entry, Block)],
    ) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        for group in blocks.chunks(RUN_BLOCKS_MAX) {
            let counts =
                |entry: &Entry| self.find_own(&entry.key).is_some_and(|hit| hit.is(from, entry));
            let group = group.iter().filter(|(entry, _)| counts(entry));
            let group: Vec<_> = group.map(|(entry, block)| (entry.key, block)).collect();
            self.append_all(&mut writer, &group)?;
        }
        self.written.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Becomes the one who writes.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let writer = self.writer.lock();
        if writer.stopped { Err(StoreError::Closed) } else { Ok(writer) }
    }

    fn append_all(
        &self,
        writer: &mut Writer,
        mut blocks: &[(BlockKey, &Block)],
    ) -> Result<(), StoreError> {
        while !blocks.is_empty() {
            let active = self.active(writer)?;
            let (run, later) = blocks.split_at(self.run_len(active, blocks));
            self.append(active, run)?;
            blocks = later;
        }
        Ok(())
    }

    /// Returns the blocks of `group` that have no good copy in our own packs, each once.
    fn fresh<'a>(&self, group: &'a [Block]) -> Result<Vec<(BlockKey, &'a Block)>, StoreError> {
        let mut seen = HashSet::with_capacity(group.len());
        let mut fresh = Vec::with_capacity(group.len());
        for block in group {
            let key = BlockKey::of(block.cid());
            let is_new = Block::from_identity(block.cid()).is_none() && seen.insert(key);
            if is_new && !self.has_good(&key, block)? {
                fresh.push((key, block));
            }
        }
        Ok(fresh)
    }

    /// Tells whether a put may rely on a copy that is here, which is a use of it.
    ///
    /// It is compared with the block: what rotted since it was written must not stand for what is
    /// acknowledged now.
    pub(super) fn has_good(&self, key: &BlockKey, block: &Block) -> Result<bool, StoreError> {
        while let Some(hit) = self.find_own(key).filter(|hit| hit.state != CopyState::Damaged) {
            let Some(_in_use) = self.enter(&hit) else { continue };
            let extent = hit.pack.extent(&hit.entry);
            if self.files.may_hold(&extent)?
                && self.files.read(&extent, 0, extent.block_len())?.as_ref() == Some(block.data())
            {
                self.mark(&hit, CopyState::Proved);
                return Ok(true);
            }
            self.mark_damaged(block.cid(), &hit);
        }
        Ok(false)
    }

    /// Returns how many of `blocks` still fit into the active pack, at least one.
    fn run_len(&self, active: &Active, blocks: &[(BlockKey, &Block)]) -> usize {
        let room = self.options.pack_blocks_max.saturating_sub(active.blocks).max(1);
        let mut len = active.len;
        let fits = blocks.iter().take(room).take_while(|(_, block)| {
            let fits = len < self.options.pack_len_max;
            len += block.data().len() as u64;
            fits
        });
        fits.count().max(1)
    }

    /// Returns the pack to append to; seals the last one first if it is full.
    fn active<'w>(&self, writer: &'w mut Writer) -> Result<&'w mut Active, StoreError> {
        let full = writer.active.as_ref().is_some_and(|active| {
            active.len >= self.options.pack_len_max || active.blocks >= self.options.pack_blocks_max
        });
        if full {
            self.settle(writer)?;
            if let Some(active) = writer.active.take() {
                self.seal(&active);
            }
        }
        if writer.active.is_none() {
            writer.active = Some(self.create(writer.next_id)?);
            writer.next_id += 1;
        }
        writer.active.as_mut().ok_or(StoreError::Closed)
    }

    /// Returns the usage of a pack that will be as long as packs get.
    fn usage_to_be(&self) -> Arc<Usage> {
        Arc::new(Usage::new(self.options.pack_len_max))
    }

    fn create(&self, number: u64) -> Result<Active, StoreError> {
        let id = PackId(number);
        let (file, path) = (self.files.create(id)?, self.files.pack(id));
        // With a name that may not last, the number would be in the way of the next attempt.
        sync_parent(&*self.files.disk, &path).inspect_err(|_| self.files.discard(id))?;
        let pack = Arc::new(OpenPack::new(id, 0, [], self.usage_to_be()));
        self.edit_packs(|packs| packs.push(Arc::new(Pack::Open(Arc::clone(&pack)))));
        Ok(Active { pack, file, len: 0, blocks: 0, written_back: 0 })
    }

    /// Writes a run of blocks and lets readers see them.
    fn append(&self, active: &mut Active, run: &[(BlockKey, &Block)]) -> Result<(), StoreError> {
        let header = if active.len == 0 { &PACK_HEADER[..] } else { &[] };
        let mut at = active.len + header.len() as u64;
        let mut heads = Vec::with_capacity(run.len() * 40);
        let mut entries = Vec::with_capacity(run.len());
        for (key, block) in run {
            let head_len = push_head(block.cid(), block.data().len(), &mut heads);
            let entry = Entry {
                key: *key,
                start: at,
                head_len: u16::try_from(head_len).unwrap_or(u16::MAX),
                len: u32::try_from(block.data().len()).unwrap_or(u32::MAX),
                framing: Framing::Bare,
            };
            at = entry.end();
            entries.push(entry);
        }
        let mut slices = vec![IoSlice::new(header)];
        let mut rest = &heads[..];
        for (entry, (_, block)) in entries.iter().zip(run) {
            let (head, later) = rest.split_at(entry.head_len.into());
            slices.extend([IoSlice::new(head), IoSlice::new(block.data())]);
            rest = later;
        }
        if let Err(error) = write_all(&*self.files.disk, &active.file, &mut slices, active.len) {
            self.cut_back(active);
            return Err(StoreError::io(&self.files.pack(active.pack.id), error));
        }
        self.grow(&active.pack.usage, at - active.len);
        active.len = at;
        active.blocks += run.len();
        let now = self.now();
        for entry in &entries {
            drop(active.pack.usage.enter(entry.start, now));
        }
        active.pack.add(&entries);
        self.commits.lock().found_again(entries.iter().map(|entry| &entry.key));
        start_writeback(&active.file, &mut active.written_back, active.len);
        Ok(())
    }

    /// Cuts a half-written run off. If that fails too, the next write goes over it, and a scan
    /// leaves it out.
    fn cut_back(&self, active: &Active) {
        if let Err(error) = self.files.disk.set_len(&active.file, active.len) {
            let pack = self.files.pack(active.pack.id);
            tracing::warn!(pack = %pack.display(), %error, "cannot cut off a failed write");
        }
    }

    /// Makes the active pack durable while its writer waits; on failure it is given up.
    pub(super) fn settle(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(active) = writer.active.clone() else { return Ok(()) };
        self.sync(&active).inspect_err(|_| self.give_up(writer, &active.pack))
    }

    /// Makes what was written up to `active.len` durable.
    pub(super) fn sync(&self, active: &Active) -> Result<(), StoreError> {
        let _one_at_a_time = self.syncing.lock();
        let path = self.files.pack(active.pack.id);
        if active.pack.is_refused() {
            return Err(StoreError::io(&path, std::io::Error::other("an earlier sync failed")));
        }
        self.files.disk.sync(&active.file).at(&path).inspect_err(|error| {
            tracing::error!(%error, "the disk failed to make a pack durable");
            active.pack.refuse();
        })?;
        active.pack.set_durable(active.len);
        Ok(())
    }

    /// Never writes to a pack again, and forgets the blocks in it that a power cut may take.
    pub(super) fn give_up(&self, writer: &mut Writer, pack: &Arc<OpenPack>) {
        writer.active.take_if(|active| active.pack.id == pack.id);
        let lost = pack.forget_undurable();
        self.commits.lock().lose(&self.files.pack(pack.id), lost);
    }

    /// Writes the index of a durable pack. Without one the pack goes on in memory and is scanned
    /// at the next start.
    fn seal(&self, active: &Active) {
        let id = active.pack.id;
        let path = self.files.index(id);
        let copies = active.pack.entries();
        let entries: Vec<_> = copies.iter().map(|(entry, _)| *entry).collect();
        let sealed = index::write(&*self.files.disk, &path, id, active.len, entries)
            .and_then(|()| SealedPack::open(&path, id).map_err(|error| error.at_path(&path)));
        match sealed {
            Ok(sealed) => {
                let sealed = sealed.with_usage(Arc::clone(&active.pack.usage));
                for (entry, state) in &copies {
                    sealed.inherit(entry, *state);
                }
                let sealed = Arc::new(Pack::Sealed(sealed));
                self.edit_packs(|packs| {
                    if let Some(pack) = packs.iter_mut().find(|pack| pack.id() == id) {
                        *pack = Arc::clone(&sealed);
                    }
                });
                self.measure(&sealed);
            }
            Err(error) => tracing::warn!(%error, "a pack has no index file until the next start"),
        }
    }

    /// Replaces the list of our own packs by an edited one, which stays sorted by number.
    pub(super) fn edit_packs(&self, edit: impl FnOnce(&mut Vec<Arc<Pack>>)) {
        let mut list = self.packs.write();
        let mut packs = list.packs.clone();
        edit(&mut packs);
        *list = PackList::new(packs, list.foreign.clone(), Arc::clone(&list.leaves));
        self.came.send_replace(());
    }

    /// Takes the number of a new pack.
    pub(super) fn take_number(&self) -> Result<PackId, StoreError> {
        let mut writer = self.writer()?;
        writer.next_id += 1;
        Ok(PackId(writer.next_id - 1))
    }

    /// Returns the number of puts so far and the pack that holds the last of them.
    pub(super) fn snapshot(&self) -> (u64, Option<Active>) {
        let writer = self.writer.lock();
        (self.written.load(Ordering::Acquire), writer.active.clone())
    }

    /// Gives a pack up after a sync that ran without the writer's lock.
    pub(super) fn give_up_active(&self, pack: &Arc<OpenPack>) {
        self.give_up(&mut self.writer.lock(), pack);
    }

    /// Stops writing for good: commits, and leaves an index that covers all of the active pack.
    ///
    /// # Errors
    /// As [`crate::store::BlockStore::commit`]; the store is closed in any case, and says so the
    /// second time.
    pub fn close(&self) -> Result<(), StoreError> {
        if self.writer.lock().stopped {
            return Err(StoreError::Closed);
        }
        let committed = self.group_commit();
        let mut writer = self.writer.lock();
        writer.stopped = true;
        self.settle(&mut writer)?;
        if let Some(active) = writer.active.take() {
            self.seal(&active);
        }
        committed
    }

    /// Refuses all writing from now on, without making anything durable.
    pub(crate) fn stop(&self) {
        self.writer.lock().stopped = true;
    }
}

/// Asks the kernel to write back what lies between `written_back` and `len`, when that is a step.
pub(super) fn start_writeback(file: &File, written_back: &mut u64, len: u64) {
    let new = len - *written_back;
    if new < WRITEBACK_STEP {
        return;
    }
    if let Err(error) = writeback::start(file, *written_back, new) {
        tracing::debug!(%error, "the kernel refused to write back early");
    }
    *written_back = len;
}
