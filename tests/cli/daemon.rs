//! The life of the daemon: one at a time, many clients, clean stops and crashes.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::sandbox::{HELLO, Sandbox, TREE, vector_tree, wait_for};

#[test]
fn commands_mean_the_same_with_and_without_a_daemon() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    sandbox.ok(&["add", "-rQ", "d"]);
    let commands: [&[&str]; 8] = [
        &["ls", TREE],
        &["cat", HELLO],
        &["stat", TREE],
        &["pin", "ls"],
        &["dag", "stat", TREE],
        &["refs", "-r", TREE],
        &["config", "show"],
        &["add", "-rq", "d"],
    ];
    let alone: Vec<String> = commands.iter().map(|args| sandbox.ok(args)).collect();
    let daemon = sandbox.daemon();
    for (args, alone) in commands.iter().zip(alone) {
        assert_eq!(sandbox.ok(args), alone, "{args:?}");
    }
    assert!(sandbox.ok(&["status"]).starts_with("Daemon:     running"));
    assert_eq!(daemon.stop(), Some(0));
    assert!(sandbox.ok(&["status"]).starts_with("Daemon:     not running"));
}

#[test]
fn a_second_daemon_is_refused() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.daemon();
    for args in [&["daemon"][..], &["mount"]] {
        sandbox.fails(args, 1, &["a daemon is already running", "process", "Hint:"]);
    }
    sandbox.fails(&["repo", "rebuild"], 1, &["a daemon is using the repository"]);
    assert_eq!(daemon.stop(), Some(0));
    assert!(sandbox.ok(&["repo", "rebuild"]).starts_with("rebuilt"));
}

#[test]
fn the_socket_is_for_its_owner_and_goes_with_the_daemon() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.daemon();
    let socket = sandbox.repo().join("api.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    sandbox.ok(&["shutdown"]);
    assert_eq!(daemon.wait(), Some(0));
    assert!(!socket.try_exists().unwrap());
    sandbox.fails(&["shutdown"], 1, &["no daemon is running"]);
}

#[test]
fn the_socket_of_another_repository_at_the_same_path_stays() {
    let sandbox = Sandbox::new();
    let first = sandbox.daemon();
    let moved = sandbox.path("moved");
    std::fs::rename(sandbox.repo(), &moved).unwrap();
    sandbox.ok(&["init", "--preset=offline"]);
    let second = sandbox.daemon();
    first.stop();
    assert!(!moved.join("api.sock").try_exists().unwrap());
    sandbox.ok(&["shutdown"]);
    assert_eq!(second.wait(), Some(0));
}

#[test]
fn a_killed_daemon_leaves_what_was_acknowledged() {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    let daemon = sandbox.daemon();
    assert_eq!(sandbox.ok(&["add", "-rQ", "--pin-name=kept", "d"]), TREE);
    daemon.kill();
    assert!(sandbox.repo().join("api.sock").try_exists().unwrap(), "a crash leaves the socket");
    assert_eq!(sandbox.ok(&["cat", &format!("{TREE}/hello.txt")]), "hello world");
    let daemon = sandbox.daemon();
    assert_eq!(sandbox.ok(&["pin", "ls", "-n", "kept"]), format!("{TREE} recursive kept"));
    assert_eq!(sandbox.ok(&["pin", "verify", "--verbose"]), format!("{TREE} ok"));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn many_clients_are_served_at_once() {
    let sandbox = Sandbox::new();
    let _daemon = sandbox.daemon();
    std::thread::scope(|scope| {
        for client in 0..8_u8 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let content = vec![client; 1_500_000];
                let cid = sandbox.run_with_input(&["add", "-Q"], &content).ok();
                assert_eq!(sandbox.run(&["cat", &cid]).stdout, content);
            });
        }
    });
    assert_eq!(sandbox.ok(&["pin", "ls", "-t", "recursive"]).lines().count(), 8);
}

