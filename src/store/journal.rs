//! The journal file: short checksummed records, appended and synced one by one.
//!
//! This file knows framing and damage, not what records mean. A torn last record is cut off. After
//! damage inside, every record that is still whole is kept, on both sides, and the damaged file is
//! set aside. One of which nothing is left is refused: to go on would be to lose all pins, and what they
//! keep with them. After a failed write or sync nothing more is appended: the file's content is in
//! doubt, so the next record goes into a new file, written whole from memory.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::diskio::{DiskIo, broken_name, replace, write_all};
use super::error::AtPath as _;

/// Format version in the header.
pub(super) const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"cidfsjnl";
/// Bytes of the header: magic, version, checksum of both.
const HEADER_LEN: usize = 8 + 4 + 4;
/// First bytes of each record, for finding records after damage.
const MARKER: [u8; 2] = [0xc1, 0xdf];
/// Bytes in front of a record's payload: marker, length, checksum of length and payload.
const FRAME_LEN: usize = 2 + 2 + 4;
/// Longest payload in bytes: a CID and a pin name fit ten times.
pub(super) const PAYLOAD_LEN_MAX: usize = 4096;
/// What somebody writes into a journal who knows that its pins are lost. No damage looks like that.
const NO_PINS: &[u8] = b"no pins";
/// Most bytes that one write appends, so that it is known how long a torn end may be.
const APPEND_LEN_MAX: usize = FRAME_LEN + PAYLOAD_LEN_MAX;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    disk: Arc<dyn DiskIo>,
    file: File,
    len: u64,
    /// Records in the file, for deciding when to compact.
    pub(super) records: usize,
    /// A write or sync failed: the file may hold more or less than it should.
    pub(super) in_doubt: bool,
}

/// What a journal file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replay {
    payloads: Vec<Vec<u8>>,
    /// Bytes that were not the torn end of the last write.
    damaged: bool,
    /// First byte after the last whole record.
    end: usize,
}

impl Journal {
    /// Opens a journal and returns its payloads, oldest first.
    pub(super) fn open(
        path: &Path,
        disk: Arc<dyn DiskIo>,
    ) -> Result<(Self, Vec<Vec<u8>>), StoreError> {
        let refuse = |why| Err(StoreError::NoJournal { path: path.to_owned(), why });
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return refuse("is missing"),
            bytes => bytes.at(path)?,
        };
        if bytes.trim_ascii() == NO_PINS {
            return Ok((Self::write_new(path, disk, &[])?, Vec::new()));
        }
        check_version(path, &bytes)?;
        let replay = replay(&bytes);
        if replay.damaged && replay.payloads.is_empty() {
            return refuse("is damaged so that nothing of it is left");
        }
        if replay.damaged {
            let aside = broken_name(path)?;
            disk.link(path, &aside).at(&aside)?;
            tracing::error!(journal = %path.display(), damaged = %aside.display(),
                kept = replay.payloads.len(),
                "the journal was damaged: all whole records are kept; compare `cidfs pin ls` with what you expect");
            let journal = Self::write_new(path, disk, &replay.payloads)?;
            return Ok((journal, replay.payloads));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).at(path)?;
        if replay.end < bytes.len() {
            let torn = bytes.len() - replay.end;
            tracing::warn!(journal = %path.display(), torn, "a torn last record is cut off");
            disk.set_len(&file, replay.end as u64).at(path)?;
        }
        // What the last run wrote and did not live to sync may be read now, so it must stay.
        disk.sync(&file).at(path)?;
        let (len, records) = (replay.end as u64, replay.payloads.len());
        let journal = Self { path: path.to_owned(), disk, file, len, records, in_doubt: false };
        Ok((journal, replay.payloads))
    }

    /// Writes a journal with these payloads in place of the one at `path`, in one step.
    pub(super) fn write_new(
        path: &Path,
        disk: Arc<dyn DiskIo>,
        payloads: &[Vec<u8>],
    ) -> Result<Self, StoreError> {
        let mut bytes = header().to_vec();
        for payload in payloads {
            push_record(payload, &mut bytes);
        }
        let file = replace(&*disk, path, &mut [IoSlice::new(&bytes)])?;
        let (len, records) = (bytes.len() as u64, payloads.len());
        Ok(Self { path: path.to_owned(), disk, file, len, records, in_doubt: false })
    }

    /// Replaces the content, which ends all doubt.
    pub(super) fn rewrite(&mut self, payloads: &[Vec<u8>]) -> Result<(), StoreError> {
        *self = Self::write_new(&self.path, Arc::clone(&self.disk), payloads)?;
        Ok(())
    }

    /// Appends records, durable when this returns; many of them share a write and a sync.
    pub(super) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        for payload in payloads {
            if bytes.len() + FRAME_LEN + payload.len() > APPEND_LEN_MAX {
                self.write(&std::mem::take(&mut bytes))?;
            }
            push_record(payload, &mut bytes);
        }
        self.write(&bytes)?;
        self.records += payloads.len();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = write_all(&*self.disk, &self.file, &mut [IoSlice::new(bytes)], self.len)
            .and_then(|()| self.disk.sync(&self.file));
        written.at(&self.path).inspect_err(|_| self.in_doubt = true)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

fn header() -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let check = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&check.to_le_bytes());
    header
}

