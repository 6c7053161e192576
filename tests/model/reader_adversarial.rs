//! Hostile DAGs, one class each: what the rule beside each archive says must be so.
//!
//! Every root is a plain directory that also holds `good.txt`; after the hostile entry was
//! touched, that one still reads. Blocks that an archive may not hold (they do not match, or are
//! too big) are served by a peer that lies.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cidfs::block::{Block, Cid, cid_from_text};
use cidfs::codec::car::CarReader;
use cidfs::dag::{Dag, DagError, DagLimits};
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::fixtures::shared_fixtures;
use cidfs::testkit::store::TestStore;
use cidfs::unixfs::{Cookie, FileType, UnixfsError, list, lookup, read, read_link, stat, walk};
use futures::{FutureExt as _, StreamExt as _};

/// Longest that one class may take; the slowest honest one takes milliseconds.
const TIME_MAX: Duration = Duration::from_secs(20);

struct Case {
    dag: Dag,
    store: Arc<TestStore>,
    exchange: TestExchange,
    root: Cid,
}

impl Case {
    fn open(folder: &Path, name: &str) -> Self {
        let bytes = std::fs::read(folder.join("adversarial").join(name)).unwrap();
        let mut roots = CarReader::new(&bytes[..]).unwrap().roots().to_vec();
        let (mut here, exchange) = (Vec::new(), TestExchange::default());
        for (cid, data) in sections(&bytes) {
            match Block::verify(cid, data.clone()) {
                Ok(block) => here.push(block),
                Err(_) => exchange.answer(&cid, data),
            }
        }
        let store = Arc::new(TestStore::new(here));
        let dag = Dag::new(store.clone(), Arc::new(exchange.clone()), DagLimits::default());
        Self { dag, store, exchange, root: roots.remove(0) }
    }

    fn names(&self, dir: &Cid) -> Result<Vec<Vec<u8>>, UnixfsError> {
        let (mut names, mut from) = (Vec::new(), Cookie::START);
        loop {
            let piece = now(list(&self.dag, dir, from, 3))?;
            let Some((last, _)) = piece.last() else { return Ok(names) };
            from = *last;
            names.extend(piece.into_iter().map(|(_, entry)| entry.name.to_vec()));
        }
    }

    fn child(&self, dir: &Cid, name: &[u8]) -> Option<Cid> {
        now(lookup(&self.dag, dir, name)).unwrap().map(|entry| entry.cid)
    }

    /// Returns the entry of the root by that name.
    fn entry(&self, name: &str) -> Cid {
        self.child(&self.root, name.as_bytes()).unwrap_or_else(|| panic!("no entry {name}"))
    }

    fn read(&self, cid: &Cid) -> Result<Bytes, UnixfsError> {
        now(read(&self.dag, cid, 0, 1 << 20))
    }

    fn check_good(&self) {
        assert_eq!(self.read(&self.entry("good.txt")).unwrap(), "good\n");
    }
}

/// The sections of a CARv1, as a reader that checks nothing sees them.
fn sections(bytes: &[u8]) -> Vec<(Cid, Bytes)> {
    let mut rest = bytes;
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let (len, after) = unsigned_varint::decode::usize(rest).unwrap();
        let (section, after) = after.split_at(len);
        // The first section is the header.
        if rest.len() != bytes.len() {
            let (cid, used) = cidfs::block::cid_prefix(section).unwrap();
            sections.push((cid, Bytes::copy_from_slice(&section[used..])));
        }
        rest = after;
    }
    sections
}

/// Everything is here or answered at once, so nothing may wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here may wait")
}

type Check = fn(&Case);

