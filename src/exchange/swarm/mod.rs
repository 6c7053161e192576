//! This node among others: its key, its addresses, whom it is connected to. One task drives all of it.

mod book;
mod build;
mod calling;
mod coalesce;
mod gate;
mod introduction;
mod known;
mod listening;
mod muxer;
mod pong;
mod probe;
mod reach;
mod reachability;
mod rejoin;
mod relays;
mod security;
mod split;
mod task;
mod tls;
mod transport;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::introduction::Introduction;
pub use self::known::KnownPeer;
pub use self::reach::{NETWORKS_MAX, Reach};
use self::task::Task;
use super::address::peer_of;
use super::bitswap::{Client, Ledger, Rates, Serve, Shared, Traffic};
use super::limit::Limit;
use super::schedule::Totals;
use crate::block::Cid;
use crate::store::BlockStore;

/// Requests to the task that wait for their turn; who asks when it is full waits.
const REQUESTS_MAX: usize = 64;

/// How long one ping may take, with the stream that it needs.
const PING_TIME_MAX: Duration = Duration::from_secs(10);

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct SwarmOptions {
    /// Its key; the peer id is made of the public half.
    pub key: Keypair,
    /// Where it listens; an address that is taken is left out, which the log tells.
    pub listen: Vec<Multiaddr>,
    /// Peers that it stays connected to; each address ends with `/p2p/ID`.
    pub peers: Vec<Multiaddr>,
    /// Whom it talks to, beside the peers that it is told.
    pub reach: Reach,
    /// The key of the private network that it is in; it talks to nobody without that.
    pub private: Option<PreSharedKey>,
    /// Whether it looks for peers on the local network, and lets them find it (mDNS).
    pub finds_near: bool,
    /// Whom it calls when few are connected, as far as they are within reach, beside those that it has reached
    /// before; each address ends with `/p2p/ID`. With `None` it calls nobody by itself.
    pub others: Option<Vec<Multiaddr>>,
    /// Peers that it has reached before.
    pub known: Vec<KnownPeer>,
    /// Whether it finds out if it can be called, has itself called over relays if not, and takes part in
    /// making direct connections out of relayed ones (`AutoNAT`, relay, `DCUtR`).
    pub hole_punching: bool,
    /// Whether it asks the router to let calls in (`UPnP`).
    pub port_mapping: bool,
    /// Who may have what is here.
    pub serve: Serve,
    /// What of it they may have, if not all.
    pub shared: Option<Shared>,
    /// Bytes a second that blocks may take.
    pub rates: Rates,
    /// What it calls itself.
    pub agent: String,
    /// Connections at one time.
    pub connections_max: u32,
}

/// Why a node cannot take part, or a peer cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// The transports cannot be set up.
    #[error("cannot set up the network: {0}")]
    Build(String),
    /// An address that names no peer.
    #[error("{0} does not end with /p2p/ and the peer's id")]
    NoPeerId(Multiaddr),
    /// A peer cannot be reached.
    #[error("cannot connect to {peer}: {reason}")]
    Connect {
        /// The peer or its address.
        peer: String,
        /// What went wrong.
        reason: String,
    },
    /// A peer does not answer.
    #[error("no answer from {peer}: {reason}")]
    Ping {
        /// The peer.
        peer: PeerId,
        /// What went wrong.
        reason: String,
    },
    /// No more peers can be kept.
    #[error("{0} peers are kept already; no more can be")]
    Full(usize),
    /// The node stops.
    #[error("the network has stopped")]
    Stopped,
}

/// A peer that this node is connected to.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// Its address, as seen from here.
    pub address: Multiaddr,
    /// Whether this node has called it.
    pub is_outbound: bool,
    /// What it calls itself; empty until it said so.
    pub agent: String,
    /// What its last answer to a ping took.
    pub latency: Option<Duration>,
    /// What passed between it and this node; `None` when it does not speak bitswap.
    pub ledger: Option<Ledger>,
}

/// What the task is asked for.
#[derive(Debug)]
enum Request {
    Connect(Multiaddr, oneshot::Sender<Result<PeerId, SwarmError>>),
    Disconnect(PeerId, oneshot::Sender<bool>),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Addresses(oneshot::Sender<Vec<Multiaddr>>),
    Wanted(oneshot::Sender<Vec<Cid>>),
    Totals(oneshot::Sender<Totals>),
    Known(oneshot::Sender<Vec<KnownPeer>>),
    Traffic(oneshot::Sender<Traffic>),
    Limits(oneshot::Sender<Vec<Limit>>),
    Introduction(PeerId, oneshot::Sender<Option<Introduction>>),
    Keep(PeerId, Multiaddr, oneshot::Sender<Result<(), SwarmError>>),
    Release(PeerId, oneshot::Sender<bool>),
    Kept(oneshot::Sender<Vec<(PeerId, Vec<Multiaddr>)>>),
    Open(PeerId, probe::Reply),
    Measured(PeerId, Duration),
}

