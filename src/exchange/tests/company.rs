//! Whom a node talks to, and how fast.

use std::num::NonZeroU64;

use super::*;
use crate::exchange::swarm::KnownPeer;

const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

#[tokio::test]
async fn who_has_the_key_of_a_private_network_talks_and_nobody_else_does() {
    let with = |byte: u8| {
        Node::start_with(&[LOOPBACK], |options| {
            options.private = Some(PreSharedKey::new([byte; 32]));
        })
    };
    let (one, two, other, public) = (with(1), with(1), with(2), Node::start(&[LOOPBACK]));
    let blocks: Vec<_> = (0..20).map(|number| block(number, 100_000)).collect();
    one.store.put(&blocks).unwrap();
    two.connect(&one).await;
    two.fetch_all(&blocks).await;
    for stranger in [&other, &public] {
        let call = stranger.swarm().connect(one.address().await);
        timeout(PATIENCE, call).await.expect("it fails in time").unwrap_err();
    }
    assert_eq!(one.swarm().peers().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_may_call_each_other_at_the_same_moment() {
    for _ in 0..50 {
        let (a, b) = (Node::start(&[LOOPBACK]), Node::start(&[LOOPBACK]));
        let (to_a, to_b) = (a.address().await, b.address().await);
        let (from_a, from_b) = tokio::join!(a.swarm().connect(to_b), b.swarm().connect(to_a));
        assert_eq!((from_a.unwrap(), from_b.unwrap()), (b.swarm().id(), a.swarm().id()));
    }
}

#[tokio::test]
async fn a_peer_is_found_again_where_it_was_reached() {
    let (caller, called) = (Node::start(&[]), Node::start(&[LOOPBACK]));
    let id = called.swarm().id();
    let only_id: Multiaddr = format!("/p2p/{id}").parse().unwrap();
    let error = caller.swarm().connect(only_id.clone()).await.unwrap_err().to_string();
    assert!(error.contains("no address"), "{error}");
    caller.connect(&called).await;
    let known = caller.swarm().known().await.unwrap();
    assert!(
        matches!(&known[..], [KnownPeer { id: known, addresses }] if *known == id && addresses.len() == 1)
    );
    let again = Node::start_with(&[], |options| options.known = known.clone());
    assert_eq!(again.swarm().connect(only_id).await.unwrap(), id);
    let alone = Node::start_with(&[], |options| {
        (options.known, options.others) = (known, Some(Vec::new()));
    });
    let joined = async {
        while alone.swarm().peers().await.unwrap().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, joined).await.expect("it calls whom it knows");
}

#[tokio::test]
async fn blocks_take_no_more_bytes_a_second_than_they_may() {
    let rate = |bytes: u64| NonZeroU64::new(bytes);
    let giver = Node::start_with(&[LOOPBACK], |options| options.rates.up = rate(2_000_000));
    let taker = Node::start(&[]);
    let slow = Node::start_with(&[], |options| options.rates.down = rate(1_000_000));
    let blocks: Vec<_> = (0..20).map(|number| block(number, 100_000)).collect();
    giver.store.put(&blocks).unwrap();
    for (node, least) in [(&taker, 0.8), (&slow, 1.7)] {
        node.connect(&giver).await;
        let start = Instant::now();
        node.fetch_all(&blocks).await;
        let took = start.elapsed().as_secs_f64();
        assert!(took > least, "2 MB in {took} s");
    }
}
