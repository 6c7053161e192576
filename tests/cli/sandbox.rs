//! A repository and a working directory of one test, and ways to run `cidfs` in them.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a daemon under test may take to start or stop on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A directory with a repository in it, gone with the value.
pub(crate) struct Sandbox {
    dir: TempDir,
}

/// What a run of `cidfs` left behind.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Sandbox {
    /// Returns a sandbox with an empty repository.
    pub(crate) fn new() -> Self {
        let sandbox = Self::without_repository();
        // A node under test talks to nobody it is not told to.
        sandbox.ok(&["init", "--preset=offline"]);
        sandbox
    }

    pub(crate) fn without_repository() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_cidfs"))
    }

    pub(crate) fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir.path())
            .env_remove("XDG_DATA_HOME")
            .env_remove("CIDFS_LOG")
            .env("CIDFS_PATH", self.repo())
            .env("HOME", self.path("home"))
            .stdin(Stdio::null());
        command
    }

    /// Runs with arguments that may be any bytes.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        Run::of(self.command().args(args).output().unwrap())
    }

    /// Runs with something on standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Run {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input));
        let run = Run::of(child.wait_with_output().unwrap());
        feeder.join().unwrap().unwrap();
        run
    }

    /// Runs, requires success, and returns standard output without its last line end.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        self.run(args).ok()
    }

    /// Runs and requires an exit code and words on standard error.
    #[track_caller]
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, args: &[S], code: i32, words: &[&str]) {
        let run = self.run(args);
        assert_eq!(run.code, code, "{}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "no {word:?} in {:?}", run.stderr);
        }
    }

    /// Starts a daemon in the foreground and waits until it answers.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_of(self.command())
    }

    /// The same in a network namespace that `ip netns` knows; its mounts are seen from everywhere.
    pub(crate) fn daemon_in(&self, namespace: &str) -> Daemon {
        let mut command = self.command_of("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(env!("CARGO_BIN_EXE_cidfs"));
        self.daemon_of(command)
    }

    fn daemon_of(&self, mut command: Command) -> Daemon {
        command.arg("daemon").stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Daemon { child: command.spawn().unwrap() };
        wait_for("the daemon", || self.is_daemon_up());
        daemon
    }

    pub(crate) fn is_daemon_up(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.repo().join("api.sock")).is_ok()
    }
}

impl Run {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        String::from_utf8(self.stdout).unwrap().trim_end_matches('\n').to_owned()
    }
}

/// A daemon in the foreground; dropping it asks it to stop and waits.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap().code()
    }

    /// Stops it in the middle of its work, or lets it go on.
    pub(crate) fn pause(&self, is_paused: bool) {
        use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
        self.signal(if is_paused { SIGSTOP } else { SIGCONT });
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end and returns the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(nix::sys::signal::Signal::SIGTERM);
            self.child.wait().unwrap();
        }
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The tree `d` of the test vectors: a file, a link to it, an empty directory.
pub(crate) fn vector_tree(sandbox: &Sandbox) {
    sandbox.write("d/hello.txt", "hello world\n");
    std::os::unix::fs::symlink("hello.txt", sandbox.path("d/link")).unwrap();
    std::fs::create_dir(sandbox.path("d/sub")).unwrap();
}

/// CID of [`vector_tree`] under `unixfs-v1-2025`.
pub(crate) const TREE: &str = "bafybeih2ywvenqkloyk4m47rbkgn2pc7rutkz6ws3utt6f3cn3kv3i245u";

/// CID of "hello world\n" under `unixfs-v1-2025`.
pub(crate) const HELLO: &str = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4";

/// A CID that is in no sandbox.
pub(crate) const ABSENT: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
