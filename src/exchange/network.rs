//! The exchange of a node that talks to others, once it has begun to.

use std::sync::{Arc, OnceLock};

use futures::future::{BoxFuture, FutureExt as _};

use super::bitswap::Client;
use super::swarm::{Swarm, SwarmError, SwarmOptions};
use super::{Exchange, ExchangeError, Given, PeerId, Session, Urgency};
use crate::block::{Block, Cid};
use crate::store::BlockStore;

/// Blocks from peers; before it has begun to talk to them, every fetch fails at once.
#[derive(Debug, Default)]
pub struct Network {
    client: Client,
    swarm: OnceLock<Swarm>,
}

impl Network {
    /// Begins to talk to others, and serves what `store` has. Runs in a tokio runtime, which carries it.
    ///
    /// # Errors
    /// [`SwarmError`]; [`SwarmError::Build`] too when it has begun before.
    pub fn start(
        &self,
        options: SwarmOptions,
        store: Arc<dyn BlockStore>,
    ) -> Result<(), SwarmError> {
        let swarm = Swarm::start(options, self.client.clone(), store)?;
        self.swarm.set(swarm).map_err(|_| SwarmError::Build("it is there already".to_owned()))
    }

    /// Returns the node among others, `None` before it has begun to talk to them.
    pub fn swarm(&self) -> Option<&Swarm> {
        self.swarm.get()
    }

    /// Returns what each peer gave below a root: up to 64 peers, and of the 256 roots that were used last.
    pub fn given(&self, session: &Session) -> Vec<(PeerId, Given)> {
        self.client.given(session)
    }

    /// Returns what each peer gave since the start, up to 1,024 peers.
    pub fn givers(&self) -> Vec<(PeerId, Given)> {
        self.client.givers()
    }

    /// Ends to talk to others; what is wanted does not come any more.
    pub fn stop(&self) {
        if let Some(swarm) = self.swarm.get() {
            swarm.stop();
        }
    }
}

impl Exchange for Network {
    fn fetch<'a>(
        &'a self,
        cid: &'a Cid,
        urgency: Urgency,
        session: Session,
    ) -> BoxFuture<'a, Result<Block, ExchangeError>> {
        async move {
            if self.is_offline() {
                return Err(ExchangeError::Offline { cid: *cid });
            }
            Ok(self.client.fetch(cid, urgency, session).await)
        }
        .boxed()
    }

    fn hurry(&self, cid: &Cid) {
        self.client.hurry(cid);
    }

    fn is_offline(&self) -> bool {
        self.swarm.get().is_none()
    }
}
