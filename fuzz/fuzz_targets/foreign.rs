//! Foreign packs: any archive is added or refused with a reason, whatever our files beside it hold;
//! only proved blocks are served, and the archive is left as it is.
//!
//! The input says what the archive is made of and what becomes of our two files before the store is
//! opened anew. Checksums are right, so that what is behind them is reached.
#![no_main]

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::LazyLock;

use cidfs::block::{Block, Cid, HashFn, codecs};
use cidfs::codec::car::{write_header, write_section};
use cidfs::store::{AddedPack, BlockStore, DiskOptions, DiskStore, StoreError};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

mod scratch;

/// Parts of an archive.
const PARTS_MAX: usize = 6;
/// Bytes of a block, or of a part that is none.
const BYTES_MAX: usize = 60;
/// The number that the pack gets.
const PACK: u64 = 1;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| scratch::dir("foreign"));

fuzz_target!(|data: &[u8]| {
    // An input that ends early is no input.
    if let Ok(case) = Case::new(&mut Unstructured::new(data)) {
        case.check();
    }
});

/// What is done to a file of ours.
#[derive(Debug, Clone)]
enum Change {
    None,
    Removed,
    /// These bytes, as they are.
    Bytes(Vec<u8>),
    /// One byte is another, and the checksums are right again.
    Flipped(usize, u8),
}

struct Case {
    archive: Vec<u8>,
    blocks: Vec<Block>,
    /// Whole sections that lie in front of everything else.
    intact: usize,
    record: Change,
    index: Change,
}

impl Case {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let (mut archive, mut blocks, mut intact) = (Vec::new(), Vec::new(), 0);
        write_header(&mut archive, &[]).expect("memory");
        let mut is_intact = true;
        for _ in 0..input.int_in_range(0..=PARTS_MAX)? {
            let kind = input.int_in_range(0..=5)?;
            is_intact &= kind > 1;
            if kind == 0 {
                archive.extend(bytes(input)?);
                continue;
            }
            let hash = input.choose(&["sha2-256", "identity", "blake3", "sha1"])?;
            let hash = HashFn::by_name(hash).expect("a name of the list");
            let block = Block::hash(codecs::RAW, hash, bytes(input)?.into()).expect("it is short");
            let start = archive.len();
            write_section(&mut archive, &block).expect("memory");
            if kind == 1 {
                let at = input.int_in_range(start..=archive.len() - 1)?;
                archive[at] ^= input.arbitrary::<u8>()?;
            }
            intact += usize::from(is_intact);
            blocks.push(block);
        }
        if input.ratio(1, 8)? {
            archive.truncate(input.int_in_range(0..=archive.len())?);
            intact = 0;
        }
        if input.ratio(1, 4)? {
            archive = wrap_v2(&archive);
        }
        Ok(Self { archive, blocks, intact, record: change(input)?, index: change(input)? })
    }

    fn check(&self) {
        let (packs, archive) = (DIR.join("packs"), DIR.join("a.car"));
        scratch::empty(&packs);
        fs::write(&archive, &self.archive).expect("room for a file");
        let store = open().expect("an empty store");
        let added = match add(&store) {
            Ok(added) => added,
            Err(StoreError::Archive { .. }) => return assert!(store.foreign_packs().is_empty()),
            Err(error) => panic!("{error}"),
        };
        let served = self.served(&store);
        let front = self.blocks[..self.intact].iter().map(Block::cid);
        assert!(front.into_iter().all(|cid| served.contains(cid)), "{added:?}");
        drop(store);
        assert_eq!(self.served(&open().expect("nothing was changed")), served);

        apply(&self.record, &packs.join(format!("{PACK:010}.ref")), 4);
        apply(&self.index, &packs.join(format!("{PACK:010}.refidx")), 0);
        let Some(store) = open() else { return };
        let now = self.served(&store);
        assert!(now.is_subset(&served));
        add(&store).expect("it was added before");
        assert_eq!(fs::read(&archive).expect("it is there"), self.archive);
        drop(store);
        let store = open().expect("it was repaired");
        assert!(now.is_subset(&self.served(&store)));
        for pack in store.foreign_packs() {
            // A record may call an archive a plain file: both of one path go at once.
            store.remove_pack(&pack.path).expect("it can be forgotten");
        }
        assert!(store.foreign_packs().is_empty());
        assert!(self.served(&store).iter().all(|cid| Block::from_identity(cid).is_some()));
    }

    /// Reads every block in every way; returns those that can be had.
    fn served(&self, store: &DiskStore) -> BTreeSet<Cid> {
        let mut served = BTreeSet::new();
        for block in &self.blocks {
            let (cid, data) = (block.cid(), block.data());
            if let Some(read) = unless_bad(store.read_range(cid, 1..data.len() as u64)) {
                assert_eq!(read.bytes, data.get(1..).unwrap_or_default());
            }
            let Some(found) = unless_bad(store.get(cid)) else { continue };
            assert_eq!(&found, block);
            let range = store.read_range(cid, 0..u64::MAX).expect("it was read");
            assert_eq!(range.map(|read| read.bytes).as_ref(), Some(data));
            served.insert(*cid);
        }
        served
    }
}

fn open() -> Option<DiskStore> {
    match DiskStore::open(&DIR.join("packs"), DiskOptions::default()) {
        Ok(store) => Some(store),
        Err(StoreError::Version { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn add(store: &DiskStore) -> std::result::Result<AddedPack, StoreError> {
    let added = store.add_pack(&DIR.join("a.car"), &mut |_| ControlFlow::Continue(()))?;
    Ok(added.expect("nobody breaks off"))
}

fn unless_bad<T>(answer: std::result::Result<Option<T>, StoreError>) -> Option<T> {
    match answer {
        Ok(found) => found,
        Err(StoreError::Corrupt { .. } | StoreError::ForeignLost { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Changes a file of ours; a record has its checksum in the last `check_len` bytes, an index in its
/// header.
fn apply(change: &Change, path: &std::path::Path, check_len: usize) {
    let bytes = match change {
        Change::None => return,
        Change::Removed => return fs::remove_file(path).expect("it is there"),
        Change::Bytes(bytes) => bytes.clone(),
        Change::Flipped(at, byte) => {
            let mut bytes = fs::read(path).expect("it is there");
            let at = at % bytes.len();
            bytes[at] ^= byte;
            let end = bytes.len() - check_len;
            let check = crc32fast::hash(&bytes[..end]).to_le_bytes();
            bytes[end..].copy_from_slice(&check[..check_len]);
            if check_len == 0 {
                let check = crc32fast::hash(&bytes[48..]).to_le_bytes();
                bytes[32..36].copy_from_slice(&check);
                let check = crc32fast::hash(&bytes[..36]).to_le_bytes();
                bytes[36..40].copy_from_slice(&check);
            }
            bytes
        }
    };
    fs::write(path, bytes).expect("room for a file");
}

fn change(input: &mut Unstructured<'_>) -> Result<Change> {
    Ok(match input.int_in_range(0..=5)? {
        0 => Change::Removed,
        1 => Change::Bytes(bytes(input)?),
        2 | 3 => Change::Flipped(input.arbitrary()?, input.arbitrary()?),
        _ => Change::None,
    })
}

fn wrap_v2(payload: &[u8]) -> Vec<u8> {
    let mut file = b"\x0a\xa1gversion\x02".to_vec();
    file.extend([0; 16]);
    for number in [51, payload.len() as u64, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend(payload);
    file
}

fn bytes(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = input.int_in_range(0..=BYTES_MAX)?;
    Ok(input.bytes(len.min(input.len()))?.to_vec())
}
