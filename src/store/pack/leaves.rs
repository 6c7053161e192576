//! Which assembled files may have a block: one look for all of them.
//!
//! There can be a hundred thousand such files, too many to ask the filter of each. The table is a hint: it names
//! every file that has the leaf and hardly any other; the file itself says whether it is there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Pack;
use super::index::SealedPack;
use crate::store::extent::PackId;
use crate::store::key::BlockKey;

/// Bytes of a digest that are in the table; the filters and indexes of packs go by others.
const PRINT: Range<usize> = 8..12;

/// New leaves are added one by one if they are fewer than this part of all: to merge takes time for each of all.
const MERGE_PART: usize = 64;
/// Leaves that are removed at a time, in less than a millisecond; look-ups wait for it.
const REMOVED_MAX: usize = 512;

/// A part of a digest and the number of a file, both big-endian: the files of one leaf are side by side, in
/// their order.
type Place = [u8; 12];

/// The leaves of all assembled files, in about 20 bytes of memory each.
#[derive(Debug, Default)]
pub(in crate::store) struct LeafTable(RwLock<BTreeSet<Place>>);

impl LeafTable {
    /// Adds the leaves of those of `packs` that are assembled files, before their readers can see them.
    pub(in crate::store) fn add(&self, packs: &[Arc<Pack>]) {
        let files = packs.iter().filter_map(|pack| pack.as_assembled());
        let mut places: BTreeSet<_> = files.flat_map(places_of).collect();
        let mut all = self.0.write();
        if places.len() > all.len() / MERGE_PART {
            all.append(&mut places);
        } else {
            all.extend(places);
        }
    }

    /// Takes the leaves of a file out that nobody can find any more.
    pub(in crate::store) fn remove(&self, pack: &Pack) {
        let places: Vec<_> = pack.as_assembled().into_iter().flat_map(places_of).collect();
        for group in places.chunks(REMOVED_MAX) {
            let mut all = self.0.write();
            for place in group {
                all.remove(place);
            }
        }
    }

    /// Returns the files that may have a block, newest first. Each is looked for when it is asked for: a leaf of
    /// zeros can be in all of them.
    pub(in crate::store) fn files(&self, key: &BlockKey) -> impl Iterator<Item = PackId> {
        let (key, mut last) = (*key, Some(u64::MAX));
        std::iter::from_fn(move || {
            let [first, last_place] = [0, last?].map(|number| place(&key, PackId(number)));
            let id = self.0.read().range(first..=last_place).next_back().map(file_of)?;
            last = id.0.checked_sub(1);
            Some(id)
        })
    }
}

fn places_of(file: &SealedPack) -> impl Iterator<Item = Place> {
    file.keys().map(|key| place(&key, file.id))
}

fn place(key: &BlockKey, file: PackId) -> Place {
    let mut place = [0; 12];
    let (print, number) = place.split_at_mut(PRINT.len());
    print.copy_from_slice(&key.digest[PRINT]);
    number.copy_from_slice(&file.0.to_be_bytes());
    place
}

fn file_of(place: &Place) -> PackId {
    let [_, _, _, _, number @ ..] = *place;
    PackId(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::diskio::RealDisk;
    use crate::store::framing::Framing;
    use crate::store::pack::{Entry, index};

    fn of(table: &LeafTable, key: &BlockKey) -> Vec<PackId> {
        table.files(key).collect()
    }

    /// The first byte of a digest alone differs, or its print too.
    fn key(first: u8, print: u8) -> BlockKey {
        let mut digest = [0; 32];
        (digest[0], digest[11]) = (first, print);
        BlockKey { digest, derived: false }
    }

    fn file(dir: &tempfile::TempDir, id: u64, keys: &[BlockKey]) -> Arc<Pack> {
        let entry = |(start, key): (u64, &BlockKey)| {
            let framing = Framing::Bare;
            Entry { key: *key, start, head_len: 0, len: 1, framing }
        };
        let entries = (0..).zip(keys).map(entry).collect();
        let path = dir.path().join(format!("{id}.leaves"));
        index::write(&RealDisk, &path, PackId(id), 100, entries).unwrap();
        Arc::new(Pack::Assembled(SealedPack::open_leaves(&path, PackId(id)).unwrap()))
    }

    #[test]
    fn every_file_of_a_leaf_is_named_the_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let table = LeafTable::default();
        let (a, b, c) = (key(1, 1), key(2, 2), key(3, 3));
        let far = 1 << 40;
        let files = [file(&dir, 7, &[a, b]), file(&dir, 300, &[b]), file(&dir, far, &[b, c])];
        table.add(&files[..1]);
        table.add(&files[1..]);
        assert_eq!(of(&table, &a), [PackId(7)]);
        assert_eq!(of(&table, &b), [PackId(far), PackId(300), PackId(7)]);
        assert_eq!(of(&table, &c), [PackId(far)]);
        assert_eq!(of(&table, &key(4, 4)), []);
        assert_eq!(of(&table, &key(9, 1)), [PackId(7)], "a hint goes by the print");
        table.remove(&files[1]);
        assert_eq!(of(&table, &b), [PackId(far), PackId(7)]);
        for file in [&files[0], &files[2]] {
            table.remove(file);
        }
        assert!(table.0.read().is_empty());
    }

    #[test]
    fn a_file_that_was_filled_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let table = LeafTable::default();
        table.add(&[file(&dir, 7, &[key(1, 1)])]);
        let filled = file(&dir, 7, &[key(1, 1), key(2, 2)]);
        table.add(std::slice::from_ref(&filled));
        assert_eq!(of(&table, &key(1, 1)), [PackId(7)]);
        assert_eq!(of(&table, &key(2, 2)), [PackId(7)]);
        table.remove(&filled);
        assert!(table.0.read().is_empty());
    }
}
