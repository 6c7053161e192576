//! Packs, their indices and tombstones: any files open or are refused with a reason, only proved
//! blocks are served, and what was served once stays.
//!
//! The input says what the three files of one pack are: made by the rules, against them, or any
//! bytes. Checksums are right, so that what is behind them is reached.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use cidfs::block::{Block, Cid, HashFn, codecs};
use cidfs::codec::car::write_section;
use cidfs::store::{BlockStore, DiskOptions, DiskStore, Repository, StoreError};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

mod scratch;

/// Parts of a pack, entries of an index, tombstones.
const PARTS_MAX: usize = 6;
/// Bytes of a block, or of a part that is none.
const BYTES_MAX: usize = 60;
const PACK_HEADER: &[u8] = b"\x19\xa2eroots\x81\xd8\x2aE\x00\x01\x55\x00\x00gversion\x01";
/// The number of the pack.
const PACK: u64 = 1;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| scratch::dir("pack"));

fuzz_target!(|data: &[u8]| {
    // An input that ends early is no input.
    if let Ok(case) = Case::new(&mut Unstructured::new(data)) {
        case.check();
    }
});

/// The files of one pack.
#[derive(Default)]
struct Case {
    pack: Vec<u8>,
    index: Option<Vec<u8>>,
    tombs: Option<Vec<u8>>,
    /// Whole sections and where they begin.
    sections: Vec<(Block, u64)>,
    /// How many of them lie in front of everything else.
    intact: usize,
    blocks_max: usize,
    rebuild: bool,
    /// Whether it is opened again and changed: three times the work of all before.
    goes_on: bool,
}

