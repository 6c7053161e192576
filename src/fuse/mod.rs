//! The filesystem on a directory: sessions with the kernel, mount options, waiting requests.
//!
//! The idea: a thin adapter. Everything POSIX is decided in [`vfs`](crate::vfs), everything
//! privileged is done in [`sys::mount`](crate::sys::mount); here requests are carried from one to
//! the other, with a deadline. No session thread ever waits for a block, so the mount answers
//! whatever does not need one.

mod adapter;
mod backings;
mod late;
mod listings;
mod options;
mod requests;

use std::num::NonZero;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::adapter::Adapter;
use self::listings::drop_listings;
use self::requests::Requests;
use crate::sys::mount::{self, MountError, Mounted};
use crate::vfs::Vfs;

pub use self::options::{MountOptions, OptionError, TIMEOUT, TIMEOUT_MAX};

/// Threads that read requests: they never wait, so more than four would only compete.
const THREADS_MAX: usize = 4;
/// With two, a long answer does not hold up a short one.
const THREADS_MIN: usize = 2;

/// How far in KiB the kernel reads ahead: its largest request, four leaves of the usual 256 KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// How long unmounting waits for those who have files open, and then for the session to end.
const UNMOUNT_GRACE: Duration = Duration::from_secs(2);
const UNMOUNT_TICK: Duration = Duration::from_millis(20);

/// A live mount; dropping it unmounts.
#[derive(Debug)]
pub struct Mount {
    mounted: Mounted,
    ended: watch::Receiver<bool>,
    requests: Requests,
}

/// Mounts `vfs` on the directory `dir`. Waiting requests become tasks of `runtime`, which must run
/// on its own threads.
///
/// # Errors
/// [`MountError`] says what to do about it.
pub fn mount(
    vfs: Vfs,
    dir: &Path,
    options: &MountOptions,
    runtime: &Handle,
) -> Result<Mount, MountError> {
    let point = mount::prepare_point(dir, options.nonempty)?;
    let (device, mounted) = mount::mount(&point, &options.spec())?;
    let (end, ended) = watch::channel(false);
    let requests = Requests::new(runtime.clone(), options.timeout);
    // From here on a failure unmounts.
    let mount = Mount { mounted, ended, requests: requests.clone() };
    let closing = CloseOnDrop { requests: requests.clone(), end };
    let changes = vfs.changes();
    let session = Session::from_fd(
        Adapter::new(vfs, requests.clone(), options.small_files),
        device,
        SessionACL::All,
        session_config(),
    )
    .map_err(|source| failed(&mount, source))?;
    runtime.spawn(drop_listings(changes, session.notifier(), requests.closed()));
    thread::Builder::new()
        .name("cidfs-session".to_owned())
        .spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "the session with the kernel ended with an error");
            }
            drop(closing);
        })
        .map_err(|source| failed(&mount, source))?;
    if !mount.mounted.set_read_ahead_kib(READ_AHEAD_KIB) {
        tracing::debug!("not allowed to raise the kernel's read-ahead");
    }
    Ok(mount)
}

fn failed(mount: &Mount, source: std::io::Error) -> MountError {
    let path = mount.mounted.point().to_owned();
    MountError::Io { what: "cannot start the session with the kernel for", path, source }
}

fn session_config() -> Config {
    let cores = thread::available_parallelism().map_or(THREADS_MIN, NonZero::get);
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(cores.clamp(THREADS_MIN, THREADS_MAX));
    config.clone_fd = mount::can_open_device();
    config
}

/// The end of a session, however it comes.
struct CloseOnDrop {
    requests: Requests,
    end: watch::Sender<bool>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.requests.close();
        self.end.send_replace(true);
    }
}

impl Mount {
    /// Returns the directory, without symbolic links.
    pub fn point(&self) -> &Path {
        self.mounted.point()
    }

    /// Tells whether requests are still answered.
    pub fn is_alive(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Waits until the mount has ended, whoever unmounted it.
    pub async fn wait(&self) {
        // An error means that the sender is gone, and with it the session.
        self.ended.clone().wait_for(|ended| *ended).await.ok();
    }

    /// Unmounts and waits for the end of the session. Those who have files open get two seconds;
    /// then their files fail. Blocks the calling thread.
    ///
    /// # Errors
    /// [`MountError::StillOpen`] when the directory is unmounted but files stay usable, because
    /// this process may not cut them off; others when it stays mounted.
    pub fn unmount(&self) -> Result<(), MountError> {
        if !self.is_alive() {
            // Device numbers are used again, so what is there now need not be ours.
            return mount::clear_dead(self.mounted.point());
        }
        let patience = Instant::now() + UNMOUNT_GRACE;
        while !self.mounted.unmount()? {
            if Instant::now() > patience {
                self.force()?;
                break;
            }
            thread::sleep(UNMOUNT_TICK);
        }
        self.wait_for_end()
    }

    /// Those who wait for blocks are let go first: an unprivileged process may be unable to abort.
    fn force(&self) -> Result<(), MountError> {
        self.requests.close();
        self.mounted.force()
    }

    fn wait_for_end(&self) -> Result<(), MountError> {
        let patience = Instant::now() + UNMOUNT_GRACE;
        while self.is_alive() {
            if Instant::now() > patience {
                return self.force();
            }
            thread::sleep(UNMOUNT_TICK);
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let is_left = self.is_alive() || self.mounted.is_mounted();
        if is_left && let Err(error) = self.unmount() {
            tracing::error!(%error, "a mount is left behind");
        }
    }
}
