//! One bitswap stream: which form is spoken on it, and messages with their lengths in front.

use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::StreamProtocol;
use libp2p::core::UpgradeInfo;
use libp2p::swarm::Stream;
use libp2p::{InboundUpgrade, OutboundUpgrade};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::throttle::Throttle;
use crate::block::Buffers;
use crate::codec::bitswap::{MESSAGE_LEN_MAX, Message, MessageError, Version};

/// Names of the forms, the best one first.
const NAMES: [(StreamProtocol, Version); 4] = [
    (StreamProtocol::new("/ipfs/bitswap/1.2.0"), Version::V1_2),
    (StreamProtocol::new("/ipfs/bitswap/1.1.0"), Version::V1_1),
    (StreamProtocol::new("/ipfs/bitswap/1.0.0"), Version::V1_0),
    (StreamProtocol::new("/ipfs/bitswap"), Version::V1_0),
];

/// How long a message that has begun may rest (boxo's time to send one, spec 05 §4).
const REST_MAX: Duration = Duration::from_secs(30);
/// How long one may rest whose room others wait for.
const REST_PRESSED: Duration = Duration::from_secs(3);
/// Memory that a message gets before any of it came; the first piece fits.
const CLAIMED_LEN: usize = 64 * 1024;
/// Memory that a message gets when its first piece came; one with a block of a MiB fits.
const LIKELY_LEN: usize = 1024 * 1024 + 64 * 1024;
/// Bytes that are read or written at a time: what goes into one frame of the connection, which with its head
/// (12 bytes) fills four records of TLS.
pub(in crate::exchange) const PIECE_LEN: usize = 64 * 1024 - 12;

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(in crate::exchange) enum StreamError {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer stopped in the middle of a message.
    #[error("a message came to rest for too long")]
    Rest,
    /// The peer takes a message too slowly, and others wait.
    #[error("a message took too long while others waited for its room")]
    Slow,
    /// What came is no message.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// What hashed the blocks of a message was cut short.
    #[error("the blocks of a message were not hashed: {0}")]
    Hashing(#[from] tokio::task::JoinError),
    /// The length in front of a message is no number, or too great.
    #[error("a message begins with a bad length")]
    Length,
}

impl StreamError {
    /// Tells whether the peer, not the network, is to blame.
    pub(super) fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Length)
    }
}

/// Agrees with a peer on the form of the protocol.
#[derive(Debug, Clone, Copy)]
pub(in crate::exchange) struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 4>;

    fn protocol_info(&self) -> Self::InfoIter {
        NAMES.map(|(name, _)| name).into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Version);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, name: Self::Info) -> Self::Future {
        ready(Ok((stream, version(&name))))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, Version);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, name: Self::Info) -> Self::Future {
        ready(Ok((stream, version(&name))))
    }
}

fn version(name: &StreamProtocol) -> Version {
    NAMES.into_iter().find(|(known, _)| known == name).map_or(Version::V1_0, |(_, version)| version)
}

/// Reads the next message into memory of `buffers`; `None` when the peer has closed the stream. Messages
/// of more than a piece take their turn, so that but one of a connection comes at a time, whatever number of
/// streams the peer opens. Each piece that is not the last one is told to `coming`, with its length.
pub(in crate::exchange) async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    turn: &Semaphore,
    throttle: &Throttle,
    buffers: &Buffers,
    coming: impl Fn(usize),
) -> Result<Option<Message>, StreamError> {
    let Some(len) = read_len(stream).await? else { return Ok(None) };
    let _turn = if len > PIECE_LEN { turn.acquire().await.ok() } else { None };
    let piece = throttle.piece(PIECE_LEN);
    let (mut bytes, mut came) = (buffers.take(len.min(CLAIMED_LEN)), 0);
    while came < len {
        // A length that is only claimed does not cost much; what comes is not moved often.
        if bytes.len() < len.min(came + piece) {
            let is_first = bytes.len() < LIKELY_LEN;
            let mut longer = buffers.take(if is_first { len.min(LIKELY_LEN) } else { len });
            longer[..came].copy_from_slice(&bytes[..came]);
            bytes = longer;
        }
        let end = bytes.len().min(came + piece);
        throttle.pass(end - came).await;
        within_rest(stream.read_exact(&mut bytes[came..end])).await?;
        if end < len {
            coming(end - came);
        }
        came = end;
    }
    Ok(Some(Message::decode(bytes.into_bytes())?))
}

async fn read_len(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<usize>, StreamError> {
    let mut len = 0;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        if shift == 0 {
            // Between messages there may be any time.
            if stream.read(&mut byte).await? == 0 {
                return Ok(None);
            }
        } else {
            within_rest(stream.read_exact(&mut byte)).await?;
        }
        len |= usize::from(byte[0] & 0x7f) << shift;
        if len > MESSAGE_LEN_MAX || shift > 21 {
            return Err(StreamError::Length);
        }
        if byte[0] < 0x80 {
            break;
        }
    }
    Ok(Some(len))
}

