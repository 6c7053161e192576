//! Why a block or node cannot be had.
//!
//! Every waiter of a shared fetch gets the same error, so errors can be cloned.

use std::sync::Arc;

use crate::block::{Cid, HashError};
use crate::codec::node::NodeError;
use crate::exchange::ExchangeError;
use crate::store::StoreError;

/// Why a block or node cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DagError {
    /// It is not here, and nobody may or can be asked.
    #[error("{cid} is not here, and this node is offline")]
    Offline {
        /// The block.
        cid: Box<Cid>,
    },
    /// Every source that answered sent bytes that do not match.
    #[error("{cid}: {from} sent bytes that do not match, and nobody else has it")]
    Lied {
        /// The block.
        cid: Box<Cid>,
        /// Who sent the last wrong bytes.
        from: String,
    },
    /// The CID proves nothing, so no bytes are accepted for it.
    #[error("{cid} is refused: {source}")]
    Refused {
        /// The address.
        cid: Box<Cid>,
        /// The rule it breaks.
        source: HashError,
    },
    /// The bytes are right, but not a node that can be shown.
    #[error("{cid}: {source}")]
    Node {
        /// The block.
        cid: Box<Cid>,
        /// What is wrong with it.
        source: NodeError,
    },
    /// This disk failed, and nobody else has the block.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

impl From<ExchangeError> for DagError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Offline { cid } => Self::Offline { cid: Box::new(cid) },
            ExchangeError::Lied { cid, from } => Self::Lied { cid: Box::new(cid), from },
        }
    }
}
