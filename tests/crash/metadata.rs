//! The throwaway table, gone, damaged or of an earlier day: nothing is lost by it, nothing wrong is
//! served.

use std::path::Path;

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::store::{BlockStore, OpenMode, PinMode, Repository};

/// Bits flipped, spread over the files of the table.
const FLIPS: usize = 24;

fn block(n: u8) -> Block {
    Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(vec![n; 3000])).unwrap()
}

/// One run that puts and pins block `n` and reads all before it.
fn use_it(path: &Path, n: u8) {
    let repository = Repository::open(path, OpenMode::CreateIfMissing).unwrap();
    for old in 0..n {
        let found = repository.blocks.get(block(old).cid()).unwrap();
        assert_eq!(found, Some(block(old)), "block {old} before {n}");
        assert!(repository.pins.get(block(old).cid()).is_some(), "pin {old} before {n}");
    }
    repository.blocks.put(&[block(n)]).unwrap();
    repository.blocks.commit().unwrap();
    repository.pins.add(block(n).cid(), PinMode::Recursive, None).unwrap();
    repository.verify(&mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    repository.stat().unwrap();
    repository.close().unwrap();
}

/// Returns the longest file of the table, which holds its records.
fn table(meta: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(meta).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn whatever_happens_to_the_table_the_store_opens_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (home, old) = (dir.path().join("home"), dir.path().join("old"));
    let meta = home.join("meta");
    use_it(&home, 0);
    super::copy(&meta, &old);
    use_it(&home, 1);

    std::fs::remove_dir_all(&meta).unwrap();
    super::copy(&old, &meta);
    use_it(&home, 2);

    std::fs::remove_dir_all(&meta).unwrap();
    use_it(&home, 3);

    for (n, part) in (4..8).zip([0, 1, 2, 3]) {
        let file = table(&meta);
        let len = file.metadata().unwrap().len() * part / 4;
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len).unwrap();
        use_it(&home, n);
    }
    for flip in 0..FLIPS {
        let file = table(&meta);
        let mut bytes = std::fs::read(&file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let at = used * flip / FLIPS;
        bytes[at] ^= 1 << (flip % 8);
        std::fs::write(&file, bytes).unwrap();
        use_it(&home, 8 + u8::try_from(flip).unwrap());
    }
}
