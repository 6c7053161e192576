//! The stores that keep the contract.

use cidfs::store::{DiskOptions, DiskStore, MemoryStore};

use super::PROMISES;

#[test]
fn memory() {
    for promise in PROMISES {
        promise(&MemoryStore::default());
    }
}

/// Runs the contract on a disk store, and again on what a new store finds in its directory.
fn check_disk(options: &DiskOptions) {
    for promise in PROMISES {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path(), options.clone()).unwrap();
        promise(&store);
        store.close().unwrap();
        drop(store);
        let store = DiskStore::open(dir.path(), options.clone()).unwrap();
        let before = store.stats().unwrap().blocks;
        drop(store);
        for extension in ["idx", "car"] {
            let broken = std::fs::read_dir(dir.path()).unwrap().any(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains(&format!("{extension}.broken"))
            });
            assert!(!broken, "a clean store needs no repair");
        }
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "idx") {
                std::fs::remove_file(path).unwrap();
            }
        }
        let store = DiskStore::open(dir.path(), options.clone()).unwrap();
        assert_eq!(store.stats().unwrap().blocks, before, "the packs tell it all");
    }
}

#[test]
fn disk() {
    check_disk(&DiskOptions::default());
}

#[test]
fn disk_with_tiny_packs() {
    let by_len = DiskOptions { pack_len_max: 5000, ..DiskOptions::default() };
    check_disk(&by_len);
    let by_count = DiskOptions { pack_blocks_max: 3, ..DiskOptions::default() };
    check_disk(&by_count);
}
