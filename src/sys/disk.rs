//! What the kernel says of a disk that fails.

use std::io;

/// Tells whether a read failed because the disk cannot give these bytes (any more).
pub fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EIO)
}