#[test]
fn a_command_keeps_to_its_time_though_the_daemon_does_not() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.daemon();
    daemon.pause(true);
    let begun = Instant::now();
    let run = sandbox.run(&["id", "--timeout=500ms"]);
    let took = begun.elapsed();
    daemon.pause(false);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("--timeout has passed"), "{}", run.stderr);
    assert!(took < Duration::from_secs(10), "{took:?}");
    sandbox.ok(&["id", "--timeout=10s"]);
}

#[test]
fn a_client_that_goes_away_costs_only_its_own_request() {
    let sandbox = Sandbox::new();
    let _daemon = sandbox.daemon();
    let mut client = sandbox.command().arg("add").stdin(Stdio::piped()).spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(&vec![1; 5_000_000]).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    sandbox.write("h", "hello world\n");
    assert_eq!(sandbox.ok(&["add", "-Q", "h"]), HELLO);
    assert_eq!(sandbox.ok(&["pin", "ls"]), format!("{HELLO} recursive"));
}

#[test]
fn a_stop_waits_for_what_is_under_way() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.daemon();
    let mut client = sandbox
        .command()
        .args(["add", "-Q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"hello ").unwrap();
    // The request has begun when the daemon has a connection more than it had.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut shutdown = sandbox.command().arg("shutdown").spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    stdin.write_all(b"world\n").unwrap();
    drop(stdin);
    assert!(shutdown.wait().unwrap().success());
    let output = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), HELLO);
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(sandbox.ok(&["cat", HELLO]), "hello world");
}

#[test]
fn a_long_path_has_a_socket_too() {
    let sandbox = Sandbox::without_repository();
    let repo = sandbox.path("deep/".repeat(40));
    let repo = repo.to_str().unwrap();
    sandbox.ok(&["--repo", repo, "init", "--preset=offline"]);
    let mut daemon = sandbox.command().args(["--repo", repo, "daemon"]).spawn().unwrap();
    wait_for("the daemon", || {
        let status = sandbox.run(&["--repo", repo, "status"]);
        String::from_utf8_lossy(&status.stdout).contains("Daemon:     running")
    });
    sandbox.ok(&["--repo", repo, "shutdown"]);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn status_is_for_scripts_too() {
    let sandbox = Sandbox::new();
    let _daemon = sandbox.daemon();
    let status: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["Repo"]["RepoPath"].as_str().map(Into::into), Some(sandbox.repo()));
    assert_eq!(status["Mounts"], serde_json::json!([]));
    assert!(status["MemoryBytes"].as_u64() > Some(1_000_000));
    assert!(sandbox.ok(&["repo", "stat"]).contains("NumObjects: 0"));
    let stat: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["repo", "stat", "--json"])).unwrap();
    assert_eq!(stat["Version"], "cidfs-repo@1");
}

#[test]
fn the_time_of_a_command_is_limited() {
    let sandbox = Sandbox::new();
    let check = || {
        // Standard input that says nothing and does not end.
        let (silent, _open) = std::io::pipe().unwrap();
        let mut command = sandbox.command();
        let output = command.args(["--timeout=200ms", "add"]).stdin(silent).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("deadline exceeded"));
    };
    check();
    let daemon = sandbox.daemon();
    check();
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_service_manager_hears_when_the_daemon_is_ready() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(super::sandbox::PATIENCE)).unwrap();
    let mut daemon = sandbox.command().arg("daemon").env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"READY=1");
    sandbox.ok(&["shutdown"]);
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_end() {
    let sandbox = Sandbox::new();
    sandbox.write("h", "hello world\n");
    sandbox.write("big", vec![7; 20 << 20]);
    let limited = |args: &str| {
        let mut command = sandbox.command_of("sh");
        let line = format!("ulimit -f 16384; exec {} {args}", env!("CARGO_BIN_EXE_cidfs"));
        command.args(["-c", &line]).stderr(Stdio::piped());
        command
    };
    let check = |code: Option<i32>, stderr: &[u8]| {
        let told = String::from_utf8_lossy(stderr);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("File too large") && told.contains("`ulimit -f`"), "{told}");
    };
    let alone = limited("add big").output().unwrap();
    check(alone.status.code(), &alone.stderr);
    let mut daemon = limited("daemon").stderr(Stdio::null()).spawn().unwrap();
    wait_for("the daemon", || sandbox.is_daemon_up());
    for _ in 0..2 {
        let run = sandbox.run(&["add", "big"]);
        check(Some(run.code), run.stderr.as_bytes());
    }
    assert_eq!(sandbox.ok(&["add", "-Q", "h"]), HELLO);
    assert_eq!(sandbox.ok(&["cat", HELLO]), "hello world");
    sandbox.ok(&["shutdown"]);
    assert!(daemon.wait().unwrap().success());
    assert_eq!(sandbox.ok(&["pin", "verify", "--verbose"]), format!("{HELLO} ok"));
}

