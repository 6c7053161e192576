//! Why an operation failed, and the one table from failure to errno (DESIGN §6).

use std::sync::Arc;

use nix::errno::Errno;

use crate::dag::DagError;
use crate::keep::KeepError;
use crate::store::StoreError;
use crate::unixfs::UnixfsError;

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The content cannot be had or is malformed.
    #[error(transparent)]
    Content(#[from] UnixfsError),
    /// A name of more than 255 bytes.
    #[error("the name is over 255 bytes long")]
    NameTooLong,
    /// The inode no longer stands for what the kernel thinks: a claim about it was disproved.
    #[error("what was claimed of this inode is not so; look the name up again")]
    Stale,
    /// Something that would change what is immutable.
    #[error("this filesystem is read-only")]
    ReadOnly,
    /// The names in the root may not be listed.
    #[error("the pinned roots are not listed here (-o listpins allows it)")]
    NotListed,
    /// The inode has no such extended attribute.
    #[error("no such extended attribute")]
    NoXattr,
    /// Pinning is for root and the owner of the mount.
    #[error("only root and the owner of the mount may pin")]
    NotOwner,
    /// A pin is one of two.
    #[error("a pin is \"recursive\" or \"direct\"")]
    PinMode,
    /// The attribute must not be there and is.
    #[error("the extended attribute is there already")]
    XattrExists,
    /// What is to be pinned cannot be had or stored.
    #[error(transparent)]
    Keep(Arc<KeepError>),
    /// The caller's buffer is too small for the attribute.
    #[error("the extended attribute is longer than the room for it")]
    XattrTooLong,
    /// The kernel does this by itself once it is told so.
    #[error("left to the kernel")]
    LeftToKernel,
    /// The volume of the repository cannot be asked for its room.
    #[error("the volume of the repository cannot be read: {0}")]
    Volume(Errno),
    /// Nothing came within the deadline.
    #[error("not reachable within the time allowed (-o timeout=)")]
    TimedOut,
    /// The kernel asked for more than one page, and not all of it is here soon.
    #[error("not all of this range is here yet")]
    NotYet,
    /// A signal came for the process that waits.
    #[error("interrupted by a signal")]
    Interrupted,
    /// As many requests wait as are allowed to.
    #[error("too many requests are waiting for blocks")]
    TooManyWaiting,
    /// A bug: the handler panicked.
    #[error("internal error; please report it with the lines above")]
    Panicked,
}

impl Error {
    /// Returns the errno that stands for this failure.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Content(error) => content_errno(error),
            Self::NameTooLong => Errno::ENAMETOOLONG,
            Self::Stale => Errno::ESTALE,
            Self::ReadOnly => Errno::EROFS,
            // kubo's own mount answers so too; EACCES would point at mode bits that root ignores.
            Self::NotListed | Self::NotOwner => Errno::EPERM,
            Self::NoXattr => Errno::ENODATA,
            Self::PinMode => Errno::EINVAL,
            Self::XattrExists => Errno::EEXIST,
            Self::Keep(error) => keep_errno(error),
            Self::XattrTooLong => Errno::ERANGE,
            Self::LeftToKernel => Errno::ENOSYS,
            Self::Volume(errno) => *errno,
            Self::TimedOut => Errno::ETIMEDOUT,
            Self::NotYet | Self::TooManyWaiting => Errno::EAGAIN,
            Self::Interrupted => Errno::EINTR,
            Self::Panicked => Errno::EIO,
        }
    }

    /// Tells whether something is wrong, and not merely absent or not allowed.
    pub fn is_fault(&self) -> bool {
        self.errno() == Errno::EIO
    }
}

fn keep_errno(error: &KeepError) -> Errno {
    match error {
        KeepError::Content(error) => content_errno(error),
        KeepError::Store(StoreError::Full { .. } | StoreError::CapReached { .. }) => Errno::ENOSPC,
        KeepError::Store(StoreError::PinnedRecursively { .. }) => Errno::EEXIST,
        KeepError::Store(_) | KeepError::PinsUnknown(_) | KeepError::Thread(_) => Errno::EIO,
    }
}

fn content_errno(error: &UnixfsError) -> Errno {
    match error {
        UnixfsError::Dag(error) => dag_errno(error),
        UnixfsError::NotADirectory { .. } => Errno::ENOTDIR,
        UnixfsError::NotAFile { .. } => Errno::EISDIR,
        UnixfsError::NotASymlink { .. } => Errno::EINVAL,
        UnixfsError::NotFound { .. } => Errno::ENOENT,
        UnixfsError::MutableName { .. }
        | UnixfsError::RefusedLink { .. }
        | UnixfsError::TooDeep { .. }
        | UnixfsError::PartLen { .. }
        | UnixfsError::PartKind { .. }
        | UnixfsError::WrongBucket { .. }
        | UnixfsError::Shard { .. }
        | UnixfsError::SamePlace { .. }
        | UnixfsError::Pb { .. }
        | UnixfsError::Ipld { .. }
        | UnixfsError::UnknownCodec { .. }
        | UnixfsError::TooLarge { .. } => Errno::EIO,
    }
}

fn dag_errno(error: &DagError) -> Errno {
    match error {
        DagError::Offline { .. } => Errno::ENETUNREACH,
        DagError::Lied { .. }
        | DagError::Refused { .. }
        | DagError::Node { .. }
        | DagError::Store(_) => Errno::EIO,
    }
}

impl From<KeepError> for Error {
    fn from(error: KeepError) -> Self {
        Self::Keep(Arc::new(error))
    }
}

impl From<DagError> for Error {
    fn from(error: DagError) -> Self {
        Self::Content(error.into())
    }
}
