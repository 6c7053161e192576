//! The real daemon, killed at any moment: while it starts, mounts or stops, while clients add, pin,
//! remove, import and read.
//!
//! One repository and one mount point see all kills. What is proved after each: the next start needs
//! nobody's help and a bounded time, takes over the dead mount even while a file on it is open, and
//! leaves no mount below the new one; what a client was told before the kill holds, pins and bytes;
//! what was under way when the kill came is there or not, but never wrong. Now and then the throwaway
//! table is deleted, cut, damaged or of an earlier day too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cidfs::sys::mount::mounts;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::load::{Client, Content, Item, Random, Target};
use crate::cli::sandbox::Sandbox;

/// Chooses what is done; without it a full run draws one and a short run takes 1.
const SEED: &str = "CIDFS_KILL_SEED";
/// Kills of a full run and of a short one.
const KILLS: (u32, u32) = (1000, 12);
/// Clients that change things.
const CLIENTS: usize = 3;
/// How long clients work before the kill, at most.
const WORK_MAX_MS: u64 = 1000;
/// Of so many kills one comes while the daemon starts, at most so long after its first moment.
const EARLY_EVERY: u64 = 6;
const EARLY_MAX_MS: u64 = 150;
/// Of so many kills one takes the clients with it, which otherwise see the daemon go.
const TOGETHER_EVERY: u64 = 2;
/// Of so many kills one comes while the daemon stops, at most so long after it was asked to.
const STOPPING_EVERY: u64 = 8;
const STOPPING_MAX_MS: u64 = 100;
/// The table is damaged before one start of so many.
const DAMAGE_EVERY: u64 = 3;
/// Most bits of the table that are turned over at once.
const FLIPS_MAX: u64 = 32;
/// Items of earlier rounds that are read after each start, beside those that were changed.
const SAMPLE: usize = 12;
/// How long a start may take: the machine may have much else to do.
const START_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// Kills between two lines that tell how far a full run has come.
const TELL_EVERY: u32 = 50;
/// Mounts that a failed test takes down at its end.
const LEFT_MAX: usize = 16;

/// How a daemon at work is killed.
struct Plan {
    work: Duration,
    /// It is asked to stop first, and gets so long.
    stopping: Option<Duration>,
    takes_clients: bool,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        let stops = random.below(STOPPING_EVERY) == 0;
        Self {
            work: Duration::from_millis(random.below(WORK_MAX_MS)),
            stopping: stops.then(|| Duration::from_millis(random.below(STOPPING_MAX_MS))),
            takes_clients: random.below(TOGETHER_EVERY) == 0,
        }
    }
}

/// The repository, its daemon and all that its clients were told.
struct Campaign {
    /// The one that runs or was killed last. Its process group has its number, and stays until the
    /// last client of its time has ended.
    daemon: Option<Child>,
    point: PathBuf,
    /// A copy of the table of an earlier day.
    old_meta: PathBuf,
    clients: Vec<Client>,
    /// A file that was open when the daemon was killed.
    held: Option<(File, Arc<Content>)>,
    random: Random,
    slowest_start: Duration,
    /// Gone last: everything lies in it.
    sandbox: Sandbox,
}

