//! The exchange of a node that talks to nobody: every fetch fails at once.

use futures::future::{BoxFuture, FutureExt as _, ready};

use super::{Exchange, ExchangeError, Session, Urgency};
use crate::block::{Block, Cid};

/// Answers every fetch with [`ExchangeError::Offline`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Offline;

impl Exchange for Offline {
    fn fetch<'a>(
        &'a self,
        cid: &'a Cid,
        _urgency: Urgency,
        _session: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>> {
        ready(Err(ExchangeError::Offline { cid: *cid })).boxed()
    }

    fn hurry(&self, _cid: &Cid) {}

    fn is_offline(&self) -> bool {
        true
    }
}
