//! `cidfs daemon`: the node in the foreground, until a signal or `cidfs shutdown`.
//!
//! Also what starts one in the background for a mount: the same program in a session of its own,
//! with its log in the repository.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::fcntl::OFlag;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::api;
use crate::api::control::{Control as _, MountRequest, MountSource};
use crate::api::server::{SOCKET_NAME, Server};
use crate::cli::call::Call;
use crate::cli::client::{Client, Reached, daemon, is_free_within, reach};
use crate::cli::failure::{Failure, tell};
use crate::cli::{Global, log};
use crate::node::config::Config;
use crate::node::{self, Node};
use crate::sys::files;

/// How long a daemon in the background may take to answer: opening a repository after a crash
/// hashes one pack, which takes seconds on a slow disk.
const START_WAIT_MAX: Duration = Duration::from_mins(1);

/// How long a daemon may take to stop: its grace for requests, and mounts that are in use.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Name of the log of a daemon in the background.
const LOG_NAME: &str = "daemon.log";

/// Length in bytes at which that log is set aside as `daemon.log.old` before a start.
const LOG_LEN_MAX: u64 = 10 * 1024 * 1024;

/// Bytes at the end of the log that are shown when a start fails.
const LOG_SHOWN_LEN: u64 = 2048;

/// Run the node in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs daemon
  cidfs daemon --mount                    with the mounts of the configuration
  CIDFS_LOG=debug cidfs daemon --json-logs")]
pub(crate) struct Daemon {
    /// Mount what the configuration says too
    #[arg(long)]
    mount: bool,
    /// Log one JSON object a line
    #[arg(long)]
    json_logs: bool,
    /// Leave the terminal (used by `cidfs mount`)
    #[arg(long, hide = true)]
    background: bool,
}

impl Daemon {
    /// Returns a daemon with the mounts of the configuration.
    pub(crate) fn with_mounts() -> Self {
        Self { mount: true, json_logs: false, background: false }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        if self.background {
            nix::unistd::setsid().map_err(|errno| Failure::new(errno.desc()))?;
        }
        let repo = global.repository()?;
        // Before anything of it is read: whoever owns it decides what that is.
        node::require(&repo)?;
        // A configuration that cannot be used is reported when the node opens.
        let config = Config::load(&repo).ok();
        log::start(config.as_ref().map(|config| &config.log), self.json_logs)?;
        let node = match reach(&repo).await? {
            Reached::Daemon(_) => return Err(already_running(&repo)),
            Reached::Here(node) => node,
        };
        let served = self.serve(&node, &repo).await;
        let closed = node.close().await;
        tracing::info!("stopped");
        served.and(closed.map_err(Failure::from))
    }

    async fn serve(&self, node: &Arc<Node>, repo: &Path) -> Result<(), Failure> {
        let stop = stop_of(node.clone())?;
        if let Err(error) = files::raise_open_max() {
            tracing::warn!(%error, "the bound of open files stays what it was");
        }
        node.take_part()?;
        if self.mount {
            mount_configured(node.clone()).await?;
        }
        let requests = node.config_in_use().api.connections;
        let server = Server::bind(repo, requests)
            .map_err(|error| Failure::from(error).about(repo.join(SOCKET_NAME).display()))?;
        let pid = std::process::id();
        tell(format_args!("Daemon is ready (repository {}, process {pid})", repo.display()));
        notify_ready()?;
        Ok(server.serve(api::router(node.clone(), requests), stop).await?)
    }
}

async fn mount_configured(node: Arc<Node>) -> Result<(), Failure> {
    let config = node.config_in_use().mount.clone();
    let (dir, options) = (config.ipfs, config.options);
    let request = MountRequest { dir, options };
    let mounting =
        tokio::task::spawn_blocking(move || node.mount(&MountSource::Namespace, &request));
    let mount = mounting.await.map_err(Failure::new)?.map_err(|error| {
        Failure::from(error).hint("`cidfs config mount.ipfs DIR` chooses another mount point")
    })?;
    tell(format_args!("{} mounted at: {}", mount.source, mount.dir.display()));
    Ok(())
}

/// Tells the service manager, if there is one, that the daemon answers (`sd_notify(3)`).
fn notify_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

fn already_running(repo: &Path) -> Failure {
    let process = holder(repo).map_or(String::new(), |pid| format!(" (process {pid})"));
    Failure::new(format!("a daemon is already running for {}{process}", repo.display()))
        .hint("`cidfs mount /ipfs DIR` asks it for a mount, `cidfs shutdown` stops it")
}

/// Returns the number of the process that has the repository, as far as it is known.
fn holder(repo: &Path) -> Option<u32> {
    std::fs::read_to_string(repo.join("lock")).ok()?.trim().parse().ok()
}

