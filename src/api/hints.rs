//! Errors of the layers below as failures of requests, with what a person can do about them.

use std::io::ErrorKind;

use crate::api::error::ApiError;
use crate::codec::car::CarError;
use crate::dag::DagError;
use crate::fuse::OptionError;
use crate::keep::KeepError;
use crate::store::StoreError;
use crate::sys::mount::MountError;
use crate::unixfs::UnixfsError;
use crate::unixfs::import::ImportError;

const NOT_HERE: &str = "a running daemon asks others unless `network.preset` is \"offline\": `cidfs config network.preset public`, then `cidfs daemon`; or bring the block with `cidfs dag import`";
const FULL: &str = "free some space and try again; what was acknowledged before is safe";
const FILE_LIMIT: &str = "a limit on the length of files holds for the process that has the repository (`ulimit -f`, LimitFSIZE= of systemd); raise it";
const PINS_UNKNOWN: &str =
    "`cidfs pin verify` names the pins; add or import the block again, or unpin what needs it";

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let failed = Self::failed(&error);
        match store_hint(&error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}

fn store_hint(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Full { .. } => Some(FULL),
        StoreError::Io { source, .. } if source.kind() == ErrorKind::FileTooLarge => {
            Some(FILE_LIMIT)
        }
        StoreError::Missing { .. } => Some("another one is named with --repo or $CIDFS_PATH"),
        StoreError::Locked { .. } => Some("stop that process, or wait until it has ended"),
        _ => None,
    }
}

impl From<DagError> for ApiError {
    fn from(error: DagError) -> Self {
        let failed = Self::failed(&error);
        match &error {
            DagError::Offline { .. } => failed.hint(NOT_HERE),
            DagError::Store(store) => match store_hint(store) {
                Some(hint) => failed.hint(hint),
                None => failed,
            },
            DagError::Lied { .. } | DagError::Refused { .. } | DagError::Node { .. } => failed,
        }
    }
}

impl From<UnixfsError> for ApiError {
    fn from(error: UnixfsError) -> Self {
        match error {
            UnixfsError::Dag(error) => error.into(),
            other => Self::failed(other),
        }
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Setting(_) | ImportError::Chunker(_) => Self::client(error),
            other => Self::failed(other),
        }
    }
}

impl From<KeepError> for ApiError {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Store(error) => error.into(),
            KeepError::Content(error) => error.into(),
            KeepError::PinsUnknown(_) => Self::failed(error).hint(PINS_UNKNOWN),
            KeepError::Thread(_) => Self::failed(error),
        }
    }
}

impl From<CarError> for ApiError {
    fn from(error: CarError) -> Self {
        Self::failed(error)
    }
}

impl From<MountError> for ApiError {
    fn from(error: MountError) -> Self {
        Self::failed(error)
    }
}

impl From<OptionError> for ApiError {
    fn from(error: OptionError) -> Self {
        Self::client(error)
    }
}
