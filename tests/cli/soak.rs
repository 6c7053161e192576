//! A full cache for a long time: importers and readers at once, at the cap.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::sandbox::Sandbox;
use super::space::big_file;
use crate::is_full_run;

/// The cap, and how far a pack's slack goes over it.
const CAP: u64 = 64 << 20;
const SLACK: u64 = CAP / 8;
/// How long it lasts, in full and otherwise; a tenth of it passes before memory is looked at.
const DURATION: (Duration, Duration) = (Duration::from_mins(10), Duration::from_secs(20));
/// Memory of the second half against that of the first, in full; a short run is mostly warming up.
const GROWTH_MAX: (f64, f64) = (1.05, 1.5);
/// MiB that are pinned and read all the time, and of each file that passes through the cache.
const PINNED_MIB: usize = 16;
const PASSING_MIB: usize = 4;
/// Directories with names to fill the cache of nodes with.
const DIRS: usize = 200;
const IMPORTERS: u64 = 2;
const READERS: usize = 2;
/// Longest that a read of a mebibyte that is here may take on a busy machine.
const READ_MAX: Duration = Duration::from_secs(10);

/// Bytes of disk that the packs take.
fn packs_bytes(sandbox: &Sandbox) -> u64 {
    let entries = std::fs::read_dir(sandbox.path("repo/packs")).unwrap();
    // Files go while this counts.
    let bytes = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().metadata().map_or(0, |metadata| metadata.blocks() * 512)
    };
    entries.map(bytes).sum()
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn import(sandbox: &Sandbox, who: u64, stop: &AtomicBool, added: &AtomicU64) {
    let name = format!("passing-{who}");
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        big_file(sandbox, &name, round * IMPORTERS + who + 1000, PASSING_MIB);
        sandbox.ok(&["add", "-Q", "--pin=false", &name]);
        added.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads past the page cache, so that each read is the daemon's.
fn read(path: &Path, whole: &[u8], stop: &AtomicBool) {
    let direct = nix::fcntl::OFlag::O_DIRECT.bits();
    while !stop.load(Ordering::Relaxed) {
        let file = File::options().read(true).custom_flags(direct).open(path).unwrap();
        for (at, part) in whole.chunks(1 << 20).enumerate() {
            let mut read = vec![0; part.len()];
            let begun = Instant::now();
            file.read_exact_at(&mut read, (at << 20) as u64).unwrap();
            assert!(begun.elapsed() < READ_MAX, "a reader was held up");
            assert!(read == part, "wrong bytes");
        }
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / f64::from(u32::try_from(samples.len()).unwrap())
}

#[test]
fn a_full_cache_stays_full_and_no_fuller() {
    let (duration, growth_max) =
        if is_full_run() { (DURATION.0, GROWTH_MAX.0) } else { (DURATION.1, GROWTH_MAX.1) };
    let sandbox = Sandbox::new();
    sandbox.ok(&["config", "store.cache_max_bytes", "64MiB"]);
    sandbox.ok(&["config", "store.node_cache", "1MiB"]);
    big_file(&sandbox, "d/pinned", 1, PINNED_MIB);
    for dir in 0..DIRS {
        sandbox.write(format!("d/{dir}/a name of some length"), dir.to_string());
    }
    let root = sandbox.ok(&["add", "-rQ", "d"]);
    std::fs::create_dir(sandbox.path("m")).unwrap();
    let daemon = sandbox.daemon();
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let whole = std::fs::read(sandbox.path("d/pinned")).unwrap();
    let (stop, added) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for who in 0..IMPORTERS {
            let (sandbox, stop, added) = (&sandbox, &stop, &added);
            scope.spawn(move || import(sandbox, who, stop, added));
        }
        for _ in 0..READERS {
            scope.spawn(|| read(&sandbox.path(format!("m/{root}/pinned")), &whole, &stop));
        }
        let begun = Instant::now();
        while begun.elapsed() < duration {
            std::thread::sleep(Duration::from_millis(200));
            let (bytes, memory) = (packs_bytes(&sandbox), resident_kib(daemon.pid()));
            if bytes > CAP + SLACK {
                stop.store(true, Ordering::Relaxed);
                panic!("{bytes} bytes of disk are over the cap");
            }
            if begun.elapsed() > duration / 10 {
                samples.push(memory);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (first, second) = samples.split_at(samples.len() / 2);
    let growth = mean(second) / mean(first);
    let passed = added.load(Ordering::Relaxed) * PASSING_MIB as u64;
    crate::report(&format!(
        "{passed} MiB passed through a cache of 64 MiB; memory grew by a factor of {growth:.3}"
    ));
    assert!(passed << 20 > CAP, "the cache was never full");
    assert!(growth < growth_max, "memory grew by a factor of {growth:.3}");
    sandbox.ok(&["pin", "verify"]);
    sandbox.ok(&["repo", "verify"]);
    sandbox.ok(&["umount", "m"]);
    assert_eq!(daemon.stop(), Some(0));
}
