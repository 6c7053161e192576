//! What every block store promises, as one list of functions run on each of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stores;

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cidfs::block::{BLOCK_LEN_MAX, Block, Cid, HashFn, codecs};
use cidfs::store::{BlockRange, BlockStore};

fn raw(data: impl Into<Bytes>) -> Block {
    Block::hash(codecs::RAW, HashFn::SHA2_256, data.into()).unwrap()
}

fn numbered(n: u32, len: usize) -> Block {
    let mut data = n.to_le_bytes().repeat(len / 4 + 1);
    data.truncate(len.max(4));
    raw(data)
}

fn check_has(store: &dyn BlockStore, block: &Block) {
    assert_eq!(store.get(block.cid()).unwrap().as_ref(), Some(block));
    assert_eq!(store.block_len(block.cid()).unwrap(), Some(block.data().len() as u64));
    let range = store.read_range(block.cid(), 0..u64::MAX).unwrap();
    assert_eq!(range, Some(BlockRange::of(block, 0..u64::MAX)));
}

fn check_has_all(store: &dyn BlockStore, blocks: &[Block]) {
    for block in blocks {
        check_has(store, block);
    }
}

fn check_absent(store: &dyn BlockStore, cid: &Cid) {
    assert_eq!(store.get(cid).unwrap(), None);
    assert_eq!(store.block_len(cid).unwrap(), None);
    assert_eq!(store.read_range(cid, 0..10).unwrap(), None);
}

fn what_is_put_is_here_before_and_after_commit(store: &dyn BlockStore) {
    let blocks: Vec<_> = (0..40).map(|n| numbered(n, n as usize * 977)).collect();
    for block in &blocks {
        check_absent(store, block.cid());
    }
    store.put(&blocks).unwrap();
    check_has_all(store, &blocks);
    store.commit().unwrap();
    check_has_all(store, &blocks);
}

fn who_waits_is_told_that_blocks_came(store: &dyn BlockStore) {
    let came = store.subscribe();
    assert!(!came.has_changed().unwrap(), "nothing came since");
    store.put(&[numbered(1, 100)]).unwrap();
    assert!(came.has_changed().unwrap());
}

fn the_empty_and_the_largest_block(store: &dyn BlockStore) {
    let blocks = [raw(Bytes::new()), raw(vec![7; BLOCK_LEN_MAX])];
    store.put(&blocks).unwrap();
    check_has_all(store, &blocks);
}

fn nothing_to_put_is_no_error(store: &dyn BlockStore) {
    store.put(&[]).unwrap();
    store.commit().unwrap();
}

fn ranges_are_cut_at_the_end(store: &dyn BlockStore) {
    let block = numbered(5, 1000);
    store.put(std::slice::from_ref(&block)).unwrap();
    for round in 0..2 {
        for range in [0..1, 10..500, 999..1000, 990..2000, 1000..1001, 5000..6000, 0..0] {
            let cut = |at: u64| usize::try_from(at).unwrap().min(1000);
            let expected = block.data().slice(cut(range.start)..cut(range.end));
            let got = store.read_range(block.cid(), range.clone()).unwrap();
            assert_eq!(got.unwrap().bytes, expected, "{range:?}, round {round}");
        }
    }
}

fn one_block_has_many_cids(store: &dyn BlockStore) {
    let v0 = Block::hash_v0(Bytes::from_static(b"\x0a\x02\x08\x01")).unwrap();
    store.put(std::slice::from_ref(&v0)).unwrap();
    for codec in [codecs::DAG_PB, codecs::RAW, codecs::DAG_CBOR] {
        let cid = Cid::new_v1(codec, *v0.cid().hash());
        check_has(store, &v0.with_cid(cid).unwrap());
    }
}

fn every_allowed_hash_can_be_stored(store: &dyn BlockStore) {
    for name in ["sha1", "sha2-512", "sha3-256", "blake3", "blake2b-256", "dbl-sha2-256"] {
        let hash = HashFn::by_name(name).unwrap();
        let block = Block::hash(codecs::RAW, hash, Bytes::from(name)).unwrap();
        store.put(std::slice::from_ref(&block)).unwrap();
        check_has(store, &block);
    }
}

