//! Making the kernel forget listings that are no longer right.
//!
//! The kernel keeps a listing when it reads the answer, which is after the answer was sent: what it
//! is told to forget in between is kept all the same. So it is told twice, the second time when
//! every answer that was under way has been read.

use std::collections::VecDeque;
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::vfs::Changes;

/// How long an answer may be under way: a listing that waits for blocks takes a second.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Directories of which the kernel is told a second time, in the order of time. There are no more
/// than were noted within [`ANSWER_TIME`].
#[derive(Debug, Default)]
struct Second(VecDeque<(Instant, Vec<u64>)>);

/// Tells the kernel of every change until `closed`.
pub(super) async fn drop_listings(
    mut changes: Changes,
    notifier: Notifier,
    closed: CancellationToken,
) {
    let mut second = Second::default();
    loop {
        let inos = tokio::select! {
            () = closed.cancelled() => return,
            inos = changes.next() => {
                second.note(inos.clone());
                inos
            }
            inos = second.next() => inos,
        };
        if tell(&notifier, inos).await.is_err() {
            return;
        }
    }
}

/// The call can wait for the kernel, so it is made on a thread that holds nothing.
async fn tell(notifier: &Notifier, inos: Vec<u64>) -> Result<(), tokio::task::JoinError> {
    let notifier = notifier.clone();
    tokio::task::spawn_blocking(move || {
        for ino in inos {
            if let Err(error) = notifier.inval_inode(INodeNo(ino), 0, 0) {
                tracing::debug!(ino, %error, "the kernel does not take back a listing");
            }
        }
    })
    .await
}

impl Second {
    fn note(&mut self, inos: Vec<u64>) {
        self.0.push_back((Instant::now() + ANSWER_TIME, inos));
    }

    /// Waits until the first ones are due. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Vec<u64> {
        let Some((due, _)) = self.0.front() else { return std::future::pending().await };
        tokio::time::sleep_until(*due).await;
        self.0.pop_front().map(|(_, inos)| inos).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_time_comes_when_answers_have_been_read() {
        let mut second = Second::default();
        assert_eq!(second.next().now_or_never(), None);
        second.note(vec![1, 2]);
        tokio::time::advance(ANSWER_TIME / 2).await;
        second.note(vec![3]);
        assert_eq!(second.next().now_or_never(), None, "too early, and nothing is lost");
        let noted = Instant::now();
        assert_eq!(second.next().await, [1, 2]);
        assert_eq!(second.next().await, [3]);
        assert!(noted.elapsed() >= ANSWER_TIME);
        assert_eq!(second.next().now_or_never(), None);
    }
}
