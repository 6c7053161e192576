//! One pass over a pack: which sections are whole, what is damaged, where the last whole one ends.
//!
//! Every block is hashed, so what a scan finds can be served and can stand for a later put. A
//! section whose bytes are wrong is skipped by its length if something sensible follows, else by
//! searching byte by byte for the next section that hashes right.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use super::Entry;
use super::section::{PACK_HEADER, SECTION_HEAD_LEN_MAX, SectionHead, parse_head};
use super::tombs::Tomb;
use super::window::Window;
use crate::block::{Block, Cid};
use crate::store::framing::Framing;
use crate::store::key::BlockKey;

/// Most bytes that one scan hashes while searching for a section after a damaged length: as many as
/// a pack has, so that a search at most doubles the work. Blocks can be made of false heads, each
/// of which costs a hash.
const SEARCH_HASHED_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of a pack that are no whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Gap {
    /// The CID in the section's head, if that can be read.
    pub(in crate::store) cid: Option<Cid>,
    pub(in crate::store) start: u64,
    pub(in crate::store) end: u64,
}

/// What is in a pack.
#[derive(Debug, Default)]
pub(in crate::store) struct Scan {
    /// Whole sections in file order, without those that have a tombstone.
    pub(in crate::store) entries: Vec<Entry>,
    /// What is damaged in front of `end`.
    pub(in crate::store) damaged: Vec<Gap>,
    /// What follows `end`: the torn end of the last write, or damage at the very end.
    pub(in crate::store) torn: Vec<Gap>,
    /// First byte after the last whole section.
    pub(in crate::store) end: u64,
}

/// Reads the sections of `file[from..len]`; `from` is 0 or the start of a section.
pub(in crate::store) fn scan(
    file: &File,
    from: u64,
    len: u64,
    tombs: &HashSet<Tomb>,
) -> io::Result<Scan> {
    let mut scanner =
        Scanner { window: Window::new(file, len), tombs, search_left: SEARCH_HASHED_MAX };
    let mut found = Scan { end: from, ..Scan::default() };
    let mut at = from;
    if from == 0 {
        at = PACK_HEADER.len() as u64;
        let header = scanner.window.bytes(0, PACK_HEADER.len())?;
        let gap = Gap { cid: None, start: 0, end: at };
        match (header == PACK_HEADER, len >= at) {
            (true, _) => found.end = at,
            (false, true) => found.damaged.push(gap),
            (false, false) => found.torn.push(Gap { end: len, ..gap }),
        }
    }
    while at < len {
        let (section, gap) = scanner.next(at)?;
        found.torn.extend(gap);
        let Some(section) = section else { break };
        if section.whole {
            found.damaged.append(&mut found.torn);
            found.end = section.entry.end();
            if !section.removed {
                found.entries.push(section.entry);
            }
        } else {
            let (start, end) = (section.entry.start, section.entry.end());
            found.torn.push(Gap { cid: Some(section.cid), start, end });
        }
        at = section.entry.end();
    }
    if scanner.search_left == 0 {
        // Not searched to the end, so nothing may be cut off.
        found.damaged.append(&mut found.torn);
        found.end = len;
    }
    Ok(found)
}

struct Scanner<'a> {
    window: Window<'a>,
    tombs: &'a HashSet<Tomb>,
    search_left: u64,
}

struct Section {
    cid: Cid,
    entry: Entry,
    whole: bool,
    removed: bool,
}

