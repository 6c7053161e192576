//! `cidfs mount` and `umount`: a daemon is found or started, and what cannot be mounted is told.
//!
//! These need /dev/fuse and the right to mount, as every test of a mount does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use cidfs::testkit::fixtures::shared_fixtures;

use super::sandbox::{Sandbox, TREE, vector_tree, wait_for};

fn with_tree() -> Sandbox {
    let sandbox = Sandbox::new();
    vector_tree(&sandbox);
    assert_eq!(sandbox.ok(&["add", "-rQ", "d"]), TREE);
    std::fs::create_dir(sandbox.path("m")).unwrap();
    sandbox
}

/// Whether something is mounted on a directory of the sandbox.
fn is_mounted(sandbox: &Sandbox, name: &str) -> bool {
    let point = sandbox.path(name).canonicalize().unwrap();
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.split(' ').nth(1) == point.to_str())
}

fn stop(sandbox: &Sandbox) {
    sandbox.ok(&["shutdown"]);
    assert!(!sandbox.is_daemon_up(), "it has stopped when the command returns");
}

#[test]
fn a_mount_starts_a_daemon_and_is_there_when_it_returns() {
    let sandbox = with_tree();
    let told = sandbox.ok(&["mount", "/ipfs", "m"]);
    assert_eq!(
        told,
        format!("/ipfs mounted at: {}", sandbox.path("m").canonicalize().unwrap().display())
    );
    let read = std::fs::read(sandbox.path(format!("m/{TREE}/hello.txt"))).unwrap();
    assert_eq!(read, b"hello world\n");
    let names: Vec<_> = std::fs::read_dir(sandbox.path("m")).unwrap().collect();
    assert_eq!(names.len(), 1, "the listing shows the pin");
    std::fs::create_dir(sandbox.path("one")).unwrap();
    let source = format!("/ipfs/{TREE}");
    let json = sandbox.ok(&["mount", "--json", &source, "one", "-o", "noexec", "-o", "umask=077"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["Source"].as_str(), json["Options"].as_str()),
        (Some(&*source), Some("noexec,umask=077"))
    );
    assert!(sandbox.path("one/hello.txt").is_file());
    let status = sandbox.ok(&["status"]);
    assert!(status.contains("Mounts:     2") && status.contains("(noexec,umask=077)"), "{status}");
    sandbox.ok(&["umount", "one"]);
    assert!(!is_mounted(&sandbox, "one"));
    sandbox.fails(&["umount", "one"], 1, &["is not a mount of this node"]);
    stop(&sandbox);
    assert!(!is_mounted(&sandbox, "m"), "the daemon took it down");
}

#[test]
fn mount_points_may_have_any_name() {
    let sandbox = with_tree();
    let name = OsStr::from_bytes(b"m\xff");
    std::fs::create_dir(sandbox.path(name)).unwrap();
    sandbox.ok(&[OsStr::new("mount"), OsStr::new("/ipfs"), name]);
    assert!(sandbox.path(name).join(TREE).is_dir());
    let status = sandbox.ok(&["status", "--json"]);
    assert!(status.contains("/m\u{fffd}\""), "{status}");
    sandbox.ok(&[OsStr::new("umount"), name]);
    assert!(sandbox.ok(&["status"]).contains("Mounts:     0"));
    std::os::unix::fs::symlink("m", sandbox.path("link")).unwrap();
    sandbox.ok(&["mount", "/ipfs", "link"]);
    assert!(is_mounted(&sandbox, "m"), "the link is followed");
    sandbox.ok(&["umount", "link"]);
    assert!(!is_mounted(&sandbox, "m"));
    stop(&sandbox);
}