impl Campaign {
    fn new(seed: u64) -> Self {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("mount")).unwrap();
        let point = sandbox.path("mount").canonicalize().unwrap();
        sandbox.ok(&["config", "mount.ipfs", point.to_str().unwrap()]);
        let random = Random(seed);
        let client = |number| Client::new(number, Random(seed ^ (1 + number as u64) << 32));
        Self {
            daemon: None,
            point,
            old_meta: sandbox.path("old-meta"),
            clients: (0..CLIENTS).map(client).collect(),
            held: None,
            random,
            slowest_start: Duration::ZERO,
            sandbox,
        }
    }

    /// One life of the daemon, from its start to its kill.
    fn kill_once(&mut self) {
        if self.random.below(DAMAGE_EVERY) == 0 {
            self.reap();
            self.damage_table();
        }
        if self.random.below(EARLY_EVERY) == 0 {
            self.spawn();
            std::thread::sleep(Duration::from_millis(self.random.below(EARLY_MAX_MS)));
            self.kill(true);
            return;
        }
        self.start();
        self.check(SAMPLE);
        self.work_and_kill();
    }

    /// Starts a daemon, perhaps while the kernel still takes the killed one apart.
    fn spawn(&mut self) {
        let log = File::create(self.log()).unwrap();
        let mut command = self.sandbox.command();
        command.arg("mount").process_group(0).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().unwrap();
        self.reap();
        self.daemon = Some(daemon);
    }

    /// Starts the daemon and waits until it answers; then its mount is there too.
    fn start(&mut self) {
        let begin = Instant::now();
        self.spawn();
        while !self.sandbox.is_daemon_up() {
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().unwrap());
            assert_eq!(ended, None, "the daemon does not start: {}", self.told());
            assert!(begin.elapsed() < START_MAX, "the daemon hangs: {}", self.told());
            std::thread::sleep(POLL);
        }
        self.slowest_start = self.slowest_start.max(begin.elapsed());
        assert_eq!(self.mounted(), 1, "one live mount, and no dead one below it: {}", self.told());
    }

    fn log(&self) -> PathBuf {
        self.sandbox.path("log")
    }

    /// What the daemon said since its start.
    fn told(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    /// How many mounts there are on the mount point.
    fn mounted(&self) -> usize {
        mounts().unwrap().iter().filter(|mount| mount.point == self.point).count()
    }

    /// Holds the repository against what clients were told: all pins, and the content of items that
    /// were touched and of some others.
    fn check(&mut self, sample: usize) {
        self.check_nothing_broken();
        self.check_pins();
        self.check_held();
        for client in &mut self.clients {
            let count = client.items.len();
            let sample: Vec<_> = (0..sample.min(count)).map(|_| self.random.index(count)).collect();
            for (place, item) in client.items.iter_mut().enumerate() {
                if item.is_touched || item.is_kept || sample.contains(&place) {
                    check_item(item, &self.point);
                }
            }
        }
    }

    /// A killed process damages nothing, so nothing but the table may have been set aside.
    fn check_nothing_broken(&self) {
        let repo = self.sandbox.repo();
        for dir in [repo.clone(), repo.join("packs")] {
            for entry in std::fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let broken = name.contains(".broken-") && !name.starts_with("meta.");
                assert!(!broken, "{name}: {}", self.told());
            }
        }
    }

    fn check_pins(&mut self) {
        let listed = self.sandbox.ok(&["pin", "ls", "--type=recursive", "--quiet"]);
        let mut listed: BTreeSet<&str> = listed.lines().collect();
        for item in self.clients.iter_mut().flat_map(|client| &mut client.items) {
            let is_pinned = listed.remove(item.content.cid.to_string().as_str());
            let known = item.pinned.is_none_or(|pinned| pinned == is_pinned);
            assert!(known, "{} was {:?} and is {is_pinned}", item.content.cid, item.pinned);
            item.pinned = Some(is_pinned);
            // No pin is written before what it keeps.
            item.here = if is_pinned { Some(true) } else { item.here };
        }
        assert!(listed.is_empty(), "pins that nobody asked for: {listed:?}");
    }

    /// A file that was open when the daemon died gives its own bytes or an error.
    fn check_held(&mut self) {
        let Some((mut file, content)) = self.held.take() else { return };
        let mut found = Vec::new();
        if file.read_to_end(&mut found).is_ok() {
            assert!(found == content.one_file().1, "{} has wrong bytes", content.cid);
        }
    }

    fn kept(&self) -> Vec<Arc<Content>> {
        let items = self.clients.iter().flat_map(|client| &client.items);
        let kept = items.filter(|item| item.is_kept && item.pinned == Some(true));
        kept.map(|item| item.content.clone()).collect()
    }

    /// Lets clients and a reader work and kills the daemon meanwhile.
    fn work_and_kill(&mut self) {
        let kept = self.kept();
        self.held = kept.first().map(|content| {
            let file = File::open(self.point.join(content.one_file().0)).unwrap();
            (file, content.clone())
        });
        let plan = Plan::draw(&mut self.random);
        let mut clients = std::mem::take(&mut self.clients);
        let stop = AtomicBool::new(false);
        let target = Target { sandbox: &self.sandbox, group: self.group().as_raw(), stop: &stop };
        std::thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.work(&target));
            }
            scope.spawn(|| read_all_the_time(&kept, &self.point, &target));
            std::thread::sleep(plan.work);
            stop.store(true, Ordering::SeqCst);
            if let Some(time) = plan.stopping {
                kill(self.group(), Signal::SIGTERM).unwrap();
                std::thread::sleep(time);
            }
            self.kill(plan.takes_clients);
        });
        self.clients = clients;
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.daemon.as_ref().unwrap().id()).unwrap())
    }

    fn kill(&self, with_clients: bool) {
        let end = if with_clients { killpg } else { kill };
        end(self.group(), Signal::SIGKILL).unwrap();
    }

    /// Waits until the killed daemon is gone.
    fn reap(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().unwrap();
        }
    }

    /// Does to the table what may happen to a file that nobody syncs.
    fn damage_table(&mut self) {
        let meta = self.sandbox.repo().join("meta");
        remove_set_aside(&self.sandbox.repo());
        if !meta.is_dir() {
            return;
        }
        match self.random.below(5) {
            0 => std::fs::remove_dir_all(&meta).unwrap(),
            1 => self.damage_file(&meta, cut),
            2 => self.damage_file(&meta, |random, bytes| turn_bits(random, bytes)),
            3 if self.old_meta.is_dir() => self.bring_old_table(&meta),
            _ => {
                remove_if_there(&self.old_meta);
                super::copy(&meta, &self.old_meta);
            }
        }
    }

    /// Puts the table of an earlier day in its place, or over some of it.
    fn bring_old_table(&mut self, meta: &Path) {
        if self.random.below(2) == 0 {
            std::fs::remove_dir_all(meta).unwrap();
        }
        super::copy(&self.old_meta, meta);
    }

    fn damage_file(&mut self, meta: &Path, damage: fn(&mut Random, &mut Vec<u8>)) {
        let files = std::fs::read_dir(meta).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.is_file()).collect();
        files.sort();
        files.retain(|path| path.metadata().unwrap().len() > 0);
        if files.is_empty() {
            return;
        }
        let file = &files[self.random.index(files.len())];
        let mut bytes = std::fs::read(file).unwrap();
        // Most of a table is empty; damage there would mean nothing.
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1));
        damage(&mut self.random, &mut bytes);
        std::fs::write(file, bytes).unwrap();
    }

    /// The end of a campaign: everything that was ever promised, then a clean stop.
    fn finish(&mut self) {
        self.start();
        self.check(usize::MAX);
        assert!(!self.kept().is_empty(), "nobody was told anything");
        assert_eq!(self.sandbox.ok(&["pin", "verify"]), "");
        let verified = self.sandbox.ok(&["repo", "verify"]);
        assert!(verified.ends_with("verify complete, all blocks validated."), "{verified}");
        self.sandbox.ok(&["shutdown"]);
        let ended = self.daemon.take().unwrap().wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.told());
        assert_eq!(self.mounted(), 0, "a clean stop leaves no mount");
        assert_eq!(std::fs::read_dir(&self.point).unwrap().count(), 0);
    }
}

