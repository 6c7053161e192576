//! Peers and disks that give wrong bytes.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, pb_file, take};

/// > Bytes that do not match their CID are never shown: when nobody has the right ones, the call
/// > fails with `EIO`. When somebody has, it succeeds.
#[test]
fn wrong_bytes_are_an_error_unless_somebody_has_the_right_ones() {
    let mut builder = DagBuilder::new();
    let (lied, healed) = (pb_file(&mut builder, "lied"), pb_file(&mut builder, "healed"));
    let good = builder.raw("good\n");
    let root = builder.directory(&[("lied", lied), ("healed", healed), ("good.txt", good)]);
    let exchange = TestExchange::default();
    for cid in [lied, healed] {
        exchange.answer(&cid, Bytes::from_static(b"wrong"));
    }
    take(&mut builder, &lied);
    let bytes = take(&mut builder, &healed);
    exchange.answer(&healed, bytes);
    let store = Arc::new(TestStore::new(builder.blocks));
    let mount = TempMount::directory(store, Arc::new(exchange), &root, "");
    check_errno(fs::read(mount.path("lied")), Errno::EIO);
    assert_eq!(fs::read(mount.path("healed")).unwrap(), b"healed");
    assert_eq!(super::names(mount.path("")).len(), 3, "a listing does not fail for it");
    check_errno(fs::read(mount.path("lied")), Errno::EIO);
    assert_eq!(fs::read(mount.path("good.txt")).unwrap(), b"good\n");
}

/// > For bytes that went bad on this disk others are asked; when that is in vain the call fails with
/// > `EIO`.
#[test]
fn damage_on_this_disk_is_healed_or_an_error() {
    let mut builder = DagBuilder::new();
    let (lost, healed) = (builder.raw("lost"), builder.raw("healed"));
    let root = builder.directory(&[("lost", lost), ("healed", healed)]);
    let exchange = TestExchange::new(builder.blocks.iter().filter(|b| *b.cid() == healed).cloned());
    exchange.answer(&lost, Bytes::from_static(b"wrong"));
    let store = Arc::new(TestStore::new(builder.blocks));
    store.damage(&lost);
    store.damage(&healed);
    let mount = TempMount::directory(store, Arc::new(exchange), &root, "");
    check_errno(fs::read(mount.path("lost")), Errno::EIO);
    assert_eq!(fs::read(mount.path("healed")).unwrap(), b"healed");
}
