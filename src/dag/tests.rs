//! What dag promises its callers, against the exchange and store of the testkit.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};

use super::*;
use crate::block::{HashFn, cid_from_text, codecs};
use crate::exchange::{ExchangeError, Network};
use crate::testkit::dag_builder::DagBuilder;
use crate::testkit::exchange::TestExchange;
use crate::testkit::store::{Ending, TestStore};

fn raw(text: &'static str) -> Block {
    Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from_static(text.as_bytes())).unwrap()
}

struct Bench {
    dag: Dag,
    store: Arc<TestStore>,
    exchange: TestExchange,
}

fn bench(here: Vec<Block>, elsewhere: Vec<Block>) -> Bench {
    let store = Arc::new(TestStore::new(here));
    let exchange = TestExchange::new(elsewhere);
    let dag = Dag::new(store.clone(), Arc::new(exchange.clone()), DagLimits::default());
    Bench { dag, store, exchange }
}

#[test]
fn what_is_here_is_ready_at_the_first_poll() {
    let block = raw("here");
    let bench = bench(vec![block.clone()], vec![]);
    assert_eq!(bench.dag.block(block.cid()).now_or_never().unwrap().unwrap(), block);
    assert_eq!(bench.dag.block_len(block.cid()).now_or_never().unwrap().unwrap(), 4);
    assert_eq!(bench.dag.read(block.cid(), 1..9).now_or_never().unwrap().unwrap().bytes, "ere");
    assert_eq!(bench.exchange.counts().started, 0);
}

#[tokio::test]
async fn it_is_counted_where_blocks_came_from() {
    let (here, there) = (raw("here"), raw("there"));
    let bench = bench(vec![here.clone()], vec![there.clone()]);
    for block in [&here, &there, &there] {
        bench.dag.block(block.cid()).await.unwrap();
    }
    assert!(bench.dag.offline().block(raw("nowhere").cid()).await.is_err());
    assert_eq!(bench.dag.below(here.cid()).sources(), Sources { store: 2, peers: 1 });
}

#[test]
fn identity_cids_need_no_store_and_no_exchange() {
    let bench = bench(vec![], vec![]);
    let cid = cid_from_text("bafkqaddimvwgy3zao5xxe3debi").unwrap();
    let read = bench.dag.read(&cid, 6..99).now_or_never().unwrap().unwrap().bytes;
    assert_eq!(read, "world\n");
    assert_eq!(bench.dag.read(&cid, 99..100).now_or_never().unwrap().unwrap().bytes, "");
    assert!(bench.store.take_asked().is_empty());
}

#[test]
fn hashes_outside_the_allow_list_are_refused_before_anyone_is_asked() {
    let bench = bench(vec![], vec![]);
    let short = multihash::Multihash::wrap(0x12, &[0; 8]).unwrap();
    let cid = Cid::new_v1(codecs::RAW, short);
    let refused = bench.dag.block(&cid).now_or_never().unwrap();
    assert!(matches!(refused, Err(DagError::Refused { .. })), "{refused:?}");
    assert!(bench.store.take_asked().is_empty());
    assert_eq!(bench.exchange.counts().started, 0);
}

#[tokio::test(start_paused = true)]
async fn many_waiters_share_one_fetch_which_is_stored() {
    let block = raw("there");
    let bench = bench(vec![], vec![block.clone()]);
    bench.exchange.set_delay(Duration::from_millis(50));
    let dag_pb = Cid::new_v1(codecs::DAG_PB, *block.cid().hash());
    let cids = [*block.cid(), dag_pb, *block.cid()];
    let got = join_all(cids.iter().map(|cid| bench.dag.block(cid))).await;
    for (block, cid) in got.into_iter().zip(cids) {
        assert_eq!(block.unwrap().cid(), &cid, "each gets the CID it asked for");
    }
    assert_eq!(bench.exchange.counts().started, 1);
    assert_eq!(bench.store.block_count(), 1);
    assert!(bench.dag.shared.fetches.is_idle());
}

