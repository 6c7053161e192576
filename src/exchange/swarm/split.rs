//! Frames of yamux as the crate is shown them: long ones in parts, and answers to its pings later (`pong`).
//!
//! A sender may fill the whole window of a stream with one frame, as js-libp2p does; the crate takes a frame of
//! more than 1 MiB for an attack and closes the connection. So a long frame is shown to it as several.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

use super::pong::Pong;

/// Bytes of one part, and so what a frame that is only claimed makes the crate set aside.
const PART_LEN: u32 = 256 * 1024;

/// Bytes of the head of a frame: version, type, flags, stream, length (yamux spec, "Framing").
const HEAD_LEN: usize = 12;
const TYPE_DATA: u8 = 0;
const TYPE_PING: u8 = 2;
/// The flag that accepts a stream, or answers a ping.
const FLAG_ACK: u16 = 2;
/// The flags that begin a stream, or accept one.
const FLAGS_BEGIN: u16 = 1 | FLAG_ACK;

/// A connection on which no frame that comes is longer than [`PART_LEN`].
#[derive(Debug)]
pub(super) struct Split<C> {
    io: C,
    state: State,
    pong: Pong,
}

#[derive(Debug)]
enum State {
    /// So many bytes of a head have come.
    Coming { head: Head, have: usize },
    /// The head of a part is given on, so many bytes of it already.
    Giving { head: Head, given: usize, rest: Head },
    /// So many bytes of a part are still to come.
    Body { left: u32, rest: Head },
}

/// The head of a frame; one of no bytes stands for no frame.
pub(super) type Head = [u8; HEAD_LEN];

impl<C> Split<C> {
    pub(super) fn new(io: C) -> Self {
        Self { io, state: State::coming(), pong: Pong::default() }
    }
}

impl State {
    fn coming() -> Self {
        Self::Coming { head: [0; HEAD_LEN], have: 0 }
    }

    /// Begins with the first part of a frame.
    fn part_of(frame: Head) -> Self {
        let len = body_len(&frame);
        if len <= PART_LEN {
            return Self::Giving { head: frame, given: 0, rest: with(frame, 0, 0) };
        }
        let flags = flags(&frame);
        // What begins a stream goes with the first part, what ends it with the last.
        let head = with(frame, flags & FLAGS_BEGIN, PART_LEN);
        Self::Giving { head, given: 0, rest: with(frame, flags & !FLAGS_BEGIN, len - PART_LEN) }
    }

    /// Goes on behind a part.
    fn behind(rest: Head) -> Self {
        if body_len(&rest) > 0 { Self::part_of(rest) } else { Self::coming() }
    }
}

