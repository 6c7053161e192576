//! Tombstones: which sections of a pack were removed, in `NNNNNNNNNN.dead` beside it.
//!
//! A removal is durable when its record is; the block's bytes are given back to the disk only after
//! that, so a crash leaves either a whole block or a tombstone. Records are of fixed length and
//! checked one by one: a damaged one is skipped, and what it buried is at worst a whole block that
//! is here again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::Path;

use crate::store::StoreError;
use crate::store::diskio::{DiskIo, replace, write_all};
use crate::store::error::AtPath as _;
use crate::store::key::BlockKey;

/// First bytes of the file; the last is the format version.
const MAGIC: [u8; 8] = *b"cidtomb\x01";
/// Bytes of a record: digest, start, flags, checksum.
const RECORD_LEN: usize = 32 + 8 + 4 + 4;
const FLAG_DERIVED: u32 = 1;

/// A removed section: the key alone is not enough, a block may be put again after its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) struct Tomb {
    pub(in crate::store) key: BlockKey,
    /// First byte of the section.
    pub(in crate::store) start: u64,
}

/// Reads the tombstones in `path`; a file that is not there holds none.
pub(in crate::store) fn load(path: &Path) -> Result<HashSet<Tomb>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(StoreError::io(path, error)),
    };
    let Some(records) = bytes.strip_prefix(&MAGIC) else {
        if !MAGIC.starts_with(&bytes) {
            tracing::warn!(path = %path.display(), "not a tombstone file of this version: ignored");
        }
        return Ok(HashSet::new());
    };
    let tombs: HashSet<_> = records.as_chunks().0.iter().filter_map(decode).collect();
    let damaged = (records.len() / RECORD_LEN).saturating_sub(tombs.len());
    if damaged > 0 {
        tracing::warn!(path = %path.display(), damaged, "damaged tombstones are ignored");
    }
    Ok(tombs)
}

/// Takes tombstones back, durable when this returns; the file is written anew, whole.
pub(in crate::store) fn take_back(
    disk: &dyn DiskIo,
    path: &Path,
    tombs: &HashSet<Tomb>,
) -> Result<(), StoreError> {
    let rest = load(path)?;
    let records: Vec<_> = rest.difference(tombs).flat_map(encode).collect();
    replace(disk, path, &mut [IoSlice::new(&MAGIC), IoSlice::new(&records)]).map(drop)
}

/// Adds tombstones, durable when this returns: one write and one sync for all of them.
///
/// The file is `trusted` when this run has written it and nothing failed since. Otherwise what it
/// seems to hold may not be on the disk, and no sync would say so: it is written anew, whole.
pub(in crate::store) fn append(
    disk: &dyn DiskIo,
    path: &Path,
    tombs: &[Tomb],
    trusted: bool,
) -> Result<(), StoreError> {
    let mut bytes: Vec<u8> = tombs.iter().flat_map(encode).collect();
    if trusted {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        disk.check_place().at(path)?;
        let file = opened.at(path)?;
        let at = end_of_records(&file).at(path)?;
        let written = write_all(disk, &file, &mut [IoSlice::new(&bytes)], at);
        return written.and_then(|()| disk.sync(&file)).at(path);
    }
    bytes.extend(load(path)?.difference(&tombs.iter().copied().collect()).flat_map(encode));
    replace(disk, path, &mut [IoSlice::new(&MAGIC), IoSlice::new(&bytes)]).map(drop)
}

/// Returns where the next record goes: over the torn end of an earlier one, if there is one.
fn end_of_records(file: &File) -> io::Result<u64> {
    let (head, record) = (MAGIC.len() as u64, RECORD_LEN as u64);
    let len = file.metadata()?.len();
    Ok(len.checked_sub(head).map_or(0, |records| head + records / record * record))
}

fn encode(tomb: &Tomb) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..32].copy_from_slice(&tomb.key.digest);
    record[32..40].copy_from_slice(&tomb.start.to_le_bytes());
    let flags = if tomb.key.derived { FLAG_DERIVED } else { 0 };
    record[40..44].copy_from_slice(&flags.to_le_bytes());
    let check = crc32fast::hash(&record[..44]);
    record[44..].copy_from_slice(&check.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD_LEN]) -> Option<Tomb> {
    let digest = *record.first_chunk()?;
    let start = u64::from_le_bytes(*record[32..].first_chunk()?);
    let flags = u32::from_le_bytes(*record[40..].first_chunk()?);
    let check = u32::from_le_bytes(*record[44..].first_chunk()?);
    let derived = flags & FLAG_DERIVED != 0;
    (crc32fast::hash(&record[..44]) == check)
        .then_some(Tomb { key: BlockKey { digest, derived }, start })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::diskio::RealDisk;

    fn tomb(n: u8) -> Tomb {
        Tomb { key: BlockKey { digest: [n; 32], derived: n % 2 == 1 }, start: u64::from(n) << 33 }
    }

    #[test]
    fn tombstones_outlive_torn_and_damaged_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.dead");
        assert!(load(&path).unwrap().is_empty());
        for n in 0..3 {
            append(&RealDisk, &path, &[tomb(n)], n > 0).unwrap();
        }
        assert_eq!(load(&path).unwrap(), (0..3).map(tomb).collect());

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8 + RECORD_LEN + 5] ^= 1;
        bytes.truncate(bytes.len() - 7);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(load(&path).unwrap(), HashSet::from([tomb(0)]));
        append(&RealDisk, &path, &[tomb(9)], true).unwrap();
        assert_eq!(load(&path).unwrap(), HashSet::from([tomb(0), tomb(9)]));
        append(&RealDisk, &path, &[tomb(7), tomb(9)], false).unwrap();
        assert_eq!(load(&path).unwrap(), HashSet::from([tomb(0), tomb(7), tomb(9)]));
        assert_eq!(std::fs::read(&path).unwrap().len(), 8 + 3 * RECORD_LEN);
        take_back(&RealDisk, &path, &HashSet::from([tomb(7), tomb(8)])).unwrap();
        assert_eq!(load(&path).unwrap(), HashSet::from([tomb(0), tomb(9)]));
    }
}
