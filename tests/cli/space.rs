//! The cap on the store, and `cidfs repo gc`.

use super::sandbox::Sandbox;

const MIB: usize = 1 << 20;

/// Writes a file of so many MiB that no other file shares a block with.
pub(super) fn big_file(sandbox: &Sandbox, name: &str, seed: u64, mib: usize) {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let content: Vec<u8> = (0..mib * MIB / 8).flat_map(|_| next()).collect();
    sandbox.write(name, content);
}

fn number(sandbox: &Sandbox, key: &str) -> u64 {
    let stat: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["repo", "stat", "--json"])).unwrap();
    stat[key].as_u64().unwrap()
}

#[test]
fn gc_removes_what_is_not_pinned() {
    let sandbox = Sandbox::new();
    big_file(&sandbox, "kept", 1, 3);
    big_file(&sandbox, "gone", 2, 5);
    let kept = sandbox.ok(&["add", "-Q", "kept"]);
    let gone = sandbox.ok(&["add", "-Q", "--pin=false", "gone"]);
    let before = number(&sandbox, "NumObjects");
    let told = sandbox.ok(&["repo", "gc", "--dry-run"]);
    assert!(told.starts_with("would remove 6 blocks (5.2 MB)"), "{told}");
    assert_eq!(number(&sandbox, "NumObjects"), before, "a dry run changes nothing");
    let told = sandbox.ok(&["repo", "gc"]);
    assert!(told.starts_with("removed 6 blocks (5.2 MB); the store takes 4."), "{told}");
    sandbox.fails(&["cat", &gone], 1, &["is not here"]);
    assert_eq!(sandbox.run(&["cat", &kept]).stdout, std::fs::read(sandbox.path("kept")).unwrap());
    sandbox.ok(&["pin", "verify"]);
    sandbox.ok(&["pin", "rm", &kept]);
    let swept: serde_json::Value =
        serde_json::from_str(sandbox.ok(&["repo", "gc", "--json"]).lines().last().unwrap())
            .unwrap();
    assert_eq!((swept["Done"].as_bool(), swept["Blocks"].as_u64()), (Some(true), Some(4)));
}

#[test]
fn the_cap_holds_and_pins_stay() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["config", "store.cache_max_bytes", "64MiB"]);
    let _daemon = sandbox.daemon();
    big_file(&sandbox, "kept", 1, 20);
    let kept = sandbox.ok(&["add", "-Q", "kept"]);
    let mut last = String::new();
    for seed in 2..8 {
        big_file(&sandbox, "cached", seed, 20);
        last = sandbox.ok(&["add", "-Q", "--pin=false", "cached"]);
        assert!(number(&sandbox, "RepoSize") <= 65 << 20, "the cap and some metadata");
    }
    assert_eq!(number(&sandbox, "StorageMax"), 64 << 20);
    assert_eq!(sandbox.run(&["cat", &last]).stdout, std::fs::read(sandbox.path("cached")).unwrap());
    assert_eq!(sandbox.run(&["cat", &kept]).stdout, std::fs::read(sandbox.path("kept")).unwrap());
    sandbox.ok(&["pin", "verify"]);
    big_file(&sandbox, "too big", 9, 50);
    sandbox.fails(&["add", "-Q", "too big"], 1, &["at its limit", "store.cache_max_bytes"]);
    big_file(&sandbox, "far too big", 9, 80);
    let words = ["far too big", "more than the limit of the store, 64 MiB"];
    sandbox.fails(&["add", "-Q", "far too big"], 1, &words);
    let holes = std::fs::File::create(sandbox.path("holes")).unwrap();
    holes.set_len(4 << 30).unwrap();
    sandbox.ok(&["add", "-Q", "holes"]);
    sandbox.ok(&["pin", "verify"]);
}

/// A small disk of its own for the repository, gone with the value.
struct SmallDisk<'a>(&'a Sandbox);

impl<'a> SmallDisk<'a> {
    fn new(sandbox: &'a Sandbox, size: &str) -> Self {
        std::fs::create_dir(sandbox.repo()).unwrap();
        let options = format!("size={size},mode=0700");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), &sandbox.repo(), Some("tmpfs"), flags, Some(&*options))
            .unwrap();
        Self(sandbox)
    }

    /// Takes all that is free.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.repo().join("fill")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        nix::mount::umount(&self.0.repo()).unwrap();
    }
}

#[test]
fn a_full_disk_is_made_room_on() {
    if !nix::unistd::geteuid().is_root() {
        crate::report("NOT RUN: a_full_disk_is_made_room_on: a disk of its own needs root");
        return;
    }
    let sandbox = Sandbox::without_repository();
    let disk = SmallDisk::new(&sandbox, "100m");
    sandbox.ok(&["init", "--preset=offline"]);
    sandbox.ok(&["config", "store.cache_max_bytes", "none"]);
    big_file(&sandbox, "kept", 1, 8);
    big_file(&sandbox, "gone", 2, 8);
    big_file(&sandbox, "new", 3, 6);
    let kept = sandbox.ok(&["add", "-Q", "kept"]);
    let gone = sandbox.ok(&["add", "-Q", "--pin=false", "gone"]);
    disk.fill();
    assert_eq!(sandbox.run(&["cat", &kept]).stdout, std::fs::read(sandbox.path("kept")).unwrap());
    let told = sandbox.ok(&["repo", "gc"]);
    assert!(told.starts_with("removed 9 blocks (8.3 MB); the store takes 9."), "{told}");
    sandbox.fails(&["cat", &gone], 1, &["is not here"]);
    let new = sandbox.ok(&["add", "-Q", "--pin=false", "new"]);
    disk.fill();
    big_file(&sandbox, "newer", 4, 5);
    let newer = sandbox.ok(&["add", "-Q", "newer"]);
    sandbox.fails(&["cat", &new], 1, &["is not here"]);
    disk.fill();
    sandbox.fails(&["add", "-Q", "gone"], 1, &["no space left", "free some space"]);
    for (cid, name) in [(kept, "kept"), (newer, "newer")] {
        let content = std::fs::read(sandbox.path(name)).unwrap();
        assert!(sandbox.run(&["cat", &cid]).stdout == content, "{name}");
    }
    sandbox.ok(&["pin", "verify"]);
    let left = std::fs::read_dir(sandbox.repo()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.contains("broken")).count(), 0);
}

/// What is pinned may be all there is, so that nothing else can be given up.
#[test]
fn what_is_pinned_can_be_unpinned_on_a_full_disk() {
    if !nix::unistd::geteuid().is_root() {
        crate::report("NOT RUN: what_is_pinned_can_be_unpinned_on_a_full_disk: it needs root");
        return;
    }
    let sandbox = Sandbox::without_repository();
    let disk = SmallDisk::new(&sandbox, "100m");
    sandbox.ok(&["init", "--preset=offline"]);
    sandbox.ok(&["config", "store.cache_max_bytes", "none"]);
    for number in 0..400 {
        sandbox.write(format!("d/{number}"), number.to_string());
    }
    sandbox.ok(&["add", "-rq", "d"]);
    let files: Vec<_> = (0..400).map(|number| sandbox.path(format!("d/{number}"))).collect();
    let mut args = vec!["add".into(), "-q".into()];
    args.extend(files);
    let cids = sandbox.ok(&args);
    let daemon = sandbox.daemon();
    disk.fill();
    for cid in cids.lines() {
        sandbox.ok(&["pin", "rm", cid]);
    }
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(sandbox.ok(&["pin", "ls", "--type=recursive", "-q"]).lines().count(), 1);
}
