//! The store on a disk: packs, one writer at a time, readers that never wait for it.
//!
//! A look-up walks an immutable list of packs from the newest to the oldest; nearly all say from
//! memory that they do not have the key, and of the assembled files only those are asked that may
//! have it. The list is replaced as a whole when a pack is added or sealed, so readers hold a lock only long enough to clone an `Arc`. Whoever reads bytes of a copy
//! is in its region (`pack::usage`) from before the look that counts until the bytes are copied,
//! and nothing is removed from a region that someone is in. Foreign packs are asked last and only
//! ever read: a put or an eviction does not know of them.

mod assemble;
mod check;
mod commit;
mod epochs;
mod evict;
mod foreign;
mod lost;
pub(super) mod rebuild;
mod recover;
mod reserve;
mod retire;
mod space;
#[cfg(test)]
mod tests;
mod whole;
mod writer;

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

pub use self::assemble::{Assembly, AssemblyGroup, Gathered};
pub use self::check::{Damage, DiskStats, Progress, VerifyReport};
use self::commit::Commits;
use self::epochs::Epochs;
pub use self::epochs::{KeepSet, Protection};
use self::evict::Burying;
pub use self::evict::SpaceReport;
pub use self::foreign::{AddProgress, AddedPack, FileBlocks, ForeignKind, ForeignStat};
pub use self::rebuild::RebuildReport;
use self::reserve::Reserve;
use self::space::Space;
pub use self::whole::{FileRange, FileState, WholeFile};
use self::writer::Writer;
use super::diskio::{DiskIo, RealDisk};
use super::extent::PackId;
use super::key::BlockKey;
use super::pack::files::PackFiles;
use super::pack::filter::{Filter, Probe};
use super::pack::leaves::LeafTable;
use super::pack::usage::{InUse, Moment};
use super::pack::{CopyState, Entry, Pack};
use super::{BlockRange, BlockStore, StoreError};
use crate::block::{Block, Cid};

/// A pack is sealed at this many bytes: small enough that the hashing scan of one unsealed pack
/// after a crash takes about a second, large enough that a terabyte is 4,096 packs.
const PACK_LEN_MAX: u64 = 256 * 1024 * 1024;
/// A pack is sealed at this many blocks: bounds the hash table of the open pack to about 7 MB.
const PACK_BLOCKS_MAX: usize = 65_536;

/// Shortest file in bytes that is laid out as one, unless the configuration says otherwise. Each
/// such file costs about a kilobyte of memory and 25 microseconds at a start; of shorter ones, opening them
/// for the kernel takes longer than reading them.
const ASSEMBLE_LEN_MIN: u64 = 256 * 1024;

/// How a [`DiskStore`] works on its disk.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Length in bytes at which a pack is sealed.
    pub pack_len_max: u64,
    /// Number of blocks at which a pack is sealed.
    pub pack_blocks_max: usize,
    /// Bytes of disk that packs and their sidecars may take; `None` for no limit. Packs are at most
    /// an eighth of it long, and that much of it is kept free for moving blocks.
    pub cache_max_bytes: Option<u64>,
    /// Bytes of disk that are set aside so that removing works on a full disk; with a small cap
    /// less. See [`DiskOptions::RESERVE`].
    pub reserve_bytes: u64,
    /// Shortest file in bytes that is laid out as one.
    pub assemble_min_bytes: u64,
    /// What writes and syncs.
    pub disk: Arc<dyn DiskIo>,
}

impl DiskOptions {
    /// Bytes that are set aside by a repository that lives, for some twenty thousand tombstones:
    /// those of packs of usual blocks many times over.
    pub const RESERVE: u64 = 1024 * 1024;
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            pack_len_max: PACK_LEN_MAX,
            pack_blocks_max: PACK_BLOCKS_MAX,
            cache_max_bytes: None,
            reserve_bytes: 0,
            assemble_min_bytes: ASSEMBLE_LEN_MIN,
            disk: Arc::new(RealDisk),
        }
    }
}

