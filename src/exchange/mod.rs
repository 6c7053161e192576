//! Blocks from other nodes: the `Exchange` trait and its implementations.
//!
//! The promise: what comes out is a [`Block`], proved here; what peers send before that is plain
//! bytes. Dropping the future of a fetch cancels it. This layer decides nothing about files,
//! deadlines or retries of the caller, and stores nothing.

mod address;
mod bitswap;
mod limit;
mod meter;
mod network;
#[cfg(any(test, feature = "testkit"))]
pub mod rogue;
mod schedule;
mod seldom;
pub mod swarm;

use std::fmt::Debug;

use futures::future::BoxFuture;

use crate::block::{Block, Cid, Multihash};

pub use libp2p::identity::{Keypair, PublicKey};
pub use libp2p::pnet::PreSharedKey;
pub use libp2p::{Multiaddr, PeerId};

pub use self::address::{can_be_called, is_id_alone, peer_of};
pub use self::bitswap::{Ledger, Rates, Serve, Shared, Traffic};
pub use self::limit::Limit;
pub use self::network::Network;
pub use self::schedule::{Given, Totals};

/// Why a block did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// This node does not talk to others, so waiting would be in vain.
    #[error("{cid} is not here, and this node is offline")]
    Offline {
        /// The block that was wanted.
        cid: Cid,
    },
    /// Every source that answered sent bytes that do not match.
    #[error("{cid}: {from} sent bytes that do not match, and nobody else has it")]
    Lied {
        /// The block that was wanted.
        cid: Cid,
        /// Who sent the last wrong bytes.
        from: String,
    },
}

/// How much a block is wanted; the greater one goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody waits for all of a DAG, and for no block of it in particular.
    Bulk,
    /// Somebody may want it soon.
    Ahead,
    /// Somebody waits for it.
    Demand,
}

/// The root below which a block is wanted: who gave others from there is asked first. Wants without one
/// are taken together.
pub type Session = Option<Multihash>;

/// A way to get blocks that are not here.
pub trait Exchange: Debug + Send + Sync + 'static {
    /// Fetches one block; waits as long as a source may still have it, so the caller sets the
    /// deadline and drops the future to cancel.
    fn fetch<'a>(
        &'a self,
        cid: &'a Cid,
        urgency: Urgency,
        session: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>>;

    /// Tells that a block which is being fetched [ahead](Urgency::Ahead) is waited for now.
    fn hurry(&self, cid: &Cid);

    /// Tells whether [`Exchange::fetch`] would answer [`ExchangeError::Offline`] at once.
    fn is_offline(&self) -> bool;
}

#[cfg(test)]
mod tests;
