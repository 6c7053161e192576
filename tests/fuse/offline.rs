//! Mounts that ask nobody.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::codec::unixfs::Kind;
use cidfs::exchange::{Exchange, Network};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, directory_claiming, names, pb_file, take};

/// > What is not here fails at once with `ENETUNREACH`, on a node without network and with
/// > `-o offline`. A listing is complete, and sizes are shown as far as the directory claims them.
#[test]
fn what_is_not_here_is_unreachable_at_once() {
    let silent = TestExchange::default();
    check(Arc::new(Network::default()), "");
    check(Arc::new(silent.clone()), "offline");
    assert_eq!(silent.counts().started, 0, "nobody was asked");
}

fn check(exchange: Arc<dyn Exchange>, options: &str) {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw("leaf");
    let file = builder.file_node(Kind::File, b"", &[(leaf, 4)]);
    let (raw, pb) = (builder.raw("raw"), pb_file(&mut builder, "pb"));
    let unsized_raw = builder.raw("unsized");
    let entries = [
        ("file", file, None),
        ("raw", raw, Some(3)),
        ("pb", pb, Some(9)),
        ("un", unsized_raw, None),
    ];
    let root = directory_claiming(&mut builder, &entries);
    for cid in [leaf, raw, pb, unsized_raw] {
        take(&mut builder, &cid);
    }
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, exchange, &root, options);
    let started = Instant::now();
    assert_eq!(names(mount.path("")).len(), 4);
    assert_eq!(fs::metadata(mount.path("raw")).unwrap().len(), 3);
    check_errno(fs::read(mount.path("raw")), Errno::ENETUNREACH);
    check_errno(fs::metadata(mount.path("pb")), Errno::ENETUNREACH);
    check_errno(fs::metadata(mount.path("un")), Errno::ENETUNREACH);
    check_errno(fs::read(mount.path("file")), Errno::ENETUNREACH);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
