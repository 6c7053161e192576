//! Directories of one block and sharded ones: look-up, listing, cookies, and the rules of tries.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;

use super::*;
use crate::dag::{DagError, DagLimits};
use crate::exchange::Network;
use crate::store::BlockStore as _;
use crate::testkit::dag_builder::DagBuilder;
use crate::testkit::exchange::TestExchange;
use crate::testkit::store::TestStore;
use crate::unixfs::name_hash;

struct Bench {
    dag: Dag,
    store: Arc<TestStore>,
}

fn bench(builder: DagBuilder) -> Bench {
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store.clone(), Arc::new(Network::default()), DagLimits::default());
    Bench { dag, store }
}

impl Bench {
    fn lookup(&self, dir: &Cid, name: &[u8]) -> Result<Option<Cid>, UnixfsError> {
        let found = lookup(&self.dag, dir, name).now_or_never().expect("everything is here")?;
        assert!(found.as_ref().is_none_or(|entry| entry.name == name));
        Ok(found.map(|entry| entry.cid))
    }

    fn list(&self, dir: &Cid, from: Cookie, max: usize) -> Result<Listed, UnixfsError> {
        list(&self.dag, dir, from, max).now_or_never().expect("everything is here")
    }

    /// Lists to the end in pieces of `max`.
    fn list_all(&self, dir: &Cid, max: usize) -> Result<Listed, UnixfsError> {
        let mut all: Listed = Vec::new();
        loop {
            let from = all.last().map_or(Cookie::START, |(cookie, _)| *cookie);
            let piece = self.list(dir, from, max)?;
            if piece.is_empty() {
                return Ok(all);
            }
            assert!(piece.len() <= max && piece[0].0 > from, "a listing goes on");
            all.extend(piece);
        }
    }
}

type Listed = Vec<(Cookie, DirEntry)>;

fn names(listed: &Listed) -> Vec<&str> {
    listed.iter().map(|(_, entry)| std::str::from_utf8(&entry.name).unwrap()).collect()
}

/// Entries `0`, `1`, … that point to blocks of their names.
fn numbered(builder: &mut DagBuilder, count: u32) -> BTreeMap<Vec<u8>, Cid> {
    (0..count)
        .map(|number| {
            let name = number.to_string().into_bytes();
            let cid = builder.raw(name.clone());
            (name, cid)
        })
        .collect()
}