/// Whose room others wait for who may have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressed {
    /// That of replies to peers that take them slowly.
    pub(super) slow: bool,
    /// That of the others.
    pub(super) brisk: bool,
}

/// The same, as all messages see it that are on their way.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    slow: AtomicBool,
    brisk: AtomicBool,
}

impl Pressure {
    pub(super) fn set(&self, Pressed { slow, brisk }: Pressed) {
        self.slow.store(slow, Ordering::Relaxed);
        self.brisk.store(brisk, Ordering::Relaxed);
    }

    /// Returns how long a message may take, to a peer that takes them slowly or to another.
    pub(super) fn patience(&self, is_brisk: bool) -> Patience<'_> {
        let pressed = if is_brisk { &self.brisk } else { &self.slow };
        Patience { pressed, is_brisk, waited: Duration::ZERO }
    }
}

/// How long a message may take that is sent.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    /// Whether others wait for its room: it may rest for a shorter time then, …
    pressed: &'a AtomicBool,
    /// … and, if it is brisk, is to be gone in that time as a whole.
    is_brisk: bool,
    /// How long the other side was waited for.
    waited: Duration,
}

impl Patience<'_> {
    /// Waits for a step of the message.
    async fn within(
        &mut self,
        step: impl Future<Output = io::Result<()>>,
    ) -> Result<(), StreamError> {
        let mut step = std::pin::pin!(step);
        let begun = Instant::now();
        while begun.elapsed() < REST_MAX {
            match tokio::time::timeout(REST_PRESSED, &mut step).await {
                Ok(done) => {
                    self.waited += begun.elapsed();
                    return Ok(done?);
                }
                Err(_) if self.is_pressed() => break,
                Err(_) => {}
            }
        }
        Err(StreamError::Rest)
    }

    fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.is_brisk && self.waited > REST_PRESSED && self.is_pressed()
    }
}

/// Writes the parts of a message, which has its length in front.
pub(super) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    parts: &[Bytes],
    throttle: &Throttle,
    mut patience: Patience<'_>,
) -> Result<(), StreamError> {
    for piece in parts.iter().flat_map(|part| part.chunks(throttle.piece(PIECE_LEN))) {
        if patience.is_over() {
            return Err(StreamError::Slow);
        }
        throttle.pass(piece.len()).await;
        patience.within(stream.write_all(piece)).await?;
    }
    patience.within(stream.flush()).await
}