fn content_that_is_a_multihash_is_another_block(store: &dyn BlockStore) {
    let sha1 = HashFn::by_name("sha1").unwrap();
    let victim = Block::hash(codecs::RAW, sha1, Bytes::from_static(b"victim")).unwrap();
    let forged = raw(victim.cid().hash().to_bytes());
    store.put(std::slice::from_ref(&forged)).unwrap();
    check_absent(store, victim.cid());
    store.put(std::slice::from_ref(&victim)).unwrap();
    check_has(store, &victim);
    check_has(store, &forged);
}

fn identity_cids_need_no_store(store: &dyn BlockStore) {
    let block = Block::hash(codecs::RAW, HashFn::IDENTITY, Bytes::from_static(b"inline")).unwrap();
    check_has(store, &block);
    store.put(std::slice::from_ref(&block)).unwrap();
    assert!(!store.remove(block.cid()).unwrap(), "it was never stored");
    check_has(store, &block);
}

fn what_is_removed_is_gone_until_put_again(store: &dyn BlockStore) {
    let (gone, kept) = (numbered(1, 50_000), numbered(2, 50_000));
    store.put(&[gone.clone(), kept.clone()]).unwrap();
    assert!(store.remove(gone.cid()).unwrap());
    assert!(!store.remove(gone.cid()).unwrap());
    check_absent(store, gone.cid());
    check_has(store, &kept);
    store.put(std::slice::from_ref(&gone)).unwrap();
    store.commit().unwrap();
    check_has(store, &gone);
}

fn a_block_may_be_put_twice_in_one_call(store: &dyn BlockStore) {
    let block = numbered(3, 100);
    store.put(&[block.clone(), block.clone()]).unwrap();
    store.put(&[block.clone(), block.clone()]).unwrap();
    check_has(store, &block);
    assert!(store.remove(block.cid()).unwrap());
    check_absent(store, block.cid());
}

fn many_threads_put_commit_and_read(store: &dyn BlockStore) {
    std::thread::scope(|scope| {
        for thread in 0..6_u32 {
            scope.spawn(move || {
                for n in 0..60 {
                    let own = numbered(1000 * (thread + 1) + n, 3000);
                    let shared = numbered(n, 3000);
                    store.put(&[own.clone(), shared.clone()]).unwrap();
                    check_has(store, &own);
                    check_has(store, &shared);
                    if n % 20 == 0 {
                        store.commit().unwrap();
                    }
                }
            });
        }
    });
}

fn readers_of_a_block_that_is_removed_get_all_or_nothing(store: &dyn BlockStore) {
    let block = numbered(9, BLOCK_LEN_MAX);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                store.put(std::slice::from_ref(&block)).unwrap();
                store.get(block.cid()).unwrap();
                store.remove(block.cid()).unwrap();
            }
            store.put(std::slice::from_ref(&block)).unwrap();
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let whole = store.get(block.cid()).unwrap();
                assert!(whole.is_none_or(|whole| whole == block));
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let all = store.read_range(block.cid(), 0..u64::MAX).unwrap();
                assert!(all.is_none_or(|all| all.bytes == block.data()));
            }
        });
    });
    check_has(store, &block);
}

/// The contract; each promise gets a new store.
const PROMISES: &[fn(&dyn BlockStore)] = &[
    what_is_put_is_here_before_and_after_commit,
    who_waits_is_told_that_blocks_came,
    the_empty_and_the_largest_block,
    nothing_to_put_is_no_error,
    ranges_are_cut_at_the_end,
    one_block_has_many_cids,
    every_allowed_hash_can_be_stored,
    content_that_is_a_multihash_is_another_block,
    identity_cids_need_no_store,
    what_is_removed_is_gone_until_put_again,
    a_block_may_be_put_twice_in_one_call,
    many_threads_put_commit_and_read,
    readers_of_a_block_that_is_removed_get_all_or_nothing,
];