/// Returns the cookies, after checking that they are in order and in the range of the contract.
fn check_cookies(listed: &Listed) {
    let numbers: Vec<u64> = listed.iter().map(|(cookie, _)| cookie.to_u64()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    assert!(numbers.iter().all(|&number| number > 2 && number < 1 << 63));
}

#[test]
fn one_block_lists_in_its_own_order_without_names_that_cannot_be_shown() {
    let mut builder = DagBuilder::new();
    let (first, second) = (builder.raw("first"), builder.raw("second"));
    let long = "n".repeat(256);
    let entries =
        [("b", first), ("..", first), ("a", first), ("b", second), (&long, first), ("c", second)];
    let dir = builder.directory(&entries);
    let bench = bench(builder);
    for max in 1..=7 {
        let all = bench.list_all(&dir, max).unwrap();
        assert_eq!(names(&all), ["b", "a", "c"], "in pieces of {max}");
        check_cookies(&all);
    }
    assert_eq!(bench.lookup(&dir, b"b").unwrap(), Some(first), "the first of equal names");
    for absent in [b"..".as_slice(), b"d", b"", long.as_bytes()] {
        assert_eq!(bench.lookup(&dir, absent).unwrap(), None);
    }
    for far in [1000, u64::MAX] {
        assert!(bench.list(&dir, Cookie::from(far), 9).unwrap().is_empty());
    }
    assert_eq!(bench.list(&dir, Cookie::from(0), 9).unwrap().len(), 3);
}

#[test]
fn every_legal_fanout_finds_and_lists_all_names() {
    for fanout in [8, 16, 32, 64, 128, 256, 512, 1024] {
        let mut builder = DagBuilder::new();
        let entries = numbered(&mut builder, 500);
        let dir = builder.sharded(&entries, fanout);
        let bench = bench(builder);
        for (name, cid) in &entries {
            assert_eq!(bench.lookup(&dir, name).unwrap(), Some(*cid), "fanout {fanout}");
        }
        assert_eq!(bench.lookup(&dir, b"500").unwrap(), None);
        let all = bench.list_all(&dir, 7).unwrap();
        check_cookies(&all);
        let listed: BTreeMap<_, _> =
            all.iter().map(|(_, entry)| (entry.name.to_vec(), entry.cid)).collect();
        assert_eq!((listed, all.len()), (entries, 500), "fanout {fanout}");
    }
}

#[test]
fn a_listing_goes_on_from_any_cookie() {
    let mut builder = DagBuilder::new();
    let entries = numbered(&mut builder, 300);
    let dir = builder.sharded(&entries, 16);
    let bench = bench(builder);
    let all = bench.list_all(&dir, usize::MAX).unwrap();
    for (at, (cookie, _)) in all.iter().enumerate() {
        assert_eq!(bench.list(&dir, *cookie, usize::MAX).unwrap(), all[at + 1..]);
    }
    let between = Cookie::from(all[10].0.to_u64() + 1);
    assert_eq!(bench.list(&dir, between, 1).unwrap(), all[11..12], "a cookie nobody gave");
    assert!(bench.list(&dir, Cookie::from(u64::MAX), 1).unwrap().is_empty());
}

#[test]
fn one_name_costs_its_depth_and_going_on_costs_one_path() {
    let mut builder = DagBuilder::new();
    let entries = numbered(&mut builder, 20_000);
    let dir = builder.sharded(&entries, 16);
    let blocks = builder.blocks.clone();
    let cold = || bench(DagBuilder { blocks: blocks.clone() });
    for name in [b"0".as_slice(), b"19999", b"absent"] {
        let bench = cold();
        bench.lookup(&dir, name).unwrap();
        let asked = bench.store.take_asked().len();
        assert!((2..=8).contains(&asked), "{asked} shards for one of 20,000 names in 16ths");
    }
    let all = cold().list_all(&dir, 1000).unwrap();
    let bench = cold();
    assert_eq!(bench.list(&dir, all[12_345].0, 5).unwrap(), all[12_346..12_351]);
    let asked = bench.store.take_asked().len();
    assert!(asked < 64, "{asked} shards to go on with five names");
}

#[test]
fn a_listing_tells_what_it_has_before_it_fails() {
    let mut builder = DagBuilder::new();
    let entries = numbered(&mut builder, 200);
    let dir = builder.sharded(&entries, 8);
    let all = bench(DagBuilder { blocks: builder.blocks.clone() }).list_all(&dir, 9).unwrap();
    let shards: Vec<Cid> = {
        let warm = bench(DagBuilder { blocks: builder.blocks.clone() });
        warm.list_all(&dir, usize::MAX).unwrap();
        warm.store.take_asked()
    };
    let bench = bench(builder);
    bench.store.remove(shards.last().unwrap()).unwrap();
    let some = bench.list(&dir, Cookie::START, usize::MAX).unwrap();
    assert!(!some.is_empty() && some.len() < all.len());
    assert_eq!(some, all[..some.len()]);
    let error = bench.list(&dir, some.last().unwrap().0, usize::MAX).unwrap_err();
    assert!(matches!(error, UnixfsError::Dag(DagError::Offline { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn shards_are_fetched_ahead() {
    let mut builder = DagBuilder::new();
    let entries = numbered(&mut builder, 2000);
    let dir = builder.sharded(&entries, 256);
    let exchange = TestExchange::new(builder.blocks);
    exchange.set_delay(std::time::Duration::from_secs(1));
    let dag =
        Dag::new(Arc::new(TestStore::default()), Arc::new(exchange.clone()), DagLimits::default());
    let start = tokio::time::Instant::now();
    let all = list(&dag, &dir, Cookie::START, usize::MAX).await.unwrap();
    assert_eq!(all.len(), 2000);
    let seconds = start.elapsed().as_secs();
    assert!(seconds <= 20, "{seconds} round trips for some 280 shards");
    assert!((16..=33).contains(&exchange.counts().concurrent_max), "{:?}", exchange.counts());
}

#[test]
fn only_directories_have_names() {
    let mut builder = DagBuilder::new();
    let others = [
        builder.raw("x"),
        builder.symlink("x"),
        builder.file_node(crate::codec::unixfs::Kind::File, b"x", &[]),
    ];
    let bench = bench(builder);
    for cid in others {
        let error = bench.lookup(&cid, b"a").unwrap_err();
        assert!(matches!(error, UnixfsError::NotADirectory { .. }), "{error:?}");
        let error = bench.list(&cid, Cookie::START, 1).unwrap_err();
        assert!(matches!(error, UnixfsError::NotADirectory { .. }), "{error:?}");
    }
}

/// Builds a shard below `depth` shards of one bucket each, on the way of the hash of `name`.
fn nested(builder: &mut DagBuilder, name: &[u8], mut shard: Cid, depth: u32) -> Cid {
    for level in (0..depth).rev() {
        let bucket = u32::try_from(name_hash(name) >> (56 - 8 * level) & 255).unwrap();
        shard = builder.shard(256, &[(bucket, vec![], shard)]);
    }
    shard
}

fn bucket_at(name: &[u8], level: u32) -> u32 {
    u32::try_from(name_hash(name) >> (56 - 8 * level) & 255).unwrap()
}

#[test]
fn an_entry_belongs_where_its_hash_says() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("x");
    let (right, wrong) = (bucket_at(b"a", 0), bucket_at(b"a", 0) ^ 1);
    let good = builder.shard(256, &[(right, b"a".to_vec(), leaf)]);
    let bad = builder.shard(256, &[(wrong, b"a".to_vec(), leaf)]);
    let inner = builder.shard(256, &[(bucket_at(b"a", 1), b"a".to_vec(), leaf)]);
    let bad_above = builder.shard(256, &[(wrong, vec![], inner)]);
    let bench = bench(builder);
    assert_eq!(bench.lookup(&good, b"a").unwrap(), Some(leaf));
    assert_eq!(bench.lookup(&bad, b"a").unwrap(), None, "its own bucket is empty");
    for dir in [bad, bad_above] {
        let error = bench.list(&dir, Cookie::START, 9).unwrap_err();
        assert!(matches!(error, UnixfsError::WrongBucket { .. }), "{error:?}");
    }
    let other = (0..10_000)
        .map(|number: u32| number.to_string().into_bytes())
        .find(|name| bucket_at(name, 0) == wrong)
        .unwrap();
    let error = bench.lookup(&bad, &other).unwrap_err();
    assert!(matches!(error, UnixfsError::WrongBucket { .. }), "{error:?}");
}

#[test]
fn a_trie_ends_with_the_hash() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("x");
    let last = builder.shard(256, &[(bucket_at(b"a", 7), b"a".to_vec(), leaf)]);
    let deepest = nested(&mut builder, b"a", last, 7);
    let below = builder.shard(256, &[(0, b"a".to_vec(), leaf)]);
    let too_deep = nested(&mut builder, b"a", below, 8);
    let bench = bench(builder);
    assert_eq!(bench.lookup(&deepest, b"a").unwrap(), Some(leaf));
    assert_eq!(names(&bench.list_all(&deepest, 1).unwrap()), ["a"]);
    let errors = [
        bench.lookup(&too_deep, b"a").unwrap_err(),
        bench.list(&too_deep, Cookie::START, 9).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, UnixfsError::TooDeep { levels: 8, .. }), "{error:?}");
    }
}

#[test]
fn shards_of_one_directory_are_of_one_kind() {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("x");
    let bucket = bucket_at(b"a", 0);
    let narrow = builder.shard(16, &[(0, b"a".to_vec(), leaf)]);
    let empty = builder.shard(256, &[]);
    let dir = builder.directory(&[("a", leaf)]);
    let broken =
        [narrow, empty, dir, leaf].map(|below| builder.shard(256, &[(bucket, vec![], below)]));
    let bench = bench(builder);
    for root in broken {
        let errors = [
            bench.lookup(&root, b"a").unwrap_err(),
            bench.list(&root, Cookie::START, 9).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, UnixfsError::Shard { .. }), "{error:?}");
        }
    }
    assert_eq!(bench.list_all(&empty, 1).unwrap(), [], "an empty root is an empty directory");
}

