//! The index file of a pack (`NNNNNNNNNN.idx`) and the sealed pack that answers from it.
//!
//! The file is a header and sorted entries of fixed length, checksummed as a whole, written once
//! and mapped, or read when it is short. It covers the first `pack_len` bytes of its pack, all of which
//! were durable before it was written. In memory a sealed pack keeps about 5 bytes per block: a filter, a table from the
//! digest's top bits to a position, 16 more bits of each digest, and what is known of each copy. A
//! look-up of a block that is not in the pack touches no page of the file, except once in about
//! 250,000 times.

use std::fs::File;
use std::io::{self, IoSlice, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filter::{self, Filter};
use super::usage::Usage;
use super::{CopyState, Entry, Repeats, StateCell, Totals};
use crate::store::StoreError;
use crate::store::diskio::{DiskIo, replace, write_beside};
use crate::store::error::AtPath as _;
use crate::store::extent::PackId;
use crate::store::framing::Framing;
use crate::store::key::BlockKey;
use crate::sys::mmap::ReadMap;

const MAGIC: [u8; 8] = *b"cidfsidx";
/// Version of the file format of which every block is bare, and the one in which a block may be framed.
const VERSION_BARE: u32 = 1;
const VERSION: u32 = 2;
/// Bytes of the header: magic, version, count, pack id, pack length, entries' and own checksum,
/// zeros up to the length of an entry.
const HEADER_LEN: usize = 48;
/// Bytes of an entry: digest, section start, block length, head length, flags.
const ENTRY_LEN: usize = 32 + 8 + 4 + 2 + 2;
const FLAG_DERIVED: u16 = 1;
/// The bits of the flags that say how a block is framed, and where they begin.
const FRAMING_MASK: u16 = 6;
const FRAMING_SHIFT: u32 = 1;
/// Longest index in bytes that is read into memory, 340 entries: a process may have 65,530 maps, and
/// every big file has an index.
const READ_LEN_MAX: u64 = 16 * 1024;
/// Entries per bucket of the position table, as a power of two: 8 prints fill a quarter of a cache
/// line and the table costs half a byte per block.
const BUCKET_BITS: u32 = 3;

/// A pack whose index is a mapped file.
#[derive(Debug)]
pub(in crate::store) struct SealedPack {
    pub(in crate::store) id: PackId,
    /// How many bytes of the pack the index covers.
    pub(in crate::store) pack_len: u64,
    pub(in crate::store) usage: Arc<Usage>,
    bytes: IndexBytes,
    /// Position of the first entry of each bucket, and the number of entries at the end.
    starts: Box<[u32]>,
    /// Bits 32..48 of each digest, in the order of the entries.
    prints: Box<[u16]>,
    states: Box<[StateCell]>,
    pub(in crate::store) repeats: Repeats,
    pub(super) filter: Filter,
}

/// The bytes of an index file.
#[derive(Debug)]
enum IndexBytes {
    Mapped(ReadMap),
    Read(Box<[u8]>),
}

impl IndexBytes {
    fn of(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() > READ_LEN_MAX {
            return ReadMap::of(file).map(Self::Mapped);
        }
        let mut bytes = Vec::new();
        file.take(READ_LEN_MAX).read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes.into()))
    }
}

impl Deref for IndexBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

/// Why an index file is of no use.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum IndexError {
    /// There is none.
    #[error("missing")]
    Missing,
    /// It says something else than what was written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IndexError {
    /// Returns the error for an index that must be there.
    pub(in crate::store) fn at_path(self, path: &Path) -> StoreError {
        match self {
            Self::Store(error) => error,
            unusable => StoreError::io(path, std::io::Error::other(unusable)),
        }
    }
}

/// Writes the index of the first `pack_len` bytes of a pack, durable when this returns.
///
/// Of several entries of one key the last in the pack counts.
pub(in crate::store) fn write(
    disk: &dyn DiskIo,
    path: &Path,
    id: PackId,
    pack_len: u64,
    entries: Vec<Entry>,
) -> Result<(), StoreError> {
    let (header, body) = encode_all(id, pack_len, entries);
    replace(disk, path, &mut [IoSlice::new(&header), IoSlice::new(&body)]).map(drop)
}

