//! One pass over a pack: which sections are whole, what is damaged, where the last whole one ends.
//!
//! Every block is hashed, so what a scan finds can be served and can stand for a later put. A
//! section whose bytes are wrong is skipped by its length if something sensible follows, else by
//! searching byte by byte for the next section that hashes right.
//!
//! One processor hashes slower than a disk reads, so several threads take turns at the [`Walker`]:
//! whoever has it reads the next few sections in file order, then hashes them while others read on.
//! Where the walk cannot go on by the heads alone, what is in front of that place is hashed and the
//! search is done before the walker is passed on, so the result is that of one thread.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use super::Entry;
use super::section::{PACK_HEADER, SECTION_HEAD_LEN_MAX, SectionHead, parse_head};
use super::tombs::Tomb;
use super::window::{READ_LEN, Window};
use crate::block::{Block, Cid};
use crate::store::framing::Framing;
use crate::store::key::BlockKey;

/// Most bytes that one scan hashes while searching for a section after a damaged length: as many as
/// a pack has, so that a search at most doubles the work. Blocks can be made of false heads, each
/// of which costs a hash.
const SEARCH_HASHED_MAX: u64 = 256 * 1024 * 1024;

/// Most threads of one scan: four hash faster than most disks read.
const THREADS_MAX: u64 = 4;

/// Bytes of a pack that are no whole section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Gap {
    /// The CID in the section's head, if that can be read.
    pub(in crate::store) cid: Option<Cid>,
    pub(in crate::store) start: u64,
    pub(in crate::store) end: u64,
}

/// What is in a pack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Scan {
    /// Whole sections in file order, without those that have a tombstone.
    pub(in crate::store) entries: Vec<Entry>,
    /// What is damaged in front of `end`.
    pub(in crate::store) damaged: Vec<Gap>,
    /// What follows `end`: the torn end of the last write, or damage at the very end.
    pub(in crate::store) torn: Vec<Gap>,
    /// First byte after the last whole section.
    pub(in crate::store) end: u64,
    /// The disk could not read all of it. What is there may be whole, so that it counts as damaged, never as torn.
    pub(in crate::store) is_unreadable: bool,
}

/// Reads the sections of `file[from..len]`; `from` is 0 or the start of a section.
pub(in crate::store) fn scan(
    file: &File,
    from: u64,
    len: u64,
    tombs: &HashSet<Tomb>,
) -> io::Result<Scan> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    // One waits for the disk while the others hash.
    scan_by((processors + 1).min(THREADS_MAX), file, from, len, tombs)
}

/// Scans with so many threads, or fewer when there is little to read.
fn scan_by(
    threads: u64,
    file: &(dyn FileExt + Sync),
    from: u64,
    len: u64,
    tombs: &HashSet<Tomb>,
) -> io::Result<Scan> {
    let mut found = Scan { end: from, ..Scan::default() };
    let mut at = from;
    let mut is_unreadable = false;
    if from == 0 {
        at = PACK_HEADER.len() as u64;
        let mut window = Window::new(file, len);
        let header = window.bytes(0, PACK_HEADER.len())?;
        let gap = Gap { cid: None, start: 0, end: at };
        match (header == PACK_HEADER, len >= at) {
            (true, _) => found.end = at,
            (false, true) => found.damaged.push(gap),
            (false, false) => found.torn.push(Gap { end: len, ..gap }),
        }
        is_unreadable = window.is_unreadable();
    }
    let search_left = SEARCH_HASHED_MAX;
    let walker = Mutex::new(Walker { at, len, tombs, search_left, is_unreadable });
    let work = || take_turns(&walker, Window::new(file, len));
    let others = threads.min(len.saturating_sub(at).div_ceil(READ_LEN as u64)).saturating_sub(1);
    let parts = std::thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mut parts = work()?;
        for other in others {
            parts.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok::<_, io::Error>(parts)
    })?;
    found.add(parts);
    let Walker { search_left, is_unreadable, .. } = walker.into_inner();
    found.is_unreadable = is_unreadable;
    if search_left == 0 || is_unreadable {
        found.cut_nothing_below(len);
    }
    Ok(found)
}

