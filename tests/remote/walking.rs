//! Going through trees that are not here.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cidfs::block::Cid;
use cidfs::codec::dag_pb::PbLink;
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::{TempMount, TempPins};

use super::{alone, timed};

const DELAY: Duration = Duration::from_millis(20);
/// Bytes of a small file, which is one raw block.
const SMALL: u64 = 1000;

/// A tree on the other side of a link.
struct Remote {
    exchange: TestExchange,
    mount: TempMount,
    _pins: TempPins,
    root: Cid,
}

impl Remote {
    fn new(builder: DagBuilder, root: Cid, options: &str) -> Self {
        let exchange = TestExchange::new(builder.blocks);
        exchange.set_delay(DELAY);
        let (mount, pins) = TempMount::pinning(Arc::new(exchange.clone()), options);
        Self { exchange, mount, _pins: pins, root }
    }

    /// Goes through the tree as `find` does; returns the number of files, their sizes and the time.
    fn find(&self) -> (usize, u64, Duration) {
        let root = self.mount.path(self.root.to_string());
        let (out, time) = timed(|| {
            Command::new("find").arg(root).args(["-type", "f", "-printf", "%s\n"]).output().unwrap()
        });
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let sizes: Vec<u64> = String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(|size| size.parse().unwrap())
            .collect();
        (sizes.len(), sizes.iter().sum(), time)
    }
}

fn directory(builder: &mut DagBuilder, entries: &[(String, Cid, u64)]) -> Cid {
    let links: Vec<_> = entries
        .iter()
        .map(|(name, cid, size)| PbLink {
            cid: *cid,
            name: Some(name.as_bytes()),
            tsize: Some(*size),
        })
        .collect();
    builder.node(&links, &UnixFs::new(Kind::Directory))
}

fn small_file(builder: &mut DagBuilder, number: usize) -> Cid {
    let mut bytes = vec![0; usize::try_from(SMALL).unwrap()];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    builder.raw(bytes)
}

/// The tree of `scripts/bench`: folders of 100 files, ten of them in each part.
fn source_tree(files: usize) -> (DagBuilder, Cid) {
    let mut builder = DagBuilder::new();
    let mut number = 0;
    let mut parts = Vec::new();
    while number < files {
        let mut folders = Vec::new();
        for _ in 0..10 {
            let mut entries = Vec::new();
            for _ in 0..100 {
                entries.push((
                    format!("file-{number:06}"),
                    small_file(&mut builder, number),
                    SMALL,
                ));
                number += 1;
            }
            folders.push((format!("folder-{number:06}"), directory(&mut builder, &entries), SMALL));
        }
        parts.push((format!("part-{number:06}"), directory(&mut builder, &folders), SMALL));
    }
    let root = directory(&mut builder, &parts);
    (builder, root)
}

/// Directories one below the other, each with two files of several blocks beside the next one.
fn deep_tree(depth: usize, width: usize) -> (DagBuilder, Cid) {
    let mut builder = DagBuilder::new();
    let mut chains = Vec::new();
    for chain in 0..width {
        let mut below = directory(&mut builder, &[]);
        for level in 0..depth {
            let mut entries = vec![("next".to_owned(), below, SMALL)];
            for copy in 0..2 {
                let leaf = small_file(&mut builder, (chain * depth + level) * 2 + copy);
                let file = builder.file_node(Kind::File, b"", &[(leaf, SMALL)]);
                entries.push((format!("file-{copy}"), file, SMALL));
            }
            below = directory(&mut builder, &entries);
        }
        chains.push((format!("chain-{chain:04}"), below, SMALL));
    }
    let root = directory(&mut builder, &chains);
    (builder, root)
}

/// > `find` through a tree of which nothing is here waits for few round trips, not for one for each
/// > directory.
#[test]
fn a_tree_is_walked_in_few_round_trips() {
    let _alone = alone();
    let files = if crate::is_full_run() { 20_000 } else { 5_000 };
    let (builder, root) = source_tree(files);
    let remote = Remote::new(builder, root, "");
    let (found, bytes, time) = remote.find();
    assert_eq!((found, bytes), (files, files as u64 * SMALL));
    crate::figure("find, 20 ms", time.as_secs_f64(), "s", 2.0);
    assert!(time < Duration::from_secs(10), "{time:?}");
    let counts = remote.exchange.counts();
    assert!(
        counts.ended <= files as u64 / 100 + files as u64 / 1000 + 2,
        "only directories: {counts:?}"
    );
}