/// Returns what completes when the daemon is to stop.
fn stop_of(node: Arc<Node>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The terminal is gone: without this the mounts would be left dead.
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hang_up.recv() => "SIGHUP",
            () = node.stop_requested() => "a request",
        };
        tracing::info!(reason, "stopping");
    })
}

/// Starts a daemon in the background and waits until one answers; tells whether it is this one,
/// since another command may have started one at the same time.
///
/// # Errors
/// Why it did not start, from its log.
pub(crate) async fn start_in_background(global: &Global) -> Result<bool, Failure> {
    let repo = global.repository()?;
    // Its log lies there, and is opened by this process.
    node::require(&repo)?;
    let (log, start) = open_log(&repo)
        .map_err(|error| Failure::from(error).about(repo.join(LOG_NAME).display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--repo")
        .arg(&repo)
        .args(["daemon", "--background"])
        // It must not keep the volume of the caller's directory from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let give_up = Instant::now() + START_WAIT_MAX;
    loop {
        // Asked before: one that has ended because of another has left the other to be found.
        let ended = child.try_wait()?;
        if daemon(&repo).await?.is_some() {
            return Ok(holder(&repo) == Some(child.id()));
        }
        if let Some(status) = ended {
            let words = log_since(&repo, start).unwrap_or_default();
            return Err(started_badly(&words, &format!("the daemon ended at once ({status})")));
        }
        if Instant::now() > give_up {
            child.kill()?;
            child.wait()?;
            return Err(started_badly("", "the daemon did not answer within a minute"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Opens the log of a daemon in the background; tells where the new part begins.
fn open_log(repo: &Path) -> io::Result<(File, u64)> {
    let path = repo.join(LOG_NAME);
    if path.symlink_metadata().is_ok_and(|log| log.is_file() && log.len() > LOG_LEN_MAX) {
        std::fs::rename(&path, repo.join(format!("{LOG_NAME}.old")))?;
    }
    let log = open_plain(OpenOptions::new().create(true).append(true).mode(0o600), &path)?;
    let start = log.metadata()?.len();
    Ok((log, start))
}

/// Opens what is a file itself: a link could lead anywhere, and a FIFO would be waited for.
fn open_plain(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("is no regular file; remove it"));
    }
    options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
}

fn log_since(repo: &Path, start: u64) -> io::Result<String> {
    let mut log = open_plain(OpenOptions::new().read(true), &repo.join(LOG_NAME))?;
    let end = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_SHOWN_LEN))))?;
    let mut text = Vec::new();
    log.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Tells what the daemon said itself, if it said something.
fn started_badly(log: &str, otherwise: &str) -> Failure {
    let line = |word: &str| log.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
    let failure = Failure::new(line("Error: ").unwrap_or_else(|| otherwise.to_owned()));
    match line("Hint: ") {
        Some(hint) => failure.hint(hint),
        None => failure.hint(format!("its log is {LOG_NAME} in the repository")),
    }
}

/// Stop the daemon
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs shutdown")]
pub(crate) struct Shutdown {}

impl Shutdown {
    /// Asks it to stop and waits until it has: mounts first, then the store.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        if !client.is_daemon() {
            return Err(Failure::new("no daemon is running for this repository"));
        }
        stop(global, client).await
    }
}

/// Asks the daemon to stop and waits until it has: until then another command would find it, and lose it.
pub(crate) async fn stop(global: &Global, client: &Client) -> Result<(), Failure> {
    client.send(Call::new("shutdown")).await?;
    if is_free_within(&global.repository()?, STOP_WAIT_MAX).await? {
        return Ok(());
    }
    Err(Failure::new("the daemon has not stopped yet")
        .hint("it finishes what is under way; `cidfs status` tells when it is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_a_file_and_nothing_that_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (elsewhere, log) = (dir.path().join("elsewhere"), dir.path().join(LOG_NAME));
        std::fs::write(&elsewhere, b"kept").unwrap();
        for target in [&elsewhere, &dir.path().join("new")] {
            std::os::unix::fs::symlink(target, &log).unwrap();
            let refused = open_log(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("is no regular file; remove it"), "{refused}");
            log_since(dir.path(), 0).unwrap_err();
            std::fs::remove_file(&log).unwrap();
        }
        assert!(!dir.path().join("new").try_exists().unwrap(), "nothing was made there");
        std::fs::write(&log, b"before").unwrap();
        let (_, start) = open_log(dir.path()).unwrap();
        assert_eq!((start, log_since(dir.path(), 2).unwrap().as_str()), (6, "fore"));
    }
}