/// One check for each archive; a test below makes sure that none is forgotten.
const CHECKS: &[(&str, Check)] = &[
    ("big-block-a.car", |case| {
        let error = case.read(&case.entry("big.bin")).unwrap_err();
        assert!(matches!(error, UnixfsError::Dag(DagError::Lied { .. })), "{error:?}");
        assert_eq!(case.names(&case.root).unwrap().len(), 2);
    }),
    ("dir-deep-a.car", |case| {
        let mut dir = case.root;
        let mut depth = 0;
        loop {
            let names = case.names(&dir).unwrap();
            let name = names.iter().find(|name| *name != b"good.txt").unwrap();
            let child = case.child(&dir, name).unwrap();
            if now(stat(&case.dag, &child)).unwrap().kind == FileType::File {
                break;
            }
            dir = child;
            depth += 1;
        }
        assert!(depth >= 190, "{depth} levels");
    }),
    ("file-blocksize-lies-a.car", bad_file),
    ("file-blocksizes-count-a.car", bad_file),
    ("file-deep-chain-a.car", |case| {
        let error = case.read(&case.entry("deep.bin")).unwrap_err();
        assert!(matches!(error, UnixfsError::TooDeep { .. }), "{error:?}");
    }),
    ("file-link-names-a.car", bad_file),
    ("file-size-mismatch-a.car", bad_file),
    ("file-size-overflow-a.car", bad_file),
    ("hamt-bitfield-bad-a.car", bad_shard),
    ("hamt-fanout-bad-a.car", bad_shard),
    ("hamt-fanout-odd-a.car", bad_shard),
    ("hamt-hash-bad-a.car", bad_shard),
    ("hamt-prefix-bad-a.car", bad_shard),
    ("hamt-too-deep-a.car", bad_shard),
    ("hamt-width-bomb-a.car", bad_shard),
    ("hash-mismatch-a.car", |case| {
        let error = case.read(&case.entry("bad.bin")).unwrap_err();
        assert!(matches!(error, UnixfsError::Dag(DagError::Lied { .. })), "{error:?}");
        assert!(case.exchange.counts().started > 0);
    }),
    ("identity-cid-a.car", |case| {
        assert_eq!(case.read(&case.entry("id.ok")).unwrap(), vec![b'i'; 128]);
        let error = now(lookup(&case.dag, &case.root, b"id.big")).unwrap_err();
        assert!(matches!(error, UnixfsError::RefusedLink { .. }), "{error:?}");
        assert_eq!(case.exchange.counts().started, 0);
    }),
    ("mode-special-a.car", |case| {
        let file = case.entry("m.txt");
        let stat = now(stat(&case.dag, &file)).unwrap();
        assert_eq!(stat.kind, FileType::File);
        assert!(stat.metadata.mode.is_some_and(|mode| mode <= 0o7777), "{stat:?}");
        assert_eq!(case.read(&file).unwrap(), "m\n");
    }),
    ("mtime-bad-a.car", |case| {
        let file = case.entry("m.txt");
        assert_eq!(now(stat(&case.dag, &file)).unwrap().metadata.mtime, None);
        assert_eq!(case.read(&file).unwrap(), "m\n");
    }),
    ("mtime-extreme-a.car", |case| {
        let file = case.entry("m.txt");
        assert!(now(stat(&case.dag, &file)).unwrap().metadata.mtime.is_some());
        assert_eq!(case.read(&file).unwrap(), "m\n");
    }),
    ("name-dotdot-a.car", only_good),
    ("name-duplicate-a.car", |case| {
        let names = case.names(&case.root).unwrap();
        assert_eq!(names.iter().filter(|name| *name == b"dup").count(), 1);
        assert_eq!(case.read(&case.entry("dup")).unwrap(), "first\n");
    }),
    ("name-empty-a.car", only_good),
    ("name-long-a.car", |case| {
        let names = case.names(&case.root).unwrap();
        let longest = names.iter().max_by_key(|name| name.len()).unwrap();
        assert_eq!((names.len(), longest.len()), (2, 255));
        case.read(&case.child(&case.root, longest).unwrap()).unwrap();
    }),
    ("name-nonutf8-a.car", |case| {
        let names = case.names(&case.root).unwrap();
        assert!(names.iter().any(|name| std::str::from_utf8(name).is_err()), "{names:?}");
        for name in names {
            case.read(&case.child(&case.root, &name).unwrap()).unwrap();
        }
    }),
    ("name-nul-a.car", only_good),
    ("name-slash-a.car", only_good),
    ("pb-garbage-a.car", not_a_node),
    ("sparse-bomb-a.car", |case| {
        let file = case.entry("bomb.bin");
        case.store.take_asked();
        let len = now(stat(&case.dag, &file)).unwrap().file_len;
        assert_eq!(case.store.take_asked().len(), 1, "the size is in the root block");
        assert!(len > 1 << 40, "{len}");
        for offset in [0, len / 2, len / 3 * 2, len - 4096] {
            let read = now(read(&case.dag, &file, offset, 4096)).unwrap();
            assert_eq!(read, vec![b'Z'; 4096], "at {offset}");
            let asked = case.store.take_asked().len();
            assert!(asked <= 23, "{asked} blocks at {offset}");
        }
        assert_eq!(now(read(&case.dag, &file, len, 1)).unwrap(), "");
    }),
    ("symlink-bad-target-a.car", |case| {
        let (name, cid) = other_entry(case);
        let error = now(read_link(&case.dag, &cid));
        assert!(matches!(error, Err(UnixfsError::Dag(DagError::Node { .. }))), "{name}: {error:?}");
    }),
    ("symlink-escape-a.car", |case| {
        let target = now(read_link(&case.dag, &other_entry(case).1)).unwrap();
        assert!(target.starts_with(b"/") || target.starts_with(b".."), "{target:?}");
    }),
    ("symlink-with-links-a.car", not_a_node),
    ("type-unknown-a.car", not_a_node),
    ("weak-hash-a.car", |case| {
        let error = case.read(&case.entry("short")).unwrap_err();
        assert!(matches!(error, UnixfsError::Dag(DagError::Refused { .. })), "{error:?}");
        assert_eq!(case.exchange.counts().started, 0, "nobody was asked");
    }),
];