impl Scanner<'_> {
    /// Returns the section at `at`, or the next that can be found and the gap in front of it.
    fn next(&mut self, at: u64) -> io::Result<(Option<Section>, Option<Gap>)> {
        let here = self.section(at)?;
        if let Some(section) = here
            && (section.whole || self.head(section.entry.end())?.is_some())
        {
            return Ok((Some(section), None));
        }
        let next = self.search(at + 1)?;
        let end = next.as_ref().map_or(self.window.len(), |next| next.entry.start);
        let cid = self.head(at)?.map(|head| head.cid);
        Ok((next, Some(Gap { cid, start: at, end })))
    }

    /// Reads the section at `at`; `None` when there is no head or it claims more than the file has.
    fn section(&mut self, at: u64) -> io::Result<Option<Section>> {
        let Some(head) = self.head(at)? else { return Ok(None) };
        let key = BlockKey::of(&head.cid);
        let (head_len, len) = (head.head_len, head.data_len);
        let entry = Entry { key, start: at, head_len, len, framing: Framing::Bare };
        let removed = self.tombs.contains(&Tomb { key, start: at });
        let whole = removed || self.is_whole(&head.cid, &entry)?;
        Ok(Some(Section { cid: head.cid, entry, whole, removed }))
    }

    fn is_whole(&mut self, cid: &Cid, entry: &Entry) -> io::Result<bool> {
        let data = self.window.bytes(
            entry.start + u64::from(entry.head_len),
            usize::try_from(entry.len).unwrap_or(usize::MAX),
        )?;
        Ok(Block::matches(cid, data))
    }

    fn head(&mut self, at: u64) -> io::Result<Option<SectionHead>> {
        let len = self.window.len();
        let head = parse_head(self.window.bytes(at, SECTION_HEAD_LEN_MAX)?);
        Ok(head.filter(|head| at + u64::from(head.head_len) + u64::from(head.data_len) <= len))
    }

    /// Returns the first whole section at or after `from`.
    fn search(&mut self, from: u64) -> io::Result<Option<Section>> {
        for at in from..self.window.len() {
            let Some(head) = self.head(at)? else { continue };
            let cost = u64::from(head.data_len) + 1;
            self.search_left = self.search_left.saturating_sub(cost);
            if self.search_left == 0 {
                return Ok(None);
            }
            if let Some(section) = self.section(at)?
                && section.whole
            {
                return Ok(Some(section));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use bytes::Bytes;

    use super::*;
    use crate::block::{HashFn, codecs};
    use crate::store::pack::section::push_head;

    /// A pack of five blocks of 0, 1000, 2000, 3000 and 4000 bytes, and where its sections start.
    fn pack() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = PACK_HEADER.to_vec();
        let mut starts = Vec::new();
        for n in 0..5_u8 {
            let data = Bytes::from(vec![n + 1; usize::from(n) * 1000]);
            let block = Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap();
            starts.push(bytes.len());
            push_head(block.cid(), block.data().len(), &mut bytes);
            bytes.extend_from_slice(block.data());
        }
        starts.push(bytes.len());
        (bytes, starts)
    }

    /// Scans `bytes`; checks which of the five are found, how many gaps, and where it ends.
    fn check(bytes: &[u8], found: &[usize], damaged: usize, end: usize) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let scan = scan(&file, 0, bytes.len() as u64, &HashSet::new()).unwrap();
        let lens: Vec<_> = scan.entries.iter().map(|entry| entry.len as usize / 1000).collect();
        assert_eq!(lens, found);
        assert_eq!(scan.damaged.len(), damaged, "{:?}", scan.damaged);
        assert_eq!(scan.end, end as u64);
    }

    #[test]
    fn a_whole_pack() {
        let (bytes, starts) = pack();
        check(&bytes, &[0, 1, 2, 3, 4], 0, starts[5]);
        check(&PACK_HEADER, &[], 0, 26);
        check(&[], &[], 0, 0);
        check(&PACK_HEADER[..9], &[], 0, 0);
    }

    #[test]
    fn a_torn_end_is_left_out_at_any_length() {
        let (bytes, starts) = pack();
        for cut in (starts[4] + 1..starts[5]).step_by(37).chain([starts[5] - 1]) {
            check(&bytes[..cut], &[0, 1, 2, 3], 0, starts[4]);
        }
        let mut zeros = bytes.clone();
        zeros.resize(starts[5] + 5000, 0);
        check(&zeros, &[0, 1, 2, 3, 4], 0, starts[5]);
    }

    #[test]
    fn a_damaged_block_is_skipped() {
        let (mut bytes, starts) = pack();
        bytes[starts[2] + 100] ^= 1;
        check(&bytes, &[0, 1, 3, 4], 1, starts[5]);
    }

    #[test]
    fn a_damaged_length_is_searched_past() {
        let (bytes, starts) = pack();
        for value in [0, 0x7f, 0xff] {
            let mut bad = bytes.clone();
            bad[starts[1]] = value;
            check(&bad, &[0, 2, 3, 4], 1, starts[5]);
        }
    }

    #[test]
    fn a_damaged_header_costs_itself_only() {
        let (mut bytes, starts) = pack();
        bytes[3] ^= 0x40;
        check(&bytes, &[0, 1, 2, 3, 4], 1, starts[5]);
    }

    #[test]
    fn a_removed_section_may_have_lost_its_bytes() {
        let (mut bytes, starts) = pack();
        let head = parse_head(&bytes[starts[3]..]).unwrap();
        let tomb = Tomb { key: BlockKey::of(&head.cid), start: starts[3] as u64 };
        bytes[starts[3] + 40..starts[4]].fill(0);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let scan = scan(&file, 0, bytes.len() as u64, &HashSet::from([tomb])).unwrap();
        assert_eq!((scan.entries.len(), scan.damaged.len()), (4, 0));
    }

    #[test]
    fn false_heads_cost_a_bounded_search() {
        let block = Block::hash_v0(Bytes::new()).unwrap();
        let mut head = Vec::new();
        push_head(block.cid(), 1024 * 1024, &mut head);
        let mut bytes = PACK_HEADER.to_vec();
        bytes.push(0);
        bytes.extend(head.repeat(3 * 1024 * 1024 / head.len()));
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let scan = scan(&file, 0, bytes.len() as u64, &HashSet::new()).unwrap();
        assert_eq!(scan.entries, []);
        assert_eq!(scan.end, bytes.len() as u64, "nothing is cut unless all was searched");
    }
}
