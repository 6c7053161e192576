//! Foreign packs: archives of others, and plain files ([`plain`]), used where they lie and never
//! written to.
//!
//! Adding one hashes every block once and leaves two files of ours: an index, and a record that
//! names the file. The record is written last and removed first, so it alone decides; an index
//! without one is what a crash left, and goes. No promise to keep a block rests on a foreign copy:
//! a put stores the block in our own packs all the same.

mod plain;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::plain::FileBlocks;
use super::recover::side_by_side;
use super::{CopyState, DiskStore, PackList, best};
use crate::block::Block;
use crate::codec::car::{CarError, CarReader, Section};
use crate::store::StoreError;
use crate::store::diskio::{remove_if_there, set_aside, sync_parent};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::store::pack::files::{Names, PackFiles};
use crate::store::pack::index::{self, IndexError, SealedPack};
use crate::store::pack::open::OpenPack;
use crate::store::pack::section::push_head;
pub use crate::store::pack::source::ForeignKind;
use crate::store::pack::source::{Lost, Source, Stamp, is_on_cidfs, open_archive};
use crate::store::pack::usage::Usage;
use crate::store::pack::{Entry, ForeignPack, Pack};

/// Most foreign packs: each costs the process a mapping, of which Linux gives it 65,530.
const FOREIGN_PACKS_MAX: usize = 10_000;
/// Most blocks of one of them, repeated ones included: 8 TiB of blocks of 256 KiB. Adding takes
/// about 100 bytes of memory for each, so at most 3.4 GB; later they take 5 bytes each.
const FOREIGN_BLOCKS_MAX: usize = 32 * 1024 * 1024;

/// How far the hashing of an archive has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddProgress {
    /// Bytes of the archive that were read.
    pub bytes: u64,
    /// All its bytes.
    pub len: u64,
}

/// A foreign pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignStat {
    /// The file, absolute.
    pub path: PathBuf,
    /// What kind of file it is.
    pub kind: ForeignKind,
    /// Its length in bytes when it was added.
    pub len: u64,
    /// Blocks in it, each counted once.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub block_bytes: u64,
    /// Why it is out of use; completes "the file …".
    pub lost: Option<String>,
}

/// What became of an archive that was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedPack {
    /// What it is now.
    pub stat: ForeignStat,
    /// Sections that were left out because they are not what they claim; what follows an end that
    /// cannot be read counts as one.
    pub refused: u64,
    /// What is wrong with the first of them.
    pub first_refused: Option<String>,
}

/// What a pass over an archive found.
#[derive(Debug, Default)]
struct Survey {
    entries: Vec<Entry>,
    refused: u64,
    first_refused: Option<String>,
}

impl DiskStore {
    /// Uses the archive at `path` (CARv1 or CARv2) in place: hashes all its blocks and serves them
    /// from now on. Durable when this returns; `None` when `progress` broke off, and nothing is
    /// added. An archive that is used already and was not changed is not read again.
    ///
    /// Sections that are not what they claim are left out. Runs for long; belongs on a thread of its
    /// own.
    ///
    /// # Errors
    /// [`StoreError::Archive`] when the file cannot be used, [`StoreError::Closed`], and
    /// [`StoreError::Full`] or [`StoreError::Io`].
    pub fn add_pack(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(&AddProgress) -> ControlFlow<()>,
    ) -> Result<Option<AddedPack>, StoreError> {
        let path = self.archive_path(path)?;
        let file = open_archive(&path).at(&path)?;
        let stamp = stamp_of(&file, &path)?;
        if let Some(pack) = self.unchanged_pack(&path, stamp)? {
            return Ok(Some(AddedPack { stat: stat_of(&pack), refused: 0, first_refused: None }));
        }
        self.check_count(&path)?;
        let Some(survey) = survey(&file, &path, stamp.len, progress)? else { return Ok(None) };
        if stamp_of(&file, &path)? != stamp {
            return Err(refusal(&path, "it was changed while it was read; add it when it is done"));
        }
        let pack = self.register(ForeignKind::Archive, path, stamp, survey.entries)?;
        let Survey { refused, first_refused, .. } = survey;
        Ok(Some(AddedPack { stat: stat_of(&pack), refused, first_refused }))
    }