#[test]
fn two_mounts_at_once_do_not_land_on_each_other() {
    let sandbox = with_tree();
    let _daemon = sandbox.daemon();
    let codes = std::thread::scope(|scope| {
        let mount = || sandbox.run(&["mount", "/ipfs", "m"]).code;
        let mounts: Vec<_> = (0..4).map(|_| scope.spawn(mount)).collect();
        mounts.into_iter().map(|mount| mount.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    sandbox.ok(&["umount", "m"]);
    assert!(!is_mounted(&sandbox, "m"));
}

#[test]
fn a_daemon_in_the_background_keeps_no_directory() {
    let sandbox = with_tree();
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let status: serde_json::Value =
        serde_json::from_str(&sandbox.ok(&["status", "--json"])).unwrap();
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", status["Pid"])).unwrap();
    assert_eq!(cwd, std::path::Path::new("/"));
    stop(&sandbox);
}

#[test]
fn what_cannot_be_mounted_is_told() {
    let sandbox = with_tree();
    let _daemon = sandbox.daemon();
    sandbox.write("full/x", "x");
    let check = |args: &[&str], words: &[&str]| {
        sandbox.fails(&[&["mount"], args].concat(), 1, words);
    };
    check(&["/ipfs", "nowhere"], &["does not exist", "mkdir -p"]);
    check(&["/ipfs", "full"], &["is not empty", "nonempty"]);
    check(&["/ipfs", "d/hello.txt"], &["is not a directory"]);
    check(&["/ipfs", "m", "-o", "nonsense"], &["unknown mount option \"nonsense\""]);
    check(&["/ipfs", "m", "-o", "rw"], &["rw"]);
    check(&["/ipns", "m"], &["/ipns cannot be mounted yet"]);
    check(&[&format!("/ipfs/{TREE}/hello.txt"), "m"], &["is not a directory"]);
    check(&[&format!("/ipfs/{TREE}/nope"), "m"], &["no entry \"nope\""]);
    check(&["nonsense", "m"], &["nonsense"]);
    check(&["/ipfs", "."], &["the repository", "lies under the mount point"]);
    sandbox.ok(&["mount", "/ipfs", "m"]);
    check(&["/ipfs", "m"], &["already mounted"]);
    sandbox.ok(&["umount", "m"]);
}

#[test]
fn a_mount_that_fails_leaves_no_daemon() {
    let sandbox = with_tree();
    sandbox.fails(&["mount", "/ipfs", "nowhere"], 1, &["does not exist"]);
    wait_for("the daemon's end", || !sandbox.is_daemon_up());
    assert!(sandbox.ok(&["status"]).starts_with("Daemon:     not running"));
}

#[test]
fn without_arguments_the_configured_mount_runs_in_the_foreground() {
    let sandbox = with_tree();
    sandbox.fails(&["config", "mount.ipfs", "m"], 1, &["absolute"]);
    let point = sandbox.path("m");
    sandbox.ok(&["config", "mount.ipfs", point.to_str().unwrap()]);
    let mut mount = sandbox.command();
    let mut mount = mount.arg("mount").stderr(Stdio::null()).spawn().unwrap();
    wait_for("the mount", || is_mounted(&sandbox, "m") && sandbox.is_daemon_up());
    assert!(sandbox.path(format!("m/{TREE}/hello.txt")).is_file());
    let pid = nix::unistd::Pid::from_raw(i32::try_from(mount.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(mount.wait().unwrap().success());
    assert!(!is_mounted(&sandbox, "m"));
    sandbox.ok(&["config", "mount.ipfs", "/nowhere/at/all"]);
    sandbox.fails(&["mount"], 1, &["/nowhere/at/all does not exist", "cidfs config mount.ipfs"]);
}

#[test]
fn a_dead_mount_of_a_crash_is_taken_over() {
    let sandbox = with_tree();
    let daemon = sandbox.daemon();
    sandbox.ok(&["mount", "/ipfs", "m"]);
    daemon.kill();
    assert!(is_mounted(&sandbox, "m"));
    assert!(std::fs::read_dir(sandbox.path("m")).is_err(), "nobody answers");
    sandbox.ok(&["umount", "m"]);
    assert!(!is_mounted(&sandbox, "m"), "even without a daemon");
    let daemon = sandbox.daemon();
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let root = sandbox.path("m").metadata().unwrap();
    daemon.kill();
    let cached = sandbox.path("m").metadata().unwrap();
    assert_eq!(cached.modified().unwrap(), root.modified().unwrap(), "the kernel still knows it");
    sandbox.ok(&["mount", "/ipfs", "m"]);
    assert!(sandbox.path(format!("m/{TREE}/hello.txt")).is_file());
    stop(&sandbox);
    assert!(!is_mounted(&sandbox, "m"));
}

#[test]
fn a_mount_of_somebody_elses_umount_is_forgotten() {
    let sandbox = with_tree();
    let _daemon = sandbox.daemon();
    sandbox.ok(&["mount", "/ipfs", "m"]);
    let umount = std::process::Command::new("umount").arg(sandbox.path("m")).status().unwrap();
    assert!(umount.success());
    wait_for("the end of the mount", || sandbox.ok(&["status"]).contains("Mounts:     0"));
    sandbox.ok(&["mount", "/ipfs", "m"]);
    sandbox.ok(&["umount", "m"]);
}

#[test]
fn the_mount_helper_speaks_as_mount_does() {
    let sandbox = with_tree();
    let helper = sandbox.path("mount.cidfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cidfs"), &helper).unwrap();
    let mut command = std::process::Command::new(&helper);
    let options = format!("rw_is_not_asked=1,repo={}", sandbox.repo().display());
    let refused =
        command.arg("/ipfs").arg(sandbox.path("m")).args(["-o", &options]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("rw_is_not_asked"));
    let options = format!("ro,noauto,x-systemd.automount,repo={}", sandbox.repo().display());
    let mounted = std::process::Command::new(&helper)
        .arg("/ipfs")
        .arg(sandbox.path("m"))
        .args(["-s", "-o", &options])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    assert!(sandbox.path(format!("m/{TREE}/hello.txt")).is_file());
    stop(&sandbox);
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let sandbox = with_tree();
    std::fs::write(sandbox.repo().join("config.toml"), "[log]\nlevle = \"info\"\n").unwrap();
    sandbox.fails(&["mount", "/ipfs", "m"], 1, &["unknown key \"log.levle\"", "log.level"]);
}

#[test]
fn a_link_to_a_mount_point_means_the_mount() {
    let sandbox = with_tree();
    std::os::unix::fs::symlink("m", sandbox.path("link")).unwrap();
    let daemon = sandbox.daemon();
    sandbox.ok(&["mount", "/ipfs", "link"]);
    sandbox.ok(&["umount", "link"]);
    assert!(!is_mounted(&sandbox, "m"));
    sandbox.ok(&["mount", "/ipfs", "m"]);
    daemon.kill();
    let _daemon = sandbox.daemon();
    sandbox.ok(&["umount", "link"]);
    assert!(!is_mounted(&sandbox, "m"), "a dead mount too");
}

/// Mounts /ipfs on `m` by a daemon that has half a gibibyte of addresses.
fn mount_in_half_a_gibibyte(sandbox: &Sandbox) {
    let mount = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 524288 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_cidfs")])
        .args(["mount", "/ipfs", "m"])
        .current_dir(sandbox.path(""))
        .env("CIDFS_PATH", sandbox.repo())
        .output()
        .unwrap();
    assert!(mount.status.success(), "{mount:?}");
}

#[test]
fn a_daemon_lives_with_half_a_gibibyte_of_addresses() {
    let sandbox = with_tree();
    mount_in_half_a_gibibyte(&sandbox);
    let readers: Vec<_> = (0..8)
        .map(|_| sandbox.path(format!("m/{TREE}/hello.txt")))
        .map(|path| std::thread::spawn(move || std::fs::read(path).unwrap()))
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), b"hello world\n");
    }
    stop(&sandbox);
}

#[test]
fn hostile_trees_cost_only_themselves() {
    let Some(fixtures) = shared_fixtures() else { return };
    let sandbox = with_tree();
    mount_in_half_a_gibibyte(&sandbox);
    let index = std::fs::read(fixtures.join("adversarial/index.json")).unwrap();
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).unwrap();
    assert_eq!(index.len(), 34);
    for hostile in &index {
        let car = fixtures.join("adversarial").join(hostile["file"].as_str().unwrap());
        // Two of them have a block that is refused; the others in them are stored.
        let car = car.to_str().unwrap();
        sandbox.run(&["dag", "import", "--pin-roots=false", car]);
        let root = sandbox.path("m").join(hostile["root"].as_str().unwrap());
        let touch = "find . | head -n 2000 | xargs -d '\\n' stat; head -qc 1000000 ./*";
        let touched = std::process::Command::new("timeout")
            .args(["60", "sh", "-c", touch])
            .current_dir(&root)
            .output()
            .unwrap();
        assert_ne!(touched.status.code(), Some(124), "{car} takes for ever");
        assert_eq!(std::fs::read(root.join("good.txt")).unwrap(), b"good\n", "{car}");
    }
    stop(&sandbox);
}
