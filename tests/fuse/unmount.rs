//! The end of a mount, wanted or not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::dag::{Dag, DagLimits};
use cidfs::exchange::Network;
use cidfs::fuse::{self, Mount, MountOptions};
use cidfs::sys::mount::{MountError, MountSpec, mount_at, prepare_point};
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::{INODE_KEY, TempMount};
use cidfs::testkit::store::TestStore;
use cidfs::vfs::{FixedRoot, Vfs};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::{check_errno, pb_file, take};

fn mounted() -> TempMount {
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    TempMount::of(builder, &[("file", file)], "")
}

#[track_caller]
fn check_gone(tree: &TempMount) {
    let patience = Instant::now() + Duration::from_secs(5);
    while tree.mount.is_alive() {
        assert!(Instant::now() < patience, "the session goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    tree.block_on(tree.mount.wait());
    assert_eq!(mount_at(tree.mount.point()).unwrap(), None);
    assert_eq!(fs::read_dir(tree.mount.point()).unwrap().count(), 0);
    tree.mount.unmount().unwrap();
}

fn run(program: &str, args: &[&str], point: &Path) {
    let output = Command::new(program).args(args).arg(point).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// > A mount ends cleanly by its owner, by umount(8), by `fusermount3 -u`, and when the daemon lets
/// > go of it.
#[test]
fn by_its_owner() {
    let tree = mounted();
    fs::read(tree.path("file")).unwrap();
    tree.mount.unmount().unwrap();
    check_gone(&tree);
}

#[test]
fn by_umount() {
    let tree = mounted();
    run("umount", &[], tree.mount.point());
    check_gone(&tree);
}

#[test]
fn by_fusermount() {
    let tree = mounted();
    run("fusermount3", &["-u"], tree.mount.point());
    check_gone(&tree);
}

#[test]
fn by_being_dropped() {
    let tree = mounted();
    let point = tree.mount.point().to_owned();
    drop(tree);
    assert_eq!(mount_at(&point).unwrap(), None);
}

/// > Whoever has files open when the owner unmounts gets two seconds; then reads fail. Nobody hangs.
#[test]
fn open_files_do_not_hold_it_for_ever() {
    let mut builder = DagBuilder::new();
    let missing = pb_file(&mut builder, "missing");
    let file = builder.raw("content");
    let root = builder.directory(&[("missing", missing), ("file", file)]);
    take(&mut builder, &missing);
    let store = Arc::new(TestStore::new(builder.blocks));
    let tree = TempMount::directory(store, Arc::new(TestExchange::default()), &root, "hard");
    let open = fs::File::open(tree.path("file")).unwrap();
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| fs::metadata(tree.path("missing")));
        std::thread::sleep(Duration::from_millis(200));
        let started = Instant::now();
        tree.mount.unmount().unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(hung.join().unwrap().is_err());
    });
    check_gone(&tree);
    assert!(open.metadata().is_err() || open.metadata().is_ok_and(|stat| stat.len() == 7));
}

/// > A mount whose connection was aborted is cleared away when its owner unmounts.
#[test]
fn after_an_abort() {
    let tree = mounted();
    let open = fs::File::open(tree.path("file")).unwrap();
    let forced = umount2(tree.mount.point(), MntFlags::MNT_FORCE);
    assert_eq!(forced, Err(Errno::EBUSY));
    tree.block_on(tree.mount.wait());
    check_errno(fs::metadata(tree.path("file")), Errno::ENOTCONN);
    tree.mount.unmount().unwrap();
    check_gone(&tree);
    drop(open);
}

fn mount_on(
    point: &Path,
    runtime: &tokio::runtime::Runtime,
    options: &str,
) -> Result<Mount, MountError> {
    let mut builder = DagBuilder::new();
    let file = builder.raw("content");
    let root = builder.directory(&[("file", file)]);
    let store = Arc::new(TestStore::new(builder.blocks));
    let dag = Dag::new(store, Arc::new(Network::default()), DagLimits::default());
    let options = MountOptions::parse(options).unwrap();
    let root = runtime.block_on(FixedRoot::new(&dag, root)).unwrap();
    let vfs = Vfs::new(dag, Arc::new(root), options.vfs(INODE_KEY, None));
    fuse::mount(vfs, point, &options, runtime.handle())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// > A mount whose daemon crashed is noticed and taken over.
#[test]
fn a_dead_mount_is_taken_over() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let point = prepare_point(dir.path(), false).unwrap();
    let (device, _mounted) = cidfs::sys::mount::mount(&point, &MountSpec::default()).unwrap();
    drop(device);
    check_errno(fs::read_dir(&point).map(drop), Errno::ENOTCONN);
    let mount = mount_on(&point, &runtime, "").unwrap();
    assert_eq!(fs::read(point.join("file")).unwrap(), b"content");
    mount.unmount().unwrap();
    assert_eq!(mount_at(&point).unwrap(), None);
}

/// > A directory that is missing, not empty, or in use by a live mount is refused with a sentence.
#[test]
fn unfit_directories_are_refused() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let check = |point: &Path, sentence: &str| {
        let error = mount_on(point, &runtime, "").unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    };
    check(&dir.path().join("none"), "does not exist");
    fs::write(dir.path().join("file"), "hidden").unwrap();
    check(dir.path(), "is not empty");
    let _over = mount_on(dir.path(), &runtime, "nonempty").unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"content");
    check(dir.path(), "cidfs (fuse.cidfs) is already mounted on");
}

/// > What others mounted on the directory meanwhile is left alone.
#[test]
fn a_later_mount_on_the_same_directory_is_not_ours() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let first = mount_on(dir.path(), &runtime, "").unwrap();
    run("umount", &[], first.point());
    runtime.block_on(first.wait());
    let second = mount_on(dir.path(), &runtime, "").unwrap();
    first.unmount().unwrap();
    drop(first);
    assert!(second.is_alive());
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"content");
}