/// Reads and hashes runs of sections as long as there are any.
fn take_turns(walker: &Mutex<Walker>, mut window: Window) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    loop {
        let next = walker.lock().next(&mut window);
        match next {
            Ok(Some(run)) => parts.push(run.into_part(&mut window)?),
            Ok(None) => {
                walker.lock().is_unreadable |= window.is_unreadable();
                return Ok(parts);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Scan {
    /// Has what is torn and begins below `len` bytes count as damaged, which is not cut off.
    pub(in crate::store) fn cut_nothing_below(&mut self, len: u64) {
        if self.end < len {
            self.damaged.append(&mut self.torn);
            self.end = len;
        }
    }

    /// Adds what was found behind the header, in any order.
    fn add(&mut self, mut parts: Vec<Part>) {
        parts.sort_unstable_by_key(|part| part.start);
        self.end = parts.iter().filter_map(|part| part.whole_end).fold(self.end, u64::max);
        for part in parts {
            self.entries.extend(part.entries);
            for gap in part.gaps {
                if gap.start < self.end { &mut self.damaged } else { &mut self.torn }.push(gap);
            }
        }
    }
}

/// What is in a stretch of a pack.
struct Part {
    start: u64,
    entries: Vec<Entry>,
    gaps: Vec<Gap>,
    /// Where the last whole section ends, if there is one.
    whole_end: Option<u64>,
}

/// Sections one behind the other.
struct Run {
    start: u64,
    sections: Vec<Section>,
    /// What follows, up to the start of the next run, and is no section.
    gap: Option<Gap>,
}

struct Section {
    cid: Cid,
    entry: Entry,
    removed: bool,
    /// Whether the bytes are those of the block or removed; not known before they were hashed.
    whole: Option<bool>,
}

impl Section {
    /// Tells whether a section is whole; `bytes` begin where it does.
    fn is_whole(&mut self, bytes: &[u8]) -> bool {
        let (head_len, len) = (usize::from(self.entry.head_len), self.entry.len as usize);
        *self.whole.get_or_insert_with(|| Block::matches(&self.cid, &bytes[head_len..][..len]))
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.sections.last().map_or(self.start, |section| section.entry.end())
    }

    /// Hashes what was not hashed.
    fn into_part(mut self, window: &mut Window) -> io::Result<Part> {
        let Self { start, .. } = self;
        let mut part = Part { start, entries: Vec::new(), gaps: Vec::new(), whole_end: None };
        let bytes = window.bytes(start, byte_count(self.end() - start))?;
        for section in &mut self.sections {
            let (from, end) = (section.entry.start, section.entry.end());
            if !section.is_whole(&bytes[byte_count(from - start)..]) {
                part.gaps.push(Gap { cid: Some(section.cid), start: from, end });
                continue;
            }
            part.whole_end = Some(end);
            if !section.removed {
                part.entries.push(section.entry);
            }
        }
        part.gaps.extend(self.gap);
        Ok(part)
    }
}

/// Goes through a pack from front to back.
struct Walker<'a> {
    /// Where the next run starts.
    at: u64,
    len: u64,
    tombs: &'a HashSet<Tomb>,
    search_left: u64,
    is_unreadable: bool,
}

impl Walker<'_> {
    /// Returns the next run, which is then in `window`; nothing follows an error.
    fn next(&mut self, window: &mut Window) -> io::Result<Option<Run>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let start = std::mem::replace(&mut self.at, self.len);
        let mut run = Run { start, sections: Vec::new(), gap: None };
        while let Some(section) = self.section(window, run.end())? {
            if run.end() - start >= READ_LEN as u64 {
                self.at = run.end();
                return Ok(Some(run));
            }
            run.sections.push(section);
        }
        self.pass_gap(&mut run, window)?;
        Ok(Some(run))
    }

    /// Goes on behind a run that no section follows.
    fn pass_gap(&mut self, run: &mut Run, window: &mut Window) -> io::Result<()> {
        let mut cid = None;
        if let Some(mut last) = run.sections.pop() {
            let len = byte_count(last.entry.section_len());
            if last.is_whole(window.bytes(last.entry.start, len)?) {
                run.sections.push(last);
            } else {
                cid = Some(last.cid);
            }
        }
        let start = run.end();
        if start < self.len {
            let end = self.search(window, start + 1)?.unwrap_or(self.len);
            run.gap = Some(Gap { cid, start, end });
            self.at = end;
        }
        Ok(())
    }

    /// Reads the head of the section at `at`; `None` when there is none or it claims more than the
    /// file has.
    fn section(&self, window: &mut Window, at: u64) -> io::Result<Option<Section>> {
        let Some(SectionHead { cid, head_len, data_len }) = self.head(window, at)? else {
            return Ok(None);
        };
        let key = BlockKey::of(&cid);
        let removed = self.tombs.contains(&Tomb { key, start: at });
        let entry = Entry { key, start: at, head_len, len: data_len, framing: Framing::Bare };
        Ok(Some(Section { cid, entry, removed, whole: removed.then_some(true) }))
    }

    fn head(&self, window: &mut Window, at: u64) -> io::Result<Option<SectionHead>> {
        let head = parse_head(window.bytes(at, SECTION_HEAD_LEN_MAX)?);
        Ok(head.filter(|head| at + u64::from(head.head_len) + u64::from(head.data_len) <= self.len))
    }

    /// Returns where the first whole section at or after `from` starts.
    fn search(&mut self, window: &mut Window, from: u64) -> io::Result<Option<u64>> {
        for at in from..self.len {
            let Some(mut section) = self.section(window, at)? else { continue };
            let cost = u64::from(section.entry.len) + 1;
            self.search_left = self.search_left.saturating_sub(cost);
            if self.search_left == 0 {
                return Ok(None);
            }
            let len = byte_count(section.entry.section_len());
            if section.is_whole(window.bytes(at, len)?) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// A number of bytes in a window; what is longer than memory is cut off by the window.
fn byte_count(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

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

    /// Bytes on a disk that cannot read some of them.
    struct BadDisk {
        bytes: Vec<u8>,
        bad: std::ops::Range<usize>,
    }

    impl FileExt for BadDisk {
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            let from = usize::try_from(offset).unwrap();
            let len = into.len().min(self.bytes.len() - from);
            if from < self.bad.end && self.bad.start < from + len {
                return Err(io::Error::from_raw_os_error(nix::libc::EIO));
            }
            into[..len].copy_from_slice(&self.bytes[from..from + len]);
            Ok(len)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            unreachable!("a scan only reads")
        }
    }

    #[test]
    fn what_cannot_be_read_is_never_torn() {
        let (mut bytes, starts) = pack();
        let whole = bytes.len();
        // Longer than a page each, so that a bad page costs two of them at most.
        for n in 0..8_u8 {
            let block = Block::hash(codecs::RAW, HashFn::SHA2_256, vec![n; 5000].into()).unwrap();
            push_head(block.cid(), block.data().len(), &mut bytes);
            bytes.extend_from_slice(block.data());
        }
        let len = bytes.len();
        for bad in [0..1, starts[3]..starts[3] + 1, whole + 20_000..len, len - 1..len, 0..len] {
            let disk = BadDisk { bytes: bytes.clone(), bad: bad.clone() };
            let found = scan_by(2, &disk, 0, len as u64, &HashSet::new()).unwrap();
            assert!(found.is_unreadable && found.torn.is_empty(), "{bad:?}: {found:?}");
            assert!(found.end == len as u64 && !found.damaged.is_empty(), "{bad:?}: {found:?}");
            assert!(found.entries.len() < 13, "{bad:?}");
        }
        let disk = BadDisk { bytes, bad: len..len };
        let found = scan_by(2, &disk, 0, len as u64, &HashSet::new()).unwrap();
        assert_eq!((found.is_unreadable, found.entries.len()), (false, 13));
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

    /// What a pack says to someone who has all of it in memory and goes through it in one go.
    fn judge(bytes: &[u8], tombs: &HashSet<Tomb>) -> Scan {
        let section = |at: usize| {
            let head = parse_head(&bytes[at..])?;
            let data =
                bytes.get(at + usize::from(head.head_len)..)?.get(..head.data_len as usize)?;
            let (key, start) = (BlockKey::of(&head.cid), at as u64);
            let (head_len, len) = (head.head_len, head.data_len);
            let entry = Entry { key, start, head_len, len, framing: Framing::Bare };
            let removed = tombs.contains(&Tomb { key, start });
            Some((head.cid, entry, removed, removed || Block::matches(&head.cid, data)))
        };
        let mut found = Scan { end: PACK_HEADER.len() as u64, ..Scan::default() };
        let mut at = PACK_HEADER.len();
        while at < bytes.len() {
            let here = section(at);
            let mut next = here.as_ref().map_or(bytes.len(), |found| byte_count(found.1.end()));
            match here {
                Some((_, entry, removed, true)) => {
                    found.damaged.append(&mut found.torn);
                    found.end = entry.end();
                    found.entries.extend((!removed).then_some(entry));
                }
                other => {
                    if other.is_none() || section(next).is_none() {
                        let is_whole = |at: &usize| section(*at).is_some_and(|found| found.3);
                        next = (at + 1..bytes.len()).find(is_whole).unwrap_or(bytes.len());
                    }
                    let cid = other.map(|found| found.0);
                    found.torn.push(Gap { cid, start: at as u64, end: next as u64 });
                }
            }
            at = next;
        }
        found
    }

    /// A change of the bytes at a place that is given as a part of the whole.
    #[derive(Debug, Clone)]
    enum Change {
        Flip,
        Zeros(usize),
        Cut,
        Remove,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => Just(Change::Flip),
            2 => (1..200_000_usize).prop_map(Change::Zeros),
            1 => Just(Change::Cut),
            2 => Just(Change::Remove),
        ]
    }

    /// Applies a change; three of four places are near the head of a section, where it matters.
    fn apply(bytes: &mut Vec<u8>, starts: &[usize], place: usize, change: &Change) -> Option<Tomb> {
        let start = starts[place % starts.len()];
        let at = if place.is_multiple_of(4) { place % bytes.len() } else { start + place / 4 % 45 };
        match change {
            Change::Cut => bytes.truncate(at.max(PACK_HEADER.len())),
            Change::Remove => {
                let head = parse_head(bytes.get(start..)?)?;
                return Some(Tomb { key: BlockKey::of(&head.cid), start: start as u64 });
            }
            Change::Flip => *bytes.get_mut(at)? ^= 1 << (place % 8),
            Change::Zeros(len) => bytes.iter_mut().skip(at).take(*len).for_each(|byte| *byte = 0),
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn many_threads_find_what_one_judge_finds_whatever_is_damaged(
            lens in prop::collection::vec(
                prop_oneof![4 => 0..300_usize, 3 => 0..300_000_usize], 1..60),
            changes in prop::collection::vec((any::<u32>(), change()), 0..6),
        ) {
            let (mut bytes, mut starts) = (PACK_HEADER.to_vec(), Vec::new());
            for (content, len) in (1..=u8::MAX).zip(&lens) {
                let data = Bytes::from(vec![content; *len]);
                let block = Block::hash(codecs::RAW, HashFn::SHA2_256, data).unwrap();
                starts.push(bytes.len());
                push_head(block.cid(), block.data().len(), &mut bytes);
                bytes.extend_from_slice(block.data());
            }
            let mut tombs = HashSet::new();
            for (place, change) in &changes {
                tombs.extend(apply(&mut bytes, &starts, *place as usize + 1, change));
                bytes[..PACK_HEADER.len()].copy_from_slice(&PACK_HEADER);
            }
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let expected = judge(&bytes, &tombs);
            for threads in [1, 3] {
                let found = scan_by(threads, &file, 0, bytes.len() as u64, &tombs).unwrap();
                prop_assert_eq!(&found, &expected, "{} threads", threads);
            }
        }
    }
}
