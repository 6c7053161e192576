//! The directory of packs: file names, a bounded set of open descriptors, reading an extent.
//!
//! Numbers are unique across our packs and foreign ones. Whatever changes a file takes the number of
//! one of ours; of a foreign pack only its two files here can be named.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::block::Buffers;
use crate::store::StoreError;
use crate::store::diskio::DiskIo;
use crate::store::error::AtPath as _;
use crate::store::extent::{Extent, FileId, PackId};
use crate::store::pack::source::Source;
use crate::store::pack::{Entry, Pack};
use crate::sys::disk::is_bad_sector;
use crate::sys::lease::is_open_elsewhere;

/// Most pack descriptors kept open: a quarter of the usual limit of 1,024 for a process.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Memory kept for the next reads: what a few readers and peers have in their hands at a time.
const IDLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Smallest unit that a hole is punched in, in bytes: the page size of the common file systems.
const HOLE_ALIGN: u64 = 4096;

/// The `packs` directory.
#[derive(Debug)]
pub(in crate::store) struct PackFiles {
    dir: PathBuf,
    pub(in crate::store) disk: Arc<dyn DiskIo>,
    open: Mutex<LruCache<PackId, Arc<File>>>,
    buffers: Buffers,
}

/// The files `NNNNNNNNNN.<extension>` of the directory, at one moment.
#[derive(Debug, Default)]
pub(in crate::store) struct Names {
    ids: BTreeMap<String, Vec<PackId>>,
}

impl Names {
    /// Returns the numbers of the files with an extension, ascending.
    pub(in crate::store) fn ids(&self, extension: &str) -> &[PackId] {
        self.ids.get(extension).map_or(&[], Vec::as_slice)
    }

    /// Returns a number above that of every pack and of every sidecar whose pack is gone.
    pub(in crate::store) fn unused_id(&self) -> u64 {
        let last = |extension| self.ids(extension).last().map_or(0, |id| id.0);
        let extensions = ["car", "idx", "dead", "ref", "refidx", "file", "file.new", "leaves"];
        extensions.into_iter().map(last).fold(0, u64::max) + 1
    }
}

impl PackFiles {
    pub(in crate::store) fn new(dir: &Path, disk: Arc<dyn DiskIo>) -> Self {
        let open = Mutex::new(LruCache::new(OPEN_FILES_MAX));
        Self { dir: dir.to_owned(), disk, open, buffers: Buffers::new(IDLE_BYTES_MAX) }
    }

    pub(in crate::store) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of a pack itself.
    pub(in crate::store) fn pack(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.car"))
    }

    /// Returns the path of a pack's index file.
    pub(in crate::store) fn index(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.idx"))
    }

    /// Returns the path of an assembled file.
    pub(in crate::store) fn assembled(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.file"))
    }

    /// Returns the path of an assembled file that does not count yet, or no more.
    pub(in crate::store) fn unfinished(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.file.new"))
    }

    /// Returns the path of the sidecar of an assembled file.
    pub(in crate::store) fn leaves(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.leaves"))
    }

    /// Returns the path of a pack's tombstones.
    pub(in crate::store) fn tombs(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.dead"))
    }

    /// Returns the path of the record of a foreign pack.
    pub(in crate::store) fn reference(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.ref"))
    }

    /// Returns the path of the index of a foreign pack.
    pub(in crate::store) fn foreign_index(&self, id: PackId) -> PathBuf {
        self.dir.join(format!("{id}.refidx"))
    }

    /// Returns the path of a file that holds blocks.
    pub(in crate::store) fn path(&self, file: &FileId) -> PathBuf {
        match file {
            FileId::Pack(id) => self.pack(*id),
            FileId::Assembled(id) => self.assembled(*id),
            FileId::Foreign(source) => source.path.clone(),
        }
    }

    /// Returns the path of what says where the blocks of a file lie.
    pub(in crate::store) fn index_of(&self, file: &FileId) -> PathBuf {
        match file {
            FileId::Pack(id) => self.index(*id),
            FileId::Assembled(id) => self.leaves(*id),
            FileId::Foreign(source) => self.foreign_index(source.id),
        }
    }

    /// Returns the numbered files that are there now.
    pub(in crate::store) fn names(&self) -> Result<Names, StoreError> {
        let mut names = Names::default();
        let entries = std::fs::read_dir(&self.dir);
        self.disk.check_place().at(&self.dir)?;
        for entry in entries.at(&self.dir)? {
            let name = entry.at(&self.dir)?.file_name();
            let Some((number, extension)) = name.to_str().and_then(|name| name.split_once('.'))
            else {
                continue;
            };
            // Another way to write the number is another file; the last number has no next.
            let id = number.parse().ok().map(PackId).filter(|id| id.0 < u64::MAX);
            if let Some(id) = id.filter(|id| id.to_string() == number) {
                names.ids.entry(extension.to_owned()).or_default().push(id);
            }
        }
        names.ids.values_mut().for_each(|ids| ids.sort_unstable());
        Ok(names)
    }

