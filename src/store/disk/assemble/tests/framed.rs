//! Leaves of dag-pb, of which only the content lies in the file.

use super::*;
use crate::block::Cid;
use crate::codec::unixfs::{Kind, UnixFs};
use crate::store::BlockRange;
use crate::store::disk::evict::SpaceReport;

/// Bytes of a leaf's content: less than two pages.
const SHORT: usize = 5000;

fn framed(kind: Kind, data: Bytes) -> Block {
    let file_size = Some(data.len() as u64);
    let message = UnixFs { data: Some(data), file_size, ..UnixFs::new(kind) };
    Block::hash_v0(message.encode_node().into()).unwrap()
}

/// Leaves of both types, and every fifth a raw one.
fn mixed(numbers: Range<u32>) -> Vec<Block> {
    mixed_of(numbers, LEN)
}

fn mixed_of(numbers: Range<u32>, len: usize) -> Vec<Block> {
    let one = |n| {
        let data = leaf(n).into_data().slice(..len);
        match n % 5 {
            0 => Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap(),
            1 | 2 => framed(Kind::File, data),
            _ => framed(Kind::Raw, data),
        }
    };
    numbers.map(one).collect()
}

fn places(leaves: &[Block]) -> Vec<FileRange> {
    places_of(leaves, LEN)
}

fn places_of(leaves: &[Block], len: usize) -> Vec<FileRange> {
    let range = |(at, leaf): (usize, &Block)| FileRange {
        cid: *leaf.cid(),
        offset: (at * len) as u64,
        len: u32::try_from(len).unwrap(),
    };
    leaves.iter().enumerate().map(range).collect()
}

fn whole(store: &DiskStore, leaves: &[Block]) -> bool {
    matches!(store.whole_file(&places(leaves), u64::MAX).unwrap(), FileState::Whole(_))
}

fn content(numbers: Range<u32>) -> Vec<u8> {
    leaves(numbers).iter().flat_map(|leaf| leaf.data().to_vec()).collect()
}

/// Checks that blocks are served whole and in part.
fn assert_served(store: &DiskStore, blocks: &[Block]) {
    for block in blocks {
        let (cid, data) = (block.cid(), block.data());
        let len = data.len() as u64;
        assert_eq!(store.block_len(cid).unwrap(), Some(len));
        assert_eq!(store.get(cid).unwrap().as_ref(), Some(block));
        for range in [0..3, 0..len, 5..20, 9..len - 1, len - 4..len + 9, len - 1..len, len..len + 1]
        {
            let found = store.read_range(cid, range.clone()).unwrap().unwrap();
            assert_eq!(found, BlockRange::of(block, range.clone()), "{range:?}");
        }
    }
}

#[test]
fn the_file_is_the_content_and_the_blocks_are_what_they_were() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let all = mixed(0..10);
    let came = store.subscribe();
    let mut assembly = store.assemble().unwrap();
    assembly.share(&fixture.source(&leaves(0..10)), 10 * LEN as u64).unwrap();
    assert!(all.iter().all(|leaf| assembly.push(leaf, LEN as u64).unwrap()));
    assembly.finish().unwrap();
    assert!(came.has_changed().unwrap());
    assert!(std::fs::read(fixture.packs.join("0000000001.file")).unwrap() == content(0..10));
    for _ in 0..2 {
        let store = fixture.open(None);
        assert_served(&store, &all);
        assert!(whole(&store, &all));
        let bytes: usize = all.iter().map(|block| block.data().len()).sum();
        assert_eq!(store.stats().unwrap().bytes, bytes as u64);
        for leaf in &all[..2] {
            assert_eq!(store.peek_len(leaf.cid()), Some(leaf.data().len() as u64));
        }
        store.put(&all).unwrap();
        assert_eq!(store.stats().unwrap().blocks, 10, "a put relies on it");
    }
}

#[test]
fn leaves_in_packs_are_gathered() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let all = mixed(0..12);
    store.put(&all).unwrap();
    let gathered = store.gather(&places(&all), &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(gathered, Gathered::Done);
    assert_eq!(store.stats().unwrap().blocks, 12);
    assert!(std::fs::read(fixture.packs.join("0000000002.file")).unwrap() == content(0..12));
    drop(store);
    let store = fixture.open(None);
    assert_served(&store, &all);
    assert!(whole(&store, &all));
}

#[test]
fn what_does_not_follow_from_its_content_stays_in_packs() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let no_size = UnixFs { data: Some(leaf(1).into_data()), ..UnixFs::new(Kind::File) };
    let no_size = Block::hash_v0(no_size.encode_node().into()).unwrap();
    let sha1 = HashFn::by_name("sha1").unwrap();
    let other_hash = Block::hash(codecs::RAW, sha1, leaf(1).into_data()).unwrap();
    let other_codec = Block::hash(codecs::DAG_CBOR, HashFn::SHA2_256, leaf(1).into_data()).unwrap();
    for odd in [no_size, other_hash, other_codec] {
        let mut assembly = store.assemble().unwrap();
        assert!(!assembly.push(&odd, LEN as u64).unwrap());
        assert!(assembly.push(&leaf(2), LEN as u64).unwrap());
        drop(assembly);
        store.put(&[odd.clone(), leaf(2)]).unwrap();
        let places = places(&[odd, leaf(2)]);
        let gathered = store.gather(&places, &mut || ControlFlow::Continue(())).unwrap();
        assert_eq!(gathered, Gathered::Declined(gather::OTHER_LEAF));
    }
    let lying = store
        .assemble()
        .unwrap()
        .push(&framed(Kind::File, leaf(7).into_data()), LEN as u64 + 1)
        .unwrap();
    assert!(!lying, "it holds less than that");
    assert_eq!(fixture.count("file"), 0);
}

