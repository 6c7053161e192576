//! What `serve = "announced"` lets peers have: what is pinned, and all below it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::exchange::Shared;
use crate::keep::Keeper;
use crate::store::{KeepSet, Repository};

/// A search for what is pinned reads every directory below the pins, which can change all the time: the next
/// one waits for so many times what it took, …
const REST_FACTOR: u32 = 10;
/// … and at least this long.
const REST_MIN: Duration = Duration::from_secs(1);

type Found = RwLock<Option<KeepSet>>;

/// Returns the answer to what may be had, which follows the pins from now on. Runs in a tokio runtime.
pub(super) fn pinned(keeper: Keeper, repository: &Repository) -> Shared {
    let found = Arc::<Found>::default();
    let changes = repository.pins.subscribe();
    tokio::spawn(follow(keeper, changes, Arc::downgrade(&found)));
    Shared::new(move |cid| found.read().as_ref().is_some_and(|found| found.contains(cid)))
}

/// Searches what is pinned after each change of the pins, as long as somebody asks.
async fn follow(
    keeper: Keeper,
    mut changes: tokio::sync::watch::Receiver<u64>,
    found: Weak<Found>,
) {
    changes.mark_changed();
    while changes.changed().await.is_ok() && found.strong_count() > 0 {
        let (keeper, begun) = (keeper.clone(), Instant::now());
        match spawn_blocking(move || keeper.kept()).await {
            Ok(Ok(kept)) => {
                let Some(found) = found.upgrade() else { return };
                *found.write() = Some(kept);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "peers may have what was pinned before, and nothing that is new");
            }
            Err(error) => tracing::error!(%error, "searching what is pinned failed"),
        }
        sleep(REST_MIN.max(begun.elapsed() * REST_FACTOR)).await;
    }
}