/// Writes such an index beside `path`, to be synced and moved there; returns its name and it.
pub(in crate::store) fn write_new(
    disk: &dyn DiskIo,
    path: &Path,
    id: PackId,
    pack_len: u64,
    entries: Vec<Entry>,
) -> Result<(PathBuf, Arc<File>), StoreError> {
    let (header, body) = encode_all(id, pack_len, entries);
    let content = &mut [IoSlice::new(&header), IoSlice::new(&body)];
    write_beside(disk, path, content).map(|(new, file)| (new, Arc::new(file)))
}

fn encode_all(id: PackId, pack_len: u64, mut entries: Vec<Entry>) -> ([u8; HEADER_LEN], Vec<u8>) {
    one_per_key(&mut entries);
    let mut body = Vec::with_capacity(entries.len() * ENTRY_LEN);
    for entry in &entries {
        body.extend_from_slice(&encode(entry));
    }
    let is_bare = entries.iter().all(|entry| entry.framing == Framing::Bare);
    let version = if is_bare { VERSION_BARE } else { VERSION };
    (encode_header(version, id, pack_len, &body), body)
}

/// Sorts entries by key and leaves the last in the pack of each.
pub(in crate::store) fn one_per_key(entries: &mut Vec<Entry>) {
    entries.sort_unstable_by_key(|entry| (entry.key, std::cmp::Reverse(entry.start)));
    entries.dedup_by_key(|entry| entry.key);
}

fn encode_header(version: u32, id: PackId, pack_len: u64, body: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let count = u32::try_from(body.len() / ENTRY_LEN).unwrap_or(u32::MAX);
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[12..16].copy_from_slice(&count.to_le_bytes());
    header[16..24].copy_from_slice(&id.0.to_le_bytes());
    header[24..32].copy_from_slice(&pack_len.to_le_bytes());
    header[32..36].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let check = crc32fast::hash(&header[..36]);
    header[36..40].copy_from_slice(&check.to_le_bytes());
    header
}

fn encode(entry: &Entry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..32].copy_from_slice(&entry.key.digest);
    bytes[32..40].copy_from_slice(&entry.start.to_le_bytes());
    bytes[40..44].copy_from_slice(&entry.len.to_le_bytes());
    bytes[44..46].copy_from_slice(&entry.head_len.to_le_bytes());
    let derived = if entry.key.derived { FLAG_DERIVED } else { 0 };
    let flags = derived | (entry.framing as u16) << FRAMING_SHIFT;
    bytes[46..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; ENTRY_LEN]) -> Entry {
    let [d @ .., s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3, h0, h1, f0, f1] = *bytes;
    let flags = u16::from_le_bytes([f0, f1]);
    Entry {
        key: BlockKey { digest: d, derived: flags & FLAG_DERIVED != 0 },
        start: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        head_len: u16::from_le_bytes([h0, h1]),
        len: u32::from_le_bytes([l0, l1, l2, l3]),
        framing: framing_of(bytes).unwrap_or_default(),
    }
}

/// Returns the framing of an entry, `None` when it has no meaning.
fn framing_of(bytes: &[u8; ENTRY_LEN]) -> Option<Framing> {
    let flags = u16::from_le_bytes([bytes[46], bytes[47]]);
    Framing::of_code((flags & FRAMING_MASK) >> FRAMING_SHIFT)
}

impl SealedPack {
    /// Opens and checks an index file.
    pub(in crate::store) fn open(path: &Path, id: PackId) -> Result<Self, IndexError> {
        let mut sealed = Self::read(path, id)?;
        sealed.filter = filter::build(sealed.keys(), sealed.raw().len());
        Ok(sealed)
    }

    /// Opens and checks the sidecar of an assembled file, whose readers go by the place of a leaf alone, and
    /// which is found without a filter.
    pub(in crate::store) fn open_leaves(path: &Path, id: PackId) -> Result<Self, IndexError> {
        let sealed = Self::read(path, id)?;
        let is_leaf = |entry: &Entry| entry.head_len == 0 && !entry.key.derived;
        if !sealed.raw().iter().all(|raw| is_leaf(&decode(raw))) {
            return Err(IndexError::Damaged("an entry cannot be that of a leaf"));
        }
        Ok(sealed)
    }