    /// Returns the files with an extension that were set aside, and which numbers they had.
    pub(in crate::store) fn set_aside<'a>(
        &'a self,
        names: &'a Names,
        extension: &str,
    ) -> impl Iterator<Item = (PackId, PathBuf)> + use<'a> {
        let prefix = format!("{extension}.broken-");
        let broken = names.ids.iter().filter(move |(name, _)| name.starts_with(&prefix));
        broken.flat_map(move |(name, ids)| {
            ids.iter().map(move |id| (*id, self.dir.join(format!("{id}.{name}"))))
        })
    }

    /// Creates the file of a new pack.
    pub(in crate::store) fn create(&self, id: PackId) -> Result<Arc<File>, StoreError> {
        let path = self.pack(id);
        let file = Arc::new(self.disk.create(&path).at(&path)?);
        self.open.lock().put(id, Arc::clone(&file));
        Ok(file)
    }

    /// Removes a pack that holds nothing that counts.
    pub(in crate::store) fn discard(&self, id: PackId) {
        self.forget(id);
        let path = self.pack(id);
        if let Err(error) = self.disk.remove(&path) {
            tracing::warn!(pack = %path.display(), %error, "cannot remove an unfinished pack");
        }
    }

    /// Closes the file of a pack, when its last reader is done.
    pub(in crate::store) fn forget(&self, id: PackId) {
        self.open.lock().pop(&id);
    }

    /// Returns the open file of a pack.
    pub(in crate::store) fn file(&self, id: PackId) -> Result<Arc<File>, StoreError> {
        self.own_file(id, &self.pack(id))
    }

    /// Returns the open file of blocks of ours.
    pub(in crate::store) fn file_of(&self, pack: &Pack) -> Result<Arc<File>, StoreError> {
        self.own_file(pack.id(), &self.path(&pack.file()))
    }

    fn own_file(&self, id: PackId, path: &Path) -> Result<Arc<File>, StoreError> {
        if let Some(file) = self.open.lock().get(&id) {
            return Ok(Arc::clone(file));
        }
        let opened = OpenOptions::new().read(true).write(true).open(path);
        self.disk.check_place().at(path)?;
        let file = Arc::new(opened.at(path)?);
        self.open.lock().put(id, Arc::clone(&file));
        Ok(file)
    }

    /// Reads `len` bytes of a block from `skip` on with one `pread`; `None` when the file ends
    /// too early, the disk cannot read them, or a file of someone else is out of use.
    pub(in crate::store) fn read(
        &self,
        extent: &Extent,
        skip: u64,
        len: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        match &extent.file {
            FileId::Pack(id) | FileId::Assembled(id) => {
                let path = self.path(&extent.file);
                let file = match self.own_file(*id, &path) {
                    Err(StoreError::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        tracing::error!(%extent, "the file of stored bytes is gone");
                        return Ok(None);
                    }
                    file => file?,
                };
                self.read_from(&file, extent, skip, len).at(&path)
            }
            FileId::Foreign(source) => self.read_foreign(source, extent, skip, len),
        }
    }

    /// Tells whether a file of ours still has a name and is long enough for an extent; its bytes are
    /// not looked at.
    pub(in crate::store) fn may_hold(&self, extent: &Extent) -> Result<bool, StoreError> {
        let (FileId::Pack(id) | FileId::Assembled(id)) = &extent.file else { return Ok(true) };
        let path = self.path(&extent.file);
        let Ok(file) = self.own_file(*id, &path) else { return Ok(false) };
        let metadata = file.metadata().at(&path)?;
        Ok(metadata.nlink() > 0 && extent.offset + u64::from(extent.len) <= metadata.len())
    }

    /// Tells whether a file of ours is open or mapped by somebody else. The kernel tells of the last close
    /// of a file that it reads by itself, but a mapping of it lives on.
    ///
    /// # Errors
    /// When the disk does not tell.
    pub(in crate::store) fn is_open_elsewhere(&self, pack: &Pack) -> Result<bool, StoreError> {
        is_open_elsewhere(&*self.file_of(pack)?).at(&self.path(&pack.file()))
    }

    fn read_foreign(
        &self,
        source: &Source,
        extent: &Extent,
        skip: u64,
        len: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = self.archive(source)? else { return Ok(None) };
        let bytes = match self.read_from(&file, extent, skip, len) {
            Ok(bytes) => bytes,
            Err(error) => source.fail(error).map(|()| None)?,
        };
        // Asked after reading, so that what was written into it meanwhile is not served.
        if source.is_unchanged(&file)? {
            return Ok(bytes);
        }
        self.forget(source.id);
        Ok(None)
    }

    /// Returns the open file of a foreign pack; `None` when it is out of use.
    fn archive(&self, source: &Source) -> Result<Option<Arc<File>>, StoreError> {
        if let Some(file) = self.open.lock().get(&source.id) {
            return Ok(Some(Arc::clone(file)));
        }
        let file = source.open()?.map(Arc::new);
        if let Some(file) = &file {
            self.open.lock().put(source.id, Arc::clone(file));
        }
        Ok(file)
    }

    /// Gives the whole pages of a block back to the disk; they read as zeros from now on.
    pub(in crate::store) fn punch(&self, pack: &Pack, entry: &Entry) -> Result<(), StoreError> {
        let from = (entry.start + u64::from(entry.head_len)).next_multiple_of(HOLE_ALIGN);
        let end = entry.end() / HOLE_ALIGN * HOLE_ALIGN;
        let len = end.saturating_sub(from);
        if len == 0 {
            return Ok(());
        }
        self.disk.punch(&*self.file_of(pack)?, from, len).at(&self.path(&pack.file()))
    }

    fn read_from(
        &self,
        file: &File,
        extent: &Extent,
        skip: u64,
        len: u64,
    ) -> io::Result<Option<Bytes>> {
        let frame = extent.framing.frame(extent.len);
        let (head_len, content_len) = (frame.head.len() as u64, u64::from(extent.len));
        // The part of the wanted bytes in something that begins there and has that length.
        let part = |begin: u64, of: u64| {
            let at = |place: u64| place.saturating_sub(begin).min(of);
            at(skip)..at(skip + len)
        };
        let head = cut(&frame.head, part(0, head_len));
        let content = part(head_len, content_len);
        let tail = cut(&frame.tail, part(head_len + content_len, frame.tail.len() as u64));
        let middle =
            head.len()..head.len() + usize::try_from(content.end - content.start).unwrap_or(0);
        let mut bytes = self.buffers.take(middle.end + tail.len());
        bytes[..middle.start].copy_from_slice(head);
        bytes[middle.end..].copy_from_slice(tail);
        match file.read_exact_at(&mut bytes[middle], extent.offset + content.start) {
            Err(error) if is_damage(&error) => {
                tracing::error!(%extent, %error, "stored bytes cannot be read");
                Ok(None)
            }
            read => read.map(|()| Some(bytes.into_bytes())),
        }
    }
}

