//! The streams of one connection: messages that come, and one stream each for wants, for blocks and for what is
//! short.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::AsyncRead as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound};
use libp2p::swarm::handler::{FullyNegotiatedOutbound, StreamUpgradeError};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, SubstreamProtocol};
use tokio::sync::Semaphore;

use super::proving::{Places, Proved, Proving};
use super::stream::{Pressed, Pressure, StreamError, Upgrade, read_message, write_message};
use super::throttle::{Rates, Throttle};
use crate::block::{Block, Buffers, Cid};
use crate::codec::bitswap::{Message, MessageWriter, Presence, Version, Want};

/// Streams that a peer may have open to us; further ones are refused. boxo needs one, Helia one for each
/// message that is on its way.
pub(in crate::exchange) const STREAMS_MAX: usize = 16;
/// Messages on their way on one of our streams: one that is written and one that is ready.
pub(super) const SENDING_MAX: usize = 2;

/// Memory kept for the next messages: some seven with a block of a MiB, as many as two fast peers have in hand.
const IDLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often it is told that a long message comes.
const COMING_EVERY: Duration = Duration::from_millis(250);

/// How long a stream may rest and still be taken for open: a message on an older one that fails is sent on a new one.
const SURE_REST_MAX: Duration = Duration::from_secs(1);
/// How long one may rest whose other side is ended: Helia gives up on it after ten seconds (spec 05 §5).
const ENDED_REST_MAX: Duration = Duration::from_secs(5);

/// What a message is about; each kind has a stream of its own, so that wants never wait behind blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::exchange) enum Lane {
    Wants,
    Blocks,
    /// Short answers, which do not wait behind long blocks either.
    Brief,
}

/// A message before it is known which form the peer speaks.
#[derive(Debug, Clone, Default)]
pub(in crate::exchange) struct Outgoing {
    pub(super) wants: Vec<Want>,
    pub(super) blocks: Vec<(Cid, Bytes)>,
    pub(super) presences: Vec<Presence>,
    /// Whether it takes the room of those who take replies at once.
    pub(super) is_brisk: bool,
}

impl Outgoing {
    /// Returns the bytes of its blocks.
    pub(super) fn block_bytes(&self) -> u64 {
        self.blocks.iter().map(|(_, data)| data.len() as u64).sum()
    }
}

/// What happened on a connection.
#[derive(Debug)]
pub(in crate::exchange) enum Event {
    /// A message came; its blocks were hashed.
    Came {
        message: Message,
        blocks: Vec<Block>,
        /// Blocks that no allowed hash proves.
        refused: usize,
    },
    /// So many bytes of a message came that is not whole yet.
    Coming(u64),
    /// A message was handed to the connection.
    Sent(Lane),
    /// A message could not be sent, and others cannot either until the next one is tried.
    Failed(Lane),
    /// The rest of a message was not sent: the peer took it slowly while others waited.
    Cut(Lane),
    /// The peer does not speak bitswap.
    Unsupported,
    /// The peer sent what is no message.
    Misbehaved(String),
}

impl Event {
    /// Tells whether something came, or somebody took blocks or answers.
    pub(super) fn is_sign_of_life(&self) -> bool {
        matches!(self, Self::Came { .. } | Self::Coming(_) | Self::Sent(Lane::Blocks | Lane::Brief))
    }
}

type Incoming = BoxStream<'static, Result<Message, StreamError>>;

/// What all connections have in common.
#[derive(Debug)]
pub(in crate::exchange) struct Common {
    /// How fast messages go each way.
    up: Throttle,
    down: Throttle,
    pressure: Pressure,
    /// Streams that peers have open to us.
    streams: AtomicUsize,
    /// Memory for messages that come, …
    buffers: Buffers,
    /// … and where long ones are hashed.
    places: Places,
}

impl Common {
    pub(super) fn new(rates: Rates) -> Self {
        let [up, down] = [rates.up, rates.down].map(Throttle::new);
        Self {
            up,
            down,
            pressure: Pressure::default(),
            streams: AtomicUsize::new(0),
            buffers: Buffers::new(IDLE_BYTES_MAX),
            places: Places::new(),
        }
    }