/// > Who reads the files of a tree as it goes waits for few round trips, not for one for each file.
#[test]
fn a_tree_is_read_in_few_round_trips() {
    let _alone = alone();
    let files = if crate::is_full_run() { 20_000 } else { 2_000 };
    let (builder, root) = source_tree(files);
    let remote = Remote::new(builder, root, "");
    let (out, time) = timed(|| {
        let mut tar = Command::new("tar");
        let tar = tar.arg("-C").arg(remote.mount.path("")).args(["-cf", "-", &root.to_string()]);
        tar.output().unwrap()
    });
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout.len() > files * usize::try_from(SMALL).unwrap());
    crate::figure("tar, 20 ms", time.as_secs_f64(), "s", 10.0);
    assert!(time < DELAY * u32::try_from(files).unwrap() / 16, "{time:?}");
    let blocks = files + files / 100 + files / 1000 + 1;
    assert_eq!(remote.exchange.counts().ended, blocks as u64, "each once");
}

/// The same in one folder, in which nobody walks.
#[test]
fn the_files_of_one_folder_are_read_in_few_round_trips() {
    const FILES: usize = 500;
    let _alone = alone();
    let mut builder = DagBuilder::new();
    let files = (0..FILES)
        .map(|number| (format!("file-{number:06}"), small_file(&mut builder, number), SMALL));
    let files: Vec<_> = files.collect();
    let root = directory(&mut builder, &files);
    let remote = Remote::new(builder, root, "");
    let folder = remote.mount.path(root.to_string());
    let (read, time) = timed(|| {
        let names = std::fs::read_dir(&folder).unwrap();
        names.map(|name| std::fs::read(name.unwrap().path()).unwrap().len()).sum::<usize>()
    });
    assert_eq!(read, FILES * usize::try_from(SMALL).unwrap());
    assert!(time < DELAY * u32::try_from(FILES).unwrap() / 8, "{time:?}");
}

/// > Who goes depth first is recognised, and the next directories are fetched before they are listed.
#[test]
fn a_deep_tree_is_fetched_ahead_of_the_walker() {
    const DEPTH: usize = 8;
    const WIDTH: usize = 60;
    let _alone = alone();
    let walked = |options| {
        let (builder, root) = deep_tree(DEPTH, WIDTH);
        let remote = Remote::new(builder, root, options);
        let (found, _, time) = remote.find();
        assert_eq!(found, 2 * DEPTH * WIDTH);
        time
    };
    let ahead = walked("");
    let alone = walked("walkahead=0");
    assert!(alone > DELAY * u32::try_from(DEPTH * WIDTH / 2).unwrap(), "{alone:?}");
    assert!(ahead < alone / 4, "{ahead:?} against {alone:?}");
}

/// > An indexer does not drag in the world: what it has not listed is at most the budget ahead.
#[test]
fn what_is_fetched_ahead_of_a_walker_is_bounded() {
    const BUDGET: u64 = 100;
    let (builder, root) = deep_tree(12, 100);
    let remote = Remote::new(builder, root, &format!("walkahead={BUDGET}"));
    // Two listings below a listed directory are a walker.
    for path in ["", "chain-0000", "chain-0000/next", "chain-0000/next/next"] {
        std::fs::read_dir(remote.mount.path(remote.root.to_string()).join(path)).unwrap().count();
    }
    std::thread::sleep(Duration::from_secs(2));
    let counts = remote.exchange.counts();
    let listed = 1 + 100 + 3 * 3;
    assert!(counts.started > listed + BUDGET / 2, "{counts:?}");
    assert!(counts.started <= listed + BUDGET, "{counts:?}");
}

/// > The first byte of a file below `n` directories takes `n` + 2 round trips.
#[test]
fn the_first_byte_takes_a_round_trip_for_each_level() {
    const DEPTH: u32 = 3;
    let mut builder = DagBuilder::new();
    let leaves: Vec<_> = (0..4).map(|number| (small_file(&mut builder, number), SMALL)).collect();
    let mut below = builder.file_node(Kind::File, b"", &leaves);
    for _ in 1..DEPTH {
        below = directory(&mut builder, &[("a".to_owned(), below, SMALL)]);
    }
    let root = directory(&mut builder, &[("a".to_owned(), below, SMALL)]);
    let remote = Remote::new(builder, root, "");
    let path = remote.mount.path(root.to_string()).join("a/a/a");
    let (byte, time) = timed(|| {
        let mut byte = [1];
        std::io::Read::read_exact(&mut std::fs::File::open(path).unwrap(), &mut byte).unwrap();
        byte
    });
    assert_eq!(byte, [0]);
    let most = DELAY * (DEPTH + 2) + DELAY;
    crate::figure("first byte, 20 ms", time.as_secs_f64() * 1e3, "ms", most.as_secs_f64() * 1e3);
    assert!(time <= 2 * most, "{time:?}");
}
