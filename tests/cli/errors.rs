//! What goes wrong before a command begins: no repository, wrong words, somebody else's lock.

use super::sandbox::{HELLO, Sandbox, wait_for};

#[test]
fn a_repository_is_demanded_and_made_once() {
    let sandbox = Sandbox::without_repository();
    for args in [&["cat", HELLO][..], &["add", "x"], &["status"], &["daemon"], &["pin", "ls"]] {
        sandbox.fails(args, 1, &["there is no repository at", "`cidfs init` makes one"]);
    }
    sandbox.fails(&["mount", "/ipfs", "m"], 1, &["there is no repository at"]);
    assert!(!sandbox.repo().try_exists().unwrap(), "nothing was made by asking");
    assert!(sandbox.ok(&["init"]).contains("initialized cidfs repository at"));
    sandbox.fails(&["init"], 1, &["there is a repository at", "already"]);
}

#[test]
fn the_repository_is_where_it_is_said_to_be() {
    let sandbox = Sandbox::without_repository();
    let at = |command: &mut std::process::Command| {
        let output = command.arg("init").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let flag = at(sandbox.command().args(["--repo", "flag"]));
    assert!(flag.ends_with(&format!("{}\n", sandbox.path("flag").display())), "{flag}");
    let xdg =
        at(sandbox.command().env_remove("CIDFS_PATH").env("XDG_DATA_HOME", sandbox.path("x")));
    assert!(xdg.ends_with("/x/cidfs\n"), "{xdg}");
    let relative = at(sandbox.command().env_remove("CIDFS_PATH").env("XDG_DATA_HOME", "y"));
    assert!(relative.ends_with("/home/.local/share/cidfs\n"), "{relative}");
    std::fs::remove_dir_all(sandbox.path("home")).unwrap();
    let home = at(sandbox.command().env_remove("CIDFS_PATH"));
    assert!(home.ends_with("/home/.local/share/cidfs\n"), "{home}");
}

#[test]
fn wrong_words_are_usage_errors() {
    let sandbox = Sandbox::new();
    sandbox.fails(&["nonsense"], 2, &["nonsense", "--help"]);
    sandbox.fails(&["cat", "--nonsense", "x"], 2, &["--nonsense"]);
    sandbox.fails(&["mount", "/ipfs"], 2, &["DIR"]);
    sandbox.fails(&["config", "show", "x"], 2, &["`config show` takes no value (\"x\")"]);
    sandbox.fails(&["get", "/"], 2, &["names nothing"]);
    sandbox.fails(&["--timeout=soon", "cat", HELLO], 1, &["\"soon\" is not a duration"]);
    sandbox.fails(&["--cid-base=base99", "add", "-n", "repo/version"], 1, &["base99"]);
}

#[test]
fn every_command_has_help_with_examples() {
    let sandbox = Sandbox::without_repository();
    let commands = "init add cat ls get stat resolve refs config daemon mount umount status \
                    shutdown version pin dag block repo store fetch bootstrap ping stats id swarm bitswap";
    let nested = "pin add|pin rm|pin ls|pin update|pin verify|dag get|dag resolve|dag stat|\
                  dag import|dag export|block get|block put|block stat|block rm|repo stat|\
                  repo verify|repo version|repo rebuild|store add-pack|store ls-packs|\
                  store rm-pack|bootstrap list|bootstrap add|bootstrap rm|stats bw|stats bitswap|\
                  stats repo|swarm peers|swarm connect|swarm disconnect|swarm addrs|swarm limits|\
                  swarm peering|swarm peering add|swarm peering ls|swarm peering rm|bitswap stat|\
                  bitswap wantlist|bitswap ledger";
    let all = commands.split_whitespace().chain(nested.split('|')).chain([""]);
    for command in all {
        let args: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
        let help = sandbox.ok(&[&args[..], &["--help"]].concat());
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
}

#[test]
fn the_version_is_told() {
    let sandbox = Sandbox::without_repository();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(sandbox.ok(&["version"]), format!("cidfs version {version}"));
    assert_eq!(sandbox.ok(&["version", "-n"]), version);
    assert_eq!(sandbox.ok(&["version", "--json"]), format!(r#"{{"Version":"{version}"}}"#));
    assert_eq!(sandbox.ok(&["--version"]), format!("cidfs {version}"));
}

#[test]
fn a_repository_in_use_names_its_holder() {
    let sandbox = Sandbox::new();
    // A command that reads standard input holds the repository until it ends.
    let mut holder = sandbox
        .command()
        .arg("add")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = holder.id();
    super::sandbox::wait_for("the lock", || {
        let lock = std::fs::read_to_string(sandbox.repo().join("lock"));
        lock.is_ok_and(|text| text.trim() == pid.to_string())
    });
    sandbox.fails(&["pin", "ls"], 1, &["in use by", &pid.to_string(), "Hint:"]);
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert!(sandbox.ok(&["pin", "ls"]).ends_with("recursive"));
}

#[test]
fn help_that_cannot_be_written_is_no_success() {
    let sandbox = Sandbox::without_repository();
    for args in [&["--help"][..], &["--version"], &["add", "--help"], &["-h"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = sandbox.command().args(args).stdout(full).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("No space left"), "{args:?}: {told}");
    }
    assert!(sandbox.ok(&["init", "--help"]).contains("site"));
}

#[test]
fn a_standard_output_that_takes_nothing_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "hello");
    let cid = sandbox.ok(&["add", "-Q", "file"]);
    for args in [
        &["cat", &cid][..],
        &["get", "--archive", &cid, "-o", "-"],
        &["pin", "ls"],
        &["add", "-Q", "file"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = sandbox.command().args(args).stdout(full).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains("standard output: No space left"), "{args:?}: {told}");
    }
}

#[test]
fn a_standard_error_that_takes_nothing_changes_nothing() {
    let sandbox = Sandbox::new();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = sandbox.command().args(["cat", "nonsense"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    let mut daemon = sandbox.command();
    let mut daemon = daemon.arg("daemon").env("CIDFS_LOG", "trace").stderr(full()).spawn().unwrap();
    wait_for("the daemon", || sandbox.is_daemon_up());
    sandbox.ok(&["shutdown"]);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}
