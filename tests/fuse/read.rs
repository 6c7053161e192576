//! read(2) and what is built on it.

use std::fs;
use std::os::unix::fs::FileExt as _;

use cidfs::testkit::dag_builder::{DagBuilder, Shape};
use cidfs::testkit::mount::TempMount;

/// Bytes that differ everywhere.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

#[test]
fn a_file_is_read_whole() {
    let mut builder = DagBuilder::new();
    let content = pattern(3 * 262_144 + 17);
    let parts = content.chunks(262_144).map(|part| Shape::Raw(part.to_vec())).collect();
    let file = builder.file(&Shape::File(Vec::new(), parts));
    let mount = TempMount::of(builder, &[("file", file)], "");
    assert!(fs::read(mount.path("file")).unwrap() == content);
    let opened = fs::File::open(mount.path("file")).unwrap();
    let mut some = [0; 100];
    opened.read_exact_at(&mut some, 262_100).unwrap();
    assert_eq!(some, content[262_100..262_200]);
    assert_eq!(opened.read_at(&mut some, content.len() as u64 - 10).unwrap(), 10);
    assert_eq!(opened.read_at(&mut some, content.len() as u64 + 10).unwrap(), 0);
}
