//! Reading files that are not here.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cidfs::block::Cid;
use cidfs::codec::unixfs::Kind;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::{TempMount, TempPins};
use cidfs::testkit::store::TestStore;

use super::{GBIT, MIB, alone, timed};

/// Bytes of a leaf, and links of an inner node, as in most of what the network has.
const LEAF: u64 = 256 * 1024;
const LINKS: usize = 174;
const DELAY: Duration = Duration::from_millis(100);

/// A file on the other side of a link.
struct Remote {
    exchange: TestExchange,
    mount: TempMount,
    _pins: TempPins,
    file: Cid,
    len: u64,
}

impl Remote {
    fn new(mib: u64, options: &str) -> Self {
        let mut builder = DagBuilder::new();
        let file = file(&mut builder, mib * MIB);
        let exchange = TestExchange::new(builder.blocks);
        exchange.set_delay(DELAY);
        let (mount, pins) = TempMount::pinning(Arc::new(exchange.clone()), options);
        Self { exchange, mount, _pins: pins, file, len: mib * MIB }
    }

    fn open(&self) -> File {
        File::open(self.mount.path(self.file.to_string())).unwrap()
    }

    /// Reads all of it and returns the time.
    fn read(&self) -> Duration {
        let mut file = self.open();
        let mut buffer = vec![0; usize::try_from(MIB).unwrap()];
        let (bytes, time) = timed(|| {
            let mut at = 0;
            loop {
                let count = file.read(&mut buffer).unwrap();
                if count == 0 {
                    break at;
                }
                check(&buffer[..count], at);
                at += count as u64;
            }
        });
        assert_eq!(bytes, self.len);
        time
    }
}

/// Every eight bytes say where they are.
fn content(start: u64, len: u64) -> Vec<u8> {
    (start / 8..(start + len) / 8).flat_map(u64::to_le_bytes).collect()
}

fn check(bytes: &[u8], at: u64) {
    for place in [0, bytes.len() / 2, bytes.len() - 8] {
        let number = u64::from_le_bytes(bytes[place..place + 8].try_into().unwrap());
        assert_eq!(number * 8, at + place as u64);
    }
}

/// A balanced file of raw leaves.
fn file(builder: &mut DagBuilder, len: u64) -> Cid {
    let leaves = (0..len / LEAF).map(|number| (number * LEAF, LEAF));
    let mut level: Vec<(Cid, u64)> =
        leaves.map(|(start, len)| (builder.raw(content(start, len)), len)).collect();
    while level.len() > 1 {
        level = level
            .chunks(LINKS)
            .map(|parts| {
                let len = parts.iter().map(|(_, len)| len).sum();
                (builder.file_node(Kind::File, b"", parts), len)
            })
            .collect();
    }
    level[0].0
}

/// > A file that is read in order comes as fast as the link is, whatever its delay.
#[test]
fn a_long_file_comes_at_the_rate_of_the_link() {
    let _alone = alone();
    let remote = Remote::new(if crate::is_full_run() { 1024 } else { 96 }, "");
    remote.exchange.set_bandwidth(GBIT);
    let time = remote.read();
    let link = Duration::from_micros(remote.len * 1_000_000 / GBIT);
    let ratio = time.as_secs_f64() / link.as_secs_f64();
    crate::figure("1 Gbit/s, 100 ms", ratio, "link", 1.0 / 0.9);
    // Block after block would take a delay for each.
    assert!(time < DELAY * u32::try_from(remote.len / LEAF / 4).unwrap());
}

/// > What the link loses holds up nobody but those who need just that.
#[test]
fn losses_cost_little() {
    let _alone = alone();
    let remote = Remote::new(64, "");
    remote.exchange.set_bandwidth(GBIT);
    remote.exchange.lose_every(50);
    remote.exchange.resend_after(3 * DELAY);
    let time = remote.read();
    assert!(time < Duration::from_secs(8), "{time:?}");
}