impl Case {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let mut case = Self { blocks_max: input.int_in_range(1..=8)?, ..Self::default() };
        case.rebuild = input.ratio(1, 4)?;
        case.goes_on = input.ratio(1, 4)?;
        let has_header = !input.ratio(1, 8)?;
        if has_header {
            case.pack.extend_from_slice(PACK_HEADER);
        }
        let mut is_intact = has_header;
        for _ in 0..input.int_in_range(0..=PARTS_MAX)? {
            is_intact &= case.add_part(input)?;
            case.intact += usize::from(is_intact);
        }
        if input.ratio(1, 8)? {
            case.pack.truncate(input.int_in_range(0..=case.pack.len())?);
            case.intact = 0;
        }
        case.index = case.index(input)?;
        case.tombs = case.tombs(input)?;
        Ok(case)
    }

    /// Adds a section, or something else; tells which.
    fn add_part(&mut self, input: &mut Unstructured<'_>) -> Result<bool> {
        let start = self.pack.len() as u64;
        let kind = input.int_in_range(0..=5)?;
        if kind == 0 {
            self.pack.extend(bytes(input)?);
            return Ok(false);
        }
        let hash = input.choose(&["sha2-256", "identity", "blake3", "sha1"])?;
        let hash = HashFn::by_name(hash).expect("a name of the list");
        let block = Block::hash(codecs::RAW, hash, bytes(input)?.into()).expect("it is short");
        write_section(&mut self.pack, &block).expect("memory");
        let is_whole = kind > 1;
        if is_whole {
            self.sections.push((block, start));
        } else {
            let len = self.pack.len() as u64 - start;
            let at = start + input.int_in_range(0..=len - 1)?;
            self.pack[usize::try_from(at).expect("it is short")] ^= input.arbitrary::<u8>()?;
        }
        Ok(is_whole)
    }

    /// Returns an index with right checksums, or any bytes.
    fn index(&self, input: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        let pack_len = match input.int_in_range(0..=4)? {
            0 => self.pack.len() as u64,
            1 => input.arbitrary()?,
            2 => return Ok(Some(bytes(input)?)),
            _ => return Ok(None),
        };
        for _ in 0..input.int_in_range(0..=PARTS_MAX)? {
            let (digest, start, derived) = self.place(input)?;
            body.extend_from_slice(&digest);
            body.extend_from_slice(&start.to_le_bytes());
            // Lengths that may be right are worth more than others.
            let lens: [u32; 4] = [input.int_in_range(0..=64)?, 0, u32::MAX, input.arbitrary()?];
            body.extend_from_slice(&input.choose(&lens)?.to_le_bytes());
            body.extend_from_slice(&input.choose(&[37_u16, 0, 38, u16::MAX])?.to_le_bytes());
            body.extend_from_slice(&u16::from(derived).to_le_bytes());
        }
        let count = (body.len() / 48) as u32;
        let mut file = b"cidfsidx\x01\0\0\0".to_vec();
        file.extend_from_slice(&count.to_le_bytes());
        file.extend_from_slice(&PACK.to_le_bytes());
        file.extend_from_slice(&pack_len.to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        let check = crc32fast::hash(&file);
        file.extend_from_slice(&check.to_le_bytes());
        file.extend_from_slice(&[0; 8]);
        Ok(Some([file, body].concat()))
    }

    /// Returns tombstones with right checksums, or any bytes.
    fn tombs(&self, input: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
        match input.int_in_range(0..=3)? {
            0 => {}
            1 => return Ok(Some(bytes(input)?)),
            _ => return Ok(None),
        }
        let mut file = b"cidtomb\x01".to_vec();
        for _ in 0..input.int_in_range(0..=PARTS_MAX)? {
            let (digest, start, derived) = self.place(input)?;
            let flags = u32::from(derived).to_le_bytes();
            let record = [&digest[..], &start.to_le_bytes(), &flags].concat();
            file.extend_from_slice(&record);
            file.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
        }
        Ok(Some(file))
    }

    /// Returns a key and an offset, of a section or any.
    fn place(&self, input: &mut Unstructured<'_>) -> Result<([u8; 32], u64, bool)> {
        let start = if input.ratio(1, 4)? { input.arbitrary()? } else { None };
        let at = input.arbitrary::<usize>()? % self.sections.len().max(1);
        let (digest, true_start) = match self.sections.get(at) {
            Some((block, start)) => {
                (block.cid().hash().digest().try_into().unwrap_or([7; 32]), *start)
            }
            None => ([7; 32], 0),
        };
        Ok((digest, start.unwrap_or(true_start), input.ratio(1, 8)?))
    }

    fn check(&self) {
        let packs = DIR.join("packs");
        scratch::empty(&packs);
        self.write(&packs);
        if self.rebuild {
            fs::write(DIR.join("version"), "1\n").expect("room for a file");
            Repository::rebuild(&DIR, &mut |_| ControlFlow::Continue(())).expect("a rebuild");
        }
        let Some(store) = self.open(&packs) else { return };
        let served = self.served(&store);
        if self.index.is_none() && self.tombs.is_none() {
            for (block, _) in &self.sections[..self.intact] {
                assert!(served.contains_key(block.cid()), "{} is lost", block.cid());
            }
        }
        drop(store);
        if !self.goes_on {
            return;
        }
        let store = self.open(&packs).expect("it was repaired");
        assert_eq!(self.served(&store), served, "after a crash");
        check_changes(&store, &served);
        store.close().expect("a clean stop");
        let store = self.open(&packs).expect("it was closed");
        let now = self.served(&store);
        // The first of them was removed.
        assert!(served.iter().skip(1).all(|(cid, data)| now.get(cid) == Some(data)));
        assert!(store.get(new_block().cid()).expect("it was stored").is_some());
    }

    fn write(&self, packs: &Path) {
        let files = [
            ("car", Some(&self.pack)),
            ("idx", self.index.as_ref()),
            ("dead", self.tombs.as_ref()),
        ];
        for (extension, content) in files {
            if let Some(content) = content {
                fs::write(packs.join(format!("{PACK:010}.{extension}")), content)
                    .expect("room for a file");
            }
        }
    }

    fn open(&self, packs: &Path) -> Option<DiskStore> {
        let options = DiskOptions { pack_blocks_max: self.blocks_max, ..DiskOptions::default() };
        match DiskStore::open(packs, options) {
            Ok(store) => Some(store),
            Err(StoreError::Version { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads every block in every way; returns those that can be had.
    fn served(&self, store: &DiskStore) -> BTreeMap<Cid, Bytes> {
        let mut served = BTreeMap::new();
        for (block, _) in &self.sections {
            let (cid, data) = (block.cid(), block.data());
            let part = 1..data.len() as u64;
            if let Some(read) = unless_corrupt(store.read_range(cid, part.clone())) {
                assert_eq!(read.bytes, data.get(1..).unwrap_or_default());
            }
            let Some(found) = unless_corrupt(store.get(cid)) else { continue };
            assert_eq!(&found, block);
            assert_eq!(store.block_len(cid).expect("it was read"), Some(data.len() as u64));
            assert_eq!(
                store
                    .read_range(cid, 0..u64::MAX)
                    .expect("it was read")
                    .map(|read| read.bytes)
                    .as_ref(),
                Some(data)
            );
            served.insert(*cid, found.into_data());
        }
        served
    }
}

fn unless_corrupt<T>(answer: std::result::Result<Option<T>, StoreError>) -> Option<T> {
    match answer {
        Ok(found) => found,
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A store that was repaired takes and removes blocks like any other.
fn check_changes(store: &DiskStore, served: &BTreeMap<Cid, Bytes>) {
    store.put(&[new_block()]).expect("it takes blocks");
    store.commit().expect("it takes blocks");
    assert!(store.get(new_block().cid()).expect("it was put").is_some());
    if let Some(first) = served.keys().next() {
        store.remove(first).expect("it can be removed");
        let is_identity = Block::from_identity(first).is_some();
        assert_eq!(store.get(first).expect("it was removed").is_some(), is_identity);
    }
}

/// A block that no input can have.
fn new_block() -> Block {
    let data = Bytes::from_static(&[b'n'; BYTES_MAX + 1]);
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).expect("it is short")
}

fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = input.int_in_range(0..=BYTES_MAX)?;
    Ok(input.bytes(len.min(input.len()))?.to_vec())
}
