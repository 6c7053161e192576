//! Peers that lie, flood and say nothing, beside an honest one.

use bytes::Bytes;

use super::rogue::{Manner, Rogue};
use super::*;
use crate::codec::bitswap::{Message, MessageWriter, Presence, Version, Want, WantKind};

/// How long the honest answer may take beside a rogue, on a loaded machine too: a few time-outs.
const UNDISTURBED: Duration = Duration::from_secs(15);

fn message(write: impl FnOnce(&mut MessageWriter)) -> Bytes {
    let mut writer = MessageWriter::new(Version::V1_2);
    write(&mut writer);
    writer.finish(false)
}

fn wrong_blocks(asked: &Message) -> Vec<Bytes> {
    let wrong = (0..asked.wants().count()).map(|number| block(number + 1_000_000, 5000));
    vec![message(|writer| wrong.for_each(|block| writer.block(&block)))]
}

fn lying_haves(asked: &Message) -> Vec<Bytes> {
    let has = asked.wants().map(|want| Presence { cid: want.cid, has: true });
    vec![message(|writer| has.for_each(|presence| writer.presence(&presence)))]
}

fn silence(_: &Message) -> Vec<Bytes> {
    Vec::new()
}

fn nonsense(_: &Message) -> Vec<Bytes> {
    vec![Bytes::from_static(&[5, 0xff, 0xff, 0xff, 0xff, 0xff])]
}

/// Says that a message of 4 MiB follows, and stops.
fn giants(_: &Message) -> Vec<Bytes> {
    vec![Bytes::from_static(&[0x80, 0x80, 0x80, 2, 0]); 64]
}

fn streams(_: &Message) -> Vec<Bytes> {
    vec![Bytes::from_static(&[0x81]); 500]
}

fn a_million_wants(_: &Message) -> Vec<Bytes> {
    let want = |number| {
        let cid = *block(number, 8).cid();
        let kind = WantKind::Block;
        Want { cid, priority: 1, is_cancel: false, kind, send_dont_have: true }
    };
    let wants: Vec<_> = (0..40_000).map(want).collect();
    vec![message(|writer| wants.iter().for_each(|want| writer.want(want))); 25]
}

/// Reads beside a rogue what an honest peer has.
async fn read_beside(manner: Manner) -> Node {
    let rogue = Rogue::start(manner).await;
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    let blocks: Vec<_> = (0..200).map(|number| block(number, 5000)).collect();
    giver.store.put(&blocks).unwrap();
    taker.swarm().connect(rogue.address.clone()).await.unwrap();
    taker.connect(&giver).await;
    timeout(UNDISTURBED, taker.fetch_all(&blocks)).await.expect("the honest one is heard");
    // Once more: who lied is not asked again soon.
    let more: Vec<_> = (200..300).map(|number| block(number, 5000)).collect();
    giver.store.put(&more).unwrap();
    timeout(UNDISTURBED, taker.fetch_all(&more)).await.expect("the honest one is heard");
    taker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_blocks_are_dropped_and_their_sender_left_alone() {
    let taker = read_beside(wrong_blocks).await;
    let totals = taker.swarm().totals().await.unwrap();
    assert!(totals.unasked_blocks > 0 && totals.blocks == 300, "{totals:?}");
    assert!(taker.store.get(block(1_000_000, 5000).cid()).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_it_has_everything_and_gives_nothing_costs_little() {
    read_beside(lying_haves).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_costs_little() {
    read_beside(silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_nonsense_is_disconnected() {
    let taker = read_beside(nonsense).await;
    let alone = async {
        while taker.swarm().peers().await.unwrap().len() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, alone).await.expect("it is disconnected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_claimed_takes_no_memory() {
    read_beside(giants).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_is_refused() {
    read_beside(streams).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_wants_disturb_nobody() {
    let taker = read_beside(a_million_wants).await;
    for peer in taker.swarm().peers().await.unwrap() {
        let ledger = peer.ledger.expect("both speak bitswap");
        assert!(ledger.wants <= 1024, "{ledger:?}");
    }
}
