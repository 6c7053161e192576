//! Repairing: what this disk damaged is asked of others, block by block.

use super::pinning::in_background;
use super::{KeepError, Keeper};
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::BlockStore as _;
use crate::unixfs::UnixfsError;

impl Keeper {
    /// Fetches a block that was found damaged, unless another copy is here; storing it heals it.
    /// Durable when this returns.
    ///
    /// # Errors
    /// [`KeepError::Content`] when nobody has it, [`KeepError::Store`] when the disk does not take
    /// it.
    pub async fn repair(&self, dag: &Dag, cid: &Cid) -> Result<(), KeepError> {
        let block = dag.block(cid).await.map_err(UnixfsError::from)?;
        // What came from others is stored on its way, but not when there was no room for it.
        self.put(block).await?;
        let repository = self.inner.repository.clone();
        in_background(move || repository.blocks.commit()).await
    }
}
