//! Real mounts, one file per operation; each test quotes the promise of `docs/SEMANTICS.md` that it
//! holds. They need `/dev/fuse`, and root or `fusermount3`.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

mod deadline;
mod fixtures;

mod getattr;
mod interrupt;
mod lies;
mod lookup;
mod namespace;
mod offline;
mod panic;
mod read;
mod readdir;
mod readlink;
mod readonly;
mod statfs;
mod unmount;
mod whole;
mod xattr;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::path::Path;

use bytes::Bytes;
use cidfs::block::Cid;
use cidfs::codec::dag_pb::PbLink;
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use nix::errno::Errno;
use nix::mount::MsFlags;

/// Bytes that differ everywhere.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

/// Adds a small file that is a dag-pb node, so that its type is not known from its CID.
fn pb_file(builder: &mut DagBuilder, content: &str) -> Cid {
    builder.file_node(Kind::File, content.as_bytes(), &[])
}

/// Adds a directory whose links claim these sizes.
fn directory_claiming(builder: &mut DagBuilder, entries: &[(&str, Cid, Option<u64>)]) -> Cid {
    let links: Vec<_> = entries
        .iter()
        .map(|(name, cid, tsize)| PbLink { cid: *cid, name: Some(name.as_bytes()), tsize: *tsize })
        .collect();
    builder.node(&links, &UnixFs::new(Kind::Directory))
}

/// Removes the block of `cid` from the builder and returns its bytes.
fn take(builder: &mut DagBuilder, cid: &Cid) -> Bytes {
    let at = builder.blocks.iter().position(|block| block.cid() == cid).unwrap();
    builder.blocks.remove(at).into_data()
}

fn names(dir: impl AsRef<Path>) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn check_errno<T: Debug>(result: io::Result<T>, errno: Errno) {
    let error = result.unwrap_err();
    assert_eq!(error.raw_os_error().map(Errno::from_raw), Some(errno), "{error}");
}

/// Lets the kernel drop the names that it keeps of this mount, as it does when memory is short.
fn shrink(mount: &TempMount) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(None::<&str>, mount.mount.point(), None::<&str>, flags, None::<&str>)
        .unwrap();
}

/// Joins the lines that begin with `mark`, each run of them into one paragraph.
fn quotes(text: &str, mark: &str) -> BTreeSet<String> {
    let mut quotes = vec![String::new()];
    for line in text.lines() {
        match (line.strip_prefix(mark), quotes.last_mut()) {
            (Some(part), Some(quote)) => quote.extend([part.trim(), " "]),
            _ => quotes.push(String::new()),
        }
    }
    quotes.into_iter().map(|quote| quote.trim().to_owned()).filter(|q| !q.is_empty()).collect()
}

/// Each promise of `docs/SEMANTICS.md` is quoted above its test, and each quote is a promise.
#[test]
fn promises_and_tests_agree() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let semantics = std::fs::read_to_string(project.join("docs/SEMANTICS.md")).unwrap();
    let mut quoted = BTreeSet::new();
    let folders = ["tests/fuse", "tests/remote"].map(|folder| project.join(folder));
    for file in folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        quoted.extend(quotes(&source, "/// > "));
    }
    let promised = quotes(&semantics, "> ");
    let only =
        |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    assert_eq!(only(&promised, &quoted), Vec::<String>::new(), "promised, but not tested");
    assert_eq!(only(&quoted, &promised), Vec::<String>::new(), "tested, but not promised");
}
