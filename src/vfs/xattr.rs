//! Extended attributes: the CID of an inode, whether it is pinned, and how much of it is here.

use std::time::Duration;

use bytes::Bytes;

use super::{Error, Vfs};
use crate::block::{Cid, codecs};
use crate::keep::{BringProgress, Keeper};
use crate::store::PinMode;
use crate::unixfs::{FileType, presence};

/// Pinning gives up when no block has come for this long; what came stays for the next try.
const PIN_STALL_MAX: Duration = Duration::from_mins(2);

/// Attributes there are, with and without the class that tools list and copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Cid,
    Pin,
    Local,
}

impl Name {
    fn parse(name: &[u8]) -> Option<Self> {
        match name.strip_prefix(b"user.").unwrap_or(name) {
            b"ipfs.cid" => Some(Self::Cid),
            b"ipfs.pin" => Some(Self::Pin),
            b"ipfs.local" => Some(Self::Local),
            _ => None,
        }
    }
}

/// Whether an attribute may or must be there before it is set (setxattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetMode {
    /// Either.
    Any,
    /// It must be new.
    Create,
    /// It must be there.
    Replace,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User id.
    pub uid: u32,
}

impl Vfs {
    /// Returns the value of an extended attribute, as text.
    ///
    /// # Errors
    /// [`Error::NoXattr`], [`Error::Content`], [`Error::Stale`].
    pub async fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Bytes, Error> {
        let name = Name::parse(name).ok_or(Error::NoXattr)?;
        let cid = self.inode(ino)?.cid().ok_or(Error::NoXattr)?;
        match name {
            Name::Cid => Ok(cid.to_string().into()),
            Name::Pin => {
                let pinned = self.keeper().and_then(|keeper| keeper.pinned(&cid));
                Ok(Bytes::from_static(mode_text(pinned.ok_or(Error::NoXattr)?).as_bytes()))
            }
            Name::Local => {
                let here = presence(&self.inner.local, cid).await?;
                let state = if here.missing == 0 { "complete" } else { "partial" };
                let (blocks, bytes, missing) = (here.blocks, here.bytes, here.missing);
                Ok(format!("{state} blocks={blocks} bytes={bytes} missing={missing}").into())
            }
        }
    }

    /// Sets an extended attribute: the pin is the only one that can be. `recursive` brings
    /// everything below here first.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for other attributes, [`Error::NotOwner`], [`Error::PinMode`],
    /// [`Error::XattrExists`], [`Error::NoXattr`], [`Error::Keep`], [`Error::TimedOut`].
    pub async fn setxattr(
        &self,
        ino: u64,
        name: &[u8],
        value: &[u8],
        how: SetMode,
        caller: Caller,
    ) -> Result<(), Error> {
        let (keeper, cid) = self.pin_target(ino, name, caller)?;
        let mode = match value {
            b"recursive" => PinMode::Recursive,
            b"direct" => PinMode::Direct,
            _ => return Err(Error::PinMode),
        };
        match (how, keeper.pinned(&cid)) {
            (SetMode::Create, Some(_)) => return Err(Error::XattrExists),
            (SetMode::Replace, None) => return Err(Error::NoXattr),
            _ => {}
        }
        self.pin(keeper, cid, mode).await
    }

    /// Removes an extended attribute: the pin.
    ///
    /// # Errors
    /// As [`Vfs::setxattr`].
    pub async fn removexattr(&self, ino: u64, name: &[u8], caller: Caller) -> Result<(), Error> {
        let (keeper, cid) = self.pin_target(ino, name, caller)?;
        if keeper.unpin(cid).await? { Ok(()) } else { Err(Error::NoXattr) }
    }

    /// Returns the names of the extended attributes, each ended by NUL. Only the CID in the `user`
    /// class is listed, because tools try to copy what is listed, and none of a symlink, of which the kernel
    /// gives none of that class.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::Content`].
    pub async fn listxattr(&self, ino: u64) -> Result<Bytes, Error> {
        let is_listed = match self.inode(ino)?.cid() {
            None => false,
            Some(cid) if cid.codec() == codecs::RAW => true,
            Some(_) => self.getattr(ino).await?.attr.kind != FileType::Symlink,
        };
        Ok(Bytes::from_static(if is_listed { b"user.ipfs.cid\0" } else { b"" }))
    }

    fn keeper(&self) -> Option<&Keeper> {
        self.inner.options.keeper.as_ref()
    }

    fn pin_target(&self, ino: u64, name: &[u8], caller: Caller) -> Result<(&Keeper, Cid), Error> {
        let keeper = self.keeper().filter(|_| Name::parse(name) == Some(Name::Pin));
        let keeper = keeper.ok_or(Error::ReadOnly)?;
        // Whoever pins decides about the disk of the node.
        if caller.uid != 0 && caller.uid != self.inner.options.owner.uid {
            return Err(Error::NotOwner);
        }
        Ok((keeper, self.inode(ino)?.cid().ok_or(Error::ReadOnly)?))
    }

    async fn pin(&self, keeper: &Keeper, cid: Cid, mode: PinMode) -> Result<(), Error> {
        let progress = BringProgress::default();
        let mut pinning = std::pin::pin!(keeper.pin(&self.inner.dag, cid, mode, None, &progress));
        loop {
            let before = progress.blocks();
            match tokio::time::timeout(PIN_STALL_MAX, &mut pinning).await {
                Ok(pinned) => return Ok(pinned?),
                Err(_) if progress.blocks() == before => return Err(Error::TimedOut),
                Err(_) => {}
            }
        }
    }
}

fn mode_text(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Recursive => "recursive",
        PinMode::Direct => "direct",
    }
}
