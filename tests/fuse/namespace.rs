//! The root of a mount of `/ipfs`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::block::Cid;
use cidfs::store::PinMode;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::{TempMount, TempPins};
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, names, pb_file, take};

struct Tree {
    mount: TempMount,
    pins: TempPins,
    dir: Cid,
    file: Cid,
    missing: Cid,
    exchange: TestExchange,
}

fn tree(options: &str) -> Tree {
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    let dir = builder.directory(&[("file", file)]);
    let missing = pb_file(&mut builder, "missing");
    take(&mut builder, &missing);
    let exchange = TestExchange::default();
    let store = Arc::new(TestStore::new(builder.blocks));
    let (mount, pins) = TempMount::namespace(store, Arc::new(exchange.clone()), options);
    Tree { mount, pins, dir, file, missing, exchange }
}

fn pin(tree: &Tree, cid: &Cid) {
    tree.pins.pins().add(cid, PinMode::Recursive, None).unwrap();
}

/// The kernel hears of a change a moment after the pins did.
#[track_caller]
fn wait_for(tree: &Tree, cids: &[Cid]) {
    let wanted: BTreeSet<String> = cids.iter().map(Cid::to_string).collect();
    let patience = Instant::now() + Duration::from_secs(5);
    while names(tree.mount.path("")) != wanted {
        assert!(Instant::now() < patience, "{:?}", names(tree.mount.path("")));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// > Every CID is a name in the root, listed or not, in any base; what is no CID does not exist, and
/// > nobody is asked about it.
#[test]
fn every_cid_is_a_name() {
    let tree = tree("");
    let path = |name: String| tree.mount.path(name);
    assert_eq!(fs::read(path(format!("{}/file", tree.dir))).unwrap(), b"content");
    assert_eq!(fs::read(path(tree.file.to_string())).unwrap(), b"content");
    let base36 = tree.file.to_string_of_base(multibase::Base::Base36Lower).unwrap();
    assert_eq!(fs::read(path(base36)).unwrap(), b"content");
    for name in [".git", "Cargo.toml", "README", "bafy", "index.html", "\u{e9}"] {
        check_errno(fs::metadata(path(name.to_owned())), Errno::ENOENT);
    }
    assert_eq!(tree.exchange.counts().started, 0);
}

/// > A listing of the root shows what is pinned, and is right again as soon as pins change.
#[test]
fn the_listing_follows_the_pins() {
    let tree = tree("");
    assert_eq!(names(tree.mount.path("")), BTreeSet::new());
    pin(&tree, &tree.dir);
    wait_for(&tree, &[tree.dir]);
    pin(&tree, &tree.file);
    wait_for(&tree, &[tree.dir, tree.file]);
    tree.pins.pins().rm(&tree.dir).unwrap();
    wait_for(&tree, &[tree.file]);
    pin(&tree, &tree.missing);
    wait_for(&tree, &[tree.file, tree.missing]);
    let mode = fs::metadata(tree.mount.path("")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o555);
}

/// > With `allow_other` the root is not listed unless `listpins` says so: it can be entered but not
/// > listed (mode 0111, `EPERM` for root).
#[test]
fn others_see_pins_only_on_request() {
    let hidden = tree("allow_other");
    pin(&hidden, &hidden.dir);
    check_errno(
        fs::read_dir(hidden.mount.path("")).and_then(|mut all| all.next().transpose()),
        Errno::EPERM,
    );
    assert_eq!(fs::metadata(hidden.mount.path("")).unwrap().mode() & 0o7777, 0o111);
    let name = format!("{}/file", hidden.dir);
    assert_eq!(fs::read(hidden.mount.path(name)).unwrap(), b"content");
    let shown = tree("allow_other,listpins");
    pin(&shown, &shown.dir);
    wait_for(&shown, &[shown.dir]);
}
