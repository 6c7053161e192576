//! Answers to yamux's pings, which it is shown later than they come.
//!
//! The crate doubles the window of a stream, 256 KiB at first, when half of it was used within two round trips.
//! Behind bytes that were lost everything waits for a round trip or two, so that windows do not grow; the sender
//! then has nothing that it may send, and its bbr takes the rate of these moments for what the way gives and
//! holds to it for seconds. So round trips look longer to the crate than they are. What all streams of a connection
//! may have under way has its bound whatever they look like.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::split::Head;

/// A round trip looks about so many times as long as it is.
const TRIPS: u32 = 4;
/// Longest time for which an answer is held back.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// The answer that is held back, if one is.
#[derive(Debug, Default)]
pub(super) struct Pong {
    /// When the crate read for the first time, and sent its first ping.
    begun: Option<Instant>,
    /// For how long all answers of the connection are held back: as the first one tells.
    hold: Option<Duration>,
    held: Option<(Head, Pin<Box<Sleep>>)>,
}

impl Pong {
    /// Holds an answer back that came now; gives it back when there is one already, for that nobody asked.
    pub(super) fn hold(&mut self, head: Head) -> Option<Head> {
        if self.held.is_some() {
            return Some(head);
        }
        let trip = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let hold = *self.hold.get_or_insert((trip * (TRIPS - 1)).min(HOLD_MAX));
        self.held = Some((head, Box::pin(sleep(hold))));
        None
    }

    /// Returns the answer when it is time for it; asked whenever the crate reads.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Option<Head> {
        self.begun.get_or_insert_with(Instant::now);
        let (_, time) = self.held.as_mut()?;
        match time.as_mut().poll(cx) {
            Poll::Ready(()) => self.held.take().map(|(head, _)| head),
            Poll::Pending => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const TRIP: Duration = Duration::from_millis(50);

    fn head(id: u8) -> Head {
        [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, id]
    }

    /// Returns the state of a connection of which the crate reads for the first time.
    async fn begun() -> Pong {
        let mut pong = Pong::default();
        assert!(poll_fn(|cx| Poll::Ready(pong.poll_due(cx))).await.is_none());
        pong
    }

    async fn due(pong: &mut Pong) -> Head {
        poll_fn(|cx| pong.poll_due(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test(start_paused = true)]
    async fn round_trips_look_longer_than_they_are() {
        let (mut pong, asked) = (begun().await, Instant::now());
        sleep(TRIP).await;
        assert_eq!(pong.hold(head(1)), None);
        assert_eq!(due(&mut pong).await, head(1));
        assert_eq!(asked.elapsed(), TRIP * TRIPS);
        sleep(Duration::from_secs(10)).await;
        let came = Instant::now();
        assert_eq!(pong.hold(head(2)), None);
        assert_eq!(pong.hold(head(7)), Some(head(7)), "nobody asked for it");
        assert_eq!(due(&mut pong).await, head(2));
        assert_eq!(came.elapsed(), TRIP * (TRIPS - 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_late_has_his_answer_held_back_for_no_more_than_a_second() {
        let mut pong = begun().await;
        sleep(HOLD_MAX).await;
        assert_eq!(pong.hold(head(1)), None);
        let came = Instant::now();
        due(&mut pong).await;
        assert_eq!(came.elapsed(), HOLD_MAX);
    }
}