#[tokio::test(start_paused = true)]
async fn the_last_waiter_that_goes_cancels_the_fetch() {
    let block = raw("there");
    let bench = bench(vec![], vec![block.clone()]);
    bench.exchange.set_delay(Duration::from_secs(5));
    let mut first = bench.dag.block(block.cid()).boxed();
    let mut second = bench.dag.block(block.cid()).boxed();
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    assert_eq!(bench.exchange.counts().cancelled, 0);
    drop(second);
    let counts = bench.exchange.counts();
    assert_eq!((counts.started, counts.cancelled), (1, 1));
    assert!(bench.dag.shared.fetches.is_idle());
    assert_eq!(bench.dag.block(block.cid()).await.unwrap(), block, "asking again starts afresh");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_others_gets_what_comes_to_be_here() {
    let (asked, queued) = (raw("asked"), raw("queued"));
    let limits = DagLimits { fetches_max: 1, ..DagLimits::default() };
    let store = Arc::new(TestStore::default());
    let dag = Dag::new(store.clone(), Arc::new(TestExchange::new([])), limits);
    let add = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        store.put(&[asked.clone(), queued.clone()]).unwrap();
    };
    let waiting = join_all([&asked, &queued].map(|block| dag.block(block.cid())));
    let both = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(waiting, add) });
    let (got, ()) = both.await.expect("it does not wait for others only");
    assert_eq!(got.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [asked, queued]);
}

#[tokio::test(start_paused = true)]
async fn fetches_beyond_the_bound_wait_for_their_turn() {
    let blocks = [raw("a"), raw("b"), raw("c"), raw("d")];
    let exchange = TestExchange::new(blocks.clone());
    exchange.set_delay(Duration::from_millis(10));
    let limits = DagLimits { fetches_max: 2, ..DagLimits::default() };
    let store = Arc::new(TestStore::default());
    let dag = Dag::new(store, Arc::new(exchange.clone()), limits);
    let got = join_all(blocks.iter().map(|block| dag.block(block.cid()))).await;
    assert!(got.iter().all(Result::is_ok));
    let counts = exchange.counts();
    assert_eq!((counts.started, counts.concurrent_max), (4, 2));
}

#[tokio::test]
async fn who_waits_goes_past_what_is_fetched_ahead() {
    let silent = [raw("a"), raw("b"), raw("c"), raw("d")];
    let (soon, wanted) = (raw("soon"), raw("wanted"));
    let exchange = TestExchange::new([soon.clone(), wanted.clone()]);
    let limits = DagLimits { fetches_max: 4, ..DagLimits::default() };
    let dag = Dag::new(Arc::new(TestStore::default()), Arc::new(exchange.clone()), limits);
    let ahead = dag.ahead();
    let mut fetches: Vec<_> = silent.iter().map(|block| ahead.block(block.cid()).boxed()).collect();
    fetches.push(ahead.block(soon.cid()).boxed());
    for fetch in &mut fetches {
        assert!(fetch.now_or_never().is_none());
    }
    assert_eq!(exchange.counts().started, 2, "half of the turns");
    assert_eq!(dag.block(wanted.cid()).await.unwrap(), wanted);
    assert_eq!(
        dag.block(soon.cid()).await.unwrap(),
        soon,
        "it waited for its turn as others that nobody waits for"
    );
}

/// Somebody comes to wait for a block in the moment when others are asked for it ahead.
#[derive(Debug, Default)]
struct Crossing {
    dag: Mutex<Option<Dag>>,
    is_known: Arc<Mutex<bool>>,
    hurried: Mutex<u32>,
}

impl Exchange for Crossing {
    fn fetch<'a>(
        &'a self,
        cid: &'a Cid,
        _: Urgency,
        _: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>> {
        let dag = self.dag.lock().take().expect("one fetch");
        assert!(dag.block(cid).now_or_never().is_none());
        let is_known = Arc::clone(&self.is_known);
        async move {
            *is_known.lock() = true;
            std::future::pending().await
        }
        .boxed()
    }

    fn hurry(&self, _: &Cid) {
        assert!(*self.is_known.lock(), "nothing is known of the fetch yet");
        *self.hurried.lock() += 1;
    }

