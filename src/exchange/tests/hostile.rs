//! Peers that lie, flood and say nothing, beside an honest one.

use libp2p::multiaddr::Protocol;
use tokio::net::TcpSocket;

use super::*;
use crate::codec::bitswap::Message;
use crate::exchange::rogue::{Manner, Rogue, manners};

/// How long the honest answer may take beside a rogue, on a loaded machine too: a few time-outs.
const UNDISTURBED: Duration = Duration::from_secs(15);
/// How often a rogue that gives nothing is asked for a block at most: what is asked for at once before it is
/// known, and then one now and then.
const ASKED_MAX: usize = 64;

/// Reads beside a rogue what an honest peer has.
async fn read_beside(manner: Manner) -> (Node, Rogue) {
    let rogue = Rogue::start(manner).await;
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    let blocks: Vec<_> = (0..200).map(|number| block(number, 5000)).collect();
    giver.store.put(&blocks).unwrap();
    taker.swarm().connect(rogue.address().clone()).await.unwrap();
    taker.connect(&giver).await;
    timeout(UNDISTURBED, taker.fetch_all(&blocks)).await.expect("the honest one is heard");
    // Once more: who lied is not asked again soon.
    let more: Vec<_> = (200..300).map(|number| block(number, 5000)).collect();
    giver.store.put(&more).unwrap();
    timeout(UNDISTURBED, taker.fetch_all(&more)).await.expect("the honest one is heard");
    let asked = rogue.heard().asked;
    assert!(asked <= ASKED_MAX, "the rogue was asked {asked} times");
    (taker, rogue)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_blocks_are_dropped_and_their_sender_left_alone() {
    let (taker, _rogue) = read_beside(manners::wrong_blocks).await;
    let totals = taker.swarm().totals().await.unwrap();
    assert!(totals.unasked_blocks > 0 && totals.blocks == 300, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_hash_proves_is_dropped() {
    read_beside(manners::unprovable_blocks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_it_has_everything_and_gives_nothing_costs_little() {
    for manner in [manners::promises, manners::promises_again, manners::promises_taken_back] {
        read_beside(manner).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_costs_little() {
    read_beside(manners::silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_or_speaks_slowly_costs_little() {
    read_beside(manners::refusals).await;
    read_beside(manners::trickle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_off_what_it_is_told_costs_little() {
    read_beside(manners::resets).await;
    read_beside(manners::refusals_and_resets).await;
    read_beside(manners::leaving).await;
}

/// All places for calls would be taken for as long as a handshake may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_calls_and_says_nothing_leaves_room_for_others() {
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    let Some(Protocol::Tcp(port)) = giver.address().await.iter().nth(1) else { panic!("no TCP") };
    let mut silent = Vec::new();
    for _ in 0..200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        silent.push(socket.connect(([127, 0, 0, 1], port).into()).await.unwrap());
    }
    taker.connect(&giver).await;
}

/// It comes back at once, while blocks are wanted that nobody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_goes_again_and_again_costs_little() {
    let rogue = Rogue::start(manners::leaving).await;
    let taker = Node::start(&["/ip4/127.0.0.1/tcp/0"]);
    rogue.call(taker.address().await).await;
    let cid = *block(1, 100).cid();
    let absent = taker.network.fetch(&cid, Urgency::Demand, None);
    assert!(timeout(Duration::from_secs(3), absent).await.is_err());
    let asked = rogue.heard().asked;
    assert!((1..8).contains(&asked), "asked {asked} times");
    assert!(taker.swarm().wanted().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_nonsense_is_disconnected() {
    let (taker, _rogue) = read_beside(manners::nonsense).await;
    let alone = async {
        while taker.swarm().peers().await.unwrap().len() > 1 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, alone).await.expect("it is disconnected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_claimed_takes_no_memory() {
    read_beside(manners::giants).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_streams_is_refused() {
    read_beside(manners::streams).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_wants_disturb_nobody() {
    let (taker, _rogue) = read_beside(manners::a_million_wants).await;
    for peer in taker.swarm().peers().await.unwrap() {
        let ledger = peer.ledger.expect("both speak bitswap");
        assert!(ledger.wants <= 1024, "{ledger:?}");
    }
}

/// What a peer wants is not forgotten when it does not listen to what this node wants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_listen_is_served_all_the_same() {
    let mut is_new = true;
    let manner = move |asked: &Message| {
        let acts = if is_new { manners::some_wants(asked) } else { Vec::new() };
        is_new = false;
        [acts, manners::resets(asked)].concat()
    };
    let rogue = Rogue::start(manner).await;
    let taker = Node::start(&[]);
    taker.swarm().connect(rogue.address().clone()).await.unwrap();
    for number in 0..4 {
        let cid = *block(number, 100).cid();
        let absent = taker.network.fetch(&cid, Urgency::Demand, None);
        assert!(timeout(Duration::from_millis(300), absent).await.is_err());
    }
    let peers = taker.swarm().peers().await.unwrap();
    let ledger = peers[0].ledger.expect("it speaks bitswap");
    assert_eq!(ledger.wants, manners::SOME_WANTS, "{ledger:?}");
}

/// They take all room for replies, which is theirs for some seconds and not again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_much_and_reads_nothing_is_waited_for_a_moment() {
    let blocks: Vec<_> = (0..8).map(|number| block(number, 600_000)).collect();
    let giver = Node::start(&["/ip4/127.0.0.1/tcp/0"]);
    giver.store.put(&blocks).unwrap();
    let mut deaf = Vec::new();
    for _ in 0..58 {
        let wanted: Vec<_> = blocks.iter().map(|block| *block.cid()).collect();
        let rogue = Rogue::start(move |_: &Message| manners::deaf(wanted.clone())).await;
        giver.swarm().connect(rogue.address().clone()).await.unwrap();
        deaf.push(rogue);
    }
    // They begin when they are asked for something themselves.
    let cid = *block(9, 100).cid();
    let absent = giver.network.fetch(&cid, Urgency::Demand, None);
    assert!(timeout(Duration::from_secs(2), absent).await.is_err());
    let limits = giver.swarm().limits().await.unwrap();
    let replies = limits.iter().find(|limit| limit.name == "replies under way").unwrap();
    assert_eq!(replies.used, replies.max, "all room is taken");
    let taker = Node::start(&[]);
    taker.connect(&giver).await;
    timeout(UNDISTURBED, taker.fetch_all(&blocks)).await.expect("it gets its turn");
}