    fn read(path: &Path, id: PackId) -> Result<Self, IndexError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(IndexError::Missing);
            }
            file => file.at(path)?,
        };
        if file.metadata().at(path)?.len() < HEADER_LEN as u64 {
            return Err(IndexError::Damaged("shorter than its header"));
        }
        let bytes = IndexBytes::of(&file).at(path)?;
        let pack_len = check(&bytes, path, id)?;
        let mut sealed = Self {
            id,
            pack_len,
            usage: Arc::new(Usage::new(pack_len)),
            bytes,
            starts: Box::default(),
            prints: Box::default(),
            states: Box::default(),
            repeats: Repeats::default(),
            filter: Filter::default(),
        };
        sealed.fill_tables();
        sealed.usage.add_live(sealed.raw().iter().map(|raw| decode(raw).section_len()).sum());
        Ok(sealed)
    }

    /// Goes on with the usage of the open pack that this one takes the place of.
    pub(in crate::store) fn with_usage(self, usage: Arc<Usage>) -> Self {
        Self { usage, ..self }
    }

    /// Finds a key: table, prints, and only then the file.
    pub(in crate::store) fn find(&self, key: &BlockKey) -> Option<(Entry, CopyState)> {
        let slot = self.slot(key)?;
        Some((decode(&self.raw()[slot]), self.states[slot].get()))
    }

    /// Takes a state over from the open pack that this one takes the place of.
    pub(in crate::store) fn inherit(&self, entry: &Entry, state: CopyState) {
        self.mark(entry, state);
    }

    pub(super) fn mark(&self, entry: &Entry, state: CopyState) -> bool {
        let slot = self.slot(&entry.key);
        let slot = slot.filter(|slot| decode(&self.raw()[*slot]).start == entry.start);
        slot.is_some_and(|slot| self.states[slot].set(state))
    }

    pub(in crate::store) fn entries(&self) -> Vec<(Entry, CopyState)> {
        let states = self.states.iter().map(StateCell::get);
        self.raw().iter().map(decode).zip(states).collect()
    }

    /// Returns the keys of all copies, removed ones included.
    pub(super) fn keys(&self) -> impl Iterator<Item = BlockKey> {
        self.raw().iter().map(|raw| decode(raw).key)
    }

    pub(super) fn totals(&self) -> Totals {
        let copies = self.raw().iter().zip(&self.states);
        let live = copies.filter(|(_, state)| state.get() != CopyState::Removed);
        live.fold(Totals::default(), |sum, (raw, _)| Totals {
            blocks: sum.blocks + 1,
            bytes: sum.bytes + decode(raw).block_len(),
        })
    }

    fn slot(&self, key: &BlockKey) -> Option<usize> {
        let bucket = bucket(&key.digest, self.bits());
        let from = usize::try_from(self.starts[bucket]).ok()?;
        let to = usize::try_from(self.starts[bucket + 1]).ok()?;
        let print = print(&key.digest);
        let mut slots = self.prints[from..to].iter().enumerate();
        slots.find_map(|(at, have)| {
            let slot = from + at;
            (*have == print && decode(&self.raw()[slot]).key == *key).then_some(slot)
        })
    }

    fn raw(&self) -> &[[u8; ENTRY_LEN]] {
        self.bytes[HEADER_LEN..].as_chunks().0
    }

    /// Returns how many top bits of a digest choose the bucket.
    fn bits(&self) -> u32 {
        (self.starts.len() - 1).ilog2()
    }

    fn fill_tables(&mut self) {
        let count = self.raw().len();
        let bits = (count >> BUCKET_BITS).checked_ilog2().unwrap_or(0);
        let mut starts = vec![0_u32; (1 << bits) + 1];
        let mut prints = Vec::with_capacity(count);
        for raw in self.raw() {
            let digest = raw.first_chunk().unwrap_or(&[0; 32]);
            starts[bucket(digest, bits) + 1] += 1;
            prints.push(print(digest));
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        self.starts = starts.into();
        self.prints = prints.into();
        self.states = std::iter::repeat_with(StateCell::default).take(count).collect();
    }
}