/// Refuses a journal whose header is whole and of another version.
fn check_version(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let Some([head @ .., c0, c1, c2, c3]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(());
    };
    let whole = crc32fast::hash(head) == u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let version = head[8..].first_chunk().map_or(0, |version| u32::from_le_bytes(*version));
    if whole && head.starts_with(&MAGIC) && version != VERSION {
        let (path, found) = (path.to_owned(), version.to_string());
        return Err(StoreError::Version { path, found, known: VERSION });
    }
    Ok(())
}

fn push_record(payload: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&len);
    out.extend_from_slice(&checksum(len, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(len: [u8; 2], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(payload);
    hasher.finalize()
}

/// Returns the payload of the record at the front of `bytes`, if it is whole.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let (frame, rest) = bytes.split_first_chunk::<FRAME_LEN>()?;
    let [m0, m1, l0, l1, c0, c1, c2, c3] = *frame;
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    let payload = rest.get(..len).filter(|_| [m0, m1] == MARKER && len <= PAYLOAD_LEN_MAX)?;
    (checksum([l0, l1], payload) == u32::from_le_bytes([c0, c1, c2, c3])).then_some(payload)
}

fn replay(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    if bytes.starts_with(&header()) {
        replay.end = HEADER_LEN;
    } else {
        replay.damaged = true;
    }
    let mut at = replay.end;
    while at < bytes.len() {
        match record(&bytes[at..]) {
            Some(payload) => {
                replay.damaged |= at != replay.end;
                replay.payloads.push(payload.to_owned());
                at += FRAME_LEN + payload.len();
                replay.end = at;
            }
            None => at += 1,
        }
    }
    // More bytes at the end than one write appends cannot be the write that was under way.
    replay.damaged |= bytes.len() - replay.end > APPEND_LEN_MAX;
    replay
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::diskio::RealDisk;

    fn payloads(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|n| vec![n; usize::from(n) * 9]).collect()
    }

    fn bytes(count: u8) -> Vec<u8> {
        let mut bytes = header().to_vec();
        for payload in payloads(count) {
            push_record(&payload, &mut bytes);
        }
        bytes
    }

    fn reopen(bytes: &[u8]) -> (tempfile::TempDir, Journal, Vec<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::fs::write(&path, bytes).unwrap();
        let (journal, found) = Journal::open(&path, Arc::new(RealDisk)).unwrap();
        (dir, journal, found)
    }

    #[test]
    fn a_cut_at_any_byte_loses_the_last_record_only() {
        let whole = bytes(5);
        let before_last = whole.len() - FRAME_LEN - 36;
        for cut in before_last..whole.len() {
            let (dir, mut journal, found) = reopen(&whole[..cut]);
            assert_eq!(found, payloads(4), "cut at {cut}");
            journal.append(&payloads(5)[4..]).unwrap();
            assert_eq!(std::fs::read(dir.path().join("journal")).unwrap(), whole);
        }
    }

    #[test]
    fn damage_inside_keeps_both_sides_and_the_damaged_file() {
        let whole = bytes(5);
        let second = HEADER_LEN + FRAME_LEN;
        for at in second..second + FRAME_LEN + 9 {
            let mut bad = whole.clone();
            bad[at] ^= 0x20;
            let (dir, _, found) = reopen(&bad);
            let mut kept = payloads(5);
            kept.remove(1);
            assert_eq!(found, kept, "byte {at}");
            assert_eq!(std::fs::read(dir.path().join("journal.broken-1")).unwrap(), bad);
            let (_, again) =
                Journal::open(&dir.path().join("journal"), Arc::new(RealDisk)).unwrap();
            assert_eq!(again, kept);
        }
    }

    #[test]
    fn a_damaged_header_costs_nothing_and_a_later_version_is_refused() {
        let mut bad = bytes(3);
        bad[2] ^= 1;
        assert_eq!(reopen(&bad).2, payloads(3));
        assert_eq!(reopen(&bytes(0)).2, payloads(0));

        let mut later = bytes(3);
        later[8] = 2;
        let check = crc32fast::hash(&later[..12]);
        later[12..16].copy_from_slice(&check.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::fs::write(&path, later).unwrap();
        let refused = Journal::open(&path, Arc::new(RealDisk)).unwrap_err();
        assert!(matches!(refused, StoreError::Version { .. }), "{refused}");
    }

    #[test]
    fn one_of_which_nothing_is_left_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let open = || Journal::open(&path, Arc::new(RealDisk));
        let missing = open().unwrap_err();
        assert!(matches!(missing, StoreError::NoJournal { why: "is missing", .. }), "{missing}");
        let zeros = |len| [header().to_vec(), vec![0; len]].concat();
        let cut = bytes(0)[..HEADER_LEN - 1].to_vec();
        for left in [vec![], vec![0; 700], cut, b"pins".to_vec(), zeros(APPEND_LEN_MAX + 1)] {
            std::fs::write(&path, &left).unwrap();
            let refused = open().unwrap_err();
            assert!(matches!(refused, StoreError::NoJournal { .. }), "{refused}");
            assert_eq!(std::fs::read(&path).unwrap(), left, "it is left as it is");
        }
        std::fs::write(&path, "no pins\n").unwrap();
        assert_eq!(open().unwrap().1, payloads(0));
        assert_eq!(std::fs::read(&path).unwrap(), bytes(0));
    }
}
