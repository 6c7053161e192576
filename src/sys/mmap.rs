//! Read-only memory maps of whole files that nobody changes in place.
//!
//! It is for index files only, which are small, checksummed as a whole before use and replaced by
//! rename, never rewritten. Block bytes are not mapped: a bad sector under a map is a signal, under
//! `pread` it is an error.

#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe in Rust; the rule that makes it sound is above"
)]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file, paged in by the kernel when they are touched.
#[derive(Debug)]
pub struct ReadMap(memmap2::Mmap);

impl ReadMap {
    /// Maps all of `file`.
    ///
    /// The caller owns the rule that the file is never truncated or written in place while it is
    /// mapped; the store keeps it by its repository lock and directories of mode 0700.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the file is not changed in place while mapped (see above), so the slice is stable.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl Deref for ReadMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_map_shows_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"mapped").unwrap();
        assert_eq!(&*ReadMap::of(&file).unwrap(), b"mapped");
    }
}