    /// Forgets the file at `path`, archive or not, which itself is left alone; returns whether it was
    /// used. Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Closed`] and [`StoreError::Io`]; it is then used until the next start at least.
    pub fn remove_pack(&self, path: &Path) -> Result<bool, StoreError> {
        let _one_at_a_time = self.referring.lock();
        // What is listed is found as it is listed.
        let mut ids = self.ids_at(path);
        if ids.is_empty() {
            ids = self.ids_at(&real_path(path));
        }
        let _writer = self.writer()?;
        for id in &ids {
            remove_files(&self.files, *id)?;
            self.edit_foreign(|packs| packs.retain(|other| other.id() != *id));
            self.files.forget(*id);
        }
        Ok(!ids.is_empty())
    }

    /// Returns the files that are used in place, in the order in which they were added.
    pub fn foreign_packs(&self) -> Vec<ForeignStat> {
        self.packs.read().foreign.iter().map(|pack| stat_of(pack)).collect()
    }

    /// Returns the numbers of the foreign packs, oldest first.
    pub(in crate::store) fn foreign_ids(&self) -> Vec<PackId> {
        self.packs.read().foreign.iter().map(|pack| pack.id()).collect()
    }

    /// Returns the file with a good copy of a block.
    pub(super) fn find_foreign(&self, key: &BlockKey) -> Option<PathBuf> {
        let list = Arc::clone(&self.packs.read());
        let hit = best(list.foreign_candidates(key), key)?;
        let source = hit.pack.source().filter(|_| hit.state != CopyState::Damaged);
        source.map(|source| source.path.clone())
    }

    pub(super) fn edit_foreign(&self, edit: impl FnOnce(&mut Vec<Arc<Pack>>)) {
        let mut list = self.packs.write();
        let mut foreign = list.foreign.clone();
        edit(&mut foreign);
        *list = PackList::new(list.packs.clone(), foreign, Arc::clone(&list.leaves));
        self.came.send_replace(());
    }

    fn foreign_at(&self, kind: ForeignKind, path: &Path) -> Option<Arc<Pack>> {
        let list = self.packs.read();
        let is_it = |source: &Arc<Source>| source.kind == kind && source.path == path;
        list.foreign.iter().find(|pack| pack.source().is_some_and(is_it)).map(Arc::clone)
    }

    /// Returns the numbers of what a path is used as: an archive, a plain file, or both.
    fn ids_at(&self, path: &Path) -> Vec<PackId> {
        let kinds = [ForeignKind::Archive, ForeignKind::File].into_iter();
        kinds.filter_map(|kind| Some(self.foreign_at(kind, path)?.id())).collect()
    }

    /// Returns the file that `path` leads to; none of our own, which change, and none that we show.
    fn archive_path(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let real = path.canonicalize().at(path)?;
        if real.starts_with(self.files.dir().canonicalize().at(self.files.dir())?) {
            return Err(refusal(&real, "it belongs to this repository, which serves it already"));
        }
        if is_on_cidfs(&real).at(&real)? {
            let reason = "it lies below a mount of cidfs, which would ask for its own content; `cidfs dag import` it";
            return Err(refusal(&real, reason));
        }
        Ok(real)
    }

    fn check_count(&self, path: &Path) -> Result<(), StoreError> {
        if self.packs.read().foreign.len() < FOREIGN_PACKS_MAX {
            return Ok(());
        }
        let reason = format!(
            "{FOREIGN_PACKS_MAX} files are used in place, the limit; copy it (`cidfs dag import`, `cidfs add` without --nocopy), or forget others (`cidfs store rm-pack`)"
        );
        Err(refusal(path, &reason))
    }

    /// Returns the pack of an archive that is what it was when it was added; one that was out of
    /// use is used again.
    fn unchanged_pack(&self, path: &Path, stamp: Stamp) -> Result<Option<Arc<Pack>>, StoreError> {
        let Some(known) = self.foreign_at(ForeignKind::Archive, path) else { return Ok(None) };
        if known.source().is_none_or(|source| source.stamp != stamp) {
            return Ok(None);
        }
        if known.lost().is_none() {
            return Ok(Some(known));
        }
        let again = Source::new(known.id(), ForeignKind::Archive, path.to_owned(), stamp);
        let pack = Arc::new(open_pack(&self.files, Arc::new(again))?);
        if pack.lost().is_some() {
            return Ok(None);
        }
        let _writer = self.writer()?;
        let mut found = None;
        self.edit_foreign(|packs| {
            found = packs.iter_mut().find(|old| old.id() == pack.id()).map(|old| {
                *old = Arc::clone(&pack);
                pack
            });
        });
        Ok(found)
    }

