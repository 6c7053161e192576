//! `-o timeout=`: how long a call waits.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cidfs::codec::unixfs::Kind;
use cidfs::store::BlockStore as _;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::testkit::store::TestStore;
use nix::errno::Errno;

use super::{check_errno, names, pb_file, take};

/// A tree of which only the root directory and the root of `file` ever come.
fn mount(options: &str) -> TempMount {
    let mut builder = DagBuilder::new();
    let leaf = builder.raw(vec![7; 100_000]);
    let file = builder.file_node(Kind::File, b"", &[(leaf, 100_000)]);
    let (name, dir) = (pb_file(&mut builder, "never"), builder.directory::<&str>(&[]));
    let here = builder.raw("here");
    let root = builder.directory(&[("file", file), ("name", name), ("dir", dir), ("here", here)]);
    for cid in [leaf, name, dir] {
        take(&mut builder, &cid);
    }
    let store = Arc::new(TestStore::new(builder.blocks));
    TempMount::directory(store, Arc::new(TestExchange::default()), &root, options)
}

#[track_caller]
fn timed<T>(seconds: std::ops::Range<f64>, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    let took = started.elapsed().as_secs_f64();
    assert!(seconds.contains(&took), "{took} s");
    done
}

/// > What cannot be reached within `timeout=` fails with `ETIMEDOUT`, after that time.
#[test]
fn a_look_up_ends_in_time() {
    let mount = mount("timeout=2");
    timed(1.9..3.8, || check_errno(fs::metadata(mount.path("name")), Errno::ETIMEDOUT));
}

/// > A read that times out takes one second more: the kernel first tries to read ahead, then asks
/// > for the one page.
#[test]
fn a_read_ends_in_time() {
    let mount = mount("timeout=2");
    timed(2.9..4.8, || check_errno(fs::read(mount.path("file")), Errno::ETIMEDOUT));
}

/// > A listing never fails for what is in it. It waits a second in all for what is on its way, and
/// > shows what did not come as a directory, so that a walker meets the error. Nothing of this is
/// > kept.
#[test]
fn a_listing_waits_a_moment_only() {
    let mount = mount("timeout=2");
    timed(0.0..1.9, || assert_eq!(names(mount.path("")).len(), 4));
    for entry in fs::read_dir(mount.path("")).unwrap() {
        let entry = entry.unwrap();
        let is_dir = entry.file_type().unwrap().is_dir();
        assert_eq!(is_dir, entry.file_name() == "name" || entry.file_name() == "dir", "{entry:?}");
    }
    // What was listed is asked again, and again waited for, once.
    timed(1.9..3.8, || check_errno(fs::metadata(mount.path("name")), Errno::ETIMEDOUT));
    timed(1.9..3.8, || check_errno(fs::read_dir(mount.path("dir")).map(drop), Errno::ETIMEDOUT));
    assert_eq!(fs::read(mount.path("here")).unwrap(), b"here");
}

/// > Waiting calls do not hold up others, and those who wait for the same name end together.
#[test]
fn the_mount_serves_others_meanwhile() {
    let mount = mount("timeout=3");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let look_up = || check_errno(fs::metadata(mount.path("name")), Errno::ETIMEDOUT);
                timed(2.5..4.5, look_up);
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        timed(0.0..1.0, || assert_eq!(fs::read(mount.path("here")).unwrap(), b"here"));
    });
}

/// > A block that is added, imported or put here ends the waiting for it within a second.
#[test]
fn what_comes_to_be_here_is_not_waited_for() {
    let mut builder = DagBuilder::new();
    let late = builder.raw("late");
    let root = builder.directory(&[("late", late)]);
    let at = builder.blocks.iter().position(|block| *block.cid() == late).unwrap();
    let block = builder.blocks.remove(at);
    let store = Arc::new(TestStore::new(builder.blocks));
    let exchange = Arc::new(TestExchange::default());
    let mount = TempMount::directory(store.clone(), exchange, &root, "timeout=10");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let read = || fs::read(mount.path("late")).unwrap();
            assert_eq!(timed(0.4..1.9, read), b"late");
        });
        std::thread::sleep(Duration::from_millis(500));
        store.put(&[block]).unwrap();
    });
}

#[test]
fn a_slow_link_is_waited_for() {
    let mut builder = DagBuilder::new();
    let pieces: Vec<Vec<u8>> = (0..4).map(|piece| vec![piece; 100_000]).collect();
    let leaves: Vec<_> = pieces.iter().map(|piece| (builder.raw(piece.clone()), 100_000)).collect();
    let file = builder.file_node(Kind::File, b"", &leaves);
    let root = builder.directory(&[("file", file)]);
    let exchange = TestExchange::new(builder.blocks);
    exchange.set_delay(Duration::from_millis(20));
    exchange.set_bandwidth(400_000);
    let store = Arc::new(TestStore::new([]));
    let mount = TempMount::directory(store, Arc::new(exchange), &root, "timeout=20");
    // One leaf alone takes a quarter of a second on this link.
    let content = timed(0.25..20.0, || fs::read(mount.path("file")).unwrap());
    assert_eq!(content, pieces.concat());
}

#[test]
fn what_a_link_loses_is_asked_for_again() {
    let mut builder = DagBuilder::new();
    let files: Vec<_> = (0..8).map(|n| (n.to_string(), builder.raw(vec![n; 100]))).collect();
    let root = builder.directory(&files);
    let exchange = TestExchange::new(builder.blocks);
    exchange.lose_every(3);
    let store = Arc::new(TestStore::new([]));
    let mount = TempMount::directory(store, Arc::new(exchange), &root, "timeout=1");
    let mut lost = 0;
    for n in 0..8 {
        // A loaded machine may be late with what was not lost.
        let content = std::iter::repeat_with(|| fs::read(mount.path(n.to_string())))
            .take(6)
            .inspect(|read| lost += u32::from(read.is_err()))
            .find_map(Result::ok);
        assert_eq!(content, Some(vec![n; 100]));
    }
    assert!(lost > 0, "every third fetch was lost");
}
