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
    sandbox.ok(&["pin", "verify"]);
}
