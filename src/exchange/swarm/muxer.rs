//! Yamux with long frames that are sealed and sent in one piece, and bounds of our own.
//!
//! What libp2p builds by itself sends frames of 16 KiB, the head of each sealed and sent alone, and lets
//! what a peer has sent in advance take 1 GiB on each connection.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use yamux::{Connection, ConnectionError, Mode, Stream};

use super::coalesce::Coalesce;
use super::split::Split;
use crate::exchange::bitswap::stream::PIECE_LEN;

/// Bytes of one frame: what bitswap writes at a time, so that nothing of it is left for a second one.
const FRAME_LEN: usize = PIECE_LEN;
/// Streams of one connection, both ways.
const STREAMS_MAX: usize = 128;
/// Bytes that a peer may have under way on all streams of a connection: what each begins with (256 KiB), and
/// 64 MiB for those that fill it. 1 Gbit/s over 100 ms is 12.5 MB, of which TCP has three times as much under
/// way while it finds that out (bbr), and who grants less keeps it from ever knowing.
const WINDOW_BYTES_MAX: usize = STREAMS_MAX * 256 * 1024 + 64 * 1024 * 1024;
/// Streams that a peer has opened and nobody has taken yet; of more, the new ones are refused.
const UNTAKEN_MAX: usize = 64;

/// Agrees with a peer on yamux.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Upgrade;

/// Many streams over one connection.
#[derive(Debug)]
pub(super) struct Muxer<C> {
    connection: Connection<Coalesce<Split<C>>>,
    untaken: VecDeque<Stream>,
    /// Of who waits for a stream that the peer opens.
    waker: Option<Waker>,
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Error(#[from] ConnectionError);

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Client)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, mode: Mode) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(STREAMS_MAX)
            .set_max_connection_receive_window(Some(WINDOW_BYTES_MAX))
            .set_split_send_size(FRAME_LEN);
        Self {
            connection: Connection::new(Coalesce::new(Split::new(io)), config, mode),
            untaken: VecDeque::new(),
            waker: None,
        }
    }

    /// Lets the connection go on, until the peer opens a stream.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        match ready!(self.connection.poll_next_inbound(cx)) {
            Some(opened) => Poll::Ready(Ok(opened?)),
            None => Poll::Ready(Err(Error(ConnectionError::Closed))),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        if let Some(stream) = self.untaken.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let opened = self.poll_opened(cx);
        if opened.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        opened
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, Error>> {
        self.connection.poll_new_outbound(cx).map_err(Error)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connection.poll_close(cx).map_err(Error)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Error>> {
        let opened = ready!(self.poll_opened(cx))?;
        if self.untaken.len() < UNTAKEN_MAX {
            self.untaken.push_back(opened);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        } else {
            tracing::debug!("a peer opens streams faster than they are taken");
        }
        // The next one may be there already; others get their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
    use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, TryStreamExt as _};
    use libp2p::core::muxing::StreamMuxerExt as _;
    use tokio::time::{Instant, sleep, sleep_until, timeout};

    use super::*;

    const TRIP: Duration = Duration::from_millis(50);
    const WINDOW: usize = 256 * 1024;

    type Sent = (Instant, Vec<u8>);

    /// One end of a link on which all takes half of a round trip.
    struct End<R> {
        to: UnboundedSender<Sent>,
        from: R,
    }

    fn end(
        to: UnboundedSender<Sent>,
        from: UnboundedReceiver<Sent>,
    ) -> End<impl AsyncRead + Unpin + Send> {
        let came = from.then(|(due, bytes)| async move {
            sleep_until(due).await;
            Ok(bytes)
        });
        End { to, from: came.boxed().into_async_read() }
    }

    impl<R: AsyncRead + Unpin> AsyncRead for End<R> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.from).poll_read(cx, buffer)
        }
    }

    impl<R: Unpin> AsyncWrite for End<R> {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let sent = self.to.unbounded_send((Instant::now() + TRIP / 2, bytes.to_vec()));
            Poll::Ready(sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Returns a stream's two ends, between muxers that go on by themselves.
    async fn stream() -> (Stream, Stream) {
        let ((to_there, there), (to_here, here)) = (unbounded(), unbounded());
        let mut client = Muxer::new(end(to_there, here), Mode::Client);
        let mut server = Muxer::new(end(to_here, there), Mode::Server);
        let mut ours = poll_fn(|cx| client.poll_outbound_unpin(cx)).await.unwrap();
        tokio::spawn(async move { poll_fn(|cx| client.poll_unpin(cx)).await.map(drop) });
        ours.write_all(&[0]).await.unwrap();
        let mut theirs = poll_fn(|cx| server.poll_inbound_unpin(cx)).await.unwrap();
        tokio::spawn(async move { poll_fn(|cx| server.poll_unpin(cx)).await.map(drop) });
        theirs.read_exact(&mut [0]).await.unwrap();
        (ours, theirs)
    }

    /// Returns how many bytes may be sent of which none is read.
    async fn unread(stream: &mut Stream) -> usize {
        let mut sent = 0;
        while timeout(10 * TRIP, stream.write_all(&[1; 4096]))
            .await
            .is_ok_and(|wrote| wrote.is_ok())
        {
            sent += 4096;
        }
        sent
    }

    #[tokio::test]
    async fn a_window_grows_when_losses_hold_up_what_comes() {
        let (mut ours, mut theirs) = stream().await;
        // Until the crate knows how long a round trip is.
        sleep(8 * TRIP).await;
        let mut bytes = vec![1; WINDOW / 4];
        for _ in 0..5 {
            ours.write_all(&bytes).await.unwrap();
            theirs.read_exact(&mut bytes).await.unwrap();
            sleep(TRIP).await;
        }
        let unread = unread(&mut ours).await;
        assert!(unread > WINDOW, "{unread}");
    }
}
