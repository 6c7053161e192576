//! What the kernel was really asked: an audit of system calls, by strace(1).
//!
//! The test binary runs itself under strace. The work inside marks each acknowledgement by looking
//! for a file that is not there; at each mark, no file that was written and no directory in which a
//! name was made or moved may be unsynced.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use cidfs::block::{Block, HashFn, codecs};
use cidfs::store::{BlockStore, DiskOptions, FileRange, Gathered, OpenMode, PinMode, Repository};

/// Names the repository for the run under strace.
const HOME: &str = "CIDFS_AUDIT_HOME";
const CALLS: &str =
    "trace=openat,pwritev,pwrite64,write,fdatasync,fsync,rename,renameat,renameat2,statx,ftruncate";

fn block(n: u8) -> Block {
    Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(vec![n; 30_000])).unwrap()
}

fn mark(what: &str) {
    std::fs::metadata(format!("/mark/{what}")).unwrap_err();
}

fn work(home: &Path) {
    let options =
        DiskOptions { pack_blocks_max: 3, assemble_min_bytes: 1, ..DiskOptions::default() };
    let repository = Repository::open_with(home, OpenMode::Existing, options).unwrap();
    let store = &repository.blocks;
    mark("acknowledged/open");
    for n in 0..5 {
        store.put(&[block(2 * n), block(2 * n + 1)]).unwrap();
        mark("put");
        store.commit().unwrap();
        mark("acknowledged/commit");
    }
    let mut source = tempfile::tempfile().unwrap();
    let leaves = [block(20), block(21)];
    for leaf in &leaves {
        source.write_all(leaf.data()).unwrap();
    }
    let mut file = store.assemble().unwrap();
    file.share(&source, 60_000).unwrap();
    assert!(leaves.iter().all(|leaf| file.push(leaf, leaf.data().len() as u64).unwrap()));
    file.finish().unwrap();
    mark("acknowledged/file");
    let leaves = [(6, 0), (7, 30_000)].map(|(n, offset)| FileRange {
        cid: *block(n).cid(),
        offset,
        len: 30_000,
    });
    let gathered = store.gather(&leaves, &mut || std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(gathered, Gathered::Done);
    mark("acknowledged/gathered");
    assert!(store.remove(block(7).cid()).unwrap());
    store.put(&[block(7)]).unwrap();
    let gathered = store.gather(&leaves, &mut || std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(gathered, Gathered::Done);
    mark("acknowledged/filled");
    repository.pins.add(block(3).cid(), PinMode::Recursive, None).unwrap();
    mark("acknowledged/pin");
    repository.pins.rm(block(3).cid()).unwrap();
    mark("acknowledged/unpin");
    assert!(store.remove(block(4).cid()).unwrap());
    mark("acknowledged/remove");
    let mut keep = store.keep_set();
    keep.insert(block(1).cid());
    store.sweep(&keep, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    mark("acknowledged/sweep");
    repository.close().unwrap();
    mark("acknowledged/close");
}

#[test]
fn audited_work() {
    let dir = tempfile::tempdir().unwrap();
    let home = std::env::var_os(HOME).map_or_else(|| dir.path().join("home"), PathBuf::from);
    Repository::init(&home).unwrap();
    work(&home);
}

/// What was changed and is not synced, as a trace tells it.
#[derive(Debug, Default)]
struct Unsynced {
    files: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    fn read(&mut self, call: &str, home: &Path) {
        let name = call.split('(').next().unwrap_or_default();
        let mut strings = call.split('"').skip(1).step_by(2).map(PathBuf::from);
        let open = call.split_once('<').and_then(|(_, rest)| rest.split('>').next());
        let counts = |path: &Path| {
            path.starts_with(home)
                && !path.starts_with(home.join("meta"))
                && !path.ends_with("lock")
        };
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        match name {
            "write" | "pwritev" | "pwrite64" | "ftruncate" => {
                self.files.extend(open.map(PathBuf::from).filter(|path| counts(path)));
            }
            "fdatasync" | "fsync" => {
                let path = Path::new(open.unwrap_or_default());
                self.files.remove(path);
                self.dirs.remove(path);
            }
            "openat" if call.contains("O_CREAT") => {
                self.dirs.extend(
                    strings.next().filter(|path| counts(path)).and_then(|path| parent(&path)),
                );
            }
            "rename" | "renameat" | "renameat2" => {
                if let (Some(from), Some(to)) = (strings.next(), strings.next()) {
                    if self.files.remove(&from) {
                        self.files.insert(to.clone());
                    }
                    self.dirs.extend(Some(to).filter(|to| counts(to)).and_then(|to| parent(&to)));
                }
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_acknowledged_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (home, trace) = (dir.join("home"), dir.join("trace"));
    let ran = Command::new("strace")
        .args(["-f", "-y", "-s", "256", "-e", CALLS, "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "crash::audit::audited_work"])
        .env(HOME, &home)
        .output();
    let ran = match ran {
        Err(error) => {
            crate::report(&format!("NOT RUN: what_is_acknowledged_was_synced: strace: {error}"));
            return;
        }
        Ok(ran) => ran,
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let (mut unsynced, mut acknowledged, mut seen_unsynced) = (Unsynced::default(), 0, false);
    for line in std::fs::read_to_string(&trace).unwrap().lines() {
        let call = line.trim_start_matches(|char: char| char.is_ascii_digit()).trim_start();
        if call.contains("\"/mark/put\"") {
            seen_unsynced |= !unsynced.files.is_empty();
        } else if call.contains("\"/mark/acknowledged/") {
            acknowledged += 1;
            let clean = unsynced.files.is_empty() && unsynced.dirs.is_empty();
            assert!(clean, "{call}: {unsynced:?}");
        } else {
            unsynced.read(call, &home);
        }
    }
    assert_eq!(acknowledged, 14);
    assert!(seen_unsynced, "a put alone is not synced, and the audit sees it");
}