    /// Makes a pack of a file that was hashed, durable when this returns; an older pack of the same
    /// file and kind goes.
    fn register(
        &self,
        kind: ForeignKind,
        path: PathBuf,
        stamp: Stamp,
        entries: Vec<Entry>,
    ) -> Result<Arc<Pack>, StoreError> {
        let (files, id) = (&self.files, self.take_number()?);
        let index = files.foreign_index(id);
        index::write(&*files.disk, &index, id, stamp.len, entries)?;
        let sealed = SealedPack::open(&index, id).map_err(|error| error.at_path(&index))?;
        let source = Arc::new(Source::new(id, kind, path, stamp));
        let pack = ForeignPack::new(Arc::clone(&source), Pack::Sealed(sealed));
        let pack = Arc::new(Pack::Foreign(pack));
        let _writer = self.writer()?;
        let written = self
            .check_count(&source.path)
            .and_then(|()| source.write(&*files.disk, &files.reference(id)));
        written.inspect_err(|_| clean_up(files, id))?;
        let old = self.foreign_at(kind, &source.path).map(|pack| pack.id());
        self.edit_foreign(|packs| {
            packs.retain(|pack| Some(pack.id()) != old);
            packs.push(Arc::clone(&pack));
            // Another file may have taken its number later and be here already.
            packs.sort_unstable_by_key(|pack| pack.id());
        });
        if let Some(old) = old {
            clean_up(files, old);
            files.forget(old);
        }
        Ok(pack)
    }
}

/// Opens the foreign packs, oldest first, and removes what adding or forgetting one left undone.
///
/// A file that is not what it was is out of use, and listed as such.
pub(super) fn open_packs(files: &PackFiles, names: &Names) -> Result<Vec<Arc<Pack>>, StoreError> {
    let mut by_path = BTreeMap::new();
    for &id in names.ids("ref") {
        if let Some(source) = read_record(files, id)?
            && let Some(old) = by_path.insert((source.kind, source.path.clone()), Arc::new(source))
        {
            // Added again, and the older record was still to be removed.
            clean_up(files, old.id);
        }
    }
    let mut sources: Vec<_> = by_path.into_values().collect();
    sources.sort_unstable_by_key(|source| source.id);
    for extension in ["refidx", "refidx.new", "ref.new"] {
        let wanted = |id: &PackId| {
            extension == "refidx" && sources.binary_search_by_key(id, |source| source.id).is_ok()
        };
        for id in names.ids(extension).iter().filter(|id| !wanted(id)) {
            remove_leftover(files, &files.dir().join(format!("{id}.{extension}")));
        }
    }
    let mut packs = side_by_side(&sources, |source| {
        if let Err(error) = source.open() {
            tracing::warn!(%error, "a file used in place is looked at when it is read");
        }
        open_pack(files, Arc::clone(source)).map(Arc::new)
    })?;
    packs.sort_unstable_by_key(|pack| pack.id());
    Ok(packs)
}

/// Reads the record of a foreign pack; one that is damaged is set aside.
fn read_record(files: &PackFiles, id: PackId) -> Result<Option<Source>, StoreError> {
    let path = files.reference(id);
    let source = Source::read(&path, id)?;
    if source.is_none() {
        let aside = set_aside(&*files.disk, &path)?;
        tracing::error!(record = %aside.display(),
            "the record of a foreign pack is damaged: `cidfs store add-pack` the archive that it names, or `cidfs add --nocopy` the file");
    }
    Ok(source)
}

/// Returns the pack of a file, out of use if its index is not good.
fn open_pack(files: &PackFiles, source: Arc<Source>) -> Result<Pack, StoreError> {
    let path = files.foreign_index(source.id);
    let damaged = match SealedPack::open(&path, source.id) {
        Ok(index) if index.pack_len == source.stamp.len => {
            return Ok(Pack::Foreign(ForeignPack::new(source, Pack::Sealed(index))));
        }
        Ok(_) => "is of another archive",
        Err(IndexError::Missing) => "",
        Err(IndexError::Damaged(why)) => why,
        Err(IndexError::Store(error)) => return Err(error),
    };
    if !damaged.is_empty() {
        let aside = set_aside(&*files.disk, &path)?;
        tracing::warn!(index = %aside.display(), damaged, "the index of a foreign pack is set aside");
    }
    source.lose(Lost::NoIndex);
    let empty = OpenPack::new(source.id, 0, [], Arc::new(Usage::new(0)));
    Ok(Pack::Foreign(ForeignPack::new(source, Pack::Open(Arc::new(empty)))))
}

