//! Many readers for a long time, of one daemon whose providers die and come back, and of whom one lies.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cidfs::exchange::rogue::{Rogue, manners};
use tokio::runtime::Runtime;

use super::exchange::noise;
use super::process;
use crate::cli::sandbox::{Daemon, Sandbox, wait_for};
use crate::is_full_run;

/// How long it lasts, in full and otherwise; a tenth of it passes before memory is looked at.
const DURATION: (Duration, Duration) = (Duration::from_mins(10), Duration::from_mins(1));
/// Memory of the second half against that of the first; a short run is partly warming up.
const GROWTH_MAX: (f64, f64) = (1.05, 1.2);
/// What an allocator may keep in any case, in KiB, and descriptors of connections that come and go.
const KEPT_MAX: f64 = 4.0 * 1024.0;
const DESCRIPTORS_MORE: f64 = 16.0;
/// How often a provider is killed and the one before comes back.
const DEATH_EVERY: Duration = Duration::from_secs(5);
/// How often what was fetched is thrown away.
const FORGET_EVERY: Duration = Duration::from_secs(3);
const HONEST: usize = 3;
/// Readers through the mount, and by commands.
const READERS: u32 = 56;
const CATS: u32 = 8;
/// How long a reader rests between two reads, in milliseconds.
const REST: u64 = 100;
/// How long a call may take: the time-out of the mount and of commands, and then for the kernel's second try
/// and a busy machine.
const TIMEOUT: &str = "20s";
const DEADLINE: Duration = Duration::from_secs(20 + 5);
/// The files, and the length of each.
const FILES: u32 = 32;
const FILE_LEN: usize = 1 << 20;
/// Bytes of one read.
const READ_LEN: usize = 128 * 1024;

/// A repository with the content, whose daemon dies and comes back with the same address.
struct Provider {
    sandbox: Sandbox,
    daemon: Option<Daemon>,
    address: String,
}

impl Provider {
    fn new(files: &[Vec<u8>]) -> (Self, String) {
        let sandbox = Sandbox::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("/ip4/127.0.0.1/tcp/{port}");
        sandbox.ok(&["config", "network.preset", "peers-only"]);
        sandbox.ok(&["config", "network.listen", &listen]);
        for (number, data) in files.iter().enumerate() {
            sandbox.write(format!("d/{number}"), data);
        }
        let root = sandbox.ok(&["add", "-rQ", "--chunker=size-65536", "d"]);
        let id = sandbox.ok(&["id", "--json"]);
        let id: serde_json::Value = serde_json::from_str(&id).unwrap();
        let address = format!("{listen}/p2p/{}", id["ID"].as_str().unwrap());
        (Self { sandbox, daemon: None, address }, root)
    }

    fn come(&mut self) {
        self.daemon.get_or_insert_with(|| self.sandbox.daemon());
    }

