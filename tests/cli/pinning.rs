//! `cidfs pin`: what is kept, by which pin, and under what name.

use std::process::Stdio;

use super::sandbox::{ABSENT, HELLO, Sandbox, TREE, vector_tree, wait_for};

fn with_tree() -> Sandbox {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "--pin=false", "d"]);
    sandbox
}

#[test]
fn pins_come_and_go() {
    let sandbox = with_tree();
    assert_eq!(sandbox.ok(&["pin", "ls"]), "");
    assert_eq!(sandbox.ok(&["pin", "add", TREE]), format!("pinned {TREE} recursively"));
    assert_eq!(sandbox.ok(&["pin", "ls", "-t", "recursive"]), format!("{TREE} recursive"));
    assert_eq!(sandbox.ok(&["pin", "ls", "-t", "indirect", "-q"]).lines().count(), 3);
    assert_eq!(sandbox.ok(&["pin", "ls"]).lines().count(), 4);
    let through = sandbox.ok(&["pin", "ls", &format!("{TREE}/hello.txt")]);
    assert_eq!(through, format!("{HELLO} indirect through {TREE}"));
    sandbox.fails(&["pin", "rm", HELLO], 1, &["not pinned or pinned indirectly"]);
    sandbox.fails(&["pin", "add", "-r=false", TREE], 1, &["already pinned recursively"]);
    sandbox.fails(&["block", "rm", HELLO], 1, &["pinned via"]);
    sandbox.fails(&["block", "rm", TREE], 1, &["pinned: recursive"]);
    assert_eq!(sandbox.ok(&["pin", "rm", TREE]), format!("unpinned {TREE}"));
    sandbox.fails(&["pin", "ls", TREE], 1, &["is not pinned"]);
    assert_eq!(sandbox.ok(&["pin", "add", "-r=false", TREE]), format!("pinned {TREE} directly"));
    assert_eq!(sandbox.ok(&["pin", "ls"]), format!("{TREE} direct"));
}

#[test]
fn pins_have_names() {
    let sandbox = with_tree();
    sandbox.ok(&["pin", "add", "--name=my thesis", TREE]);
    sandbox.write("h", "hello world\n");
    sandbox.ok(&["add", "--pin-name=greeting", "h"]);
    assert_eq!(sandbox.ok(&["pin", "ls", "-n", "the"]), format!("{TREE} recursive my thesis"));
    assert!(sandbox.ok(&["pin", "ls", "--names"]).contains(&format!("{HELLO} recursive greeting")));
    let json = sandbox.ok(&["pin", "ls", "--json", "--names", "-t", "recursive"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Keys"][TREE]["Name"], "my thesis");
    assert_eq!(json["Keys"][TREE]["Type"], "recursive");
    let long = format!("--name={}", "x".repeat(300));
    sandbox.fails(&["pin", "add", &long, TREE], 1, &["255"]);
}

#[test]
fn what_is_not_here_is_not_pinned() {
    let sandbox = with_tree();
    sandbox.fails(&["pin", "add", ABSENT], 1, &["is not here"]);
    sandbox.ok(&["block", "rm", HELLO]);
    sandbox.fails(&["pin", "add", TREE], 1, &[HELLO, "is not here"]);
    assert_eq!(sandbox.ok(&["pin", "ls"]), "");
    sandbox.fails(&["pin", "ls", "-t", "nonsense"], 1, &["invalid type 'nonsense'"]);
}

#[test]
fn a_pin_moves_to_another_version() {
    let sandbox = with_tree();
    sandbox.ok(&["pin", "add", "--name=site", TREE]);
    sandbox.write("d/new.txt", "new");
    let new = sandbox.ok(&["add", "-rQ", "--pin=false", "d"]);
    assert_eq!(sandbox.ok(&["pin", "update", TREE, &new]), format!("updated {TREE} to {new}"));
    assert_eq!(
        sandbox.ok(&["pin", "ls", "-t", "recursive", "--names"]),
        format!("{new} recursive site")
    );
    sandbox.fails(&["pin", "update", TREE, &new], 1, &["was not recursively pinned"]);
}

#[test]
fn nothing_is_removed_while_something_is_added() {
    let sandbox = with_tree();
    let _daemon = sandbox.daemon();
    let mut add = sandbox.command();
    let mut add =
        add.args(["add", "-Q", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let removal = || sandbox.run(&["block", "rm", ABSENT]).stderr;
    wait_for("the import to begin", || removal().contains("something is being added or pinned"));
    drop(add.stdin.take());
    assert!(add.wait().unwrap().success());
    assert!(removal().contains("is not here"), "{}", removal());
}

#[test]
fn damage_below_a_pin_is_found() {
    let sandbox = with_tree();
    sandbox.ok(&["pin", "add", TREE]);
    assert_eq!(sandbox.ok(&["pin", "verify", "--verbose"]), format!("{TREE} ok"));
    let verified = sandbox.ok(&["repo", "verify"]);
    assert!(verified.starts_with("read ") && verified.contains(" blocks ("), "{verified}");
    assert!(verified.ends_with("verify complete, all blocks validated."), "{verified}");
    damage(&sandbox, b"hello world\n");
    let run = sandbox.run(&["pin", "verify"]);
    assert_eq!(run.code, 1);
    let told = String::from_utf8(run.stdout).unwrap();
    assert!(told.starts_with(&format!("{TREE} broken\n  {HELLO}: ")), "{told}");
    assert_eq!(sandbox.run(&["pin", "verify", "--json"]).code, 1, "scripts hear of it too");
    sandbox.fails(&["repo", "verify"], 1, &["1 blocks corrupt"]);
    sandbox.fails(&["cat", HELLO], 1, &["damaged"]);
    sandbox.write("h", "hello world\n");
    sandbox.ok(&["add", "h"]);
    assert_eq!(sandbox.ok(&["cat", HELLO]), "hello world", "adding it again heals it");
    sandbox.ok(&["pin", "verify"]);
}

#[test]
fn what_is_damaged_is_not_pinned() {
    let sandbox = with_tree();
    damage(&sandbox, b"hello world\n");
    sandbox.fails(&["pin", "add", TREE], 1, &[HELLO, "damaged"]);
    assert_eq!(sandbox.ok(&["pin", "ls", "-t", "recursive"]), "");
    sandbox.write("h", "hello world\n");
    sandbox.ok(&["add", "--pin=false", "h"]);
    sandbox.ok(&["pin", "add", TREE]);
}

/// Turns one bit of stored content over.
fn damage(sandbox: &Sandbox, content: &[u8]) {
    let mut count = 0;
    for entry in std::fs::read_dir(sandbox.repo().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let places = bytes.windows(content.len()).position(|window| window == content);
        if let Some(place) = places {
            bytes[place] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            count += 1;
        }
    }
    assert!(count > 0, "the content is not in a pack");
}