    pub(super) fn press(&self, pressed: Pressed) {
        self.pressure.set(pressed);
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

/// The bitswap side of one connection.
pub(in crate::exchange) struct Handler {
    incoming: SelectAll<Incoming>,
    /// For a message of more than a piece.
    turn: Arc<Semaphore>,
    proving: Proving,
    common: Arc<Common>,
    /// Whether bitswap is spoken here, as far as is known: not over a relay, which carries no bulk.
    is_spoken: bool,
    /// Bytes of messages that are not whole which came and were not told, and when some were last.
    coming: Arc<AtomicU64>,
    told_coming: Instant,
    lanes: [(Lane, Outbound); 3],
    events: VecDeque<Event>,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("incoming", &self.incoming.len()).finish_non_exhaustive()
    }
}

/// Our stream for one kind of message.
struct Outbound {
    waiting: VecDeque<Outgoing>,
    state: State,
}

enum State {
    Closed,
    /// It was asked for, or is about to be.
    Opening {
        requested: bool,
    },
    Idle(Idle),
    Writing {
        writing: BoxFuture<'static, Result<(Stream, Version), StreamError>>,
        /// The message once more, if it may turn out that the stream was gone before it.
        again: Option<Outgoing>,
    },
}

/// A stream that rests.
struct Idle {
    stream: Stream,
    version: Version,
    since: Instant,
    /// The peer has ended its side, which is never written to. Helia does so at once, and gives up on ours later.
    is_ended: bool,
}

impl Idle {
    fn new(stream: Stream, version: Version) -> Self {
        Self { stream, version, since: Instant::now(), is_ended: false }
    }

    /// Looks whether the stream is gone, and goes on looking unless it is ended.
    fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_ended {
            return self.since.elapsed() > ENDED_REST_MAX;
        }
        match Pin::new(&mut self.stream).poll_read(cx, &mut [0]) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.is_ended = true;
                false
            }
            Poll::Ready(_) => true,
        }
    }
}

