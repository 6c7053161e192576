//! A moving view of a file for one pass over it.
//!
//! Pages that the disk cannot read show as zeros, so that one bad sector costs the sections over it
//! and not the whole file; their hashes fail.

use std::io;
use std::os::unix::fs::FileExt;

use crate::block::BLOCK_LEN_MAX;
use crate::sys::disk::is_bad_sector;

/// Bytes read at once where a view begins: large enough for sequential speed, and two blocks of the
/// usual length, which stay in a processor's own cache until they are hashed.
pub(super) const READ_LEN: usize = 512 * 1024;
/// What is given up at once around a bad sector, and read at least when a view grows, in bytes.
const PAGE_LEN: usize = 4096;
/// Longest view in bytes: what is read at once, a section that begins in it, and the pages with the
/// heads at both ends.
const VIEW_LEN_MAX: usize = READ_LEN + BLOCK_LEN_MAX + 4 * PAGE_LEN;

/// A view of `file[..len]`.
pub(super) struct Window<'a> {
    file: &'a dyn FileExt,
    len: u64,
    /// Where the view begins.
    start: u64,
    /// The view, in memory that is used again: nothing behind the first `filled` bytes counts.
    bytes: Vec<u8>,
    filled: usize,
    /// Whether there were pages that the disk could not read.
    is_unreadable: bool,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn FileExt, len: u64) -> Self {
        Self { file, len, start: 0, bytes: Vec::new(), filled: 0, is_unreadable: false }
    }

    /// Tells whether something that was looked at could not be read.
    pub(super) fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// Returns up to `len` bytes at `offset`, fewer at the end of the file.
    ///
    /// The view grows as long as it may, so that bytes read again, and those up to [`READ_LEN`] and
    /// a section behind them, come from memory.
    pub(super) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(len).min(len);
        let inside = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = match inside.filter(|skip| *skip <= self.filled && skip + len <= VIEW_LEN_MAX) {
            Some(skip) => skip,
            None => self.begin(offset, len)?,
        };
        if skip + len > self.filled {
            self.grow((skip + len).next_multiple_of(PAGE_LEN))?;
        }
        Ok(&self.bytes[skip..skip + len])
    }

    /// Begins a view with the page of `offset`; returns where in the view that is.
    fn begin(&mut self, offset: u64, len: usize) -> io::Result<usize> {
        self.start = offset - offset % PAGE_LEN as u64;
        self.filled = 0;
        let skip = usize::try_from(offset - self.start).unwrap_or(0);
        self.grow((skip + len).max(READ_LEN))?;
        Ok(skip)
    }

    /// Reads on until the view has `wanted` bytes or ends with the file.
    fn grow(&mut self, wanted: usize) -> io::Result<()> {
        let left = usize::try_from(self.len.saturating_sub(self.start)).unwrap_or(wanted);
        let (old, new) = (self.filled, wanted.min(left));
        if self.bytes.len() < new {
            self.bytes.resize(new, 0);
        }
        match self.file.read_exact_at(&mut self.bytes[old..new], self.start + old as u64) {
            Err(error) if is_bad_sector(&error) => self.read_by_page(old, new)?,
            done => done?,
        }
        self.filled = new;
        Ok(())
    }

    fn read_by_page(&mut self, from: usize, end: usize) -> io::Result<()> {
        let mut offset = self.start + from as u64;
        for page in self.bytes[from..end].chunks_mut(PAGE_LEN) {
            match self.file.read_exact_at(page, offset) {
                Err(error) if is_bad_sector(&error) => {
                    self.is_unreadable = true;
                    page.fill(0);
                }
                done => done?,
            }
            offset += page.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_moves_both_ways_and_stops_at_the_end() {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(VIEW_LEN_MAX + 5000).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut window = Window::new(&file, content.len() as u64);
        for (offset, len) in [
            (0, 10),
            (READ_LEN - 3, 7),
            (READ_LEN + 9000, 500),
            (VIEW_LEN_MAX - 3, 7),
            (VIEW_LEN_MAX + 4990, 40),
            (5, 3),
            (4097, VIEW_LEN_MAX),
            (content.len(), 4),
            (content.len() + 9999, 4),
        ] {
            let expected = &content[content.len().min(offset)..content.len().min(offset + len)];
            assert_eq!(window.bytes(offset as u64, len).unwrap(), expected);
        }
    }
}
