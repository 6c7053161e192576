//! Messages of one connection between the peer and whoever reads them: their blocks are hashed, and they are told
//! in the order in which they came.
//!
//! Long ones are hashed on threads of their own, so that the next one comes meanwhile. Those that say much wait for
//! their turns among all connections: one task deals with what all peers want and say they have.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt as _};
use tokio::sync::Semaphore;

use super::stream::{PIECE_LEN, StreamError};
use super::throttle::Throttle;
use crate::block::Block;
use crate::codec::bitswap::{BlockClaim, Message};

/// Messages of one connection that are hashed, or wait for it.
const IN_HAND_MAX: usize = 2;
/// Long messages of all peers that are hashed at a time: what hashes slowly leaves threads for others.
const PLACES_MAX: usize = 8;
/// Wants and presences that are told in a second, of all peers together: half of what can be dealt with.
const ENTRIES_PER_S: NonZeroU64 = NonZeroU64::new(100_000).expect("positive");
/// Those of one turn. Who says more waits for several, so that others come between.
const TURN_ENTRIES: usize = 64;
/// What a message costs beside its entries, as so many of them.
const MESSAGE_ENTRIES: usize = 16;

/// What all connections share; who came first goes first.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Where long messages are hashed.
    hashing: Arc<Semaphore>,
    /// How fast wants and presences are told.
    telling: Arc<Throttle>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            hashing: Arc::new(Semaphore::new(PLACES_MAX)),
            telling: Arc::new(Throttle::new(Some(ENTRIES_PER_S))),
        }
    }

    /// Waits until so many entries may be told.
    async fn pass(&self, entries: usize) {
        let mut left = entries + MESSAGE_ENTRIES;
        while left > 0 {
            let turn = left.min(TURN_ENTRIES);
            self.telling.pass(turn).await;
            left -= turn;
        }
    }
}

/// A message whose blocks were hashed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proved {
    pub(super) message: Message,
    pub(super) blocks: Vec<Block>,
    /// Blocks that no allowed hash proves.
    pub(super) refused: usize,
}

impl Proved {
    fn new(message: Message) -> Self {
        let mut refused = 0;
        let prove = |claim: BlockClaim| claim.prove().inspect_err(|_| refused += 1).ok();
        let blocks = message.blocks().filter_map(prove).collect();
        Self { message, blocks, refused }
    }
}

/// What came on one connection and was not told yet.
pub(super) struct Proving {
    places: Places,
    in_hand: FuturesOrdered<BoxFuture<'static, Result<Proved, StreamError>>>,
}

impl Proving {
    pub(super) fn new(places: Places) -> Self {
        Self { places, in_hand: FuturesOrdered::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_hand.len() < IN_HAND_MAX
    }

    /// Takes the next message, or why a stream ended. Who calls this has looked whether there is room.
    pub(super) fn push(&mut self, came: Result<Message, StreamError>) {
        let places = self.places.clone();
        self.in_hand.push_back(async move { prove(came?, places).await }.boxed());
    }

    /// Returns what came first, as soon as it is hashed; `None` when there is nothing.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Proved, StreamError>>> {
        self.in_hand.poll_next_unpin(cx)
    }
}