    fn is_offline(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn who_comes_to_wait_is_not_overlooked() {
    let exchange = Arc::new(Crossing::default());
    let dag = Dag::new(Arc::new(TestStore::default()), exchange.clone(), DagLimits::default());
    *exchange.dag.lock() = Some(dag.clone());
    let (block, ahead) = (raw("there"), dag.ahead());
    let mut fetch = ahead.block(block.cid()).boxed();
    assert!((&mut fetch).now_or_never().is_none());
    assert_eq!(*exchange.hurried.lock(), 1);
}

#[tokio::test]
async fn lies_are_passed_over_while_someone_tells_the_truth() {
    let block = raw("truth");
    let bench = bench(vec![], vec![]);
    bench.exchange.answer(block.cid(), Bytes::from_static(b"lie"));
    let lied = bench.dag.block(block.cid()).await;
    assert!(matches!(lied, Err(DagError::Lied { .. })), "{lied:?}");
    assert_eq!(bench.store.block_count(), 0);
    bench.exchange.add([block.clone()]);
    assert_eq!(bench.dag.block(block.cid()).await.unwrap(), block);
}

#[tokio::test]
async fn a_full_disk_stops_keeping_and_not_reading() {
    let block = raw("there");
    let bench = bench(vec![], vec![block.clone()]);
    bench.store.set_full(true);
    assert_eq!(bench.dag.block(block.cid()).await.unwrap(), block);
    assert_eq!(bench.dag.read(block.cid(), 0..2).await.unwrap().bytes, "th");
    let counts = bench.exchange.counts();
    assert_eq!((counts.started, bench.store.block_count()), (1, 0), "kept in memory");
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_up_only_who_waits_for_it() {
    let (here, soon, wanted) = (raw("here"), raw("soon"), raw("wanted"));
    let bench = bench(vec![here.clone()], vec![soon.clone(), wanted.clone()]);
    let (dag, ahead) = (&bench.dag, bench.dag.ahead());
    let (mut coming, mut waiting);
    {
        let _stalled = bench.store.stall();
        coming = ahead.block(soon.cid()).boxed();
        waiting = dag.block(wanted.cid()).boxed();
        assert!((&mut coming).now_or_never().is_none());
        assert!((&mut waiting).now_or_never().is_none(), "what somebody has is stored");
        assert_eq!(dag.block(here.cid()).now_or_never().unwrap().unwrap(), here);
        assert_eq!(dag.read(soon.cid(), 1..3).now_or_never().unwrap().unwrap().bytes, "oo");
    }
    assert_eq!((coming.await.unwrap(), waiting.await.unwrap()), (soon, wanted));
    assert_eq!(bench.store.block_count(), 3);
}

/// Fetches `blocks` so that all but the first come while that one is put.
async fn fetch_together(bench: &Bench, blocks: &[Block]) {
    let mut fetches: Vec<_> = blocks.iter().map(|it| bench.dag.block(it.cid()).boxed()).collect();
    {
        let before = bench.store.put_lens().len();
        let _stalled = bench.store.stall();
        let (first, others) = fetches.split_first_mut().unwrap();
        assert!(first.now_or_never().is_none());
        while bench.store.put_lens().len() == before {
            std::thread::yield_now();
        }
        for fetch in others {
            assert!(fetch.now_or_never().is_none());
        }
    }
    for (block, fetched) in blocks.iter().zip(join_all(fetches).await) {
        assert_eq!(&fetched.unwrap(), block);
    }
}

#[tokio::test]
async fn what_comes_while_the_disk_is_busy_is_put_together() {
    let blocks = [raw("a"), raw("b"), raw("c"), raw("d")];
    let bench = bench(vec![], blocks.to_vec());
    fetch_together(&bench, &blocks).await;
    assert_eq!(bench.store.put_lens()[1..], [1, 3], "the first is that of the bench");
    assert_eq!(bench.store.block_count(), 4);
}

#[tokio::test]
async fn a_block_that_is_refused_takes_no_other_with_it() {
    let blocks = [raw("a"), raw("b"), raw("c"), raw("d")];
    let bench = bench(vec![], blocks.to_vec());
    bench.store.refuse(blocks[2].cid(), Ending::Full);
    fetch_together(&bench, &blocks).await;
    assert_eq!(bench.store.block_count(), 3);
    bench.dag.block(blocks[2].cid()).await.unwrap();
    assert_eq!(bench.exchange.counts().started, 4, "it is kept in memory");
}

#[tokio::test]
async fn a_store_that_panics_costs_what_it_was_given() {
    let blocks = [raw("a"), raw("b"), raw("c"), raw("d")];
    let bench = bench(vec![], blocks.to_vec());
    bench.store.refuse(blocks[0].cid(), Ending::Panic);
    fetch_together(&bench, &blocks[..3]).await;
    assert_eq!(bench.store.block_count(), 0);
    bench.dag.block(blocks[3].cid()).await.unwrap();
    assert_eq!(bench.store.block_count(), 1, "the next one is put");
}

#[tokio::test]
async fn what_was_fetched_ahead_is_read_from_memory_until_its_end() {
    let blocks = [raw("there"), raw("elsewhere")];
    let bench = bench(vec![], blocks.to_vec());
    for block in &blocks {
        bench.dag.ahead().block_len(block.cid()).await.unwrap();
    }
    bench.store.take_asked();
    let [block, whole] = blocks;
    for (range, bytes) in [(0..2, "th"), (2..9, "ere")] {
        assert_eq!(bench.dag.read(block.cid(), range).await.unwrap().bytes, bytes);
    }
    assert_eq!(bench.dag.block(whole.cid()).await.unwrap(), whole);
    assert!(bench.store.take_asked().is_empty());
    for block in [block, whole] {
        bench.dag.block(block.cid()).await.unwrap();
        assert_eq!(bench.store.take_asked(), [*block.cid()], "it is kept once");
    }
}

#[tokio::test]
async fn what_somebody_waited_for_is_left_to_the_store() {
    let block = raw("there");
    let bench = bench(vec![], vec![block.clone()]);
    bench.dag.block(block.cid()).await.unwrap();
    bench.store.take_asked();
    bench.dag.block(block.cid()).await.unwrap();
    assert_eq!(bench.store.take_asked(), [*block.cid()]);
}

#[tokio::test]
async fn a_damaged_block_is_fetched_again_or_an_error_of_the_store() {
    let block = raw("twice");
    let bench = bench(vec![block.clone()], vec![block.clone()]);
    bench.store.damage(block.cid());
    assert_eq!(bench.dag.block(block.cid()).await.unwrap(), block);
    let offline = Dag::new(bench.store.clone(), Arc::new(Network::default()), DagLimits::default());
    let error = offline.block(block.cid()).await;
    assert!(matches!(error, Err(DagError::Store(_))), "{error:?}");
}

#[test]
fn an_offline_handle_shares_what_is_here_and_asks_nobody() {
    let (here, there) = (raw("here"), raw("there"));
    let bench = bench(vec![here.clone()], vec![there.clone()]);
    let offline = bench.dag.offline();
    assert!(offline.is_offline() && !bench.dag.is_offline());
    assert!(offline.block(here.cid()).now_or_never().unwrap().is_ok());
    let error = offline.block(there.cid()).now_or_never().unwrap();
    assert!(matches!(error, Err(DagError::Offline { .. })), "{error:?}");
    assert_eq!(bench.exchange.counts().started, 0);
}

#[test]
fn nodes_are_decoded_once_and_come_in_order() {
    let mut builder = DagBuilder::new();
    let dirs: Vec<Cid> = (0..50)
        .map(|number| {
            let leaf = builder.raw(format!("{number}"));
            builder.directory(&[(format!("{number}"), leaf)])
        })
        .collect();
    let bench = bench(builder.blocks, vec![]);
    let all = bench.dag.nodes(dirs.clone()).collect::<Vec<_>>().now_or_never().unwrap();
    let order: Vec<Cid> = all.iter().map(|(cid, _)| *cid).collect();
    assert_eq!(order, dirs);
    assert!(all.iter().all(|(_, node)| matches!(node.as_deref(), Ok(Node::Directory(_)))));
    bench.store.take_asked();
    let again = bench.dag.node(&dirs[7]).now_or_never().unwrap().unwrap();
    assert!(Arc::ptr_eq(&again, all[7].1.as_ref().unwrap()));
    assert!(bench.store.take_asked().is_empty());
}

#[test]
fn a_node_that_breaks_the_format_is_an_error_of_its_own() {
    let mut builder = DagBuilder::new();
    let cid = builder.block(codecs::DAG_PB, Bytes::from_static(&[0x0a, 0]));
    let bench = bench(builder.blocks, vec![]);
    let error = bench.dag.node(&cid).now_or_never().unwrap();
    assert!(matches!(error, Err(DagError::Node { .. })), "{error:?}");
}

/// Waiters that come and go on several threads: nobody is left behind, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiters_on_many_threads_all_get_their_block_or_go() {
    let blocks: Vec<Block> = (0..20_u8)
        .map(|number| Block::hash(codecs::RAW, HashFn::SHA2_256, vec![number].into()).unwrap())
        .collect();
    let bench = bench(vec![], blocks.clone());
    bench.store.set_full(true);
    bench.exchange.set_delay(Duration::from_millis(1));
    let limits = DagLimits { unstored_bytes: 0, ..DagLimits::default() };
    let dag = Dag::new(bench.store.clone(), Arc::new(bench.exchange.clone()), limits);
    let tasks: Vec<_> = (0..64_u64)
        .map(|task| {
            let (dag, blocks) = (dag.clone(), blocks.clone());
            tokio::spawn(async move {
                for (at, block) in blocks.iter().cycle().take(100).enumerate() {
                    let patience = Duration::from_micros((task * 37 + at as u64 * 61) % 3000);
                    match tokio::time::timeout(patience, dag.block(block.cid())).await {
                        Ok(got) => assert_eq!(&got.unwrap(), block),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
                dag.block(blocks[0].cid()).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), blocks[0]);
    }
    assert!(dag.shared.fetches.is_idle());
    let counts = bench.exchange.counts();
    assert_eq!(counts.started, counts.ended + counts.cancelled);
    assert!(counts.concurrent_max <= 20, "at most one fetch of each block: {counts:?}");
}