/// > Who waits for a block goes before what is fetched ahead.
#[test]
fn demand_overtakes_what_is_fetched_ahead() {
    let _alone = alone();
    let remote = Remote::new(64, "");
    remote.exchange.set_bandwidth(GBIT / 10);
    std::thread::scope(|scope| {
        let streaming = scope.spawn(|| remote.read());
        std::thread::sleep(Duration::from_secs(2));
        let file = remote.open();
        let mut page = [0; 4096];
        let far = remote.len - 10 * MIB;
        // The file nodes on the way are fetched with the first; each leaf takes 20 ms of the link.
        file.read_exact_at(&mut page, far).unwrap();
        let waits = (1..5).map(|number| {
            let at = far + number * 2 * MIB;
            let ((), time) = timed(|| file.read_exact_at(&mut page, at).unwrap());
            check(&page, at);
            time
        });
        let mut waits: Vec<_> = waits.collect();
        waits.sort_unstable();
        assert!(waits[1] < Duration::from_millis(450), "{waits:?}");
        assert!(
            streaming.join().unwrap() > Duration::from_secs(4),
            "the link was busy all the time"
        );
    });
}

/// > On a full disk what is fetched ahead is little, so that it is not fetched twice.
#[test]
fn a_full_store_is_read_past() {
    let mut builder = DagBuilder::new();
    let file = file(&mut builder, 64 * MIB);
    let root = builder.directory(&[("file", file)]);
    let blocks = builder.blocks.len() as u64;
    let exchange = TestExchange::new(builder.blocks);
    exchange.set_delay(DELAY / 10);
    let store = Arc::new(TestStore::new([]));
    store.set_full(true);
    let mount = TempMount::directory(store, Arc::new(exchange.clone()), &root, "");
    assert_eq!(copied(&mount.path("file")), 64 * MIB);
    let counts = exchange.counts();
    assert!(counts.started < blocks + blocks / 4, "{counts:?} for {blocks} blocks");
}

/// > Who reads here and there has nothing fetched ahead.
#[test]
fn random_reads_fetch_what_they_read() {
    let remote = Remote::new(64, "");
    let file = remote.open();
    let mut page = [0; 4096];
    let mut at = 7 * MIB;
    for _ in 0..8 {
        at = (at + 23 * MIB) % remote.len;
        file.read_exact_at(&mut page, at).unwrap();
        check(&page, at);
    }
    std::thread::sleep(2 * DELAY);
    let counts = remote.exchange.counts();
    assert!(counts.started <= 3 * 8, "{counts:?}");
}

/// > What is on its way for a reader that has closed the file is given up.
#[test]
fn a_closed_file_is_not_read_on() {
    let remote = Remote::new(64, "");
    remote.exchange.set_bandwidth(GBIT / 20);
    let mut file = remote.open();
    let mut bytes = vec![0; 6 << 20];
    file.read_exact(&mut bytes).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_secs(1));
    let counts = remote.exchange.counts();
    assert!(
        counts.cancelled > 0 && counts.started == counts.ended + counts.cancelled,
        "{counts:?}"
    );
}

/// > For the programs that `nofetch=` names nothing is fetched ahead.
#[test]
fn some_programs_have_nothing_fetched_ahead() {
    let most = |options: &str| {
        let remote = Remote::new(8, options);
        let path = remote.mount.path(remote.file.to_string());
        assert_eq!(copied(&path), remote.len);
        remote.exchange.counts().concurrent_max
    };
    // A read of the kernel's is a mebibyte, and two are under way at one time.
    assert!(most("nofetch=updatedb:dd") <= 8);
    assert!(most("nofetch=updatedb") > 8);
}

fn copied(path: &Path) -> u64 {
    let mut source = std::ffi::OsString::from("if=");
    source.push(path);
    let out = Command::new("dd").arg(source).arg("bs=128K").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout.len() as u64
}
