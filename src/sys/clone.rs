//! Files that share their bytes on the disk until one of them changes (reflinks).

#![allow(unsafe_code, reason = "nix has no wrapper for ioctl_ficlone(2)")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

mod ioctl {
    nix::ioctl_write_int_bad!(ficlone, nix::request_code_write!(0x94, 9, size_of::<i32>()));
}

/// Makes the content of `to` that of `from` as it is now, sharing its bytes.
///
/// # Errors
/// What `ioctl_ficlone(2)` says: `EOPNOTSUPP` and `EXDEV` where the disk cannot.
pub fn clone_file(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open for the length of the call; no memory is passed.
    unsafe { ioctl::ficlone(to.as_raw_fd(), from.as_raw_fd()) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_clone_is_whole_or_refused() {
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(&[7; 9000]).unwrap();
        let done = clone_file(&from, &to);
        let mut content = Vec::new();
        to.rewind().unwrap();
        to.read_to_end(&mut content).unwrap();
        let expected = if done.is_ok() { 9000 } else { 0 };
        assert_eq!(content, vec![7; expected], "{done:?}");
    }
}