/// All packs, oldest first, and what tells which of them are worth asking.
///
/// Foreign packs are apart: whatever writes, evicts or counts disk sees our own only.
#[derive(Debug, Default)]
struct PackList {
    packs: Vec<Arc<Pack>>,
    foreign: Vec<Arc<Pack>>,
    /// Those of `packs` that are archives; which of the assembled files to ask is in `leaves`.
    archives: Filtered,
    foreign_archives: Filtered,
    leaves: Arc<LeafTable>,
}

impl PackList {
    fn new(packs: Vec<Arc<Pack>>, foreign: Vec<Arc<Pack>>, leaves: Arc<LeafTable>) -> Arc<Self> {
        let archives = packs.iter().filter(|pack| pack.as_assembled().is_none());
        let (archives, foreign_archives) = (Filtered::new(archives), Filtered::new(foreign.iter()));
        Arc::new(Self { packs, foreign, archives, foreign_archives, leaves })
    }

    /// Returns our own packs that may have a key, newest first.
    fn candidates(&self, key: &BlockKey) -> impl Iterator<Item = &Arc<Pack>> {
        let mut files = self.assembled_candidates(key).peekable();
        let mut archives = self.archives.passing(key).peekable();
        std::iter::from_fn(move || {
            let newest = archives.peek().map(|archive| archive.id());
            files.next_if(|file| Some(file.id()) > newest).or_else(|| archives.next())
        })
    }

    /// Returns the assembled files that may have a key, newest first.
    fn assembled_candidates(&self, key: &BlockKey) -> impl Iterator<Item = &Arc<Pack>> {
        self.leaves.files(key).filter_map(|id| numbered(&self.packs, id))
    }

    /// Returns the foreign packs that may have a key, newest first.
    fn foreign_candidates(&self, key: &BlockKey) -> impl Iterator<Item = &Arc<Pack>> {
        self.foreign_archives.passing(key)
    }
}

fn numbered(packs: &[Arc<Pack>], id: PackId) -> Option<&Arc<Pack>> {
    Some(&packs[packs.binary_search_by_key(&id, |pack| pack.id()).ok()?])
}

/// Packs and their filters side by side.
#[derive(Debug, Default)]
struct Filtered {
    packs: Vec<Arc<Pack>>,
    filters: Vec<Filter>,
}

impl Filtered {
    fn new<'a>(packs: impl Iterator<Item = &'a Arc<Pack>>) -> Self {
        let (packs, filters) = packs.map(|pack| (Arc::clone(pack), pack.filter())).unzip();
        Self { packs, filters }
    }

    /// Returns the packs that may have a key, newest first.
    fn passing(&self, key: &BlockKey) -> impl Iterator<Item = &Arc<Pack>> {
        let probe = Probe::of(&key.digest);
        let all = self.packs.iter().zip(&self.filters).rev();
        all.filter(move |(_, filter)| probe.passes(filter)).map(|(pack, _)| pack)
    }
}

/// Blocks in pack files of one directory.
///
/// Dropping it is like a crash: what was committed is there at the next open. A clean stop is
/// [`DiskStore::close`].
#[derive(Debug)]
pub struct DiskStore {
    files: PackFiles,
    options: DiskOptions,
    packs: RwLock<Arc<PackList>>,
    /// Number of times that copies were moved.
    moves: AtomicU64,
    writer: Mutex<Writer>,
    /// One `fdatasync` at a time: an error is reported to one caller only, so a second call on the
    /// same file must not run before the first has said what it learnt.
    syncing: Mutex<()>,
    commits: Mutex<Commits>,
    committed: Condvar,
    /// Number of puts that have been written.
    written: AtomicU64,
    /// Tells who waits for blocks that there may be new ones.
    came: watch::Sender<()>,
    space: Space,
    epochs: Arc<Epochs>,
    /// One eviction at a time.
    evicting: Mutex<()>,
    /// One file is laid out at a time.
    gathering: Mutex<()>,
    /// Held while a named block is removed, and from the last look at the leaves of a file that is laid
    /// out until it is shown: what was copied before its removal must not come back.
    removing: Mutex<()>,
    /// One writer of tombstones at a time.
    burying: Mutex<Burying>,
    reserve: Reserve,
    /// One reference to a plain file is made or forgotten at a time: it takes over what an older
    /// one of that file has.
    referring: Mutex<()>,
}

