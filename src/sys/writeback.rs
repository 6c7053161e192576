//! Asking the kernel to start writing dirty pages of a file now, so that a later `fdatasync` finds
//! little left to do.

#![allow(unsafe_code, reason = "nix has no wrapper for sync_file_range(2)")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::libc;

/// Starts the write-back of `len` bytes from `offset` without waiting for it.
///
/// It promises nothing about durability and consumes no write error: with `SYNC_FILE_RANGE_WRITE`
/// alone, errors stay with the file until `fdatasync` reports them.
///
/// # Errors
/// What `sync_file_range(2)` says; offsets beyond 2^63 are `EINVAL`.
pub fn start(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(offset).map_err(invalid)?;
    let len = i64::try_from(len).map_err(invalid)?;
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let done = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn it_takes_a_file_and_refuses_a_bad_range() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        start(&file, 0, 8192).unwrap();
        assert!(start(&file, u64::MAX, 1).is_err());
    }
}
