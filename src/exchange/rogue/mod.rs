//! A peer that speaks bitswap as it likes, for tests: what it sends is bytes, whatever it was asked.
//!
//! It is here and not in `testkit`, since nobody else may name libp2p.

pub mod manners;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
    FromSwarm, NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, SwarmEvent, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::bitswap::stream::{Upgrade, read_message};
use super::bitswap::throttle::Throttle;
use crate::block::{Buffers, Cid};
use crate::codec::bitswap::{Message, WantKind};

/// Time between two bytes of [`Act::Trickle`].
const TRICKLE: Duration = Duration::from_secs(1);
/// Time between two times of [`Act::Again`].
const AGAIN: Duration = Duration::from_millis(200);
/// How long after a connection was lost it calls again.
const CALL_AGAIN: Duration = Duration::from_millis(50);

/// What it does when a message comes.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends bytes on a stream of their own.
    Send(Bytes),
    /// Sends them and neither ends nor goes on.
    Hold(Bytes),
    /// Sends them again and again, as long as the connection lives.
    Again(Bytes),
    /// Sends one byte a second.
    Trickle(Bytes),
    /// Resets the streams on which it is asked.
    Reset,
    /// Reads nothing more of what it is sent.
    Deafen,
    /// Ends the connection.
    Leave,
}

/// What it does to each message.
pub type Manner = fn(&Message) -> Vec<Act>;
/// The same of one that remembers.
type AnyManner = Box<dyn FnMut(&Message) -> Vec<Act> + Send>;

/// What it was told.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Messages that came.
    pub messages: usize,
    /// How often it was asked for a block.
    pub asked: usize,
    /// What it was asked for, and not told that it is no longer wanted.
    pub wanted: HashSet<Cid>,
    /// What is no longer wanted.
    pub cancelled: HashSet<Cid>,
}

/// The peer; it ends with the value.
#[derive(Debug)]
pub struct Rogue {
    address: Multiaddr,
    heard: Arc<Mutex<Heard>>,
    calls: mpsc::Sender<Multiaddr>,
    task: JoinHandle<()>,
}

impl Rogue {
    /// Starts it on loopback, in the runtime of the caller.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(manner: impl FnMut(&Message) -> Vec<Act> + Send + 'static) -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let manner = Box::new(manner);
        let behaviour = Behaviour { manner, heard: Arc::clone(&heard), events: VecDeque::new() };
        let builder = SwarmBuilder::with_new_identity().with_tokio();
        let builder = builder
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("TCP can be set up");
        let mut swarm = builder.with_behaviour(|_| behaviour).expect("nothing can fail").build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("it listens");
        let (told, listening) = oneshot::channel();
        let (calls, called) = mpsc::channel(1);
        let task = tokio::spawn(run(swarm, told, called));
        let address = listening.await.expect("it listens");
        Self { address, heard, calls, task }
    }

    /// Returns its address, with its peer id.
    pub fn address(&self) -> &Multiaddr {
        &self.address
    }

    /// Calls a node, and again whenever the connection is lost.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn call(&self, address: Multiaddr) {
        self.calls.send(address).await.expect("it runs");
    }

    /// Returns what it was told so far.
    pub fn heard(&self) -> Heard {
        self.heard.lock().clone()
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut swarm: libp2p::Swarm<Behaviour>,
    told: oneshot::Sender<Multiaddr>,
    mut called: mpsc::Receiver<Multiaddr>,
) {
    let (id, mut told, mut calls) = (*swarm.local_peer_id(), Some(told), None::<Multiaddr>);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    let address = address.with_p2p(id).expect("it has no other id");
                    let _known = told.take().map(|told| told.send(address));
                    continue;
                }
                SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => {
                    sleep(CALL_AGAIN).await;
                }
                _ => continue,
            },
            Some(address) = called.recv() => calls = Some(address),
        }
        if let Some(address) = calls.clone() {
            // The next loss is the next try.
            let _failed = swarm.dial(address);
        }
    }
}

struct Behaviour {
    manner: AnyManner,
    heard: Arc<Mutex<Heard>>,
    events: VecDeque<ToSwarm<(), Act>>,
}

impl Heard {
    fn note(&mut self, message: &Message) {
        self.messages += 1;
        for want in message.wants() {
            if want.is_cancel {
                self.wanted.remove(&want.cid);
                self.cancelled.insert(want.cid);
            } else if want.kind == WantKind::Block {
                self.asked += 1;
                self.wanted.insert(want.cid);
            }
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(
        &mut self,
        peer_id: PeerId,
        connection: ConnectionId,
        message: THandlerOutEvent<Self>,
    ) {
        self.heard.lock().note(&message);
        for event in (self.manner)(&message) {
            self.events.push_back(match event {
                Act::Leave => {
                    ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All }
                }
                event => {
                    let handler = NotifyHandler::One(connection);
                    ToSwarm::NotifyHandler { peer_id, handler, event }
                }
            });
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[derive(Default)]
struct Handler {
    incoming: SelectAll<BoxStream<'static, Message>>,
    is_deaf: bool,
    to_send: VecDeque<Act>,
    sending: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Act;
    type ToBehaviour = Message;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Act;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, act: Act) {
        match act {
            Act::Reset => self.incoming.clear(),
            Act::Deafen => self.is_deaf = true,
            act => self.to_send.push_back(act),
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Act>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, _),
                ..
            }) => self.incoming.push(messages(stream)),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
            }) => self.sending.push(Box::pin(send(stream, info))),
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Act, Message>> {
        while let Poll::Ready(Some(())) = self.sending.poll_next_unpin(cx) {}
        if let Some(act) = self.to_send.pop_front() {
            let protocol = SubstreamProtocol::new(Upgrade, act);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        if self.is_deaf {
            return Poll::Pending;
        }
        match self.incoming.poll_next_unpin(cx) {
            Poll::Ready(Some(message)) => {
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(message))
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

fn messages(stream: Stream) -> BoxStream<'static, Message> {
    futures::stream::unfold(stream, |mut stream| async {
        let (turn, throttle, buffers) = (Semaphore::new(1), Throttle::new(None), Buffers::new(0));
        let message =
            read_message(&mut stream, &turn, &throttle, &buffers, |_| ()).await.ok()??;
        Some((message, stream))
    })
    .boxed()
}

/// A stream that is refused, or has ended, is no concern of who floods.
async fn send(mut stream: Stream, act: Act) {
    use futures::AsyncWriteExt as _;
    let (bytes, piece_len, pause) = match &act {
        Act::Send(bytes) | Act::Hold(bytes) => (bytes, bytes.len().max(1), Duration::ZERO),
        Act::Again(bytes) => (bytes, bytes.len().max(1), AGAIN),
        Act::Trickle(bytes) => (bytes, 1, TRICKLE),
        Act::Reset | Act::Deafen | Act::Leave => return,
    };
    loop {
        for piece in bytes.chunks(piece_len) {
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            sleep(pause).await;
        }
        match act {
            Act::Again(_) => {}
            Act::Hold(_) => std::future::pending().await,
            _ => return drop(stream.close().await),
        }
    }
}