fn other_entry(case: &Case) -> (String, Cid) {
    let names = case.names(&case.root).unwrap();
    let name = names.into_iter().find(|name| name != b"good.txt").unwrap();
    let cid = case.child(&case.root, &name).unwrap();
    (String::from_utf8(name).unwrap(), cid)
}

/// Every part of `bad.bin` that does not lie has its right bytes; some part is an error.
fn bad_file(case: &Case) {
    let file = case.entry("bad.bin");
    assert!(case.read(&file).is_err());
    let Ok(stat) = now(stat(&case.dag, &file)) else { return };
    let mut errors = 0;
    for offset in 0..stat.file_len.min(64) {
        match now(read(&case.dag, &file, offset, 1)) {
            Ok(bytes) => assert_eq!(bytes.len(), 1, "never short at {offset}"),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 0);
    assert_eq!(now(read(&case.dag, &file, stat.file_len, 4096)).unwrap(), "");
}

fn bad_shard(case: &Case) {
    let shard = case.entry("shard");
    assert!(case.names(&shard).is_err());
    for name in [b"hello".as_slice(), b"a", b"name", b"470.txt"] {
        assert!(!matches!(now(lookup(&case.dag, &shard, name)), Ok(Some(_))), "{name:?}");
    }
    assert!(case.store.take_asked().len() < 64);
}

fn only_good(case: &Case) {
    assert_eq!(case.names(&case.root).unwrap(), [b"good.txt"]);
    for bad in [b"".as_slice(), b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(case.child(&case.root, bad), None, "{bad:?}");
    }
}

fn not_a_node(case: &Case) {
    let (name, cid) = other_entry(case);
    let errors = [now(stat(&case.dag, &cid)).map(drop), now(read_link(&case.dag, &cid)).map(drop)];
    for error in errors {
        let is_node_error = matches!(error, Err(UnixfsError::Dag(DagError::Node { .. })));
        assert!(is_node_error, "{name}: {error:?}");
    }
}

#[test]
fn every_hostile_dag_is_met_as_its_rule_says() {
    let Some(folder) = shared_fixtures() else { return };
    for (name, check) in CHECKS {
        let start = Instant::now();
        let case = Case::open(&folder, name);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&case)));
        assert!(checked.is_ok(), "{name}");
        case.check_good();
        assert!(start.elapsed() < TIME_MAX, "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn every_hostile_dag_can_be_walked_or_refused() {
    let Some(folder) = shared_fixtures() else { return };
    for (name, _) in CHECKS {
        let case = Case::open(&folder, name);
        let blocks = case.store.block_count();
        let visits = now(walk(&case.dag, case.root).count());
        assert!(visits <= blocks + 10, "{name}: {visits} visits of {blocks} blocks");
    }
}

#[test]
fn no_hostile_dag_is_forgotten() {
    let Some(folder) = shared_fixtures() else { return };
    let index = std::fs::read(folder.join("adversarial/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let checks: BTreeMap<&str, &Check> =
        CHECKS.iter().map(|(name, check)| (*name, check)).collect();
    for row in index.as_array().unwrap() {
        let file = row["file"].as_str().unwrap();
        assert!(checks.contains_key(file), "{file} has no check");
        let root = cid_from_text(row["root"].as_str().unwrap()).unwrap();
        assert_eq!(Case::open(&folder, file).root, root);
    }
}
