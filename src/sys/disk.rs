//! What the kernel means when a file cannot be opened or read.

use std::io;

/// Tells whether a read failed because the disk cannot give these bytes (any more).
pub fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EIO)
}

/// Tells whether a call failed for want of descriptors or memory, which says nothing of the file.
pub fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM))
}
