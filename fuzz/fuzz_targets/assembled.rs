//! Assembled files: any file and sidecar open or are set aside, only proved blocks are served, a file is
//! whole only if its bytes are the blocks that it was asked for, and laying out a file loses no block.
//!
//! The input says what leaves there are, what the two files hold, by the rules or against them, and
//! where somebody says that the leaves lie. Checksums are right, so that what is behind them is reached.
#![no_main]

use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use cidfs::block::{Block, Cid, HashFn, codecs};
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::store::{
    BlockStore, DiskOptions, DiskStore, FileRange, FileState, Gathered, StoreError,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

mod scratch;

/// Leaves, entries of a sidecar, and places of leaves that are asked for.
const PARTS_MAX: usize = 6;
/// Bytes of the content of a leaf.
const BYTES_MAX: usize = 60;
/// The number of the file.
const FILE: u64 = 1;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| scratch::dir("assembled"));

fuzz_target!(|data: &[u8]| {
    // An input that ends early is no input.
    if let Ok(case) = Case::new(&mut Unstructured::new(data)) {
        case.check();
    }
});

/// A leaf and its content.
struct Leaf {
    block: Block,
    content: Vec<u8>,
    /// How the sidecar says that it is framed.
    flags: u16,
}

struct Case {
    leaves: Vec<Leaf>,
    file: Vec<u8>,
    /// Whether the file has the bytes of the leaves, all of them.
    is_sound: bool,
    sidecar: Vec<u8>,
    asked: Vec<FileRange>,
    /// Leaves that are put too.
    put: Vec<Block>,
}

