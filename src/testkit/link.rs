//! A link that carries one answer at a time, the most urgent first, at a given rate.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::exchange::Urgency;

/// A link; cloning gives another handle to the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    bytes_per_second: Option<u64>,
    queue: BTreeMap<Place, Waiter>,
    next: u64,
    is_busy: bool,
    /// When the answer before ended. The next one counts from then, whenever its task gets to run.
    free_at: Option<Instant>,
}

/// The most urgent first, then in the order in which they became so.
type Place = (Reverse<Urgency>, u64);

#[derive(Debug)]
struct Waiter {
    id: u64,
    hash: Vec<u8>,
    turn: Arc<Notify>,
}

/// An answer that waits for the link or is on it; dropping it makes room for the next.
struct Sending {
    link: Link,
    id: u64,
}

impl Link {
    /// Sets the rate; without one nothing takes time.
    pub(super) fn set_rate(&self, bytes_per_second: u64) {
        self.state.lock().bytes_per_second = Some(bytes_per_second);
    }

    /// Returns when `bytes` of the answer for `hash` have come.
    pub(super) async fn send(&self, hash: Vec<u8>, bytes: u64, urgency: Urgency) {
        let Some(rate) = self.state.lock().bytes_per_second else { return };
        let ready = Instant::now();
        let turn = Arc::new(Notify::new());
        let _sending = self.enter(hash, urgency, Arc::clone(&turn));
        turn.notified().await;
        let end = {
            let mut state = self.state.lock();
            let start = state.free_at.map_or(ready, |free| free.max(ready));
            let end = start + Duration::from_micros(bytes * 1_000_000 / rate);
            state.free_at = Some(end);
            end
        };
        tokio::time::sleep_until(end).await;
    }

    /// Lets an answer that waits for the link go before those that nobody waits for.
    pub(super) fn hurry(&self, hash: &[u8]) {
        let mut state = self.state.lock();
        let slow = state.queue.iter().find(|(_, waiter)| waiter.hash == hash);
        if let Some((&place, _)) = slow
            && let Some(waiter) = state.queue.remove(&place)
        {
            state.insert(Urgency::Demand, waiter);
        }
    }

    fn enter(&self, hash: Vec<u8>, urgency: Urgency, turn: Arc<Notify>) -> Sending {
        let mut state = self.state.lock();
        let id = state.next;
        state.insert(urgency, Waiter { id, hash, turn });
        state.give_turn();
        Sending { link: self.clone(), id }
    }
}

impl State {
    fn insert(&mut self, urgency: Urgency, waiter: Waiter) {
        self.queue.insert((Reverse(urgency), self.next), waiter);
        self.next += 1;
    }

    fn give_turn(&mut self) {
        if !self.is_busy
            && let Some((_, first)) = self.queue.pop_first()
        {
            self.is_busy = true;
            first.turn.notify_one();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.link.state.lock();
        let waits = state.queue.extract_if(.., |_, waiter| waiter.id == self.id).next().is_some();
        if !waits {
            state.is_busy = false;
            state.give_turn();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join;

    use super::*;

    const ANSWER: u64 = 1000;

    fn link() -> Link {
        let link = Link::default();
        link.set_rate(10 * ANSWER);
        link
    }

    async fn ended(link: &Link, hash: u8, urgency: Urgency) -> Duration {
        let start = Instant::now();
        link.send(vec![hash], ANSWER, urgency).await;
        start.elapsed()
    }

    fn about(took: Duration, tenths: u64) -> bool {
        took.abs_diff(Duration::from_millis(100 * tenths)) < Duration::from_millis(20)
    }

    #[tokio::test(start_paused = true)]
    async fn answers_share_the_rate_and_demand_goes_first() {
        let link = link();
        let ahead = join(ended(&link, 1, Urgency::Ahead), ended(&link, 2, Urgency::Ahead));
        let ((first, second), demand) = join(ahead, ended(&link, 3, Urgency::Demand)).await;
        assert!(about(first, 1) && about(demand, 2) && about(second, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_hurried_overtakes_and_what_is_dropped_makes_room() {
        let link = link();
        let hurry = async {
            tokio::task::yield_now().await;
            link.hurry(&[3]);
        };
        let dropped =
            tokio::time::timeout(Duration::from_millis(50), ended(&link, 1, Urgency::Ahead));
        let waiting = join(ended(&link, 2, Urgency::Ahead), ended(&link, 3, Urgency::Ahead));
        let ((_, (slow, hurried)), ()) = join(join(dropped, waiting), hurry).await;
        assert!(hurried < slow);
        assert!(slow < Duration::from_millis(320));
    }
}
