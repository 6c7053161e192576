//! What stays and what goes when the store is full.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::*;
use crate::block::{Block, Cid, HashFn, codecs};
use crate::codec::dag_pb::{self, PbLink};
use crate::codec::unixfs::Kind;
use crate::dag::{Dag, DagLimits};
use crate::exchange::Exchange;
use crate::store::{DiskOptions, FileState, OpenMode, PinMode, SpaceReport};
use crate::testkit::dag_builder::{DagBuilder, Shape};
use crate::testkit::exchange::TestExchange;

/// Bytes of a leaf.
const LEN: usize = 20_480;
/// A cap for about eighty leaves.
const CAP: u64 = 2_000_000;

struct Fixture {
    dir: tempfile::TempDir,
    repository: Arc<Repository>,
    keeper: Keeper,
}

fn open(path: &Path) -> Arc<Repository> {
    let options = DiskOptions {
        pack_blocks_max: 8,
        cache_max_bytes: Some(CAP),
        assemble_min_bytes: 400_000,
        ..DiskOptions::default()
    };
    Arc::new(Repository::open_with(path, OpenMode::CreateIfMissing, options).unwrap())
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = open(&dir.path().join("r"));
        let keeper = Keeper::new(repository.clone(), Handle::current());
        Self { dir, repository, keeper }
    }

    fn dag(&self, exchange: Arc<dyn Exchange>) -> Dag {
        Dag::new(self.repository.blocks.clone(), exchange, DagLimits::default())
    }

    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let store = self.keeper.store();
        tokio::task::spawn_blocking(move || {
            blocks.chunks(4).try_for_each(|some| store.put(some))?;
            store.commit()
        })
        .await
        .unwrap()
    }

    async fn sweep(&self) -> Result<SpaceReport, KeepError> {
        let keeper = self.keeper.clone();
        let sweep = move || keeper.sweep(&mut |_| ControlFlow::Continue(()));
        tokio::task::spawn_blocking(sweep).await.unwrap()
    }

    fn here(&self, blocks: &[Block]) -> usize {
        let is_here = |block: &&Block| self.repository.blocks.peek(block.cid()).unwrap().is_some();
        blocks.iter().filter(is_here).count()
    }

    fn assert_capped(&self) {
        assert!(self.repository.blocks.disk_bytes() <= CAP, "the cap is passed");
    }
}

fn leaf(n: u32) -> Block {
    let data = Bytes::from(n.to_le_bytes().repeat(LEN / 4));
    Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap()
}

fn leaves(numbers: std::ops::Range<u32>) -> Vec<Block> {
    numbers.map(leaf).collect()
}

/// A node above some blocks.
fn node(children: &[Block]) -> Block {
    let link = |block: &Block| PbLink { cid: *block.cid(), name: Some(b""), tsize: None };
    let links: Vec<_> = children.iter().map(link).collect();
    Block::hash(codecs::DAG_PB, HashFn::SHA2_256, dag_pb::encode(&links, None).into()).unwrap()
}

fn tree(numbers: std::ops::Range<u32>) -> (Cid, Vec<Block>) {
    let mut blocks = leaves(numbers);
    let root = node(&blocks);
    blocks.push(root.clone());
    (*root.cid(), blocks)
}