fn cut(bytes: &[u8], range: Range<u64>) -> &[u8] {
    let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.get(place(range.start)..place(range.end)).unwrap_or_default()
}

fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || is_bad_sector(error)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::diskio::RealDisk;
    use crate::store::framing::Framing;

    #[test]
    fn what_a_buffer_held_before_is_nowhere_in_what_is_read_next() {
        const LEN: u32 = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let files = PackFiles::new(dir.path(), Arc::new(RealDisk));
        let [ones, twos] = [1, 2].map(|byte| vec![byte; LEN as usize]);
        std::fs::write(files.assembled(PackId(1)), [&ones[..], &twos].concat()).unwrap();
        let extent = |offset, framing| {
            let file = FileId::Assembled(PackId(1));
            Extent { file, offset, len: LEN, framing }
        };
        let read =
            |extent: &Extent, skip| files.read(extent, skip, extent.block_len() - skip).unwrap();
        let framed = extent(LEN.into(), Framing::PbFile);
        let frame = Framing::PbFile.frame(LEN);
        let whole = [&frame.head[..], &twos, &frame.tail].concat();
        let mut homes = HashSet::new();
        for skip in [0, 1, 30_000] {
            let before = read(&extent(0, Framing::Bare), 0).unwrap();
            assert_eq!(before, ones);
            homes.insert(before.as_ptr());
            drop(before);
            let cut_off = extent(u64::from(LEN) + 50_000, Framing::Bare);
            assert_eq!(read(&cut_off, 0), None);
            let bytes = read(&framed, skip).unwrap();
            homes.insert(bytes.as_ptr());
            assert!(bytes == whole[usize::try_from(skip).unwrap()..], "from {skip} on");
        }
        assert!(homes.len() < 6, "some memory was used again");
    }
}