/// A stored copy of a block.
struct Hit {
    pack: Arc<Pack>,
    entry: Entry,
    state: CopyState,
}

impl DiskStore {
    /// Opens the packs in `dir`, which exists; repairs what an unclean stop left behind.
    ///
    /// The caller holds the lock on the repository.
    ///
    /// # Errors
    /// [`StoreError::Io`], and [`StoreError::Version`] for an index file of a later version.
    pub fn open(dir: &Path, mut options: DiskOptions) -> Result<Self, StoreError> {
        let (space, pack_len) = Space::new(options.cache_max_bytes, options.pack_len_max);
        options.pack_len_max = pack_len;
        let files = PackFiles::new(dir, Arc::clone(&options.disk));
        let reserve = Reserve::new(dir, &options);
        let names = files.names()?;
        let assembled = assemble::open_files(&files, &names)?;
        let packs = recover::open_packs(&files, &names, assembled)?;
        let foreign = foreign::open_packs(&files, &names)?;
        let store = Self {
            files,
            options,
            packs: RwLock::default(),
            writer: Mutex::default(),
            syncing: Mutex::default(),
            commits: Mutex::default(),
            committed: Condvar::new(),
            moves: AtomicU64::new(0),
            written: AtomicU64::new(0),
            came: watch::Sender::default(),
            space,
            epochs: Arc::default(),
            evicting: Mutex::default(),
            gathering: Mutex::default(),
            removing: Mutex::default(),
            burying: Mutex::default(),
            reserve,
            referring: Mutex::default(),
        };
        store.resume(packs, names.unused_id())?;
        store.edit_foreign(|packs| *packs = foreign);
        let list = Arc::clone(&store.packs.read());
        recover::side_by_side(&list.packs, |pack| {
            store.measure(pack);
            Ok(())
        })?;
        store.reserve.keep(&store.space);
        Ok(store)
    }

    /// Returns the newest good copy of a block in our own packs, else one in a foreign pack, else a
    /// damaged one.
    fn find(&self, key: &BlockKey) -> Option<Hit> {
        self.look(|list| best(list.candidates(key).chain(list.foreign_candidates(key)), key))
    }

    /// Returns the newest good copy in our own packs, else a damaged one: what a promise to keep the
    /// block can rest on.
    fn find_own(&self, key: &BlockKey) -> Option<Hit> {
        self.look(|list| best(list.candidates(key), key))
    }

    /// Looks for a copy, once more when a move may have hidden it: who began before the new place was there
    /// and came to the old one after it was given up has seen neither.
    fn look(&self, look: impl Fn(&PackList) -> Option<Hit>) -> Option<Hit> {
        loop {
            let moves = self.moves.load(Ordering::Acquire);
            let found = look(&Arc::clone(&self.packs.read()));
            let is_good = found.as_ref().is_some_and(|hit| hit.state != CopyState::Damaged);
            if is_good || self.moves.load(Ordering::Acquire) == moves {
                return found;
            }
        }
    }

    fn leaves(&self) -> Arc<LeafTable> {
        Arc::clone(&self.packs.read().leaves)
    }

