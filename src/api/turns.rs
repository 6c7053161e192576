//! How many requests are served at once: further ones wait for their turn, up to their own time.
//!
//! Who asks how the node is, or wants it to stop, does not wait behind those who wait for content.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Semaphore, oneshot};

use crate::api::request::Deadline;

/// Commands that are short, and of use when all turns are taken.
const AT_ONCE: [&str; 9] = [
    "/bitswap/stat",
    "/bitswap/wantlist",
    "/id",
    "/shutdown",
    "/status",
    "/swarm/limits",
    "/swarm/peers",
    "/umount",
    "/version",
];

/// The turns of all requests.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))))
    }
}

/// Serves a request when it is its turn, which lasts until the answer is sent or given up, or the client's time
/// is over: what is not read is not given up by itself.
pub(super) async fn wait(State(turns): State<Turns>, request: Request, next: Next) -> Response {
    if AT_ONCE.iter().any(|command| request.uri().path().ends_with(command)) {
        return next.run(request).await;
    }
    // Nobody closes it.
    let turn = turns.0.acquire_owned().await.ok();
    let deadline = Deadline::of(request.extensions());
    let (held, given_back) = oneshot::channel::<Infallible>();
    tokio::spawn(async move {
        deadline.limit(given_back).await;
        drop(turn);
    });
    next.run(request).await.map(|body| Body::new(Held { body, _turn: held }))
}

/// An answer that gives its turn back when it ends.
struct Held {
    body: Body,
    _turn: oneshot::Sender<Infallible>,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use futures::FutureExt as _;
    use tokio::time::{Instant, timeout};
    use tower::ServiceExt as _;

    use super::*;

    async fn endless() -> Body {
        Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_the_time_of_a_client_that_does_not_read() {
        let router: Router = Router::new()
            .route("/cat", post(endless))
            .layer(from_fn_with_state(Turns::new(1), wait));
        let ask = |query| {
            let mut request = Request::post("/cat").body(Body::empty()).unwrap();
            request.extensions_mut().insert(Deadline::start(query).unwrap());
            router.clone().oneshot(request)
        };
        let begun = Instant::now();
        let _unread = ask("timeout=3s").await.unwrap();
        let _next = ask("").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        timeout(Duration::from_mins(1), ask("")).await.unwrap_err();
    }

    #[tokio::test]
    async fn who_asks_how_the_node_is_does_not_wait_for_a_turn() {
        let router: Router = Router::new()
            .route("/api/v0/cat", post(endless))
            .route("/api/v0/id", post(|| async { "here" }))
            .layer(from_fn_with_state(Turns::new(2), wait));
        let ask = |command: &str| {
            let request = Request::post(format!("/api/v0/{command}")).body(Body::empty()).unwrap();
            router.clone().oneshot(request)
        };
        let one = ask("cat").await.unwrap();
        let _other = ask("cat").await.unwrap();
        assert!(ask("cat").now_or_never().is_none(), "both turns are taken");
        assert!(ask("id").await.is_ok());
        drop(one);
        tokio::task::yield_now().await;
        assert!(ask("cat").await.is_ok());
    }
}