#[test]
fn a_leaf_that_is_read_with_another_codec_is_not_whole() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let all = mixed(1..4);
    let mut assembly = store.assemble().unwrap();
    assert!(all.iter().all(|leaf| assembly.push(leaf, LEN as u64).unwrap()));
    assembly.finish().unwrap();
    assert!(whole(&store, &all));
    let mut as_raw = places(&all);
    as_raw[1].cid = Cid::new_v1(codecs::RAW, *as_raw[1].cid.hash());
    let block = store.get(&as_raw[1].cid).unwrap().unwrap();
    assert_eq!(block.data(), all[1].data(), "it is the whole block there");
    assert!(matches!(store.whole_file(&as_raw, u64::MAX).unwrap(), FileState::Parts));
}

#[test]
fn a_leaf_that_is_framed_in_one_place_and_bare_in_another_is_not_gathered() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    let node = framed(Kind::File, leaf(1).into_data());
    store.put(&[node.clone(), leaf(2)]).unwrap();
    let mut asked = places(&[node.clone(), leaf(2)]);
    let (cid, len) = (Cid::new_v1(codecs::RAW, *node.cid().hash()), node.data().len());
    asked.push(FileRange { cid, offset: 2 * LEN as u64, len: u32::try_from(len).unwrap() });
    let gathered = store.gather(&asked, &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(gathered, Gathered::Declined(gather::OTHER_LEAF));
}

#[test]
fn they_are_evicted_emptied_into_packs_and_verified() {
    let fixture = Fixture::new();
    let store = fixture.open(None);
    // Of no page that goes is all in one leaf.
    let all = mixed_of(0..40, SHORT);
    let mut assembly = store.assemble().unwrap();
    assert!(all.iter().all(|leaf| assembly.push(leaf, SHORT as u64).unwrap()));
    assembly.finish().unwrap();
    let sweep = |store: &DiskStore, kept: Range<usize>| -> SpaceReport {
        let mut keep = store.keep_set();
        for block in &all[kept] {
            keep.insert(block.cid());
        }
        store.sweep(&keep, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let is_whole = |store: &DiskStore| {
        let state = store.whole_file(&places_of(&all[10..30], SHORT), u64::MAX).unwrap();
        matches!(state, FileState::Whole(_))
    };
    let there = |store: &DiskStore| {
        all.iter().filter(|block| store.peek(block.cid()).unwrap().is_some()).count()
    };
    let report = sweep(&store, 10..30);
    let gone = all[..10].iter().chain(&all[30..]).map(|block| block.data().len() as u64).sum();
    assert_eq!((report.blocks, report.bytes, there(&store)), (20, gone, 20));
    assert_eq!((report.moved, report.packs), (20, 1), "half of it was dead");
    assert_eq!(fixture.count("file"), 0);
    drop(store);
    let store = fixture.open(None);
    assert_served(&store, &all[10..30]);
    let gathered =
        store.gather(&places_of(&all[10..30], SHORT), &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(gathered, Gathered::Done, "and back again");
    assert!(is_whole(&store));
    let id = *store.pack_ids().last().unwrap();
    let verified = |store: &DiskStore| {
        let mut report = crate::store::VerifyReport::default();
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        assert!(store.verify_pack(id, &mut report, go_on).unwrap().is_continue());
        (report.done.blocks, report.damaged)
    };
    assert_eq!(verified(&store), (20, Vec::new()));
    let file = File::options().write(true).open(fixture.packs.join(format!("{id}.file"))).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 3 * SHORT as u64 + 77).unwrap();
    let (_, damaged) = verified(&store);
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].cid.as_ref(), Some(all[13].cid()));
    assert!(matches!(store.get(all[13].cid()), Err(StoreError::Corrupt { .. })));
    assert!(!is_whole(&store));
    store.put(&all[13..14]).unwrap();
    assert_served(&store, &all[10..30]);
}

#[test]
fn a_sidecar_of_bare_leaves_is_of_the_first_version() {
    for (all, version) in [(leaves(0..3), 1), (mixed(0..3), 2)] {
        let fixture = Fixture::new();
        let store = fixture.open(None);
        let mut assembly = store.assemble().unwrap();
        assert!(all.iter().all(|leaf| assembly.push(leaf, LEN as u64).unwrap()));
        assembly.finish().unwrap();
        drop(store);
        let path = fixture.packs.join("0000000001.leaves");
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[8], version);
        bytes[8] = 3;
        let check = crc32fast::hash(&bytes[..36]).to_le_bytes();
        bytes[36..40].copy_from_slice(&check);
        std::fs::write(&path, bytes).unwrap();
        let options = DiskOptions::default();
        let refused = DiskStore::open(&fixture.packs, options).map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::Version { .. }), "{refused}");
    }
}