async fn pin(fixture: &Fixture, dag: &Dag, root: Cid) -> Result<u64, KeepError> {
    let progress = BringProgress::default();
    fixture.keeper.pin(dag, root, PinMode::Recursive, None, &progress).await?;
    Ok(progress.blocks())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_at_the_cap_gets_the_room_of_what_nobody_keeps() {
    let fixture = Fixture::new();
    let dag = fixture.dag(Arc::new(TestExchange::new([])));
    let (root, kept) = tree(0..20);
    fixture.put(kept.clone()).await.unwrap();
    assert_eq!(pin(&fixture, &dag, root).await.unwrap(), 21);
    for round in 1..20 {
        fixture.put(leaves(round * 100..round * 100 + 20)).await.unwrap();
        fixture.assert_capped();
    }
    assert_eq!(fixture.here(&kept), 21, "what is pinned stays");
    assert_eq!(fixture.here(&leaves(100..120)), 0, "the oldest goes");
    assert_eq!(fixture.here(&leaves(1900..1920)), 20, "the newest stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_what_an_import_holds_refuse_it_more() {
    let fixture = Fixture::new();
    let dag = fixture.dag(Arc::new(TestExchange::new([])));
    let (root, kept) = tree(0..70);
    fixture.put(kept.clone()).await.unwrap();
    pin(&fixture, &dag, root).await.unwrap();
    let _import = fixture.keeper.hold().await;
    let refused = fixture.put(leaves(100..200)).await.unwrap_err();
    assert!(matches!(refused, StoreError::CapReached { max: CAP }), "{refused}");
    fixture.assert_capped();
    assert_eq!(fixture.here(&kept), 71);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_fetches_what_is_missing_into_a_full_store() {
    let fixture = Fixture::new();
    fixture.put(leaves(100..180)).await.unwrap();
    let (root, wanted) = tree(0..40);
    let exchange = Arc::new(TestExchange::new(wanted.clone()));
    let dag = fixture.dag(exchange.clone());
    assert_eq!(pin(&fixture, &dag, root).await.unwrap(), 41);
    assert_eq!(fixture.here(&wanted), 41, "no block is only in memory");
    fixture.assert_capped();
    assert_eq!(fixture.repository.pins.list().len(), 1);
    let fetched = exchange.counts().started;
    pin(&fixture, &dag, root).await.unwrap();
    assert_eq!(exchange.counts().started, fetched, "all of it is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_does_not_wait_for_a_pin() {
    let fixture = Fixture::new();
    let (root, wanted) = tree(0..40);
    let [read] = leaves(99..100).try_into().unwrap();
    let exchange = Arc::new(TestExchange::new(wanted.into_iter().chain([read.clone()])));
    exchange.set_bandwidth(20 * LEN as u64);
    let dag = fixture.dag(exchange);
    let progress = BringProgress::default();
    let pinning = fixture.keeper.pin(&dag, root, PinMode::Recursive, None, &progress);
    let reading = async {
        while progress.blocks() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(dag.block(read.cid()).await.unwrap(), read);
        progress.blocks()
    };
    let (pinned, before) = futures::join!(pinning, reading);
    pinned.unwrap();
    assert!(before < 10, "the block came after {before} of the pin");
}

#[tokio::test(flavor = "multi_thread")]
async fn pinning_goes_on_where_it_stopped_and_pins_nothing_before() {
    let fixture = Fixture::new();
    let (root, wanted) = tree(0..40);
    let exchange = Arc::new(TestExchange::new(wanted.clone()));
    let dag = fixture.dag(exchange.clone());
    exchange.silence(wanted[30].cid());
    let progress = BringProgress::default();
    let pinning = fixture.keeper.pin(&dag, root, PinMode::Recursive, None, &progress);
    let patience = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, pinning).await.is_err(), "one block does not come");
    assert!(fixture.repository.pins.list().is_empty());
    let before = exchange.counts().started;
    exchange.unsilence(wanted[30].cid());
    pin(&fixture, &dag, root).await.unwrap();
    let again = exchange.counts().started - before;
    assert!(again <= 12, "{again} blocks were fetched again");
    assert_eq!(fixture.here(&wanted), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_what_is_neither_pinned_nor_held() {
    let fixture = Fixture::new();
    let dag = fixture.dag(Arc::new(TestExchange::new([])));
    let (root, kept) = tree(0..10);
    fixture.put(kept.clone()).await.unwrap();
    pin(&fixture, &dag, root).await.unwrap();
    fixture.put(leaves(100..110)).await.unwrap();
    let hold = fixture.keeper.hold().await;
    fixture.put(leaves(200..205)).await.unwrap();
    fixture.sweep().await.unwrap();
    assert_eq!(fixture.here(&leaves(200..205)), 5, "an import is under way");
    drop(hold);
    let keeper = fixture.keeper.clone();
    let would = tokio::task::spawn_blocking(move || keeper.sweep_dry_run()).await.unwrap();
    let did = fixture.sweep().await.unwrap();
    assert_eq!(would.unwrap().blocks, did.blocks);
    assert_eq!(fixture.here(&leaves(200..205)) + fixture.here(&leaves(100..110)), 0);
    assert_eq!(fixture.here(&kept), 11);
}

/// A file of so many leaves, in a directory that is the root.
fn file_in_directory(numbers: std::ops::Range<u32>) -> (Cid, Cid, Vec<Block>) {
    let mut dag = DagBuilder::new();
    let data = |n| Shape::Raw(leaf(n).data().to_vec());
    let file = dag.file(&Shape::File(Vec::new(), numbers.map(data).collect()));
    let root = dag.directory(&[("file", file), ("alias", file)]);
    (root, file, dag.blocks)
}

impl Fixture {
    async fn gather(&self) -> u64 {
        let keeper = self.keeper.clone();
        let gather = move || keeper.gather(&mut || ControlFlow::Continue(()));
        tokio::task::spawn_blocking(gather).await.unwrap().unwrap()
    }

    async fn is_whole(&self, file: &Cid) -> bool {
        let dag = self.dag(Arc::new(TestExchange::new([])));
        let state = crate::unixfs::whole_file(&dag, file, u64::MAX).await.unwrap();
        matches!(state, FileState::Whole(_))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_pin_are_laid_out_once_each() {
    let fixture = Fixture::new();
    let (root, file, blocks) = file_in_directory(0..20);
    let exchange = Arc::new(TestExchange::new(blocks.clone()));
    pin(&fixture, &fixture.dag(exchange), root).await.unwrap();
    assert!(!fixture.is_whole(&file).await);
    fixture.keeper.gather_asked().await;
    assert_eq!(fixture.gather().await, 1);
    assert!(fixture.is_whole(&file).await);
    fixture.keeper.gather_soon(file);
    fixture.keeper.gather_soon(root);
    assert_eq!(fixture.gather().await, 0, "it is");
    fixture.sweep().await.unwrap();
    assert_eq!(fixture.here(&blocks), blocks.len());
    assert!(fixture.is_whole(&file).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_lie_are_not_laid_out() {
    let fixture = Fixture::new();
    let mut dag = DagBuilder::new();
    let data = |n| leaf(n).into_data();
    let len = LEN as u64;
    let pb = dag.file_node(Kind::File, &data(50), &[]);
    let symlink = dag.symlink("target");
    let mut roots = Vec::new();
    for wrong in [0, 1, len - 1, len + 1, 1 << 40] {
        for part in [dag.raw(data(1)), pb] {
            let parts: Vec<_> = (100..120).map(|n| (dag.raw(data(n)), len)).collect();
            roots.push(dag.file_node(Kind::File, &[], &[&parts[..], &[(part, wrong)]].concat()));
        }
    }
    let parts: Vec<_> = (200..220).map(|n| (dag.raw(data(n)), len)).collect();
    roots.push(dag.file_node(Kind::File, b"own bytes", &parts));
    roots.push(dag.file_node(Kind::File, &[], &[&parts[..], &[(symlink, 6)]].concat()));
    roots.push(dag.file_node(Kind::File, &[], &[(pb, len); 60]));
    roots.push(dag.file_node(Kind::File, &[], &[]));
    let cbor = Cid::new_v1(codecs::DAG_CBOR, *parts[0].0.hash());
    roots.push(dag.file_node(Kind::File, &[], &[&parts[..], &[(cbor, len)]].concat()));
    fixture.put(dag.blocks.clone()).await.unwrap();
    for (at, root) in roots.into_iter().enumerate() {
        fixture.keeper.gather_soon(root);
        // A part of no bytes is left out, and the first such file has the leaves of the second.
        assert_eq!(fixture.gather().await, u64::from(at == 0), "file {at}");
    }
    assert_eq!(fixture.here(&dag.blocks), dag.blocks.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_laid_out_is_not_tried_again_and_again() {
    let fixture = Fixture::new();
    let (_, first, blocks) = file_in_directory(0..20);
    let (_, second, more) = file_in_directory(10..30);
    fixture.put(blocks).await.unwrap();
    fixture.put(more[..5].to_vec()).await.unwrap();
    fixture.keeper.gather_soon(first);
    fixture.keeper.gather_soon(second);
    assert_eq!(fixture.gather().await, 1, "the second is not here");
    fixture.put(more).await.unwrap();
    fixture.keeper.gather_soon(second);
    assert_eq!(fixture.gather().await, 0, "the first has a part of it");
    for _ in 0..3 {
        fixture.keeper.gather_soon(second);
        assert!(fixture.keeper.gather_waiting().is_empty());
    }
    assert!(fixture.is_whole(&first).await && !fixture.is_whole(&second).await);
    let (_, short, blocks) = file_in_directory(40..50);
    fixture.put(blocks).await.unwrap();
    fixture.keeper.gather_soon(short);
    assert_eq!(fixture.gather().await, 0, "it is too short");
    for n in 0..2000_u32 {
        fixture.keeper.gather_soon(*leaf(n).cid());
    }
    assert!(fixture.keeper.gather_waiting().len() < 1000, "what waits has a bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lost_a_leaf_is_laid_out_again_when_it_is_opened() {
    let fixture = Fixture::new();
    let (_, file, blocks) = file_in_directory(0..20);
    fixture.put(blocks).await.unwrap();
    fixture.keeper.gather_soon(file);
    assert_eq!(fixture.gather().await, 1);
    assert!(fixture.repository.blocks.remove(leaf(7).cid()).unwrap());
    fixture.keeper.gather_soon(file);
    assert_eq!(fixture.gather().await, 0, "it is not here");
    fixture.put(leaves(7..8)).await.unwrap();
    fixture.keeper.gather_soon(file);
    assert_eq!(fixture.gather().await, 1);
    assert!(fixture.is_whole(&file).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_for_files_to_lay_out_can_be_stopped_before_there_is_one() {
    let fixture = Fixture::new();
    let mut dag = DagBuilder::new();
    let mut names = Vec::new();
    for n in 0..50 {
        let data = leaf(n).into_data();
        names.push((format!("{n:02}"), dag.file_node(Kind::File, &data, &[])));
    }
    let root = dag.directory(&names);
    fixture.put(dag.blocks).await.unwrap();
    fixture.keeper.gather_soon(root);
    let (keeper, mut looks) = (fixture.keeper.clone(), 0);
    let gather = move || {
        let go_on = &mut || {
            looks += 1;
            if looks == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        keeper.gather(go_on).map(|done| (done, looks))
    };
    assert_eq!(tokio::task::spawn_blocking(gather).await.unwrap().unwrap(), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pins_of_one_block_with_other_codecs_keep_what_is_below() {
    let fixture = Fixture::new();
    let (root, kept) = tree(0..10);
    fixture.put(kept.clone()).await.unwrap();
    let as_raw = Cid::new_v1(codecs::RAW, *root.hash());
    fixture.repository.pins.add(&as_raw, PinMode::Recursive, None).unwrap();
    fixture.repository.pins.add(&root, PinMode::Recursive, None).unwrap();
    fixture.sweep().await.unwrap();
    assert_eq!(fixture.here(&kept), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_while_a_pin_is_broken() {
    let fixture = Fixture::new();
    let (root, kept) = tree(0..10);
    fixture.put(kept[..10].to_vec()).await.unwrap();
    fixture.put(leaves(100..110)).await.unwrap();
    fixture.repository.pins.add(&root, PinMode::Recursive, None).unwrap();
    let refused = fixture.sweep().await.unwrap_err();
    assert!(matches!(refused, KeepError::PinsUnknown(_)), "{refused}");
    assert!(refused.to_string().contains(&root.to_string()), "{refused}");
    assert_eq!(fixture.here(&kept) + fixture.here(&leaves(100..110)), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_fetched_again() {
    let fixture = Fixture::new();
    let block = leaf(7);
    fixture.put(vec![block.clone()]).await.unwrap();
    fixture.repository.close().unwrap();
    let path = fixture.dir.path().join("r");
    drop((fixture.keeper, fixture.repository));
    let pack = std::fs::read_dir(path.join("packs")).unwrap();
    let pack =
        pack.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "car");
    let pack = pack.unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&pack, bytes).unwrap();

    let repository = open(&path);
    let keeper = Keeper::new(repository.clone(), Handle::current());
    let of = |blocks: Vec<Block>| {
        let exchange = Arc::new(TestExchange::new(blocks));
        Dag::new(repository.blocks.clone(), exchange, DagLimits::default())
    };
    let lost = keeper.repair(&of(Vec::new()).offline(), block.cid()).await.unwrap_err();
    assert!(lost.to_string().contains("damaged"), "{lost}");
    keeper.repair(&of(vec![block.clone()]), block.cid()).await.unwrap();
    assert_eq!(repository.blocks.get(block.cid()).unwrap(), Some(block));
}
