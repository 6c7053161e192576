//! A little of the disk that is kept for removing: on a full disk a tombstone must not need the room
//! that only it can give.
//!
//! What is in the file means nothing, and a store without it works, but for a full disk.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::Mutex;

use super::DiskOptions;
use super::space::Space;
use crate::store::diskio::DiskIo;

/// With a small cap the reserve is at most this share of it.
const SHARE_OF_CAP: u64 = 64;

/// The file `packs/reserve`.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    disk: Arc<dyn DiskIo>,
    len: u64,
    /// Bytes of disk that it takes now.
    kept: Mutex<u64>,
}

impl Reserve {
    pub(super) fn new(dir: &Path, options: &DiskOptions) -> Self {
        let most = options.cache_max_bytes.map_or(u64::MAX, |cap| cap / SHARE_OF_CAP);
        let len = options.reserve_bytes.min(most);
        let disk = Arc::clone(&options.disk);
        Self { path: dir.join("reserve"), disk, len, kept: Mutex::new(0) }
    }

    /// Sets the disk aside, unless it is already. A disk that cannot do that has no reserve.
    pub(super) fn keep(&self, space: &Space) {
        let mut kept = self.kept.lock();
        if *kept > 0 || self.len == 0 {
            return;
        }
        match self.allocate() {
            Ok(bytes) => {
                space.change(0, bytes);
                *kept = bytes;
            }
            Err(error) => {
                tracing::debug!(%error, "no room is set aside for removing on a full disk");
                self.remove();
            }
        }
    }

    /// Gives the disk free; returns whether there was any.
    pub(super) fn release(&self, space: &Space) -> bool {
        let mut kept = self.kept.lock();
        space.change(*kept, 0);
        let bytes = std::mem::take(&mut *kept);
        bytes > 0 && self.remove()
    }

    fn allocate(&self) -> io::Result<u64> {
        self.disk.check_place()?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        file.set_len(self.len)?;
        fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(self.len).unwrap_or(i64::MAX))?;
        Ok(file.metadata()?.blocks() * 512)
    }

    fn remove(&self) -> bool {
        let removed = self.disk.check_place().and_then(|()| std::fs::remove_file(&self.path));
        if let Err(error) = &removed {
            tracing::debug!(path = %self.path.display(), %error, "the reserve cannot be removed");
        }
        removed.is_ok()
    }
}