/// Checks all of an index file and returns the pack length it covers.
fn check(map: &[u8], path: &Path, id: PackId) -> Result<u64, IndexError> {
    let damaged = IndexError::Damaged;
    let (header, body) =
        map.split_first_chunk::<HEADER_LEN>().ok_or(damaged("shorter than its header"))?;
    if header[..8] != MAGIC || u32_at(header, 36) != crc32fast::hash(&header[..36]) {
        return Err(damaged("its header does not match its checksum"));
    }
    let version = u32_at(header, 8);
    if !(VERSION_BARE..=VERSION).contains(&version) {
        let found = version.to_string();
        let path = path.to_owned();
        return Err(StoreError::Version { path, found, known: VERSION }.into());
    }
    if u64_at(header, 16) != id.0 {
        return Err(damaged("it belongs to another pack"));
    }
    let (entries, rest) = body.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() || entries.len() as u64 != u64::from(u32_at(header, 12)) {
        return Err(damaged("its length does not match its header"));
    }
    if u32_at(header, 32) != crc32fast::hash(body) {
        return Err(damaged("its entries do not match their checksum"));
    }
    let pack_len = u64_at(header, 24);
    if !entries.iter().all(|entry| lies_within(&decode(entry), pack_len)) {
        return Err(damaged("an entry lies outside the pack"));
    }
    if !entries.iter().all(|entry| has_sound_framing(entry, version)) {
        return Err(damaged("an entry has a framing that cannot be"));
    }
    if !entries.is_sorted_by(|a, b| decode(a).key < decode(b).key) {
        return Err(damaged("its entries are out of order, or two are of one block"));
    }
    Ok(pack_len)
}

/// Tells whether a section ends before `pack_len`; its numbers may be any.
fn lies_within(entry: &Entry, pack_len: u64) -> bool {
    let room = pack_len.checked_sub(entry.start);
    room.is_some_and(|room| u64::from(entry.head_len) + u64::from(entry.len) <= room)
}

