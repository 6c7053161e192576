//! The filesystem without a kernel.

use std::sync::Arc;

use super::*;
use crate::codec::dag_pb::PbLink;
use crate::codec::unixfs::{Kind, UnixFs};
use crate::dag::DagLimits;
use crate::exchange::{Exchange, Network};
use crate::testkit::dag_builder::DagBuilder;
use crate::testkit::exchange::TestExchange;
use crate::testkit::store::TestStore;

const ROOM: Room = Room { looks_up: true, bytes: 64 * 1024, entry_bytes: 150 };

#[derive(Debug)]
struct TestRoot(Option<Cid>, Vec<Cid>);

impl Root for TestRoot {
    fn directory(&self) -> Option<Cid> {
        self.0
    }

    fn listed(&self) -> Vec<Cid> {
        self.1.clone()
    }

    fn changes(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }
}

fn options() -> VfsOptions {
    VfsOptions {
        owner: Ownership { uid: 0, gid: 0, file_mask: None, dir_mask: 0 },
        claims: true,
        offline: false,
        list_root: true,
        inode_key: [1; 32],
        volume: None,
        fetch_budget: Arc::default(),
        walkahead: WALKAHEAD_BLOCKS,
        no_fetch: Vec::new(),
        keeper: None,
    }
}

/// A tree below `root`, whose blocks but those of `absent` are here.
fn vfs(builder: &DagBuilder, root: &Cid, absent: &[Cid], exchange: Arc<dyn Exchange>) -> Vfs {
    let here = builder.blocks.iter().filter(|block| !absent.contains(block.cid())).cloned();
    let dag = Dag::new(Arc::new(TestStore::new(here)), exchange, DagLimits::default());
    Vfs::new(dag, Arc::new(TestRoot(Some(*root), Vec::new())), options())
}

fn peers(builder: &DagBuilder) -> Arc<TestExchange> {
    Arc::new(TestExchange::new(builder.blocks.iter().cloned()))
}

fn claiming(builder: &mut DagBuilder, entries: &[(&str, Cid, Option<u64>)]) -> Cid {
    let links: Vec<_> = entries
        .iter()
        .map(|(name, cid, tsize)| PbLink { cid: *cid, name: Some(name.as_bytes()), tsize: *tsize })
        .collect();
    builder.node(&links, &UnixFs::new(Kind::Directory))
}

