//! Typed nodes: what decodes keeps the promises that the layers above rely on.
#![no_main]

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::codec::node::{DirNode, FileNode, Node, SYMLINK_LEN_MAX, ShardNode, name_is_legal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    let Ok(block) = Block::hash(codecs::DAG_PB, HashFn::SHA2_256, data) else { return };
    match Node::decode(&block) {
        Ok(Node::File(file)) => check_file(&file),
        Ok(Node::Directory(dir)) => check_dir(&dir),
        Ok(Node::Shard(shard)) => check_shard(&shard),
        Ok(Node::Symlink(link)) => {
            assert!((1..=SYMLINK_LEN_MAX).contains(&link.target.len()));
            assert!(!link.target.contains(&0));
        }
        Ok(Node::Bytes(_)) => panic!("a dag-pb block has a type"),
        Err(_) => {}
    }
});

/// Links lie end to end after the inline bytes, and each range finds the link that holds it.
fn check_file(file: &FileNode) {
    let mut end = file.inline().len() as u64;
    for index in 0..file.link_count() {
        let range = file.link_range(index);
        assert_eq!(range.start, end);
        end = range.end;
        if !range.is_empty() {
            assert!(file.links_in(range).contains(&index));
        }
    }
    assert_eq!(end, file.file_len());
    let all = file.links_in(0..u64::MAX);
    let mut left_out = (0..file.link_count()).filter(|index| !all.contains(index));
    assert!(left_out.all(|index| file.link_range(index).is_empty()));
}

/// A name that is listed is legal, found again, and listed once.
fn check_dir(dir: &DirNode) {
    let mut seen = std::collections::HashSet::new();
    for (_, link) in dir.entries(0) {
        assert!(name_is_legal(link.name()));
        assert!(seen.insert(link.name().to_vec()));
        assert_eq!(dir.get(link.name()), Some(link));
    }
}

/// Buckets ascend, stay below the fan-out, and lead to their own slot.
fn check_shard(shard: &ShardNode) {
    let mut last = None;
    for index in 0..shard.link_count() {
        let (bucket, slot) = shard.slot(index);
        assert!(bucket < shard.fanout() && last < Some(bucket));
        assert_eq!(shard.bucket(bucket), Some(slot));
        last = Some(bucket);
    }
}