/// A handle to the task.
#[derive(Debug)]
pub struct Swarm {
    id: PeerId,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

impl Swarm {
    /// Starts to take part: listens, and connects to the peers that are to be kept.
    ///
    /// # Errors
    /// [`SwarmError::Build`], [`SwarmError::NoPeerId`].
    pub(super) fn start(
        options: SwarmOptions,
        client: Client,
        store: Arc<dyn BlockStore>,
    ) -> Result<Self, SwarmError> {
        let id = options.key.public().to_peer_id();
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        let task = Task::new(options, client, store, receiver)?;
        Ok(Self { id, requests: sender, task: tokio::spawn(task.run()) })
    }

    /// Ends all connections.
    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Returns the id of this node.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Connects to a peer, and returns its id. An address that is only `/p2p/ID` means where it is kept or was
    /// reached before.
    ///
    /// # Errors
    /// [`SwarmError::Connect`], [`SwarmError::Stopped`].
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, SwarmError> {
        self.request(|reply| Request::Connect(address, reply)).await?
    }

    /// Ends all connections to a peer, and does not keep it any more; tells whether there were any.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn disconnect(&self, peer: PeerId) -> Result<bool, SwarmError> {
        self.request(|reply| Request::Disconnect(peer, reply)).await
    }

    /// Returns the peers that this node is connected to.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, SwarmError> {
        self.request(Request::Peers).await
    }

    /// Returns the addresses under which this node can be reached, as far as it knows.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn addresses(&self) -> Result<Vec<Multiaddr>, SwarmError> {
        self.request(Request::Addresses).await
    }

    /// Returns what is wanted of peers, the oldest first.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn wanted(&self) -> Result<Vec<Cid>, SwarmError> {
        self.request(Request::Wanted).await
    }

    /// Returns what came since the start.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn totals(&self) -> Result<Totals, SwarmError> {
        self.request(Request::Totals).await
    }

    /// Returns the peers that this node has reached, the last one first.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn known(&self) -> Result<Vec<KnownPeer>, SwarmError> {
        self.request(Request::Known).await
    }

    /// Returns what passed since the start, and passes now.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn traffic(&self) -> Result<Traffic, SwarmError> {
        self.request(Request::Traffic).await
    }

    /// Returns the bounds of this node among others, and what is used of them.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn limits(&self) -> Result<Vec<Limit>, SwarmError> {
        self.request(Request::Limits).await
    }

    /// Returns what a connected peer has said of itself, if it has.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn introduction(&self, peer: PeerId) -> Result<Option<Introduction>, SwarmError> {
        self.request(|reply| Request::Introduction(peer, reply)).await
    }

    /// Stays connected to the peer that an address ends with, until this node stops.
    ///
    /// # Errors
    /// [`SwarmError::NoPeerId`], [`SwarmError::Full`], [`SwarmError::Stopped`].
    pub async fn keep(&self, address: Multiaddr) -> Result<PeerId, SwarmError> {
        let peer = peer_of(&address).ok_or_else(|| SwarmError::NoPeerId(address.clone()))?;
        self.request(|reply| Request::Keep(peer, address, reply)).await??;
        Ok(peer)
    }

    /// Does not stay connected to a peer any more; tells whether it was to be kept.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn release(&self, peer: PeerId) -> Result<bool, SwarmError> {
        self.request(|reply| Request::Release(peer, reply)).await
    }

    /// Returns the peers that are kept, and their addresses.
    ///
    /// # Errors
    /// [`SwarmError::Stopped`].
    pub async fn kept(&self) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, SwarmError> {
        self.request(Request::Kept).await
    }

    /// Returns how long a connected peer takes for an answer.
    ///
    /// # Errors
    /// [`SwarmError::Ping`], after ten seconds at most; [`SwarmError::Stopped`].
    pub async fn ping(&self, peer: PeerId) -> Result<Duration, SwarmError> {
        let twice = async {
            match self.ping_once(peer).await {
                // The stream of one of our other pings may have taken the place of this one.
                Err(SwarmError::Ping { .. }) => self.ping_once(peer).await,
                done => done,
            }
        };
        let reason = "it is silent for ten seconds".to_owned();
        timeout(PING_TIME_MAX, twice).await.unwrap_or(Err(SwarmError::Ping { peer, reason }))
    }

    async fn ping_once(&self, peer: PeerId) -> Result<Duration, SwarmError> {
        let failed = |reason: String| SwarmError::Ping { peer, reason };
        let (sender, receiver) = oneshot::channel();
        let request = Request::Open(peer, sender);
        self.requests.send(request).await.map_err(|_| SwarmError::Stopped)?;
        let opened = receiver.await.map_err(|_| failed("it is not connected".to_owned()))?;
        let stream = opened.map_err(failed)?;
        let time = probe::ping(stream).await.map_err(|error| failed(error.to_string()))?;
        let measured = self.requests.send(Request::Measured(peer, time));
        measured.await.map_err(|_| SwarmError::Stopped)?;
        Ok(time)
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, SwarmError> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(request(sender)).await.map_err(|_| SwarmError::Stopped)?;
        receiver.await.map_err(|_| SwarmError::Stopped)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the way to a peer, and whether this node took it.
fn remote(endpoint: &ConnectedPoint) -> (Multiaddr, bool) {
    let address = match endpoint {
        // Who calls over a relay has no address of its own.
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
        ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
        ConnectedPoint::Dialer { address, .. } => address,
    };
    (address.clone(), endpoint.is_dialer())
}