async fn within_rest(step: impl Future<Output = io::Result<()>>) -> Result<(), StreamError> {
    tokio::time::timeout(REST_MAX, step).await.map_err(|_| StreamError::Rest)?.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll, ready};

    use futures::io::Cursor;
    use tokio::time::{Sleep, sleep};

    use super::*;
    use crate::block::Block;
    use crate::codec::bitswap::{MessageWriter, Presence};

    /// Has nothing more to say, takes nothing, and does not end.
    struct Rests;

    impl AsyncRead for Rests {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Rests {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    fn pressure(slow: bool, brisk: bool) -> Pressure {
        let pressure = Pressure::default();
        pressure.set(Pressed { slow, brisk });
        pressure
    }

    fn framed() -> Vec<Bytes> {
        let cid = crate::block::cid_from_text("bafkqaaa").unwrap();
        let mut writer = MessageWriter::new(Version::V1_2);
        writer.presence(&Presence { cid, has: true });
        writer.finish(false)
    }

    /// Returns a block and the message that has it.
    fn block_framed(data: Bytes) -> (Block, Vec<u8>) {
        let block = Block::hash_v0(data).unwrap();
        let mut writer = MessageWriter::new(Version::V1_2);
        writer.block(block.cid(), block.data());
        (block, writer.finish(false).concat())
    }

    async fn read_from(
        stream: &mut (impl AsyncRead + Unpin),
        coming: impl Fn(usize),
    ) -> Result<Option<Message>, StreamError> {
        let (turn, throttle, buffers) = (Semaphore::new(1), Throttle::new(None), Buffers::new(0));
        read_message(stream, &turn, &throttle, &buffers, coming).await
    }

    async fn read(bytes: &[u8]) -> Result<Option<Message>, StreamError> {
        read_from(&mut Cursor::new(bytes), |_| ()).await
    }

    #[tokio::test]
    async fn messages_follow_each_other_until_the_end() {
        let (mut written, throttle) = (Cursor::new(Vec::new()), Throttle::new(None));
        for _ in 0..2 {
            let pressure = pressure(true, true);
            let patience = pressure.patience(false);
            write_message(&mut written, &framed(), &throttle, patience).await.unwrap();
        }
        let mut stream = Cursor::new(written.into_inner());
        for _ in 0..2 {
            let message = read_from(&mut stream, |_| ()).await.unwrap().unwrap();
            assert_eq!(message.presences().count(), 1);
        }
        assert!(read_from(&mut stream, |_| ()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn it_is_told_how_a_long_message_comes() {
        let bytes = (0..).take(PIECE_LEN * 5 / 2).map(|at: u32| at.to_le_bytes()[1]);
        let (block, bytes) = block_framed(bytes.collect());
        let (mut stream, pieces) = (Cursor::new(bytes), AtomicUsize::new(0));
        let coming = |_| pieces.store(pieces.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let message = read_from(&mut stream, coming).await.unwrap().unwrap();
        let blocks: Vec<_> = message.blocks().map(|claim| claim.prove().unwrap()).collect();
        assert_eq!((pieces.into_inner(), blocks), (2, vec![block]));
    }

    #[tokio::test]
    async fn what_memory_held_before_is_nowhere_in_the_next_message() {
        let (turn, throttle) = (Semaphore::new(1), Throttle::new(None));
        let buffers = Buffers::new(8 * LIKELY_LEN);
        for (byte, len) in (0..).zip([300_000, 290_000, LIKELY_LEN, 2 * PIECE_LEN, LIKELY_LEN - 99])
        {
            let (block, bytes) = block_framed(vec![byte; len].into());
            let mut cut_off = Cursor::new(&bytes[..bytes.len() - 1]);
            assert!(read_message(&mut cut_off, &turn, &throttle, &buffers, |_| ()).await.is_err());
            let mut whole = Cursor::new(&bytes);
            let message = read_message(&mut whole, &turn, &throttle, &buffers, |_| ()).await;
            let message = message.unwrap().unwrap();
            assert_eq!(message.blocks().next().unwrap().prove().unwrap(), block);
        }
    }

    #[tokio::test]
    async fn a_bad_length_is_refused_before_anything_is_read() {
        for bytes in [&[0x81, 0x80, 0x80, 2][..], &[0xff; 10], &[0x80, 0x80, 0x80, 0x80, 1]] {
            assert!(matches!(read(bytes).await, Err(StreamError::Length)), "{bytes:x?}");
        }
        assert!(matches!(read(&[5, 1]).await, Err(StreamError::Io(_))), "cut short");
        assert!(read(&[2, 0x0a, 9]).await.unwrap_err().is_misbehaviour());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_to_rest_is_given_up() {
        let mut resting = Cursor::new([100, 1, 2]).chain(Rests);
        let started = tokio::time::Instant::now();
        let error = read_from(&mut resting, |_| ()).await.unwrap_err();
        assert!(matches!(error, StreamError::Rest), "{error}");
        assert_eq!(started.elapsed(), REST_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_given_up_sooner_while_others_wait() {
        let throttle = Throttle::new(None);
        for (slow, brisk) in [(false, false), (true, false), (true, true)] {
            let pressure = pressure(slow, brisk);
            for (is_brisk, is_pressed) in [(false, slow), (true, brisk)] {
                let (started, patience) = (Instant::now(), pressure.patience(is_brisk));
                let written = write_message(&mut Rests, &framed(), &throttle, patience).await;
                assert!(matches!(written, Err(StreamError::Rest)), "{written:?}");
                assert_eq!(started.elapsed(), if is_pressed { REST_PRESSED } else { REST_MAX });
            }
        }
    }

    /// Takes a piece each second.
    struct Slow(Pin<Box<Sleep>>);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            ready!(self.0.as_mut().poll(cx));
            self.0 = Box::pin(sleep(Duration::from_secs(1)));
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_does_not_keep_the_room_of_the_brisk_while_others_wait() {
        let parts = vec![Bytes::from(vec![0; PIECE_LEN]); 20];
        for (is_pressed, is_brisk) in [(false, false), (false, true), (true, false), (true, true)] {
            let (pressure, throttle) = (pressure(true, is_pressed), Throttle::new(None));
            let mut slow = Slow(Box::pin(sleep(Duration::from_secs(1))));
            let (started, patience) = (Instant::now(), pressure.patience(is_brisk));
            let written = write_message(&mut slow, &parts, &throttle, patience).await;
            let is_cut = matches!(written, Err(StreamError::Slow));
            assert!(
                is_cut == (is_pressed && is_brisk) && is_cut == written.is_err(),
                "{written:?}"
            );
            let took = if is_cut { REST_PRESSED } else { Duration::from_secs(20) };
            assert!(started.elapsed() < took + Duration::from_secs(2), "{:?}", started.elapsed());
        }
        let (pressure, throttle) = (pressure(true, true), Throttle::new(None));
        let mut slow = Slow(Box::pin(sleep(Duration::from_secs(1))));
        let most = &parts[..=usize::try_from(REST_PRESSED.as_secs()).unwrap()];
        let whole = write_message(&mut slow, most, &throttle, pressure.patience(true)).await;
        assert!(whole.is_ok(), "all of it was taken: {whole:?}");
    }
}
