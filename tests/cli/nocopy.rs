//! `cidfs add --nocopy`: files are served where they lie, and a changed one is told by name.

use std::time::SystemTime;

use super::sandbox::{HELLO, Sandbox};

/// Bytes of the file of these tests.
const LEN: usize = 5 * 1024 * 1024;
/// Most bytes of disk that a repository without content takes: references, and the reserve of a MiB.
const REPO_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Returns content in which no two chunks are equal.
fn content(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..LEN).map(next).collect()
}

fn packs_bytes(sandbox: &Sandbox) -> u64 {
    let files = std::fs::read_dir(sandbox.repo().join("packs")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Writes the file anew, with another time of change whatever the clock says.
fn rewrite(sandbox: &Sandbox, bytes: &[u8], hours: u64) {
    sandbox.write("film", bytes);
    let file = std::fs::File::options().write(true).open(sandbox.path("film")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(hours)).unwrap();
}

#[test]
fn a_file_is_used_where_it_lies_until_it_is_changed() {
    let sandbox = Sandbox::new();
    rewrite(&sandbox, &content(1), 1);
    let path = sandbox.path("film").canonicalize().unwrap().to_str().unwrap().to_owned();
    let cid = sandbox.ok(&["add", "-nQ", "film"]);
    assert_eq!(sandbox.ok(&["add", "-Q", "--nocopy", "film"]), cid);
    assert_eq!(sandbox.ok(&["add", "-Q", "--nocopy", "film"]), cid);
    assert!(packs_bytes(&sandbox) < REPO_BYTES_MAX);
    assert!(sandbox.run(&["cat", &cid]).stdout == content(1));
    assert_eq!(sandbox.ok(&["store", "ls-packs"]), format!("file 5 blocks 5.2 MB {path}"));
    sandbox.ok(&["repo", "verify"]);
    sandbox.ok(&["repo", "gc"]);
    assert!(sandbox.run(&["cat", &cid]).stdout == content(1));

    rewrite(&sandbox, &content(2), 2);
    sandbox.fails(&["cat", &cid], 1, &[&path, "was changed since it was added", "add --nocopy"]);
    sandbox.fails(&["repo", "verify"], 1, &["1 blocks corrupt"]);
    let verified = sandbox.run(&["repo", "verify"]);
    let told = verified.stderr + &String::from_utf8(verified.stdout).unwrap();
    assert!(told.contains(&path), "{told}");
    let new = sandbox.ok(&["add", "-Q", "--nocopy", "film"]);
    assert!(sandbox.run(&["cat", &new]).stdout == content(2));

    // What it was is whole again by a copy of it.
    rewrite(&sandbox, &content(1), 3);
    assert_eq!(sandbox.ok(&["add", "-Q", "film"]), cid);
    std::fs::remove_file(&path).unwrap();
    assert!(sandbox.run(&["cat", &cid]).stdout == content(1));
    sandbox.fails(&["cat", &new], 1, &[&path]);
    assert_eq!(
        sandbox.ok(&["store", "rm-pack", "film"]),
        format!("no longer using {}", sandbox.path("film").display())
    );
    sandbox.fails(&["cat", &new], 1, &["is not here"]);
}

#[test]
fn a_mount_shows_the_file_and_never_wrong_bytes() {
    let sandbox = Sandbox::new();
    rewrite(&sandbox, &content(1), 1);
    std::fs::create_dir(sandbox.path("m")).unwrap();
    let _daemon = sandbox.daemon();
    let cid = sandbox.ok(&["add", "-Q", "--nocopy", "film"]);
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let seen = sandbox.path(format!("m/{cid}"));
    assert!(std::fs::read(&seen).unwrap() == content(1));
    // Its own content must not be its home.
    sandbox.fails(
        &["add", "--nocopy", seen.to_str().unwrap()],
        1,
        &["below a mount of cidfs", "without --nocopy"],
    );
    sandbox.ok(&["umount", "m"]);
    rewrite(&sandbox, &content(2), 2);
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let failed = std::fs::read(&seen).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(nix::libc::EIO), "{failed}");
    sandbox.ok(&["umount", "m"]);
}

#[test]
fn what_cannot_be_referred_to_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    assert_eq!(sandbox.ok(&["add", "-Q", "--nocopy", "h"]), HELLO);
    assert_eq!(sandbox.ok(&["store", "ls-packs"]), "", "what is short is copied");
    let run = sandbox.run_with_input(&["add", "--nocopy"], b"hello world\n");
    assert!(run.code != 0 && run.stderr.contains("standard input lies nowhere"), "{}", run.stderr);
    sandbox.fails(
        &["add", "--nocopy", "--profile=unixfs-v0-2015", "h"],
        1,
        &["--nocopy needs raw leaves", "--raw-leaves"],
    );
    sandbox.write("repo/keys/film", content(1));
    sandbox.fails(&["add", "--nocopy", "repo/keys/film"], 1, &["belongs to this repository"]);
}
