//! A peer that speaks bitswap as it likes: what it sends is bytes, whatever it was asked.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, SwarmEvent, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::codec::bitswap::Message;
use crate::exchange::bitswap::stream::{Upgrade, read_message};
use crate::exchange::bitswap::throttle::Throttle;

/// What it sends, each on a stream of its own, when a message comes.
pub(super) type Manner = fn(&Message) -> Vec<Bytes>;

/// The peer; it ends with the value.
pub(super) struct Rogue {
    pub(super) address: Multiaddr,
    task: JoinHandle<()>,
}

impl Rogue {
    pub(super) async fn start(manner: Manner) -> Self {
        let builder = SwarmBuilder::with_new_identity().with_tokio();
        let builder = builder
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap();
        let behaviour = Behaviour { manner, events: VecDeque::new() };
        let mut swarm = builder.with_behaviour(|_| behaviour).unwrap().build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let id = *swarm.local_peer_id();
        let (sender, receiver) = oneshot::channel();
        let mut listening = Some(sender);
        let task = tokio::spawn(async move {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await
                    && let Some(listening) = listening.take()
                {
                    listening.send(address.with_p2p(id).unwrap()).unwrap();
                }
            }
        });
        Self { address: receiver.await.unwrap(), task }
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Behaviour {
    manner: Manner,
    events: VecDeque<ToSwarm<(), Bytes>>,
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
        for event in (self.manner)(&message) {
            let handler = NotifyHandler::One(connection);
            self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler, event });
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[derive(Default)]
struct Handler {
    incoming: SelectAll<BoxStream<'static, Message>>,
    to_send: VecDeque<Bytes>,
    sending: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Bytes;
    type ToBehaviour = Message;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Bytes;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, bytes: Bytes) {
        self.to_send.push_back(bytes);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Bytes>) {
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
    ) -> Poll<ConnectionHandlerEvent<Upgrade, Bytes, Message>> {
        while let Poll::Ready(Some(())) = self.sending.poll_next_unpin(cx) {}
        if let Some(bytes) = self.to_send.pop_front() {
            let protocol = SubstreamProtocol::new(Upgrade, bytes);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
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
        let (turn, throttle) = (Semaphore::new(1), Throttle::new(None));
        let message = read_message(&mut stream, &turn, &throttle).await.ok()??;
        Some((message, stream))
    })
    .boxed()
}

/// A stream that is refused is no concern of who floods.
async fn send(mut stream: Stream, bytes: Bytes) {
    use futures::AsyncWriteExt as _;
    if stream.write_all(&bytes).await.is_ok() {
        drop(stream.close().await);
    }
}
