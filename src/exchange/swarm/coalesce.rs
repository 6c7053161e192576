//! Short writes that go with the long one behind them, which is not copied for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Bytes that are held back at most, and of a write that is worth copying.
const SHORT_LEN: usize = 4096;

/// A connection on which short writes wait for the next long one, for so many that they are long together, or
/// for a flush.
#[derive(Debug)]
pub(super) struct Coalesce<C> {
    io: C,
    held: Vec<u8>,
}

impl<C: AsyncWrite + Unpin> Coalesce<C> {
    pub(super) fn new(io: C) -> Self {
        Self { io, held: Vec::with_capacity(SHORT_LEN) }
    }

    /// Writes what is held, and `bytes` behind it as far as they are taken; returns how many of them were.
    fn poll_write_held(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let both = [IoSlice::new(&self.held), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        if bytes.is_empty() {
            Poll::Ready(Ok(0))
        } else {
            Pin::new(&mut self.io).poll_write(cx, bytes)
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Coalesce<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() + bytes.len() > SHORT_LEN {
            return self.poll_write_held(cx, bytes);
        }
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx, &[]))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx, &[]))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Coalesce<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, FutureExt as _};

    use super::*;

    /// Takes a few bytes at a time, every other time none.
    #[derive(Debug, Default)]
    struct Slow {
        taken: Vec<Vec<u8>>,
        most: usize,
        is_waiting: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_waiting = !self.is_waiting && self.most < usize::MAX;
            if self.is_waiting {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let all = parts.iter().flat_map(|part| part.iter().copied());
            let taken: Vec<u8> = all.take(self.most).collect();
            let len = taken.len();
            self.taken.push(taken);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn coalesce(most: usize) -> Coalesce<Slow> {
        Coalesce::new(Slow { most, ..Slow::default() })
    }

    fn pieces(lens: &[usize]) -> Vec<Vec<u8>> {
        (0_u8..).zip(lens).map(|(number, len)| vec![number; *len]).collect()
    }

    #[test]
    fn a_short_write_goes_with_the_long_one_behind_it() {
        let mut io = coalesce(usize::MAX);
        let [head, body] = [vec![1; 12], vec![2; 60_000]];
        io.write_all(&head).now_or_never().unwrap().unwrap();
        assert!(io.io.taken.is_empty());
        io.write_all(&body).now_or_never().unwrap().unwrap();
        assert_eq!(io.io.taken, [[head, body].concat()]);
        io.write_all(&[3]).now_or_never().unwrap().unwrap();
        assert_eq!(io.io.taken.len(), 1);
        io.flush().now_or_never().unwrap().unwrap();
        assert_eq!(io.io.taken[1], [3]);
    }

    #[tokio::test]
    async fn every_byte_comes_once_and_in_order_however_little_is_taken() {
        let pieces = pieces(&[12, 9000, 1, 4095, 1, 4096, 4097, 0, 12, 12, 30_000, 5]);
        for most in [1, 7, 12, 4096, 5000, 100_000] {
            let mut io = coalesce(most);
            for piece in &pieces {
                io.write_all(piece).await.unwrap();
                assert!(io.held.len() <= SHORT_LEN, "{}", io.held.len());
            }
            io.close().await.unwrap();
            assert!(io.held.is_empty());
            assert_eq!(io.io.taken.concat(), pieces.concat(), "{most}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_an_error() {
        let mut io = coalesce(0);
        io.write_all(&[1; 12]).await.unwrap();
        assert_eq!(io.flush().await.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
