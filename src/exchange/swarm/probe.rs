//! A ping when somebody asks for one; those that are sent now and then are libp2p's own.
//!
//! Each has a stream of its own, since peers end a stream after a while, or when the next one is opened. What
//! is answered to the pings of others is libp2p's business too.

use std::array;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, ReadyUpgrade};
use libp2p::ping::PROTOCOL_NAME;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId};
use libp2p::swarm::{FromSwarm, NetworkBehaviour, NotifyHandler, Stream, StreamProtocol};
use libp2p::swarm::{SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm};
use libp2p::{Multiaddr, PeerId};

/// Bytes of a ping, which come back as they are.
const PING_LEN: usize = 32;

/// Who waits for a stream, or for why there is none.
pub(super) type Reply = oneshot::Sender<Result<Stream, String>>;

/// Opens streams for pings.
#[derive(Debug, Default)]
pub(super) struct Probes {
    asked: VecDeque<(PeerId, Reply)>,
}

impl Probes {
    /// Opens a stream to a peer; when the connection ends first, the reply is dropped. Each is waited for by a
    /// request, and of those there is a limited number.
    pub(super) fn open(&mut self, peer: PeerId, reply: Reply) {
        self.asked.push_back((peer, reply));
    }
}

/// Sends a ping, and returns what the answer took.
pub(super) async fn ping(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Duration> {
    // Nobody can answer before it was asked.
    let random: [u64; PING_LEN / 8] = array::from_fn(|_| RandomState::new().hash_one(0));
    let sent = random.map(u64::to_le_bytes).concat();
    let started = Instant::now();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut came = [0; PING_LEN];
    stream.read_exact(&mut came).await?;
    let time = started.elapsed();
    if came[..] != sent {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not what was sent"));
    }
    Ok(time)
}

impl NetworkBehaviour for Probes {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

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
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let Some((peer_id, event)) = self.asked.pop_front() else { return Poll::Pending };
        Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event })
    }
}

/// Opens them on one connection.
#[derive(Debug, Default)]
pub(super) struct Handler {
    asked: VecDeque<Reply>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        self.asked.push_back(reply);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, DeniedUpgrade, Self::OutboundProtocol, (), Reply>,
    ) {
        // Who does not wait any more needs no answer.
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => drop(reply.send(Ok(stream))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                drop(reply.send(Err(error.to_string())));
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Reply, Self::ToBehaviour>> {
        let Some(reply) = self.asked.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL_NAME), reply);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// Gives back what it takes, changed or not, as long as it takes something.
    struct Echo {
        held: VecDeque<u8>,
        change: u8,
        is_deaf: bool,
    }

    impl AsyncRead for Echo {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let (change, len) = (self.change, into.len().min(self.held.len()));
            for (to, byte) in into.iter_mut().zip(self.held.drain(..len)) {
                *to = byte ^ change;
            }
            Poll::Ready(Ok(len))
        }
    }

    impl AsyncWrite for Echo {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if !self.is_deaf {
                self.held.extend(bytes);
            }
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn only_what_was_sent_is_an_answer() {
        let echo = |change, is_deaf| Echo { held: VecDeque::new(), change, is_deaf };
        assert!(ping(echo(0, false)).await.is_ok());
        let error = ping(echo(1, false)).await.unwrap_err();
        assert!(error.to_string().contains("not what was sent"), "{error}");
        assert_eq!(ping(echo(0, true)).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