    /// Notes that copies are about to be given up which can be found in another place by now.
    fn note_move(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the newest good copy; an error when all copies are damaged.
    fn find_good(&self, cid: &Cid) -> Result<Option<Hit>, StoreError> {
        match self.find(&BlockKey::of(cid)) {
            Some(hit) if hit.state == CopyState::Damaged => Err(self.corrupt(cid, &hit)),
            found => Ok(found),
        }
    }

    /// Returns the pack as it is now: it may have been sealed since `hit` was found.
    fn pack_now(&self, id: PackId) -> Option<Arc<Pack>> {
        let list = self.packs.read();
        numbered(&list.packs, id).or_else(|| numbered(&list.foreign, id)).map(Arc::clone)
    }

    /// Tells whether a copy that was found is not removed; what counts is what this says to who is
    /// in its region.
    fn is_still_here(&self, hit: &Hit) -> bool {
        self.pack_now(hit.pack.id()).is_some_and(|pack| pack.holds(&hit.entry))
    }

    fn now(&self) -> Moment {
        Moment { hour: hour_now(), epoch: self.epochs.now() }
    }

    /// Enters the region of a copy, which is a use of it; `None` if it has just been removed.
    fn enter<'a>(&self, hit: &'a Hit) -> Option<InUse<'a>> {
        let in_use = hit.pack.usage().enter(hit.entry.start, self.now());
        self.is_still_here(hit).then_some(in_use)
    }

    /// Enters the region of a copy without using it; `None` if it has just been removed.
    fn visit<'a>(&self, hit: &'a Hit) -> Option<InUse<'a>> {
        let in_use = hit.pack.usage().visit(hit.entry.start);
        self.is_still_here(hit).then_some(in_use)
    }

    /// Returns a block like [`BlockStore::get`], without keeping it, or what lies beside it, from
    /// eviction: for walks that collect a [`KeepSet`].
    ///
    /// # Errors
    /// As [`BlockStore::get`].
    pub fn peek(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.get_with(cid, Self::visit)
    }

    /// Begins to collect what eviction must leave alone; what is used from now on, or since the
    /// oldest [`Protection`] held, is left alone without being in it.
    pub fn keep_set(&self) -> KeepSet {
        self.epochs.keep_set()
    }

    /// Protects what is stored, found or read from now on, until the guard is dropped.
    pub fn protect(&self) -> Protection {
        self.epochs.protect()
    }

    /// Returns when the regions of packs were last used, for packs where that changed since the
    /// last call.
    pub(super) fn take_used_hours(&self) -> Vec<(PackId, Vec<u32>)> {
        let list = Arc::clone(&self.packs.read());
        let hours = |pack: &Arc<Pack>| Some((pack.id(), pack.usage().take_hours()?));
        list.packs.iter().filter_map(hours).collect()
    }

    /// Takes over what an earlier run knew of the use of a pack.
    pub(super) fn set_used_hours(&self, id: PackId, hours: &[u32]) {
        if let Some(pack) = self.pack_now(id) {
            pack.usage().set_hours(hours);
        }
    }

    fn get_with(
        &self,
        cid: &Cid,
        enter: for<'a> fn(&Self, &'a Hit) -> Option<InUse<'a>>,
    ) -> Result<Option<Block>, StoreError> {
        if let Some(block) = Block::from_identity(cid) {
            return Ok(Some(block));
        }
        // Ends: each turn but the last finds a copy removed or marks one as damaged.
        while let Some(hit) = self.find_good(cid)? {
            let Some(_in_use) = enter(self, &hit) else { continue };
            let extent = hit.pack.extent(&hit.entry);
            let bytes = self.files.read(&extent, 0, extent.block_len())?;
            if let Some(block) = bytes.and_then(|bytes| Block::verify(*cid, bytes).ok()) {
                if hit.state == CopyState::Unproved {
                    self.mark(&hit, CopyState::Proved);
                }
                return Ok(Some(block));
            }
            self.mark_damaged(cid, &hit);
        }
        Ok(None)
    }

    /// Returns bytes of a copy that was proved since the start; `None` when there is none, and for a whole
    /// block unless that is to be trusted too.
    fn read_proved(
        &self,
        cid: &Cid,
        range: &Range<u64>,
        trust_whole: bool,
    ) -> Result<Option<BlockRange>, StoreError> {
        if Block::from_identity(cid).is_some() {
            return Ok(None);
        }
        while let Some(hit) = self.find_good(cid)? {
            let (extent, block_len) = (hit.pack.extent(&hit.entry), hit.entry.block_len());
            let part = extent.clip(range.clone());
            let is_whole = part.end - part.start == block_len;
            if hit.state != CopyState::Proved || (is_whole && !trust_whole) {
                break;
            }
            let Some(_in_use) = self.enter(&hit) else { continue };
            match self.files.read(&extent, part.start, part.end - part.start)? {
                Some(bytes) => return Ok(Some(BlockRange { bytes, block_len })),
                None => self.mark_damaged(cid, &hit),
            }
        }
        Ok(None)
    }

    fn mark(&self, hit: &Hit, state: CopyState) {
        if let Some(pack) = self.pack_now(hit.pack.id()) {
            pack.mark(&hit.entry, state);
        }
    }

    /// Notes that a copy is damaged, so that the next put of the block stores a new one. An archive
    /// that is out of use has said so itself, for all its copies.
    fn mark_damaged(&self, cid: &Cid, hit: &Hit) {
        if hit.pack.lost().is_none() {
            tracing::error!(%cid, place = self.place(hit), "stored bytes do not match their CID");
            self.mark(hit, CopyState::Damaged);
        }
    }

    /// Returns the error for a block of which this is the best copy.
    fn corrupt(&self, cid: &Cid, hit: &Hit) -> StoreError {
        let cid = Box::new(*cid);
        match hit.pack.lost() {
            None => StoreError::Corrupt { cid, place: self.place(hit) },
            Some((source, lost)) => {
                let (path, again) = (source.path.clone(), source.kind.command());
                StoreError::ForeignLost { cid, path, why: lost.to_string(), again }
            }
        }
    }

    fn place(&self, hit: &Hit) -> String {
        let extent = hit.pack.extent(&hit.entry);
        format!("{}, offset {}", self.files.path(&extent.file).display(), extent.offset)
    }
}