    fn die(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

/// What the readers share.
struct Reading<'a> {
    taker: &'a Sandbox,
    root: &'a str,
    files: &'a [Vec<u8>],
    stop: AtomicBool,
    reads: AtomicU64,
    /// Reads that ended with a time-out, in time.
    refused: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Reading<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes a call that begun then, and what it returned.
    fn note(&self, begun: Instant, right: &[u8], read: io::Result<Vec<u8>>) {
        let took = begun.elapsed();
        assert!(took < DEADLINE, "a call took {took:?}");
        self.slowest_ms.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
        match read {
            Ok(bytes) => assert!(bytes == right, "wrong bytes, {} of {}", bytes.len(), right.len()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads pieces past the page cache, so that each read is the daemon's or that of the disk.
    fn read_pieces(&self, who: u32) {
        let mut at = who;
        while !self.is_over() {
            at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (at >> 8) % FILES;
            let offset = (at >> 16) as usize % (FILE_LEN / READ_LEN) * READ_LEN;
            let path = self.taker.path(format!("m/{}/{number}", self.root));
            let right = &self.files[number as usize][offset..offset + READ_LEN];
            let begun = Instant::now();
            self.note(begun, right, piece(&path, offset as u64));
            std::thread::sleep(Duration::from_millis(REST));
        }
    }

    /// Reads whole files by a command.
    fn cat(&self, who: u32) {
        for number in (who..).map(|number| number % FILES) {
            if self.is_over() {
                return;
            }
            let path = format!("/ipfs/{}/{number}", self.root);
            let begun = Instant::now();
            let run = self.taker.run(&["cat", "--timeout", TIMEOUT, &path]);
            let read = match run.code {
                0 => Ok(run.stdout),
                _ if run.stderr.contains("tim") => Err(io::ErrorKind::TimedOut.into()),
                _ => Err(io::Error::other(run.stderr)),
            };
            self.note(begun, &self.files[number as usize], read);
            std::thread::sleep(Duration::from_millis(REST * 10));
        }
    }

    /// Kills one provider after the other; two of them live at any time.
    fn kill(&self, providers: &mut [Provider]) {
        for number in 0.. {
            let begun = Instant::now();
            providers[number % HONEST].die();
            while begun.elapsed() < DEATH_EVERY && !self.is_over() {
                std::thread::sleep(Duration::from_millis(50));
            }
            providers[number % HONEST].come();
            if self.is_over() {
                return;
            }
        }
    }

    fn forget(&self) {
        while !self.is_over() {
            std::thread::sleep(FORGET_EVERY);
            self.taker.ok(&["repo", "gc"]);
        }
    }
}

fn piece(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let direct = nix::fcntl::OFlag::O_DIRECT.bits();
    let file = File::options().read(true).custom_flags(direct).open(path)?;
    let mut bytes = vec![0; READ_LEN];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / f64::from(u32::try_from(samples.len()).unwrap())
}

/// Ends the reading, also when a test fails in the middle of it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Promises all, and sends something else every other time.
fn liar() -> impl FnMut(&cidfs::codec::bitswap::Message) -> Vec<cidfs::exchange::rogue::Act> + Send
{
    let times = AtomicU32::new(0);
    move |asked| match times.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => manners::promises(asked),
        _ => manners::wrong_blocks(asked),
    }
}

fn start_taker(peers: &[String]) -> (Sandbox, Daemon) {
    let taker = Sandbox::new();
    taker.ok(&["config", "network.preset", "peers-only"]);
    taker.ok(&["config", "network.listen", "/ip4/127.0.0.1/tcp/0"]);
    taker.ok(&["config", "network.peers", &serde_json::to_string(peers).unwrap()]);
    taker.ok(&["config", "store.cache_max_bytes", "64MiB"]);
    taker.ok(&["config", "store.node_cache", "1MiB"]);
    std::fs::create_dir(taker.path("m")).unwrap();
    let daemon = taker.daemon();
    taker.ok(&["mount", "/ipfs", "m", "-o", &format!("timeout={TIMEOUT}")]);
    (taker, daemon)
}

fn received(taker: &Sandbox) -> u64 {
    let stat: serde_json::Value =
        serde_json::from_str(&taker.ok(&["bitswap", "stat", "--json"])).unwrap();
    stat["DataReceived"].as_u64().unwrap()
}

#[test]
fn many_readers_of_providers_that_die_get_right_bytes_in_time() {
    let (duration, growth_max) =
        if is_full_run() { (DURATION.0, GROWTH_MAX.0) } else { (DURATION.1, GROWTH_MAX.1) };
    let files: Vec<_> = (0..FILES).map(|seed| noise(seed, FILE_LEN)).collect();
    let (mut providers, roots): (Vec<_>, Vec<_>) =
        (0..HONEST).map(|_| Provider::new(&files)).unzip();
    providers.iter_mut().for_each(Provider::come);
    let runtime = Runtime::new().unwrap();
    let rogue = runtime.block_on(Rogue::start(liar()));
    let mut peers: Vec<_> = providers.iter().map(|provider| provider.address.clone()).collect();
    peers.push(rogue.address().to_string());
    let (taker, daemon) = start_taker(&peers);
    wait_for("the providers", || taker.ok(&["swarm", "peers"]).lines().count() == HONEST + 1);
    let reading = Reading {
        taker: &taker,
        root: &roots[0],
        files: &files,
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        slowest_ms: AtomicU64::new(0),
    };
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let _stop = Stop(&reading.stop);
        for who in 0..READERS {
            let reading = &reading;
            scope.spawn(move || reading.read_pieces(who));
        }
        for who in 0..CATS {
            let reading = &reading;
            scope.spawn(move || reading.cat(who * FILES / CATS));
        }
        scope.spawn(|| reading.kill(&mut providers));
        scope.spawn(|| reading.forget());
        let begun = Instant::now();
        while begun.elapsed() < duration {
            std::thread::sleep(Duration::from_millis(500));
            if begun.elapsed() > duration / 10 {
                let pid = daemon.pid();
                samples.push((process::resident_kib(pid), process::descriptors(pid)));
            }
        }
    });
    let (memory, descriptors): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
    let halves = |samples: &[f64]| {
        let (first, second) = samples.split_at(samples.len() / 2);
        (mean(first), mean(second))
    };
    let (memory, descriptors, bytes) = (halves(&memory), halves(&descriptors), received(&taker));
    let (reads, refused) = (reading.reads.into_inner(), reading.refused.into_inner());
    crate::report(&format!(
        "{reads} reads, {refused} of them refused in time, the slowest after {} ms; {} MB came; KiB of memory \
         {memory:.0?}, descriptors {descriptors:.0?} in the first half and the second",
        reading.slowest_ms.into_inner(),
        bytes / 1_000_000
    ));
    assert!(rogue.heard().asked > 0, "nobody believed the liar");
    assert!(
        bytes > 3 * u64::from(FILES) * FILE_LEN as u64,
        "little was fetched again: {bytes} bytes"
    );
    assert!(refused * 100 <= reads, "{refused} of {reads} reads were refused");
    assert!(memory.1 < memory.0 * growth_max + KEPT_MAX, "memory grew: {memory:?}");
    assert!(descriptors.1 < descriptors.0 * 1.05 + DESCRIPTORS_MORE, "{descriptors:?}");
    assert_eq!(taker.ok(&["bitswap", "wantlist"]), "", "nobody waits for anything");
    taker.ok(&["pin", "add", &roots[0]]);
    taker.ok(&["repo", "verify"]);
    taker.ok(&["umount", "m"]);
    assert_eq!(daemon.stop(), Some(0));
}