/// Removes the files of a foreign pack: the record, for good, and then its index.
fn remove_files(files: &PackFiles, id: PackId) -> Result<(), StoreError> {
    let record = files.reference(id);
    remove_if_there(&*files.disk, &record)?;
    sync_parent(&*files.disk, &record)?;
    remove_leftover(files, &files.foreign_index(id));
    Ok(())
}

/// Removes files that mean nothing any more; if that fails, the next start does it.
fn clean_up(files: &PackFiles, id: PackId) {
    if let Err(error) = remove_files(files, id) {
        tracing::warn!(%error, "the record of a foreign pack that is gone stays until the next start");
    }
}

fn remove_leftover(files: &PackFiles, path: &Path) {
    if let Err(error) = remove_if_there(&*files.disk, path) {
        tracing::warn!(%error, "the index of a foreign pack that is gone stays until the next start");
    }
}

/// Hashes an archive whole; `None` when `progress` broke off.
fn survey(
    file: &File,
    path: &Path,
    len: u64,
    progress: &mut dyn FnMut(&AddProgress) -> ControlFlow<()>,
) -> Result<Option<Survey>, StoreError> {
    let mut survey = Survey::default();
    for section in CarReader::new(file).map_err(|error| unreadable(path, error))? {
        match section {
            Ok(section) => {
                let bytes = survey.take(section);
                if progress(&AddProgress { bytes, len }).is_break() {
                    return Ok(None);
                }
            }
            Err(error @ CarError::Read { .. }) => return Err(unreadable(path, error)),
            Err(error) => survey.refuse(error.to_string()),
        }
        if survey.entries.len() > FOREIGN_BLOCKS_MAX {
            let reason = format!("over {FOREIGN_BLOCKS_MAX} blocks; split it, or import it");
            return Err(refusal(path, &reason));
        }
    }
    if survey.entries.is_empty() {
        let why = survey.first_refused.map_or_else(String::new, |first| format!("; {first}"));
        return Err(refusal(path, &format!("there is no whole block in it{why}")));
    }
    Ok(Some(survey))
}

impl Survey {
    /// Takes a section whose bytes match its CID, and returns where it ends. An identity CID is its
    /// own content and needs no copy.
    fn take(&mut self, section: Section) -> u64 {
        let Section { offset: start, cid, data } = section;
        let mut head = Vec::new();
        // CIDs and lengths have one form, so this is the head that was read.
        let head_len = push_head(&cid, data.len(), &mut head);
        let entry = Entry {
            key: BlockKey::of(&cid),
            start,
            head_len: u16::try_from(head_len).unwrap_or(u16::MAX),
            len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            framing: Framing::Bare,
        };
        match Block::verify(cid, data) {
            Ok(_) if Block::from_identity(&cid).is_some() => {}
            Ok(_) => self.entries.push(entry),
            Err(error) => self.refuse(format!("the section at byte {start}: {error}")),
        }
        entry.end()
    }

    fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.first_refused.get_or_insert(why);
    }
}

fn unreadable(path: &Path, error: CarError) -> StoreError {
    match error {
        CarError::Read { source, .. } => StoreError::io(path, source),
        other => refusal(path, &other.to_string()),
    }
}

fn stamp_of(file: &File, path: &Path) -> Result<Stamp, StoreError> {
    let stamp = Stamp::of(&file.metadata().at(path)?);
    stamp.ok_or_else(|| refusal(path, "it is no regular file"))
}

fn refusal(path: &Path, reason: &str) -> StoreError {
    StoreError::Archive { path: path.to_owned(), reason: reason.to_owned() }
}

/// Returns the path under which a file was added, which may be gone by now.
fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_gone| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        let beside = parent.and_then(|parent| Some(parent.join(path.file_name()?)));
        beside.unwrap_or_else(|| path.to_owned())
    })
}

fn stat_of(pack: &Pack) -> ForeignStat {
    let totals = pack.totals();
    ForeignStat {
        path: pack.source().map(|source| source.path.clone()).unwrap_or_default(),
        kind: pack.source().map_or(ForeignKind::Archive, |source| source.kind),
        len: pack.covered_len(),
        blocks: totals.blocks,
        block_bytes: totals.bytes,
        lost: pack.lost().map(|(_, why)| why.to_string()),
    }
}
