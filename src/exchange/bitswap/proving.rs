//! Blocks are hashed as soon as their message is here: those of a long one beside the task of its connection,
//! so that the next one comes meanwhile, and of all peers a few at a time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::stream::StreamError;
use crate::block::Block;
use crate::codec::bitswap::Message;

/// Messages of one stream that are hashed at a time.
pub(super) const OF_STREAM_MAX: usize = 2;
/// Long messages of all peers that are hashed at a time, or were and are not told yet; with 4 MiB for each.
const PLACES_MAX: usize = 8;

/// Where long messages are hashed.
#[derive(Debug)]
pub(super) struct Proving(Arc<Semaphore>);

impl Proving {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PLACES_MAX)))
    }

    /// Waits for a place if the message is a long one, which keeps its turn until then: a peer has but one
    /// message that waits.
    pub(super) async fn enter(
        &self,
        message: Message,
        turn: Option<SemaphorePermit<'_>>,
    ) -> Unproved {
        let place = match turn {
            Some(_) => Arc::clone(&self.0).acquire_owned().await.ok(),
            None => None,
        };
        Unproved { message, place }
    }
}

/// A message that came.
pub(super) struct Unproved {
    message: Message,
    /// Of a long one.
    place: Option<OwnedSemaphorePermit>,
}

/// A message whose blocks were hashed. It keeps its place.
pub(super) struct Proved {
    pub(super) message: Message,
    pub(super) blocks: Vec<Block>,
    /// Blocks that no allowed hash proves.
    pub(super) refused: usize,
    _place: Option<OwnedSemaphorePermit>,
}

impl Unproved {
    /// Hashes its blocks.
    pub(super) async fn prove(self) -> Result<Proved, StreamError> {
        if self.place.is_none() {
            return Ok(self.prove_here());
        }
        let proved = tokio::task::spawn_blocking(|| self.prove_here()).await;
        proved.map_err(|error| StreamError::Io(error.into()))
    }

    fn prove_here(self) -> Proved {
        let Self { message, place } = self;
        let claims = message.blocks().count();
        let blocks: Vec<_> = message.blocks().filter_map(|claim| claim.prove().ok()).collect();
        let refused = claims - blocks.len();
        Proved { message, blocks, refused, _place: place }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::codec::bitswap::{MessageWriter, Version};

    fn message(blocks: &[Block]) -> Message {
        let mut writer = MessageWriter::new(Version::V1_2);
        for block in blocks {
            writer.block(block.cid(), block.data());
        }
        let framed = writer.finish(false).concat();
        let len_bytes = framed.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        Message::decode(framed[len_bytes..].to_vec().into()).unwrap()
    }

    #[tokio::test]
    async fn long_and_short_messages_are_proved_alike() {
        let blocks = [b"a", b"b"].map(|data| Block::hash_v0(data.to_vec().into()).unwrap());
        let (proving, turns) = (Proving::new(), Semaphore::new(1));
        for turn in [None, turns.acquire().await.ok()] {
            let proved = proving.enter(message(&blocks), turn).await.prove().await.unwrap();
            assert_eq!((&proved.blocks[..], proved.refused), (&blocks[..], 0));
        }
    }

    #[tokio::test]
    async fn long_messages_wait_for_a_place_and_keep_their_turn() {
        let (proving, turns) = (Proving::new(), Semaphore::new(1));
        let mut proved = Vec::new();
        for _ in 0..PLACES_MAX {
            let unproved = proving.enter(message(&[]), turns.acquire().await.ok()).await;
            proved.push(unproved.prove().await.unwrap());
        }
        let mut next = Box::pin(proving.enter(message(&[]), turns.acquire().await.ok()));
        assert!(next.as_mut().now_or_never().is_none(), "all places are taken");
        assert!(turns.try_acquire().is_err());
        assert!(proving.enter(message(&[]), None).now_or_never().is_some(), "it is short");
        proved.pop();
        next.await.prove().await.unwrap();
        assert!(turns.try_acquire().is_ok());
    }
}
