//! Reaching the node: the running daemon over its socket, or a node opened for this one command.
//!
//! Both speak the same requests, so a command does not know which it has. The lock of the
//! repository decides: whoever holds it answers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::api;
use crate::api::server::SocketPath;
use crate::cli::Global;
use crate::cli::call::{Answer, Call};
use crate::cli::failure::Failure;
use crate::node::{Node, NodeError};

/// How long a command waits for another one that holds the repository: short commands end well
/// within it, and a person waits no longer for an answer.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a daemon may take for the shortest answer, on a machine with much to do.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it looks again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A way to the node.
#[derive(Debug)]
pub(crate) struct Client {
    transport: Transport,
    offline: bool,
    timeout: Option<String>,
    cid_base: Option<String>,
}

#[derive(Debug)]
enum Transport {
    /// A daemon runs; each request has a connection of its own.
    Socket(SocketPath),
    /// No daemon runs; this process is the node until [`Client::close`].
    InProcess { node: Arc<Node>, router: Router },
}

impl Client {
    /// Finds the daemon of the repository, or opens the repository.
    ///
    /// # Errors
    /// When there is no repository, or another process keeps it locked.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let transport = match reach(&global.repository()?).await? {
            Reached::Daemon(socket) => Transport::Socket(socket),
            Reached::Here(node) => {
                let requests = node.config_in_use().api.connections;
                Transport::InProcess { router: api::router(node.clone(), requests), node }
            }
        };
        Ok(Self {
            transport,
            offline: global.offline,
            timeout: global.timeout.clone(),
            cid_base: global.cid_base.clone(),
        })
    }

    /// Tells whether a daemon answers.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self.transport, Transport::Socket(_))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// What the node reports, or that it cannot be reached.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Failure> {
        let request = call
            .switch("offline", self.offline)
            .maybe("timeout", self.timeout.as_ref())
            .maybe("cid-base", self.cid_base.as_ref())
            .into_request()?;
        let response = match &self.transport {
            Transport::Socket(socket) => over(connect(socket).await?, request).await?,
            Transport::InProcess { router, .. } => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        Answer::of(response).await
    }

    /// Closes a repository that was opened for this command.
    ///
    /// # Errors
    /// When what was written cannot be made durable.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        match self.transport {
            Transport::Socket(_) => Ok(()),
            Transport::InProcess { node, router } => {
                drop(router);
                Ok(node.close().await?)
            }
        }
    }
}

/// Who has the repository.
pub(crate) enum Reached {
    /// A daemon, at this socket.
    Daemon(SocketPath),
    /// This process, from now on.
    Here(Arc<Node>),
}

/// Finds the daemon of the repository, or opens the repository; waits a little for another command
/// that has it.
///
/// # Errors
/// When there is no repository, or another process keeps it.
pub(crate) async fn reach(repo: &Path) -> Result<Reached, Failure> {
    let give_up = Instant::now() + LOCK_WAIT_MAX;
    loop {
        if let Some(socket) = daemon(repo).await? {
            return Ok(Reached::Daemon(socket));
        }
        match open_here(repo).await? {
            Ok(node) => return Ok(Reached::Here(node)),
            Err(error) if error.is_locked() && Instant::now() < give_up => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns the socket of the repository if a daemon answers on it. That one listens is not enough:
/// a process that was killed does so for as long as the kernel takes it apart.
///
/// # Errors
/// When the repository or its socket may not be used.
pub(crate) async fn daemon(repo: &Path) -> Result<Option<SocketPath>, Failure> {
    let refused = |error: io::Error| Failure::from(error).about(repo.display());
    let socket = match SocketPath::of(repo) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(refused)?,
    };
    match socket.connect().await {
        Ok(stream) => {
            let answer = over(stream, Call::new("version").into_request()?);
            let answer = tokio::time::timeout(ANSWER_WAIT_MAX, answer).await.map_err(|_late| {
                Failure::new("the daemon does not answer")
                    .about(repo.display())
                    .hint("is it stopped, or does very much wait for it (`api.connections`)?")
            })?;
            Ok(answer.is_ok().then_some(socket))
        }
        Err(error) if is_nobody(&error) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

/// Waits until no process has the repository; tells whether that came to be.
///
/// # Errors
/// When the repository cannot be opened for another reason.
pub(crate) async fn is_free_within(repo: &Path, patience: Duration) -> Result<bool, Failure> {
    let give_up = Instant::now() + patience;
    while Instant::now() < give_up {
        match open_here(repo).await? {
            Ok(node) => {
                node.close().await?;
                return Ok(true);
            }
            Err(error) if error.is_locked() => tokio::time::sleep(LOCK_POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Tells whether nobody listens, or somebody did who died before taking the connection.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

async fn open_here(repo: &Path) -> Result<Result<Arc<Node>, NodeError>, Failure> {
    let (repo, runtime) = (repo.to_owned(), Handle::current());
    let open = tokio::task::spawn_blocking(move || Node::open(&repo, runtime));
    open.await.map_err(Failure::new)
}

async fn connect(socket: &SocketPath) -> Result<UnixStream, Failure> {
    socket.connect().await.map_err(|error| {
        Failure::new(format!("the daemon cannot be reached any more: {error}"))
            .hint("it may just have stopped; try again")
    })
}

async fn over(
    stream: UnixStream,
    request: Request<Body>,
) -> Result<axum::http::Response<Body>, Failure> {
    let broken = |error: hyper::Error| Failure::new(format!("the daemon broke off: {error}"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its errors are those of the request, which are reported there.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(response.map(Body::new))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::api::server::SOCKET_NAME;

    /// Listeners that come and go: enough that one goes in the middle of a connection.
    const LISTENERS: usize = 5000;

    #[tokio::test]
    async fn a_daemon_that_dies_while_it_is_asked_is_none() {
        let repo = tempfile::tempdir().unwrap();
        let socket = repo.path().join(SOCKET_NAME);
        let coming_and_going = std::thread::spawn(move || {
            for _ in 0..LISTENERS {
                drop(UnixListener::bind(&socket).unwrap());
                std::fs::remove_file(&socket).unwrap();
            }
        });
        while !coming_and_going.is_finished() {
            assert!(daemon(repo.path()).await.unwrap().is_none());
        }
        coming_and_going.join().unwrap();
    }
}