impl Drop for Campaign {
    /// Leaves nothing behind when a test fails: no process, no mount.
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // It may have ended and been reaped, which is why the test fails.
            killpg(self.group(), Signal::SIGKILL).ok();
            self.reap();
        }
        for _ in 0..self.mounted().min(LEFT_MAX) {
            if umount2(&self.point, MntFlags::MNT_DETACH).is_err() {
                // Who is not root may not; nor need there be a helper where root tests.
                Command::new("fusermount3").arg("-uz").arg(&self.point).status().ok();
            }
        }
    }
}

/// Reads an item through the mount and holds it against what its client was told.
fn check_item(item: &mut Item, mount: &Path) {
    let (cid, read) = (item.content.cid, item.content.read(mount));
    match (item.here, read) {
        (Some(true), Err(error)) => panic!("{cid} is lost: {error}"),
        (Some(false), Ok(())) => panic!("{cid} was removed and is back"),
        (None, Ok(())) => item.here = Some(true),
        _ => {}
    }
    item.is_touched = false;
}

/// Reads what is kept, again and again; only the kill may make that fail.
fn read_all_the_time(kept: &[Arc<Content>], mount: &Path, target: &Target<'_>) {
    for content in kept.iter().cycle() {
        if target.is_stopped() {
            return;
        }
        if let Err(error) = content.read(mount) {
            assert!(target.is_stopped(), "{}: {error}", content.cid);
        }
    }
}

fn cut(random: &mut Random, bytes: &mut Vec<u8>) {
    bytes.truncate(random.index(bytes.len()));
}

fn turn_bits(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..=random.below(FLIPS_MAX) {
        let at = random.index(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
}

fn remove_if_there(dir: &Path) {
    if dir.is_dir() {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// Removes earlier tables that were set aside: each start after a damage can leave one.
fn remove_set_aside(repo: &Path) {
    for entry in std::fs::read_dir(repo).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("meta.broken-") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

fn seed() -> u64 {
    let chosen = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    chosen.unwrap_or_else(|| if crate::is_full_run() { now() } else { 1 })
}

#[test]
fn a_daemon_that_is_killed_again_and_again_loses_nothing() {
    if !Path::new("/dev/fuse").try_exists().unwrap() {
        crate::report(
            "NOT RUN: a_daemon_that_is_killed_again_and_again_loses_nothing: no /dev/fuse",
        );
        return;
    }
    let kills = if crate::is_full_run() { KILLS.0 } else { KILLS.1 };
    let (begin, seed) = (Instant::now(), seed());
    crate::report(&format!("{SEED}={seed}"));
    let mut campaign = Campaign::new(seed);
    for n in 1..=kills {
        campaign.kill_once();
        if n % TELL_EVERY == 0 || n == kills {
            let obeyed: u64 = campaign.clients.iter().map(|client| client.obeyed).sum();
            let (time, slowest) = (begin.elapsed(), campaign.slowest_start);
            crate::report(&format!(
                "{n} kills in {time:.0?}, {obeyed} commands obeyed, slowest start {slowest:.1?}"
            ));
        }
    }
    campaign.finish();
}