fn has_sound_framing(bytes: &[u8; ENTRY_LEN], version: u32) -> bool {
    let entry = decode(bytes);
    match framing_of(bytes) {
        None => false,
        Some(Framing::Bare) => true,
        Some(_) => version == VERSION && !entry.key.derived && entry.head_len == 0 && entry.len > 0,
    }
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn bucket(digest: &[u8; 32], bits: u32) -> usize {
    let [a, b, c, d, ..] = *digest;
    let top = u64::from(u32::from_be_bytes([a, b, c, d]));
    usize::try_from((top << bits) >> 32).unwrap_or(0)
}

fn print(digest: &[u8; 32]) -> u16 {
    u16::from_be_bytes([digest[4], digest[5]])
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;
    use crate::store::diskio::RealDisk;

    fn entry(n: u32) -> Entry {
        let digest = sha2::Sha256::digest(n.to_be_bytes()).into();
        let key = BlockKey { digest, derived: n.is_multiple_of(5) };
        let (start, framing) = (100 * u64::from(n), Framing::Bare);
        Entry { key, start, head_len: 38, len: n % 60, framing }
    }

    fn written(dir: &Path, count: u32) -> PathBuf {
        let path = dir.join(format!("{count}.idx"));
        let entries: Vec<_> = (0..count).map(entry).collect();
        write(&RealDisk, &path, PackId(7), 100 * u64::from(count), entries).unwrap();
        path
    }

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, 2, 7, 8, 9, 500, 5000] {
            let pack = SealedPack::open(&written(dir.path(), count), PackId(7)).unwrap();
            for n in 0..count {
                assert_eq!(pack.find(&entry(n).key), Some((entry(n), CopyState::Unproved)), "{n}");
            }
            for n in count..count + 100 {
                assert_eq!(pack.find(&entry(n).key), None);
            }
            if let Some(n) = count.checked_sub(1) {
                let mut twin = entry(n).key;
                twin.derived = !twin.derived;
                assert_eq!(pack.find(&twin), None, "the flag is part of the key");
            }
            assert_eq!(pack.totals().blocks, u64::from(count));
        }
    }

    #[test]
    fn of_two_copies_the_last_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idx");
        let (old, new) = (entry(1), Entry { start: 900, ..entry(1) });
        write(&RealDisk, &path, PackId(7), 1000, vec![old, entry(2), new]).unwrap();
        let pack = SealedPack::open(&path, PackId(7)).unwrap();
        assert_eq!(pack.find(&old.key).unwrap().0, new);
        pack.mark(&old, CopyState::Damaged);
        assert_eq!(pack.find(&old.key).unwrap().1, CopyState::Unproved, "another copy");
        pack.mark(&new, CopyState::Damaged);
        assert_eq!(pack.find(&old.key).unwrap().1, CopyState::Damaged);
    }

    #[test]
    fn an_entry_beyond_the_pack_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idx");
        let check = |start, is_inside| {
            write(&RealDisk, &path, PackId(7), 1000, vec![Entry { start, ..entry(1) }]).unwrap();
            let opened = SealedPack::open(&path, PackId(7));
            assert_eq!(opened.is_ok(), is_inside, "{start}: {opened:?}");
        };
        check(1000 - 38 - 1, true);
        check(1000 - 38, false);
        check(1000, false);
        check(u64::MAX, false);
    }

    #[test]
    fn entries_out_of_order_and_two_of_one_key_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.idx");
        let mut sorted: Vec<_> = (0..3).map(entry).collect();
        one_per_key(&mut sorted);
        let [a, b, c] = sorted[..] else { unreachable!("three keys") };
        let twin = Entry { start: 900, ..a };
        let cases = [
            (vec![a, b, c], true),
            (vec![a, c, b], false),
            (vec![a, a], false),
            (vec![a, twin], false),
        ];
        for (entries, is_good) in cases {
            let body: Vec<u8> = entries.iter().flat_map(encode).collect();
            let file = [&encode_header(VERSION_BARE, PackId(7), 1000, &body)[..], &body].concat();
            std::fs::write(&path, file).unwrap();
            let opened = SealedPack::open(&path, PackId(7));
            assert_eq!(opened.is_ok(), is_good, "{entries:?}: {opened:?}");
        }
    }

    #[test]
    fn framings_that_cannot_be_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.leaves");
        let bare = Entry { head_len: 0, len: 50, ..entry(1) };
        let framed = Entry { framing: Framing::PbRaw, ..bare };
        let derived = Entry { key: BlockKey { derived: true, ..bare.key }, ..framed };
        let cases = [
            (bare, 0, VERSION_BARE, true),
            (bare, 0, VERSION, true),
            (framed, 0, VERSION, true),
            (framed, 0, VERSION_BARE, false),
            (bare, FRAMING_MASK, VERSION, false),
            (derived, 0, VERSION, false),
            (Entry { head_len: 38, ..framed }, 0, VERSION, false),
            (Entry { len: 0, ..framed }, 0, VERSION, false),
        ];
        for (entry, more_flags, version, is_good) in cases {
            let mut body = encode(&entry);
            body[46] |= more_flags.to_le_bytes()[0];
            let file = [&encode_header(version, PackId(7), 1000, &body)[..], &body].concat();
            std::fs::write(&path, file).unwrap();
            let opened = SealedPack::open(&path, PackId(7));
            assert_eq!(opened.is_ok(), is_good, "{entry:?} {more_flags} {version}: {opened:?}");
            if let Ok(sealed) = opened {
                assert_eq!(sealed.entries()[0].0, entry);
            }
        }
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 20);
        let good = std::fs::read(&path).unwrap();
        for at in (0..40).chain((HEADER_LEN..good.len()).step_by(13)) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            assert!(SealedPack::open(&path, PackId(7)).is_err(), "byte {at}");
        }
        for len in [0, 10, HEADER_LEN, HEADER_LEN + ENTRY_LEN, good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(SealedPack::open(&path, PackId(7)).is_err(), "cut to {len}");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(SealedPack::open(&path, PackId(8)).is_err(), "the index of another pack");
    }
}
