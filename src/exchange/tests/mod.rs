//! Two and more nodes on loopback.

mod company;
mod hostile;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::swarm::{Reach, SwarmOptions};
use super::*;
use crate::block::{HashFn, codecs};
use crate::store::{BlockStore, MemoryStore};

const PATIENCE: Duration = Duration::from_secs(20);

fn block(number: usize, len: usize) -> Block {
    let mut data = vec![0; len];
    data[..8].copy_from_slice(&number.to_le_bytes());
    Block::hash(codecs::RAW, HashFn::SHA2_256, data.into()).unwrap()
}

struct Node {
    network: Network,
    store: Arc<MemoryStore>,
}

impl Node {
    fn swarm(&self) -> &swarm::Swarm {
        self.network.swarm().unwrap()
    }

    fn start(listen: &[&str]) -> Self {
        Self::start_with(listen, |_| ())
    }

    fn start_with(listen: &[&str], change: impl FnOnce(&mut SwarmOptions)) -> Self {
        let mut options = SwarmOptions {
            key: Keypair::generate_ed25519(),
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            peers: Vec::new(),
            reach: Reach::World,
            private: None,
            finds_near: false,
            others: None,
            known: Vec::new(),
            hole_punching: false,
            port_mapping: false,
            serve: Serve::All,
            shared: None,
            rates: Rates::default(),
            agent: "cidfs/test".to_owned(),
            connections_max: 64,
        };
        change(&mut options);
        let store = Arc::new(MemoryStore::default());
        let network = Network::default();
        network.start(options, store.clone()).unwrap();
        Self { network, store }
    }

