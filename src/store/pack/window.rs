//! A moving view of a file for one pass over it.
//!
//! Pages that the disk cannot read show as zeros, so that one bad sector costs the sections over it
//! and not the whole file; their hashes fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::sys::disk::is_bad_sector;

/// Bytes read at once: large enough for sequential speed, more than the longest section.
const WINDOW_LEN: usize = 4 * 1024 * 1024;
/// What is given up at once around a bad sector, in bytes.
const PAGE_LEN: usize = 4096;

/// A view of `file[..len]`.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, len: u64) -> Self {
        Self { file, len, start: 0, bytes: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns up to `len` bytes at `offset`, fewer at the end of the file.
    pub(super) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(len).min(len);
        let have = self.start..self.start + self.bytes.len() as u64;
        if offset < have.start || offset + len as u64 > have.end {
            self.fill(offset, len)?;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(self.bytes.len());
        Ok(&self.bytes[skip..skip + len])
    }

    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let wanted = len.max(WINDOW_LEN);
        let left = usize::try_from(self.len - offset).unwrap_or(wanted).min(wanted);
        self.start = offset;
        self.bytes.clear();
        self.bytes.resize(left, 0);
        match self.file.read_exact_at(&mut self.bytes, offset) {
            Err(error) if is_bad_sector(&error) => self.fill_by_page(),
            done => done,
        }
    }

    fn fill_by_page(&mut self) -> io::Result<()> {
        let mut offset = self.start;
        for page in self.bytes.chunks_mut(PAGE_LEN) {
            match self.file.read_exact_at(page, offset) {
                Err(error) if is_bad_sector(&error) => page.fill(0),
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
        let content: Vec<u8> = (0..=250).cycle().take(WINDOW_LEN + 5000).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut window = Window::new(&file, content.len() as u64);
        for (offset, len) in
            [(0, 10), (WINDOW_LEN - 3, 7), (WINDOW_LEN + 4990, 40), (5, 3), (content.len(), 4)]
        {
            let expected = &content[offset..content.len().min(offset + len)];
            assert_eq!(window.bytes(offset as u64, len).unwrap(), expected);
        }
    }
}