#[test]
fn a_name_stays_on_its_line_of_the_log() {
    let sandbox = Sandbox::new();
    let name = "a\u{1b}[2J\nb";
    sandbox.write(name, vec![3; 3 << 20]);
    sandbox.ok(&["add", "-Q", "--nocopy", name]);
    let cid = sandbox.ok(&["add", "-nQ", name]);
    std::fs::remove_file(sandbox.path(name)).unwrap();
    let daemon = sandbox.command().arg("daemon").stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the daemon", || sandbox.is_daemon_up());
    assert_eq!(sandbox.run(&["cat", &cid]).code, 1);
    sandbox.ok(&["shutdown"]);
    let told = String::from_utf8(daemon.wait_with_output().unwrap().stderr).unwrap();
    assert!(told.contains(r"a\u{1b}[2J\nb"), "{told}");
    assert!(!told.replace('\n', "").contains(char::is_control), "{told:?}");
}

#[test]
fn logs_can_be_json() {
    let sandbox = Sandbox::new();
    let daemon =
        sandbox.command().args(["daemon", "--json-logs"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the daemon", || sandbox.is_daemon_up());
    sandbox.ok(&["shutdown"]);
    let output = daemon.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["fields"]["message"], "stopped");
}

#[test]
fn root_touches_nothing_in_a_repository_of_somebody_else() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("victim", "kept");
    std::os::unix::fs::symlink(sandbox.path("victim"), sandbox.repo().join("daemon.log")).unwrap();
    std::fs::write(sandbox.repo().join("config.toml"), "[log]\nlevel = \"a secret\"").unwrap();
    std::os::unix::fs::chown(sandbox.repo(), Some(65_534), None).unwrap();
    std::fs::create_dir(sandbox.path("m")).unwrap();
    for args in [&["mount", "/ipfs", "m"][..], &["mount"], &["daemon"]] {
        let run = sandbox.run(args);
        assert!(run.stderr.contains("it belongs to user 65534"), "{}", run.stderr);
        assert!(!run.stderr.contains("a secret"), "{}", run.stderr);
    }
    assert_eq!(std::fs::read(sandbox.path("victim")).unwrap(), b"kept");
    sandbox.write("victim", vec![0; 11 << 20]);
    sandbox.fails(&["mount", "/ipfs", "m"], 1, &["it belongs to user 65534"]);
    assert!(sandbox.repo().join("daemon.log").is_symlink(), "it is not moved away");
}

#[test]
fn a_bad_log_filter_is_named() {
    let sandbox = Sandbox::new();
    let output = sandbox.command().arg("daemon").env("CIDFS_LOG", "a=b=c").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CIDFS_LOG: \"a=b=c\""));
}

#[test]
fn a_socket_that_never_answers_is_no_daemon() {
    let sandbox = Sandbox::new();
    // As of a process that was killed and is not quite gone: connections are taken and broken off.
    let listener = std::os::unix::net::UnixListener::bind(sandbox.repo().join("api.sock")).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    sandbox.ok(&["repo", "stat"]);
}