    /// Returns an address of this node that can be called.
    async fn address(&self) -> Multiaddr {
        let listening = async {
            loop {
                if let Some(address) = self.swarm().addresses().await.unwrap().pop() {
                    return address;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let address = timeout(PATIENCE, listening).await.expect("it listens");
        address.with_p2p(self.swarm().id()).unwrap()
    }

    async fn connect(&self, other: &Node) {
        self.swarm().connect(other.address().await).await.unwrap();
    }

    async fn fetch_all(&self, blocks: &[Block]) {
        let fetch = |block: Block| async move {
            let fetched = self.network.fetch(block.cid(), Urgency::Demand, None).await.unwrap();
            assert_eq!(fetched, block);
        };
        let fetches = futures::stream::iter(blocks.to_vec()).map(fetch).buffer_unordered(256);
        timeout(PATIENCE, fetches.count()).await.expect("all come in time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_over_every_transport() {
    let transports =
        ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"];
    for transport in transports {
        let (giver, taker) = (Node::start(&[transport]), Node::start(&[]));
        let blocks: Vec<_> = (0..300).map(|number| block(number, 10 + number * 700)).collect();
        giver.store.put(&blocks).unwrap();
        taker.connect(&giver).await;
        taker.fetch_all(&blocks).await;
        let totals = taker.swarm().totals().await.unwrap();
        assert_eq!((totals.blocks, totals.unasked_blocks), (300, 0), "{transport}");
        let peers = taker.swarm().peers().await.unwrap();
        assert_eq!(peers[0].ledger.unwrap().received_bytes, totals.bytes, "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_later_is_sent_when_it_is_there() {
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    taker.connect(&giver).await;
    let late = block(1, 100);
    let cid = *late.cid();
    let fetch = taker.network.fetch(&cid, Urgency::Demand, None);
    let put = async {
        sleep(Duration::from_millis(300)).await;
        giver.store.put(std::slice::from_ref(&late)).unwrap();
        Instant::now()
    };
    let (fetched, put) = timeout(PATIENCE, futures::future::join(fetch, put)).await.unwrap();
    assert_eq!(fetched.unwrap(), late);
    assert!(put.elapsed() < Duration::from_secs(2), "{:?}", put.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_off_is_wanted_no_longer() {
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    taker.connect(&giver).await;
    let cid = *block(1, 100).cid();
    let fetch = taker.network.fetch(&cid, Urgency::Demand, None);
    assert!(timeout(Duration::from_millis(300), fetch).await.is_err());
    assert!(taker.swarm().wanted().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_is_replaced() {
    let givers = [Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&["/ip4/127.0.0.1/tcp/0"])];
    let taker = Node::start(&[]);
    let blocks: Vec<_> = (0..200).map(|number| block(number, 200_000)).collect();
    for giver in &givers {
        giver.store.put(&blocks).unwrap();
        taker.connect(giver).await;
    }
    let [one, _other] = givers;
    let go = async {
        sleep(Duration::from_millis(50)).await;
        drop(one);
    };
    futures::future::join(taker.fetch_all(&blocks), go).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cannot_connect_to_nobody() {
    let node = Node::start(&[]);
    let started = Instant::now();
    let error = node.swarm().connect("/ip4/127.0.0.1/tcp/1".parse().unwrap()).await;
    assert!(error.unwrap_err().to_string().contains("cannot connect"), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_pinged_introduced_and_counted() {
    let (giver, taker) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    let peer = giver.swarm().id();
    let error = taker.swarm().ping(peer).await.unwrap_err().to_string();
    assert!(error.contains("it is not connected"), "{error}");
    let id_alone: Multiaddr = format!("/p2p/{peer}").parse().unwrap();
    let error = taker.swarm().connect(id_alone.clone()).await.unwrap_err().to_string();
    assert!(error.contains("no address of it is known"), "{error}");
    taker.connect(&giver).await;
    assert_eq!(taker.swarm().connect(id_alone).await.unwrap(), peer, "it is connected now");
    for _ in 0..20 {
        let time = taker.swarm().ping(peer).await.unwrap();
        assert!(time < PATIENCE);
    }
    assert!(taker.swarm().peers().await.unwrap()[0].latency.is_some());
    let introduced = async {
        loop {
            if let Some(said) = taker.swarm().introduction(peer).await.unwrap() {
                return said;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let said = timeout(PATIENCE, introduced).await.expect("it says who it is");
    assert_eq!((&said.agent[..], said.public_key.to_peer_id()), ("cidfs/test", peer));
    assert!(said.protocols.iter().any(|name| name == "/ipfs/bitswap/1.2.0"), "{said:?}");

    let blocks: Vec<_> = (0..30).map(|number| block(number, 10_000)).collect();
    giver.store.put(&blocks).unwrap();
    taker.fetch_all(&blocks).await;
    let given = [(peer, Given { blocks: 30, bytes: 300_000 })];
    assert_eq!(taker.network.given(&None), given);
    assert_eq!(taker.network.givers(), given);
    let (came, sent) =
        (taker.swarm().traffic().await.unwrap(), giver.swarm().traffic().await.unwrap());
    assert_eq!((came.received_bytes, came.sent_bytes), (300_000, 0));
    assert_eq!((sent.received_bytes, sent.sent_blocks, sent.sent_bytes), (0, 30, 300_000));
    assert!(came.received_per_s > 0 && sent.sent_per_s > 0, "{came:?} {sent:?}");
    taker.swarm().disconnect(peer).await.unwrap();
    assert_eq!(taker.network.givers(), given, "it is remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_kept_is_called_and_counted_within_bounds() {
    let (kept, node) = (Node::start(&["/ip4/127.0.0.1/tcp/0"]), Node::start(&[]));
    let address = kept.address().await;
    assert!(node.swarm().keep("/ip4/127.0.0.1/tcp/1".parse().unwrap()).await.is_err());
    let peer = node.swarm().keep(address.clone()).await.unwrap();
    assert_eq!(node.swarm().kept().await.unwrap(), [(peer, vec![address])]);
    let called = async {
        while node.swarm().peers().await.unwrap().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, called).await.expect("it is called");
    let limits = node.swarm().limits().await.unwrap();
    let used =
        |name| limits.iter().find(|limit| limit.name == name).map(|limit| (limit.used, limit.max));
    assert_eq!(used("connections"), Some((1, 64)));
    assert_eq!(used("connections to one peer"), Some((1, 3)));
    assert_eq!(used("kept peers"), Some((1, 256)));
    assert!(limits.iter().all(|limit| limit.used <= limit.max), "{limits:?}");
    assert!(node.swarm().release(peer).await.unwrap());
    assert!(!node.swarm().release(peer).await.unwrap());
    assert!(node.swarm().kept().await.unwrap().is_empty());
}