impl Case {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let count = input.int_in_range(1..=PARTS_MAX)?;
        let leaves = (0..count).map(|_| leaf(input)).collect::<Result<Vec<_>>>()?;
        let mut file: Vec<u8> = leaves.iter().flat_map(|leaf| leaf.content.clone()).collect();
        let sidecar = sidecar(input, &leaves, file.len() as u64)?;
        let sound = file.clone();
        match input.int_in_range(0..=5)? {
            0 if !file.is_empty() => {
                let at = input.int_in_range(0..=file.len() - 1)?;
                file[at] ^= input.arbitrary::<u8>()?;
            }
            1 => file.truncate(input.int_in_range(0..=file.len())?),
            2 => file.extend(input.arbitrary::<[u8; 3]>()?),
            _ => {}
        }
        let is_sound = file == sound;
        let asked = asked(input, &leaves)?;
        let mut put = Vec::new();
        for leaf in &leaves {
            if input.arbitrary()? {
                put.push(leaf.block.clone());
            }
        }
        Ok(Self { leaves, file, is_sound, sidecar, asked, put })
    }

    fn check(&self) {
        let packs = DIR.join("packs");
        scratch::empty(&packs);
        fs::write(packs.join(format!("{FILE:010}.file")), &self.file).expect("room for a file");
        fs::write(packs.join(format!("{FILE:010}.leaves")), &self.sidecar).expect("room");
        let options = DiskOptions { assemble_min_bytes: 1, ..DiskOptions::default() };
        let store = match DiskStore::open(&packs, options.clone()) {
            Ok(store) => Arc::new(store),
            Err(StoreError::Version { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        self.served(&store);
        self.check_whole(&store);
        store.put(&self.put).expect("it takes blocks");
        let go_on = &mut || ControlFlow::Continue(());
        let gathered = store.gather(&self.asked, go_on).expect("the disk is sound");
        for block in &self.put {
            assert_eq!(store.get(block.cid()).expect("it was put").as_ref(), Some(block));
        }
        let is_whole = self.check_whole(&store);
        // Filling puts back what the sidecar knows, which is one place of each leaf.
        let may_lack = gathered != Gathered::Done || !self.is_sound;
        assert!(is_whole || may_lack, "what was laid out is whole");
        let served = self.served(&store);
        drop(store);
        let store = DiskStore::open(&packs, options).expect("it was open before");
        assert_eq!(self.served(&store), served, "after a crash");
        // A start does not know of a copy that was found damaged in another place of the file.
        assert!(!is_whole || self.check_whole(&store), "after a crash");
    }

    /// Reads every block in every way; returns which can be had.
    fn served(&self, store: &DiskStore) -> Vec<bool> {
        let is_served = |leaf: &Leaf| {
            let (cid, data) = (leaf.block.cid(), leaf.block.data());
            for range in [0..u64::MAX, 1..3, 4..data.len() as u64] {
                let Some(read) = unless_corrupt(store.read_range(cid, range.clone())) else {
                    continue;
                };
                let end = data.len().min(usize::try_from(range.end).unwrap_or(usize::MAX));
                let from = usize::try_from(range.start).expect("it is short").min(end);
                assert_eq!(read.bytes, data[from..end]);
            }
            let found = unless_corrupt(store.get(cid));
            found.inspect(|found| assert_eq!(*found, leaf.block)).is_some()
        };
        self.leaves.iter().map(is_served).collect()
    }

    /// Asks for the file; one that is whole has the content of the leaves that were asked for.
    fn check_whole(&self, store: &DiskStore) -> bool {
        let state = store.whole_file(&self.asked, u64::MAX).expect("the disk is sound");
        let FileState::Whole(whole) = state else { return false };
        let mut bytes = Vec::new();
        whole.file().read_to_end(&mut bytes).expect("the disk is sound");
        for range in &self.asked {
            let from = usize::try_from(range.offset).expect("it is in the file");
            let found = &bytes[from..from + range.len as usize];
            let leaf = self.leaves.iter().find(|leaf| leaf.block.cid().hash() == range.cid.hash());
            let leaf = leaf.expect("one of the leaves was asked for");
            let is_node = range.cid.codec() == codecs::DAG_PB;
            let content = if is_node { &leaf.content[..] } else { leaf.block.data() };
            assert_eq!(found, content);
        }
        true
    }
}

fn leaf(input: &mut Unstructured<'_>) -> Result<Leaf> {
    let len = input.int_in_range(1..=BYTES_MAX)?;
    let content = if input.ratio(1, 4)? { vec![0; len] } else { bytes(input, len)? };
    let (kind, flags) = *input.choose(&[(None, 0), (Some(Kind::File), 2), (Some(Kind::Raw), 4)])?;
    let data = match kind {
        None => Bytes::from(content.clone()),
        Some(kind) => {
            let sizes = [Some(content.len() as u64), None];
            let file_size = if input.ratio(1, 8)? { sizes[1] } else { sizes[0] };
            let data = Some(Bytes::from(content.clone()));
            UnixFs { data, file_size, ..UnixFs::new(kind) }.encode_node().into()
        }
    };
    let codec = if kind.is_some() { codecs::DAG_PB } else { codecs::RAW };
    let block = Block::hash(codec, HashFn::SHA2_256, data).expect("it is short");
    Ok(Leaf { block, content, flags })
}

/// Returns a sidecar with right checksums, its entries sorted or not.
fn sidecar(input: &mut Unstructured<'_>, leaves: &[Leaf], file_len: u64) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    let mut start = 0;
    for leaf in leaves {
        let len = leaf.content.len() as u32;
        let mut place = (start, len, leaf.flags, 0_u16);
        start += u64::from(len);
        match input.int_in_range(0..=15)? {
            0 => place.0 = input.int_in_range(0..=file_len)?,
            1 => place.1 = input.int_in_range(0..=len + 20)?,
            2 => place.2 = input.int_in_range(0..=7)?,
            3 => place.3 = input.int_in_range(0..=3)?,
            4 => continue,
            _ => {}
        }
        let mut entry = leaf.block.cid().hash().digest().to_vec();
        entry.extend(place.0.to_le_bytes());
        entry.extend(place.1.to_le_bytes());
        entry.extend(place.3.to_le_bytes());
        entry.extend(place.2.to_le_bytes());
        entries.push(entry);
    }
    if !input.ratio(1, 8)? {
        entries.sort();
        entries.dedup_by(|a, b| a[..32] == b[..32]);
    }
    let body = entries.concat();
    let version: u32 = if input.ratio(1, 8)? { input.int_in_range(0..=3)? } else { 2 };
    let pack_len = if input.ratio(1, 8)? { input.arbitrary()? } else { file_len };
    let mut file = b"cidfsidx".to_vec();
    file.extend(version.to_le_bytes());
    file.extend((entries.len() as u32).to_le_bytes());
    file.extend(FILE.to_le_bytes());
    file.extend(pack_len.to_le_bytes());
    file.extend(crc32fast::hash(&body).to_le_bytes());
    let check = crc32fast::hash(&file);
    file.extend(check.to_le_bytes());
    file.extend([0; 8]);
    Ok([file, body].concat())
}

/// Returns leaves in a row, as they are in the file or not, or places that cannot be.
fn asked(input: &mut Unstructured<'_>, leaves: &[Leaf]) -> Result<Vec<FileRange>> {
    let in_order = input.ratio(3, 4)?;
    let count = if in_order { leaves.len() } else { input.int_in_range(0..=PARTS_MAX)? };
    let (mut asked, mut offset) = (Vec::new(), 0);
    for at in 0..count {
        let at = if in_order { at } else { input.int_in_range(0..=leaves.len() - 1)? };
        let leaf = &leaves[at];
        let mut cid = *leaf.block.cid();
        let mut len = leaf.content.len() as u32;
        match input.int_in_range(0..=15)? {
            0 => cid = Cid::new_v1(codecs::RAW, *cid.hash()),
            1 => cid = Cid::new_v1(codecs::DAG_PB, *cid.hash()),
            2 => len = input.int_in_range(0..=len + 20)?,
            3 => offset += input.int_in_range(0..=20_u64)?,
            _ => {}
        }
        asked.push(FileRange { cid, offset, len });
        offset += u64::from(len);
    }
    Ok(asked)
}

fn unless_corrupt<T>(answer: std::result::Result<Option<T>, StoreError>) -> Option<T> {
    match answer {
        Ok(found) => found,
        Err(StoreError::Corrupt { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn bytes(input: &mut Unstructured<'_>, len: usize) -> Result<Vec<u8>> {
    Ok(input.bytes(len)?.to_vec())
}
