//! Assembled files that are whole, for who wants to read one without the store in between.
//!
//! The lease comes first and the look after it: what is leased is not given back, so what was found
//! whole stays so until the lease ends.

use std::fs::File;
use std::sync::Arc;

use super::{CopyState, DiskStore};
use crate::block::{Block, Cid};
use crate::store::StoreError;
use crate::store::error::AtPath as _;
use crate::store::key::BlockKey;
use crate::store::pack::index::SealedPack;
use crate::store::pack::usage::Lease;
use crate::store::pack::{Entry, Pack};
use crate::sys::disk::is_shortage;

/// A block and its place in a file.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The block.
    pub cid: Cid,
    /// Its first byte in the file.
    pub offset: u64,
    /// Bytes of the file that it holds: all of a raw block, the content of a dag-pb one.
    pub len: u32,
}

/// A file on this disk, proved since the start; nothing of it is given back as long as this lives.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    _lease: Lease,
}

impl WholeFile {
    /// Returns the file, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// How a file lies on this disk.
#[derive(Debug)]
pub enum FileState {
    /// As one file.
    Whole(WholeFile),
    /// As one file, of which more than was allowed is not proved yet.
    Unproved,
    /// Not here, in parts, or not as it should be.
    Parts,
}

/// What is still to be hashed of a file that lies as one.
struct Unproved<'a> {
    places: Vec<(Entry, &'a Cid)>,
    /// Stands for its repeats and their places.
    repeats: [u8; 32],
}

impl DiskStore {
    /// Looks for the file that is `blocks`, in order and without gaps; see
    /// [`BlockStore::whole_file`](crate::store::BlockStore::whole_file).
    pub(super) fn find_whole(
        &self,
        blocks: &[FileRange],
        unproved_max: u64,
    ) -> Result<FileState, StoreError> {
        let end = blocks.last().map_or(0, |last| last.offset + u64::from(last.len));
        let Some(pack) = blocks.iter().find_map(|block| self.assembled_with(block, end)) else {
            return Ok(FileState::Parts);
        };
        let lease = Lease::new(Arc::clone(pack.usage()));
        let Pack::Assembled(sealed) = &*pack else { return Ok(FileState::Parts) };
        let Some(unproved) = self.unproved_of(sealed, blocks) else { return Ok(FileState::Parts) };
        let bytes: u64 = unproved.places.iter().map(|(entry, _)| u64::from(entry.len)).sum();
        if bytes > unproved_max {
            return Ok(FileState::Unproved);
        }
        for (entry, cid) in &unproved.places {
            if !self.prove(&pack, entry, cid)? {
                return Ok(FileState::Parts);
            }
        }
        sealed.repeats.prove(unproved.repeats);
        if let Err(error) = self.files.is_open_elsewhere(&pack) {
            tracing::debug!(%error, "the disk does not tell who has a file open; it is read in parts");
            return Ok(FileState::Parts);
        }
        let path = self.files.path(&pack.file());
        let opened = File::open(&path);
        self.files.disk.check_place().at(&path)?;
        let file = opened.at(&path)?;
        let len = file.metadata().at(&path)?.len();
        if len != end {
            tracing::error!(file = %path.display(), len, should_be = end,
                "an assembled file was cut or made longer; it is read in parts");
            return Ok(FileState::Parts);
        }
        Ok(FileState::Whole(WholeFile { file, _lease: lease }))
    }

    /// Returns what of a file was not hashed since the start, `None` when it is not here in one piece.
    /// Looking is a use of it.
    fn unproved_of<'a>(&self, file: &SealedPack, blocks: &'a [FileRange]) -> Option<Unproved<'a>> {
        let now = self.now();
        let (mut places, mut again, mut repeats) = (Vec::new(), Vec::new(), blake3::Hasher::new());
        for block in blocks {
            drop(file.usage.enter(block.offset, now));
            let (found, state) = file.find(&BlockKey::of(&block.cid))?;
            let is_here = state < CopyState::Damaged;
            if !is_here || found.len != block.len || !found.framing.fits(&block.cid) {
                return None;
            }
            // One that lies in another place of the file too has but one entry.
            let entry = Entry { start: block.offset, ..found };
            if entry != found {
                repeats.update(&entry.key.digest);
                repeats.update(&entry.start.to_le_bytes());
                again.push((entry, &block.cid));
            } else if state == CopyState::Unproved {
                places.push((entry, &block.cid));
            }
        }
        let repeats = *repeats.finalize().as_bytes();
        if !file.repeats.are_proved(&repeats) {
            places.append(&mut again);
        }
        Some(Unproved { places, repeats })
    }

    /// Tells whether somebody reads a file without the store in between, so that nothing of it may be
    /// given back.
    pub(super) fn is_held(&self, pack: &Pack) -> bool {
        let is_assembled = matches!(pack, Pack::Assembled(_));
        let is_open = || match self.files.is_open_elsewhere(pack) {
            Ok(is_open) => is_open,
            // Where the disk never tells, nobody was given such a file; want of descriptors passes.
            Err(StoreError::Io { source, .. }) => is_shortage(&source),
            Err(_) => false,
        };
        pack.usage().is_leased() || (is_assembled && is_open())
    }

    /// Returns the assembled file of so many bytes in which a good copy of a block lies at its place.
    pub(super) fn assembled_with(&self, block: &FileRange, len: u64) -> Option<Arc<Pack>> {
        let is_there =
            |pack: &Pack, entry: &Entry| pack.covered_len() == len && entry.start == block.offset;
        self.find_assembled(&BlockKey::of(&block.cid), is_there).map(|(pack, _)| pack)
    }

    /// Returns the newest good copy of a block in an assembled file that is as it should be.
    pub(super) fn find_assembled(
        &self,
        key: &BlockKey,
        should_be: impl Fn(&Pack, &Entry) -> bool,
    ) -> Option<(Arc<Pack>, Entry)> {
        let list = Arc::clone(&self.packs.read());
        list.assembled_candidates(key).find_map(|file| {
            let (entry, state) = file.find(key)?;
            (state < CopyState::Damaged && should_be(file, &entry))
                .then(|| (Arc::clone(file), entry))
        })
    }

    /// Hashes the bytes at a place of a file.
    fn prove(&self, pack: &Pack, entry: &Entry, cid: &Cid) -> Result<bool, StoreError> {
        let extent = pack.extent(entry);
        let bytes = self.files.read(&extent, 0, extent.block_len())?;
        let is_good = bytes.is_some_and(|bytes| Block::verify(*cid, bytes).is_ok());
        if is_good {
            pack.mark(entry, CopyState::Proved);
        }
        Ok(is_good)
    }
}
