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
        // Two ordered sets become one without a search for each element.
        all.append(&mut places);
    }

    /// Takes the leaves of a file out that nobody can find any more.
    pub(in crate::store) fn remove(&self, pack: &Pack) {
        let mut all = self.0.write();
        for place in pack.as_assembled().into_iter().flat_map(places_of) {
            all.remove(&place);
        }
    }

    /// Returns the files that may have a block, newest first.
    pub(in crate::store) fn files(&self, key: &BlockKey) -> Vec<PackId> {
        let [first, last] = [0, u64::MAX].map(|number| place(key, PackId(number)));
        self.0.read().range(first..=last).rev().map(file_of).collect()
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
        assert_eq!(table.files(&a), [PackId(7)]);
        assert_eq!(table.files(&b), [PackId(far), PackId(300), PackId(7)]);
        assert_eq!(table.files(&c), [PackId(far)]);
        assert_eq!(table.files(&key(4, 4)), []);
        assert_eq!(table.files(&key(9, 1)), [PackId(7)], "a hint goes by the print");
        table.remove(&files[1]);
        assert_eq!(table.files(&b), [PackId(far), PackId(7)]);
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
        assert_eq!(table.files(&key(1, 1)), [PackId(7)]);
        assert_eq!(table.files(&key(2, 2)), [PackId(7)]);
        table.remove(&filled);
        assert!(table.0.read().is_empty());
    }
}