async fn found(vfs: &Vfs, name: &str) -> Found {
    vfs.lookup(ROOT_INO, name.as_bytes()).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_is_here_is_ready_at_the_first_poll() {
    use futures::FutureExt as _;
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    let root = builder.directory(&[("file", file)]);
    let vfs = vfs(&builder, &root, &[], Arc::new(TestExchange::default()));
    let found = vfs.lookup(ROOT_INO, b"file").now_or_never().unwrap().unwrap().unwrap();
    assert_eq!((found.attr.len, found.ttl), (7, FOREVER));
    let ino = found.attr.ino;
    assert_eq!(vfs.getattr(ino).now_or_never().unwrap().unwrap(), found);
    vfs.open(ino, true, 0).now_or_never().unwrap().unwrap();
    assert_eq!(vfs.read(ino, 2, 100, 0).now_or_never().unwrap().unwrap(), "ntent");
    assert_eq!(vfs.readdir(ROOT_INO, 0, ROOM, 0).now_or_never().unwrap().unwrap().len(), 3);
    assert_eq!(vfs.lookup(ROOT_INO, b"none").now_or_never().unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_claimed_length_has_an_inode_of_its_own_and_is_proved_at_open() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    let entries = [("true", file, Some(7)), ("false", file, Some(5)), ("none", file, None)];
    let root = claiming(&mut builder, &entries);
    let vfs = vfs(&builder, &root, &[file], peers(&builder));
    let (right, wrong) = (found(&vfs, "true").await, found(&vfs, "false").await);
    assert_eq!((right.attr.len, right.ttl), (7, CLAIM_TTL));
    assert_eq!((wrong.attr.len, wrong.ttl), (5, CLAIM_TTL));
    assert_eq!(vfs.getattr(wrong.attr.ino).await.unwrap(), wrong);
    assert!(matches!(vfs.open(wrong.attr.ino, true, 0).await, Err(Error::Stale)));
    assert!(matches!(vfs.getattr(wrong.attr.ino).await, Err(Error::Stale)));
    vfs.open(right.attr.ino, true, 0).await.unwrap();
    assert_eq!(vfs.getattr(right.attr.ino).await.unwrap().ttl, FOREVER);
    let proved = found(&vfs, "false").await;
    assert_eq!((proved.attr.len, proved.ttl), (7, FOREVER));
    assert_eq!(found(&vfs, "none").await.attr.ino, proved.attr.ino);
    let inos = [right.attr.ino, wrong.attr.ino, proved.attr.ino];
    assert!(inos[0] != inos[1] && inos[1] != inos[2] && inos[0] != inos[2], "{inos:?}");
}

#[tokio::test]
async fn a_length_that_was_seen_stays_proved() {
    let mut builder = DagBuilder::new();
    let (one, other) = (builder.raw("content"), builder.raw("other"));
    let right = claiming(&mut builder, &[("one", one, Some(7)), ("other", other, Some(5))]);
    let wrong = claiming(&mut builder, &[("false", one, Some(5)), ("none", other, None)]);
    let root = builder.directory(&[("right", right), ("wrong", wrong)]);
    let vfs = vfs(&builder, &root, &[], Arc::new(TestExchange::default()));
    let lens = async |name| {
        let ino = found(&vfs, name).await.attr.ino;
        let entries = vfs.readdir(ino, 0, ROOM, 0).await.unwrap();
        entries[2..].iter().map(|entry| (entry.attr.len, entry.ttl)).collect::<Vec<_>>()
    };
    let (seven, five) = ((7, FOREVER), (5, FOREVER));
    assert_eq!((lens("right").await, lens("wrong").await), (vec![seven, five], vec![seven, five]));
    assert_eq!(lens("wrong").await, [seven, five], "the false link is not believed later");
    for cid in [one, other] {
        vfs.inner.local.store().remove(&cid).unwrap();
    }
    assert_eq!(lens("right").await, [seven, five]);
    assert_eq!(lens("wrong").await, [(5, CLAIM_TTL), (0, Duration::ZERO)], "nor kept");
}

#[tokio::test]
async fn a_file_that_was_listed_as_a_directory_is_stale() {
    let mut builder = DagBuilder::new();
    let file = builder.file_node(Kind::File, b"content", &[]);
    let root = builder.directory(&[("name", file)]);
    let exchange = TestExchange::default();
    let vfs = vfs(&builder, &root, &[file], Arc::new(exchange.clone()));
    let listed = vfs.readdir(ROOT_INO, 0, ROOM, 0).await.unwrap().pop().unwrap();
    assert_eq!((listed.attr.kind, listed.ttl), (FileType::Directory, Duration::ZERO));
    assert_eq!(vfs.changes().next().await, [ROOT_INO], "the listing is not to be kept");
    vfs.inner.local.store().put(&[builder.blocks[0].clone()]).unwrap();
    let ino = listed.attr.ino;
    assert!(matches!(vfs.getattr(ino).await, Err(Error::Stale)));
    assert!(matches!(vfs.readdir(ino, 0, ROOM, 0).await, Err(Error::Stale)));
    assert!(matches!(vfs.lookup(ino, b"x").await, Err(Error::Stale)));
    assert_eq!(found(&vfs, "name").await.attr.kind, FileType::File);
}

#[tokio::test]
async fn listings_count_look_ups_and_go_on_anywhere() {
    let mut builder = DagBuilder::new();
    let files: Vec<_> =
        (0..100).map(|n| (format!("{n:03}"), builder.raw(format!("content {n}")))).collect();
    let root = builder.directory(&files);
    let vfs = vfs(&builder, &root, &[], Arc::new(Network::default()));
    let small = Room { looks_up: true, bytes: 1000, entry_bytes: 150 };
    let mut all = Vec::new();
    loop {
        let cookie = all.last().map_or(0, |entry: &Entry| entry.cookie);
        let page = vfs.readdir(ROOT_INO, cookie, small, 0).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    let names: Vec<_> = all.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(names[..3], [&b"."[..], b"..", b"000"]);
    assert_eq!(names.len(), 102);
    assert_eq!(vfs.inode_count(), 101);
    for entry in all.iter().filter(|entry| !entry.is_dot()) {
        vfs.forget(entry.attr.ino, 1);
    }
    assert_eq!(vfs.inode_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listing_waits_its_grace_once() {
    let mut builder = DagBuilder::new();
    let files: Vec<_> = (0..100)
        .map(|n| (format!("{n:03}"), builder.file_node(Kind::File, format!("{n}").as_bytes(), &[])))
        .collect();
    let root = builder.directory(&files);
    let absent: Vec<_> = files.iter().map(|(_, cid)| *cid).collect();
    let vfs = vfs(&builder, &root, &absent, Arc::new(TestExchange::default()));
    let small = Room { looks_up: true, bytes: 1000, entry_bytes: 150 };
    let started = tokio::time::Instant::now();
    let mut cookie = 0;
    while let Some(last) = vfs.readdir(ROOT_INO, cookie, small, 0).await.unwrap().pop() {
        cookie = last.cookie;
    }
    let waited = started.elapsed();
    let grace = Duration::from_secs(1)..Duration::from_millis(1200);
    assert!(grace.contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn the_namespace_lists_its_roots_in_a_stable_order() {
    let mut builder = DagBuilder::new();
    let roots: Vec<_> = (0..50).map(|n| builder.raw(format!("root {n}"))).collect();
    let dag = Dag::new(
        Arc::new(TestStore::new(builder.blocks)),
        Arc::new(Network::default()),
        DagLimits::default(),
    );
    let list = |listed: &[Cid]| {
        Vfs::new(dag.clone(), Arc::new(TestRoot(None, listed.to_vec())), options())
    };
    let page = |vfs: Vfs, cookie| async move {
        let room = Room { looks_up: true, bytes: 2000, entry_bytes: 150 };
        vfs.readdir(ROOT_INO, cookie, room, 0).await.unwrap()
    };
    let first = page(list(&roots), 0).await;
    let last = first.last().unwrap();
    let after = page(list(&roots), last.cookie).await;
    let (gone, kept): (Vec<Cid>, Vec<Cid>) =
        roots.iter().partition(|cid| first.iter().any(|entry| entry.name == cid.to_string()));
    assert!(!gone.is_empty() && gone.len() < 50);
    let without_seen = page(list(&kept), last.cookie).await;
    let names = |page: &[Entry]| page.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&without_seen), "a place stays when pins before it go");
}

#[tokio::test]
async fn the_namespace_may_be_closed_to_listing() {
    let dag = Dag::new(
        Arc::new(TestStore::default()),
        Arc::new(Network::default()),
        DagLimits::default(),
    );
    let options = VfsOptions { list_root: false, ..options() };
    let vfs = Vfs::new(dag, Arc::new(TestRoot(None, Vec::new())), options);
    assert!(matches!(vfs.readdir(ROOT_INO, 0, ROOM, 0).await, Err(Error::NotListed)));
    assert_eq!(vfs.getattr(ROOT_INO).await.unwrap().attr.permissions, 0o111);
}

#[tokio::test]
async fn inodes_that_the_kernel_does_not_hold_are_stale() {
    let mut builder = DagBuilder::new();
    let root = builder.directory::<&str>(&[]);
    let vfs = vfs(&builder, &root, &[], Arc::new(Network::default()));
    assert!(matches!(vfs.getattr(77).await, Err(Error::Stale)));
    assert!(matches!(vfs.lookup(77, b"x").await, Err(Error::Stale)));
    assert!(matches!(vfs.read(77, 0, 1, 0).await, Err(Error::Stale)));
    assert!(matches!(vfs.getxattr(77, b"ipfs.cid").await, Err(Error::Stale)));
}

#[test]
fn every_name_is_legal_or_absent() {
    let name = |bytes: &[u8]| root_entry(bytes).is_some();
    assert!(name(b"bafkqaddimvwgy3zao5xxe3debi"));
    assert!(name(b"QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"));
    for bad in [&b"\xff"[..], b".git", b"Cargo.toml", b"", b"Qm"] {
        assert!(!name(bad), "{bad:?}");
    }
}

#[tokio::test]
async fn without_claims_a_look_up_proves_what_it_tells() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    let entries = [("true", file, Some(7)), ("false", file, Some(5))];
    let root = claiming(&mut builder, &entries);
    let here = builder.blocks.iter().filter(|block| *block.cid() != file).cloned();
    let store = Arc::new(TestStore::new(here));
    let dag = Dag::new(store, peers(&builder), DagLimits::default());
    let options = VfsOptions { claims: false, ..options() };
    let vfs = Vfs::new(dag, Arc::new(TestRoot(Some(root), Vec::new())), options);
    let (right, wrong) = (found(&vfs, "true").await, found(&vfs, "false").await);
    assert_eq!((right.attr.len, right.ttl), (7, FOREVER));
    assert_eq!(wrong, right, "it is one file");
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_behind_what_is_fetched_ahead_of_others() {
    let mut builder = DagBuilder::new();
    let (mut names, mut absent) = (Vec::new(), Vec::new());
    for file in 0..4_u32 {
        let leaf = |part: u32| (builder.raw((file * 1000 + part).to_le_bytes().repeat(1024)), 4096);
        let parts: Vec<_> = (0..600).map(leaf).collect();
        absent.extend(parts.iter().map(|(cid, _)| *cid));
        names.push((format!("silent-{file}"), builder.file_node(Kind::File, b"", &parts)));
    }
    let exchange = peers(&builder);
    for cid in &absent {
        exchange.silence(cid);
    }
    let wanted = builder.raw("wanted");
    exchange.add(builder.blocks.last().cloned());
    absent.push(wanted);
    names.push(("wanted".to_owned(), wanted));
    let root = builder.directory(&names);
    let vfs = vfs(&builder, &root, &absent, exchange);
    for file in 0..4 {
        let ino = found(&vfs, &format!("silent-{file}")).await.attr.ino;
        vfs.open(ino, false, 0).await.unwrap();
        let vfs = vfs.clone();
        tokio::spawn(async move { vfs.read(ino, 0, 4096, 0).await });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ino = found(&vfs, "wanted").await.attr.ino;
    let read = tokio::time::timeout(Duration::from_secs(1), vfs.read(ino, 0, 6, 0)).await;
    assert_eq!(read.unwrap().unwrap(), "wanted");
}

/// A file of `parts` of which nothing but its root is here, and the exchange that has them.
async fn remote_file(
    parts: &[(Vec<u8>, u64)],
    fetch_bytes: u64,
) -> (Vfs, u64, Vec<Cid>, Arc<TestExchange>) {
    let mut builder = DagBuilder::new();
    let parts: Vec<_> = parts.iter().map(|(part, len)| (builder.raw(part.clone()), *len)).collect();
    let leaves: Vec<Cid> = parts.iter().map(|(cid, _)| *cid).collect();
    let file = builder.file_node(Kind::File, b"", &parts);
    let root = builder.directory(&[("file", file)]);
    let exchange = peers(&builder);
    let here = builder.blocks.iter().filter(|block| !leaves.contains(block.cid())).cloned();
    let dag = Dag::new(Arc::new(TestStore::new(here)), exchange.clone(), DagLimits::default());
    let fetch_budget = Arc::new(FetchBudget::new(fetch_bytes));
    let options = VfsOptions { fetch_budget, ..options() };
    let vfs = Vfs::new(dag, Arc::new(TestRoot(Some(root), Vec::new())), options);
    let ino = found(&vfs, "file").await.attr.ino;
    (vfs, ino, leaves, exchange)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_lies_of_its_parts_is_not_fetched_ahead() {
    let parts: Vec<_> = (0..100_u32).map(|part| (part.to_le_bytes().repeat(50_000), 1)).collect();
    let (vfs, ino, _, exchange) = remote_file(&parts, 2 << 20).await;
    exchange.set_delay(Duration::from_secs(1));
    vfs.open(ino, true, 0).await.unwrap();
    assert!(vfs.read(ino, 0, 1, 0).await.is_err());
    tokio::time::sleep(Duration::from_mins(1)).await;
    let counts = exchange.counts();
    assert!(counts.started <= 10, "2 MiB of 200 kB each, and the one that was read: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_of_a_short_file_ends_when_it_is_closed() {
    let parts: Vec<_> = (0..40_u32).map(|part| (part.to_le_bytes().repeat(1000), 4000)).collect();
    let (vfs, ino, leaves, exchange) = remote_file(&parts, 128 << 20).await;
    for cid in &leaves[1..] {
        exchange.silence(cid);
    }
    exchange.set_delay(Duration::from_millis(10));
    vfs.open(ino, true, 0).await.unwrap();
    vfs.open(ino, true, 0).await.unwrap();
    vfs.read(ino, 0, 4000, 0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(exchange.counts().started, 40);
    assert!(!vfs.release(ino));
    assert!(vfs.release(ino));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(exchange.counts().cancelled, 39);
}

#[tokio::test]
async fn opens_that_are_given_up_do_not_pile_up() {
    use futures::FutureExt as _;
    let mut builder = DagBuilder::new();
    let leaf = builder.raw(vec![7; 1 << 19]);
    let file = builder.file_node(Kind::File, b"", &[(leaf, 1 << 19); 2]);
    let root = builder.directory(&[("file", file)]);
    let vfs = vfs(&builder, &root, &[], Arc::new(Network::default()));
    let ino = found(&vfs, "file").await.attr.ino;
    let before = vfs.looks_free();
    for given_up in 0..before {
        assert!(vfs.open(ino, true, 0).now_or_never().is_none());
        assert_eq!(vfs.looks_free(), before - given_up - 1, "it is looked at still");
    }
    assert!(vfs.open(ino, true, 0).now_or_never().is_none(), "it waits for its turn");
    assert!(matches!(vfs.open(ino, true, 0).await, Ok(Opened::Parts)));
    assert!(vfs.release(ino), "nobody got the handles of those who gave up");
}
