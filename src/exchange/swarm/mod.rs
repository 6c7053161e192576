//! This node among others: its key, its addresses, whom it is connected to. One task drives all of it.

mod book;
mod build;
mod gate;
mod muxer;
mod task;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::task::Task;
use super::bitswap::{Client, Ledger, Serve};
use super::schedule::Totals;
use crate::block::Cid;
use crate::store::BlockStore;

/// Requests to the task that wait for their turn; who asks when it is full waits.
const REQUESTS_MAX: usize = 64;

/// Whom a node talks to, beside the peers that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those who call it.
    Callers,
    /// Peers on the local network: it looks for them and lets them find it, and nobody else may call.
    Lan,
}

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
    /// Who may have what is here.
    pub serve: Serve,
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

    /// Connects to a peer, and returns its id.
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

fn remote(endpoint: &ConnectedPoint) -> (Multiaddr, bool) {
    (endpoint.get_remote_address().clone(), endpoint.is_dialer())
}