impl Handler {
    /// Returns the handler of a new connection.
    pub(super) fn new(common: Arc<Common>, is_spoken: bool) -> Self {
        let lane = |lane| (lane, Outbound { waiting: VecDeque::new(), state: State::Closed });
        Self {
            incoming: SelectAll::new(),
            turn: Arc::new(Semaphore::new(1)),
            proving: Proving::new(common.places.clone()),
            common,
            is_spoken,
            coming: Arc::default(),
            told_coming: Instant::now(),
            lanes: [lane(Lane::Wants), lane(Lane::Blocks), lane(Lane::Brief)],
            events: VecDeque::new(),
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut Outbound {
        &mut self.lanes[lane as usize].1
    }

    fn accept(&mut self, stream: Stream) {
        if !self.is_spoken || self.incoming.len() >= STREAMS_MAX {
            tracing::debug!("a peer opens too many streams, or one over a relay");
            return;
        }
        let ours = (Arc::clone(&self.turn), Open::new(&self.common));
        let coming = Arc::clone(&self.coming);
        let messages = futures::stream::unfold(Some((stream, ours, coming)), |state| async {
            let (mut stream, ours, coming) = state?;
            let tell = |len| {
                coming.fetch_add(len as u64, Ordering::Relaxed);
            };
            let (turn, Open(common)) = &ours;
            match read_message(&mut stream, turn, &common.down, &common.buffers, tell).await {
                Ok(None) => None,
                Ok(Some(message)) => Some((Ok(message), Some((stream, ours, coming)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        self.incoming.push(messages.boxed());
        self.lane(Lane::Blocks).open();
    }

    /// Tells of the next message that came and is hashed; `None` when there is none.
    fn poll_proved(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        while let Some(proved) = ready!(self.proving.poll_next(cx)) {
            match proved {
                Ok(Proved { message, blocks, refused }) => {
                    return Poll::Ready(Some(Event::Came { message, blocks, refused }));
                }
                Err(error) if error.is_misbehaviour() => {
                    return Poll::Ready(Some(Event::Misbehaved(error.to_string())));
                }
                Err(error) => tracing::debug!(%error, "no more of a message or stream"),
            }
        }
        Poll::Ready(None)
    }

    fn opened(&mut self, lane: Lane, stream: Stream, version: Version) {
        self.lane(lane).state = State::Idle(Idle::new(stream, version));
    }

    fn not_opened(&mut self, lane: Lane, is_unsupported: bool) {
        let outbound = self.lane(lane);
        outbound.state = State::Closed;
        let lost = std::mem::take(&mut outbound.waiting).len();
        if is_unsupported {
            self.is_spoken = false;
            self.events.push_back(Event::Unsupported);
        }
        self.events.extend((0..lost).map(|_| Event::Failed(lane)));
    }
}

/// Counts a stream as long as it is open.
struct Open(Arc<Common>);

impl Open {
    fn new(common: &Arc<Common>) -> Self {
        common.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(common))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn write(
    mut stream: Stream,
    version: Version,
    outgoing: Outgoing,
    common: Arc<Common>,
) -> Result<(Stream, Version), StreamError> {
    let mut writer = MessageWriter::new(version);
    for want in &outgoing.wants {
        writer.want(want);
    }
    for presence in &outgoing.presences {
        writer.presence(presence);
    }
    for (cid, data) in &outgoing.blocks {
        writer.block(cid, data);
    }
    let patience = common.pressure.patience(outgoing.is_brisk);
    drop(outgoing);
    if !writer.is_empty() {
        write_message(&mut stream, &writer.finish(false), &common.up, patience).await?;
    }
    Ok((stream, version))
}

impl Outbound {
    /// Opens the stream before there is a message: who asks is answered a round trip sooner when it was
    /// opened while the question was on its way.
    fn open(&mut self) {
        if matches!(self.state, State::Closed) {
            self.state = State::Opening { requested: false };
        }
    }

    /// Goes on as far as it can; tells what came of a message, or that a stream is wanted.
    fn poll(
        &mut self,
        common: &Arc<Common>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Option<StreamError>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Closed) {
                State::Closed if self.waiting.is_empty() => return Poll::Pending,
                State::Closed => self.state = State::Opening { requested: false },
                State::Opening { requested } => {
                    self.state = State::Opening { requested: true };
                    return if requested { Poll::Pending } else { Poll::Ready(Err(None)) };
                }
                State::Idle(mut idle) => {
                    if idle.is_gone(cx) {
                        continue;
                    }
                    let Some(outgoing) = self.waiting.pop_front() else {
                        self.state = State::Idle(idle);
                        return Poll::Pending;
                    };
                    let may_be_gone = idle.since.elapsed() > SURE_REST_MAX;
                    let again = may_be_gone.then(|| outgoing.clone());
                    let writing = write(idle.stream, idle.version, outgoing, Arc::clone(common));
                    self.state = State::Writing { writing: writing.boxed(), again };
                }
                State::Writing { mut writing, again } => match writing.poll_unpin(cx) {
                    Poll::Pending => {
                        self.state = State::Writing { writing, again };
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((stream, version))) => {
                        self.state = State::Idle(Idle::new(stream, version));
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(error)) => match (again, &error) {
                        (Some(outgoing), StreamError::Io(_)) => {
                            tracing::debug!(%error, "a stream was gone; its message goes on a new one");
                            self.waiting.push_front(outgoing);
                        }
                        _ => return Poll::Ready(Err(Some(error))),
                    },
                },
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = (Lane, Outgoing);
    type ToBehaviour = Event;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Lane;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(Upgrade, ())
    }

    /// Peers stay connected while nothing is wanted: who is too many, the swarm decides.
    fn connection_keep_alive(&self) -> bool {
        self.is_spoken
    }

    fn on_behaviour_event(&mut self, (lane, outgoing): Self::FromBehaviour) {
        self.lane(lane).waiting.push_back(outgoing);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Lane>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, _),
                ..
            }) => self.accept(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, version),
                info,
            }) => self.opened(info, stream, version),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.not_opened(info, matches!(error, StreamUpgradeError::NegotiationFailed));
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, Lane, Event>> {
        let notify = |event| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        if let Some(event) = self.events.pop_front() {
            return notify(event);
        }
        for (lane, outbound) in &mut self.lanes {
            match outbound.poll(&self.common, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => return notify(Event::Sent(*lane)),
                Poll::Ready(Err(None)) => {
                    let protocol = SubstreamProtocol::new(Upgrade, *lane);
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                        protocol,
                    });
                }
                Poll::Ready(Err(Some(error))) => {
                    tracing::debug!(%error, "cannot send a bitswap message");
                    let is_slow = matches!(error, StreamError::Slow);
                    return notify(if is_slow { Event::Cut(*lane) } else { Event::Failed(*lane) });
                }
            }
        }
        loop {
            if let Poll::Ready(Some(event)) = self.poll_proved(cx) {
                return notify(event);
            }
            if !self.proving.has_room() {
                break;
            }
            match self.incoming.poll_next_unpin(cx) {
                Poll::Ready(Some(came)) => self.proving.push(came),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if self.told_coming.elapsed() >= COMING_EVERY {
            let bytes = self.coming.swap(0, Ordering::Relaxed);
            if bytes > 0 {
                self.told_coming = Instant::now();
                return notify(Event::Coming(bytes));
            }
        }
        Poll::Pending
    }

    /// What is whole and in hand when the connection ends is told.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_proved(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_is_whole_when_a_connection_ends_is_told() {
        let mut handler = Handler::new(Arc::new(Common::new(Rates::default())), true);
        handler.proving.push(Ok(Message::default()));
        let mut next = async || poll_fn(|cx| handler.poll_close(cx)).await;
        assert!(matches!(next().await, Some(Event::Came { .. })));
        assert!(next().await.is_none());
    }
}
