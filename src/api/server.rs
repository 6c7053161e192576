//! The control socket: who may connect, how many at once, and how it ends.
//!
//! The socket lies in the repository with mode 0600, and the kernel tells who is at the other
//! end: only the daemon's own user and root are listened to. The path of a Unix socket holds 107
//! bytes; a repository with a longer path is reached through `/proc/self/fd`, which has the same
//! meaning and is always short. Nothing here knows what requests mean.

use std::fs::{File, Permissions};
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Name of the socket in the repository.
pub const SOCKET_NAME: &str = "api.sock";

/// Longest path in bytes that fits into `sockaddr_un` with its final NUL.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Connections that may wait, or ask what is answered at once, while others are served.
const WAITING_MAX: usize = 128;

/// Time that requests under way get when the daemon stops: enough to finish what is being
/// written, short enough for a service manager, whose patience is 90 seconds.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A path to the socket of a repository that is short enough for the kernel.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    #[expect(dead_code, reason = "keeps /proc/self/fd/N alive while the path is in use")]
    folder: Option<File>,
}

impl SocketPath {
    /// Returns the path to the socket of the repository at `repo`.
    ///
    /// # Errors
    /// When the repository cannot be opened.
    pub fn of(repo: &Path) -> io::Result<Self> {
        let direct = repo.join(SOCKET_NAME);
        if direct.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
            return Ok(Self { path: direct, folder: None });
        }
        let folder = File::open(repo)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()));
        Ok(Self { path, folder: Some(folder) })
    }

    /// Connects to the daemon of the repository.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when no daemon listens, `ConnectionReset` when it stopped
    /// listening at this moment.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path).await
    }
}

/// A socket that listens, with the permissions set.
#[derive(Debug)]
pub struct Server {
    listener: OwnListener,
    /// The repository, whatever its path leads to later.
    folder: File,
}

impl Server {
    /// Listens in the repository at `repo`, whose lock the caller holds: a socket that is there
    /// already is the rest of a crash. Beside `requests` that are served, 128 may wait for their turn; the
    /// next waits to be accepted.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(repo: &Path, requests: usize) -> io::Result<Self> {
        let folder = File::open(repo)?;
        remove_socket(&folder)?;
        let inner = UnixListener::bind(&SocketPath::of(repo)?.path)?;
        std::fs::set_permissions(repo.join(SOCKET_NAME), Permissions::from_mode(0o600))?;
        let connections = requests.saturating_add(WAITING_MAX).min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(connections));
        Ok(Self { listener: OwnListener { inner, places }, folder })
    }

    /// Serves until `stop` completes and the requests under way have ended or used up their
    /// grace; the socket is gone when this returns.
    ///
    /// # Errors
    /// When the socket cannot be removed.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = axum::serve(self.listener, router).with_graceful_shutdown(async {
            // A sender that is gone means the same: stop.
            let _stop: Result<(), _> = stopped.await;
        });
        let serve = std::pin::pin!(serve.into_future());
        let grace = async {
            stop.await;
            drop(stopping);
            tokio::time::sleep(STOP_GRACE).await;
        };
        tokio::select! {
            served = serve => served?,
            () = grace => tracing::warn!("requests that were still running have been broken off"),
        }
        remove_socket(&self.folder)
    }
}

/// Removes the socket of the repository in `folder`, if it is there.
fn remove_socket(folder: &File) -> io::Result<()> {
    match unlinkat(folder, SOCKET_NAME, UnlinkatFlags::NoRemoveDir).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Accepts connections of this user and root, a bounded number at once.
#[derive(Debug)]
struct OwnListener {
    inner: UnixListener,
    places: Arc<Semaphore>,
}

impl Listener for OwnListener {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else {
                return std::future::pending().await;
            };
            let (stream, address) = Listener::accept(&mut self.inner).await;
            if is_allowed(&stream) {
                return (Counted { stream, _place: place }, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(caller) if caller.uid() == own || caller.uid() == 0 => true,
        Ok(caller) => {
            tracing::warn!(uid = caller.uid(), "refused a control connection of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a control connection of an unknown user");
            false
        }
    }
}

/// A connection that gives its place back when it ends.
#[derive(Debug)]
struct Counted {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    /// Without this the server would copy every piece of an answer once more.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