/// Returns a head with other flags and another length.
fn with([version, kind, _, _, s0, s1, s2, s3, ..]: Head, flags: u16, len: u32) -> Head {
    let ([f0, f1], [l0, l1, l2, l3]) = (flags.to_be_bytes(), len.to_be_bytes());
    [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
}

fn flags([_, _, f0, f1, ..]: &Head) -> u16 {
    u16::from_be_bytes([*f0, *f1])
}

fn is_pong(head: &Head) -> bool {
    head[1] == TYPE_PING && flags(head) & FLAG_ACK != 0
}

/// Returns how many bytes follow a head.
fn body_len([_, kind, .., l0, l1, l2, l3]: &Head) -> u32 {
    if *kind == TYPE_DATA { u32::from_be_bytes([*l0, *l1, *l2, *l3]) } else { 0 }
}

impl<C: AsyncRead + Unpin> AsyncRead for Split<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { io, state, pong } = &mut *self;
        loop {
            match state {
                State::Coming { head, have } => {
                    if *have == 0
                        && let Some(due) = pong.poll_due(cx)
                    {
                        *state = State::part_of(due);
                        continue;
                    }
                    let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut head[*have..]))?;
                    match (read, *have) {
                        (0, 0) => return Poll::Ready(Ok(0)),
                        (0, _) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        _ => *have += read,
                    }
                    if *have == HEAD_LEN {
                        let shown = if is_pong(head) { pong.hold(*head) } else { Some(*head) };
                        *state = shown.map_or_else(State::coming, State::part_of);
                    }
                }
                State::Giving { head, given, rest } => {
                    let len = buffer.len().min(HEAD_LEN - *given);
                    buffer[..len].copy_from_slice(&head[*given..*given + len]);
                    *given += len;
                    if *given == HEAD_LEN {
                        *state = match body_len(head) {
                            0 => State::behind(*rest),
                            left => State::Body { left, rest: *rest },
                        };
                    }
                    return Poll::Ready(Ok(len));
                }
                State::Body { left, rest } => {
                    let most = buffer.len().min(*left as usize);
                    let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer[..most]))?;
                    *left -= u32::try_from(read).unwrap_or(*left);
                    if *left == 0 {
                        *state = State::behind(*rest);
                    }
                    return Poll::Ready(Ok(read));
                }
            }
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Split<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{AsyncReadExt as _, StreamExt as _, TryStreamExt as _, stream};
    use tokio::time::sleep;

    use super::*;

    const SYN: u16 = 1;
    const FIN: u16 = 4;
    const TYPE_WINDOW: u8 = 1;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl AsyncRead for Slow<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let most = buffer.len().min(self.1);
            Pin::new(&mut self.0).poll_read(cx, &mut buffer[..most])
        }
    }

    fn frame(kind: u8, flags: u16, len: u32) -> Vec<u8> {
        let mut bytes = with([0, kind, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0], flags, len).to_vec();
        if kind == TYPE_DATA {
            bytes.extend((0..len).map(|n| (n % 251).to_le_bytes()[0]));
        }
        bytes
    }

    /// Returns the flags and the length of each frame, and what is in them one behind the other.
    fn parse(mut bytes: &[u8]) -> (Vec<(u8, u16, u32)>, Vec<u8>) {
        let (mut heads, mut bodies) = (Vec::new(), Vec::new());
        while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() {
            assert_eq!(head[4..8], [0, 0, 0, 7], "the stream");
            let len = u32::from_be_bytes(*head[8..].first_chunk().unwrap());
            heads.push((head[1], u16::from_be_bytes([head[2], head[3]]), len));
            let (body, rest) = rest.split_at(body_len(head) as usize);
            bodies.extend_from_slice(body);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "{}", bytes.len());
        (heads, bodies)
    }

    #[tokio::test]
    async fn long_frames_come_in_parts_and_others_as_they_are() {
        let long = 2 * PART_LEN + 10;
        let sent = [
            frame(TYPE_DATA, SYN, 0),
            frame(TYPE_WINDOW, SYN, long),
            frame(TYPE_DATA, SYN | FIN, long),
            frame(TYPE_DATA, 0, PART_LEN),
            frame(TYPE_DATA, FIN, PART_LEN + 1),
            frame(TYPE_DATA, FIN, 5),
        ];
        let sent = sent.concat();
        for most in [5, 12, 1000, usize::MAX] {
            let mut read = Vec::new();
            Split::new(Slow(&sent, most)).read_to_end(&mut read).await.unwrap();
            let (heads, bodies) = parse(&read);
            let expected = [
                (TYPE_DATA, SYN, 0),
                (TYPE_WINDOW, SYN, long),
                (TYPE_DATA, SYN, PART_LEN),
                (TYPE_DATA, 0, PART_LEN),
                (TYPE_DATA, FIN, 10),
                (TYPE_DATA, 0, PART_LEN),
                (TYPE_DATA, 0, PART_LEN),
                (TYPE_DATA, FIN, 1),
                (TYPE_DATA, FIN, 5),
            ];
            assert_eq!(heads, expected, "{most}");
            assert!(bodies == parse(&sent).1, "{most}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_cut_off_is_an_error() {
        let mut read = Vec::new();
        let cut = &frame(TYPE_DATA, 0, 0)[..7];
        let error = Split::new(Slow(cut, 5)).read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_ping_comes_behind_what_came_after_it() {
        let (pong, data) = (frame(TYPE_PING, FLAG_ACK, 1), frame(TYPE_DATA, 0, 5));
        let bytes = [&pong[..], &data].concat();
        let came = stream::once(sleep(Duration::from_millis(50))).map(|()| Ok(bytes.clone()));
        let mut split = Split::new(came.chain(stream::pending()).boxed_local().into_async_read());
        let mut read = vec![0; data.len()];
        split.read_exact(&mut read).await.unwrap();
        assert_eq!(read, data);
        read.truncate(pong.len());
        split.read_exact(&mut read).await.unwrap();
        assert_eq!(read, pong);
    }
}