/// Returns a legal name with this hash: murmur3 of one block of 16 bytes runs backwards, so a
/// stranger can make any two names share a place.
fn name_with_hash(hash: u64) -> Vec<u8> {
    /// Finds the inverse of an odd number modulo 2⁶⁴ by Newton's method.
    fn inverse(odd: u64) -> u64 {
        (0..6).fold(odd, |x, _| x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x))))
    }
    fn unfinish(mut hash: u64) -> u64 {
        hash = (hash ^ hash >> 33).wrapping_mul(inverse(0xc4ce_b9fe_1a85_ec53));
        hash = (hash ^ hash >> 33).wrapping_mul(inverse(0xff51_afd7_ed55_8ccd));
        hash ^ hash >> 33
    }
    let (c1, c2) = (inverse(0x87c3_7b91_1142_53d5), inverse(0x4cf5_ad43_2745_937f));
    let names = (1_u64..).map(|free| {
        let (sum, sum2) = (unfinish(hash.wrapping_sub(free)), unfinish(free));
        let h2 = sum2.wrapping_sub(sum);
        let h1 = sum.wrapping_sub(h2) ^ 16;
        let mixed = (h2 ^ 16).wrapping_sub(0x3849_5ab5).wrapping_mul(inverse(5));
        let k2 = mixed.wrapping_sub(h1).rotate_right(31).wrapping_mul(c1).rotate_right(33);
        let mixed = h1.wrapping_sub(0x52dc_e729).wrapping_mul(inverse(5)).rotate_right(27);
        let k1 = mixed.wrapping_mul(c2).rotate_right(31);
        [k1.wrapping_mul(c1).to_le_bytes(), k2.wrapping_mul(c2).to_le_bytes()].concat()
    });
    let name = names.into_iter().find(|name| crate::codec::node::name_is_legal(name)).unwrap();
    assert_eq!(name_hash(&name), hash);
    name
}

#[test]
fn two_names_in_one_place_are_found_and_never_left_out_in_silence() {
    for (one, other, is_one_place) in [
        (0x1234_5678_9abc_def0, 0x1234_5678_9abc_def1, true),
        (0x1234_5678_9abc_def1, 0x1234_5678_9abc_def2, false),
        (0, 7, true),
        (7, 8, false),
        (u64::MAX - 1, u64::MAX, true),
        (u64::MAX - 2, u64::MAX, false),
    ] {
        let mut builder = DagBuilder::new();
        let mut entries = numbered(&mut builder, 20);
        let leaf = builder.raw("x");
        entries.extend([one, other].map(|hash| (name_with_hash(hash), leaf)));
        let dir = builder.sharded(&entries, 256);
        let bench = bench(builder);
        for name in entries.keys() {
            assert!(bench.lookup(&dir, name).unwrap().is_some());
        }
        for max in [1, 2, 5, 100] {
            match bench.list_all(&dir, max) {
                Ok(all) => assert!(!is_one_place && all.len() == 22, "{one:x} in {max}s"),
                Err(UnixfsError::SamePlace { .. }) => assert!(is_one_place, "{one:x} in {max}s"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}