async fn prove(message: Message, places: Places) -> Result<Proved, StreamError> {
    places.pass(message.entries()).await;
    if message.block_bytes() <= PIECE_LEN {
        return Ok(Proved::new(message));
    }
    // Nobody closes it.
    let place = places.hashing.acquire_owned().await.ok();
    let proved = tokio::task::spawn_blocking(move || {
        let _place = place;
        Proved::new(message)
    });
    Ok(proved.await?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::future::{join, join_all};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::codec::bitswap::{ENTRIES_MAX, MessageWriter, Version};

    fn block(len: usize) -> Block {
        Block::hash_v0(vec![7; len].into()).unwrap()
    }

    fn message(block: &Block) -> Message {
        let mut writer = MessageWriter::new(Version::V1_2);
        writer.block(block.cid(), block.data());
        let framed = writer.finish(false).concat();
        let (_, bytes) = unsigned_varint::decode::usize(&framed).unwrap();
        Message::decode(bytes.to_vec().into()).unwrap()
    }

    /// Returns the length of the next block that is told; `None` if it has to be waited for.
    fn told(proving: &mut Proving) -> Option<usize> {
        let next = poll_fn(|cx| proving.poll_next(cx)).now_or_never()?;
        Some(next.unwrap().unwrap().blocks[0].data().len())
    }

    #[tokio::test]
    async fn long_and_short_messages_are_proved_alike_and_told_in_order() {
        let mut proving = Proving::new(Places::new());
        let blocks = [block(1_000_000), block(100)];
        for block in &blocks {
            assert!(proving.has_room());
            proving.push(Ok(message(block)));
        }
        assert!(!proving.has_room());
        for block in blocks {
            let proved = poll_fn(|cx| proving.poll_next(cx)).await.unwrap().unwrap();
            let message = message(&block);
            assert_eq!(proved, Proved { message, blocks: vec![block], refused: 0 });
        }
        proving.push(Err(StreamError::Length));
        let end = poll_fn(|cx| proving.poll_next(cx)).await.unwrap();
        assert!(matches!(end, Err(StreamError::Length)));
    }

    #[tokio::test]
    async fn a_long_message_waits_for_a_place_and_gives_it_back() {
        let places = Places::new();
        let taken = places.hashing.acquire_many(u32::try_from(PLACES_MAX).unwrap()).await.unwrap();
        let mut connections = [0, 1].map(|_| Proving::new(places.clone()));
        for (proving, len) in connections.iter_mut().zip([100, 1_000_000]) {
            proving.push(Ok(message(&block(len))));
        }
        let [short, long] = &mut connections;
        assert_eq!(told(short), Some(100));
        assert_eq!(told(long), None);
        tokio::task::yield_now().await;
        assert_eq!(told(long), None);
        drop(taken);
        assert!(poll_fn(|cx| long.poll_next(cx)).await.unwrap().is_ok());
        assert_eq!(places.hashing.available_permits(), PLACES_MAX);
        long.push(Ok(message(&block(1_000_000))));
        told(long);
        drop(connections);
        let all = places.hashing.acquire_many(u32::try_from(PLACES_MAX).unwrap());
        let all = tokio::time::timeout(std::time::Duration::from_secs(10), all).await;
        assert!(all.is_ok(), "who is gone keeps no place");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_much_lets_others_between() {
        let places = Places::new();
        let says_much = || async {
            for _ in 0..10 {
                places.pass(ENTRIES_MAX).await;
            }
            Instant::now()
        };
        let says_little = async {
            sleep(Duration::from_millis(500)).await;
            let begun = Instant::now();
            places.pass(10).await;
            begun.elapsed()
        };
        // As many as one host may have at a time.
        let talkers = 128 * IN_HAND_MAX;
        let (begun, much) = (Instant::now(), join_all((0..talkers).map(|_| says_much())));
        let (much, little) = join(much, says_little).await;
        assert!(little < Duration::from_millis(200), "{little:?}");
        let (all, took) = (talkers * 10 * ENTRIES_MAX, (much[0] - begun).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a test's number")]
        let rate = all as f64 / took;
        assert!(rate < 120_000.0, "{rate}");
    }

    #[tokio::test]
    async fn what_no_hash_proves_is_counted() {
        let block = block(100);
        let mut bytes = vec![0x1a, 106, 0x0a, 4, 1, 0x55, 0x13, 7, 0x12, 98];
        bytes.extend_from_slice(&block.data()[..98]);
        let proved = Proved::new(Message::decode(bytes.into()).unwrap());
        assert_eq!((proved.blocks.len(), proved.refused), (0, 1));
    }
}