/// Returns the first good copy in `packs`, else the first damaged one.
fn best<'a>(packs: impl Iterator<Item = &'a Arc<Pack>>, key: &BlockKey) -> Option<Hit> {
    let mut damaged = None;
    for pack in packs {
        match pack.find(key) {
            None | Some((_, CopyState::Removed)) => {}
            Some((entry, state)) => {
                let hit = Hit { pack: Arc::clone(pack), entry, state };
                if state != CopyState::Damaged {
                    return Some(hit);
                }
                damaged = damaged.or(Some(hit));
            }
        }
    }
    damaged
}

impl BlockStore for DiskStore {
    fn block_len(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        if let Some(block) = Block::from_identity(cid) {
            return Ok(Some(block.data().len() as u64));
        }
        let Some(hit) = self.find_good(cid)? else { return Ok(None) };
        // A use like any other, but nothing is read that could go meanwhile.
        drop(hit.pack.usage().enter(hit.entry.start, self.now()));
        Ok(Some(hit.entry.block_len()))
    }

    fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.get_with(cid, Self::enter)
    }

    fn read_range(&self, cid: &Cid, range: Range<u64>) -> Result<Option<BlockRange>, StoreError> {
        if let Some(part) = self.read_proved(cid, &range, false)? {
            return Ok(Some(part));
        }
        Ok(self.get(cid)?.map(|block| BlockRange::of(&block, range)))
    }

    fn read_trusted(&self, cid: &Cid) -> Result<Option<Bytes>, StoreError> {
        if let Some(whole) = self.read_proved(cid, &(0..u64::MAX), true)? {
            return Ok(Some(whole.bytes));
        }
        Ok(self.get(cid)?.map(Block::into_data))
    }

    fn whole_file(&self, blocks: &[FileRange], unproved_max: u64) -> Result<FileState, StoreError> {
        self.find_whole(blocks, unproved_max)
    }

    fn peek_len(&self, cid: &Cid) -> Option<u64> {
        if let Some(block) = Block::from_identity(cid) {
            return Some(block.data().len() as u64);
        }
        let hit = self.find(&BlockKey::of(cid)).filter(|hit| hit.state != CopyState::Damaged)?;
        Some(hit.entry.block_len())
    }

    fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.write(blocks)
    }

    fn commit(&self) -> Result<(), StoreError> {
        self.group_commit()
    }

    fn remove(&self, cid: &Cid) -> Result<bool, StoreError> {
        let key = BlockKey::of(cid);
        match self.find_foreign(&key) {
            Some(path) => Err(StoreError::InForeignPack { cid: Box::new(*cid), path }),
            None => self.bury(&key),
        }
    }

    fn subscribe(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }
}

/// Returns the hours since 1970.
pub(super) fn hour_now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u32::try_from(since.as_secs() / 3600).unwrap_or(u32::MAX))
}
