//! Answers: one JSON value, a stream of them, or bytes; with late errors told, never swallowed.
//!
//! A stream is produced by one task into a bounded channel, so a slow reader slows the producer.
//! The head is sent when the first piece is there: an error before that is an ordinary failure.
//! An error after that goes into the trailer `X-Stream-Error` if the client reads trailers, and
//! breaks the connection off otherwise; either way the client cannot take the part for the whole.
//! When the client goes away the task is cancelled.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, TRAILER};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::api::error::ApiError;
use crate::api::request::{Deadline, Params};

/// Header of a stream of bytes.
pub const STREAM_OUTPUT: HeaderName = HeaderName::from_static("x-stream-output");
/// Header of a stream of JSON values, one a line.
pub const CHUNKED_OUTPUT: HeaderName = HeaderName::from_static("x-chunked-output");
/// Length in bytes of what a stream of bytes will bring, where it is known.
pub const CONTENT_LENGTH: HeaderName = HeaderName::from_static("x-content-length");
/// Trailer with the sentence of a late error.
pub const STREAM_ERROR: HeaderName = HeaderName::from_static("x-stream-error");

/// Pieces under way between the producer and the connection: of up to 1 MiB each, so that what is read waits
/// for the socket, and a request that stalls holds a few MiB.
const PIECES_MAX: usize = 2;

/// What a stream carries, which decides its headers.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// One JSON value, too long to be held whole.
    OneJson,
    /// JSON values, one a line.
    Json,
    /// Bytes of a media type, with their number if known.
    Bytes(&'static str, Option<u64>),
}

/// Where a producer puts its pieces.
#[derive(Debug, Clone)]
pub struct Sink {
    sender: mpsc::Sender<Bytes>,
    deadline: Deadline,
    runtime: Handle,
}

/// The client has gone away; there is nobody to work for.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client has gone away")]
pub struct Gone;

impl From<Gone> for ApiError {
    fn from(gone: Gone) -> Self {
        Self::failed(gone)
    }
}

impl Sink {
    fn new(sender: mpsc::Sender<Bytes>, params: &Params) -> Self {
        Self { sender, deadline: params.deadline(), runtime: Handle::current() }
    }

    /// Sends bytes.
    pub async fn bytes(&self, bytes: Bytes) -> Result<(), Gone> {
        self.sender.send(bytes).await.map_err(|_| Gone)
    }

    /// Sends a JSON value on its own line.
    pub async fn json(&self, value: &impl Serialize) -> Result<(), ApiError> {
        Ok(self.bytes(json_line(value)?).await?)
    }

    /// Waits, on a thread that may block, as long as the client does.
    ///
    /// # Errors
    /// Those of `work`, and [`Gone`].
    pub fn wait<T, E: From<Gone>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.gone() => Err(Gone.into()),
                done = work => done,
            }
        })
    }

    /// Sends bytes from a thread that may block.
    pub fn bytes_blocking(&self, bytes: Bytes) -> Result<(), Gone> {
        self.wait(self.bytes(bytes))
    }

    /// Sends a JSON value from a thread that may block.
    pub fn json_blocking(&self, value: &impl Serialize) -> Result<(), ApiError> {
        Ok(self.bytes_blocking(json_line(value)?)?)
    }

    /// Tells whether nobody reads any more, so that a thread which cannot be cancelled can stop.
    pub fn is_gone(&self) -> bool {
        self.sender.is_closed() || self.deadline.is_over()
    }

    /// Waits until nobody reads any more. When the time of the client is over it may be that it only left off
    /// reading, and nobody closes the channel.
    async fn gone(&self) {
        self.deadline.limit(self.sender.closed()).await;
    }
}

/// Answers with one JSON value.
pub fn json(value: &impl Serialize) -> Response {
    let (body, status) = match json_line(value) {
        Ok(line) => (Body::from(line), axum::http::StatusCode::OK),
        Err(error) => {
            (Body::from(error.message().to_owned()), axum::http::StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Answers with what an asynchronous task produces.
///
/// # Errors
/// What the task reports before its first piece.
pub async fn stream<F, W>(params: &Params, kind: Kind, work: F) -> Result<Response, ApiError>
where
    F: FnOnce(Sink) -> W,
    W: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let task = tokio::spawn(until(params.deadline(), work(Sink::new(sender, params))));
    start(params, kind, receiver, task).await
}

/// Answers with what a blocking piece of work produces on a thread of its own.
///
/// # Errors
/// What the work reports before its first piece.
pub async fn stream_blocking<F>(params: &Params, kind: Kind, work: F) -> Result<Response, ApiError>
where
    F: FnOnce(Sink) -> Result<(), ApiError> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let sink = Sink::new(sender, params);
    let task = tokio::task::spawn_blocking(move || work(sink));
    let deadline = params.deadline();
    // Dropping the waiting task drops nothing of the thread, but the closed channel stops it.
    let task = tokio::spawn(async move { until(deadline, async { join(task.await) }).await });
    start(params, kind, receiver, task).await
}

/// Runs blocking work of the store on a thread where it disturbs nobody.
///
/// # Errors
/// What the work reports. When the client's time is over, the work ends unheard.
pub async fn blocking<T, F>(work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    join(tokio::task::spawn_blocking(work).await)
}

/// Waits for `work` until the client's time is over.
///
/// # Errors
/// What the work reports, or that the time is over.
pub(super) async fn until<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    match deadline.limit(work).await {
        // What fails when the time is over fails because of that.
        Some(done) if done.is_ok() || !deadline.is_over() => done,
        _ => Err(ApiError::timed_out()),
    }
}

fn join<T>(joined: Result<Result<T, ApiError>, tokio::task::JoinError>) -> Result<T, ApiError> {
    joined.unwrap_or_else(|error| {
        tracing::error!(%error, "a request handler panicked");
        Err(ApiError::failed("an internal error; the log has the details"))
    })
}

fn json_line(value: &impl Serialize) -> Result<Bytes, ApiError> {
    let mut line = serde_json::to_vec(value).map_err(ApiError::failed)?;
    line.push(b'\n');
    Ok(line.into())
}

async fn start(
    params: &Params,
    kind: Kind,
    receiver: mpsc::Receiver<Bytes>,
    task: JoinHandle<Result<(), ApiError>>,
) -> Result<Response, ApiError> {
    let trailers = params.trailers();
    let mut body = StreamBody { first: None, receiver, task: Some(task), failure: None, trailers };
    body.first = poll_fn(|context| body.poll_piece(context)).await.transpose()?;
    Ok(with_headers(Body::new(body), kind))
}

fn with_headers(body: Body, kind: Kind) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(TRAILER, HeaderValue::from_static("X-Stream-Error"));
    let yes = HeaderValue::from_static("1");
    let json = HeaderValue::from_static("application/json");
    match kind {
        Kind::OneJson => {
            headers.insert(CONTENT_TYPE, json);
        }
        Kind::Json => {
            headers.insert(CONTENT_TYPE, json);
            headers.insert(CHUNKED_OUTPUT, yes);
        }
        Kind::Bytes(media_type, len) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            headers.insert(STREAM_OUTPUT, yes);
            if let Some(len) = len {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
            }
        }
    }
    response
}

struct StreamBody {
    first: Option<Bytes>,
    receiver: mpsc::Receiver<Bytes>,
    /// `None` once it ended.
    task: Option<JoinHandle<Result<(), ApiError>>>,
    /// How it failed, until that is told.
    failure: Option<ApiError>,
    trailers: bool,
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let body = self.get_mut();
        if let Some(first) = body.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        Poll::Ready(ready!(body.poll_piece(context)).map(|piece| match piece {
            Ok(bytes) => Ok(Frame::data(bytes)),
            Err(error) => body.late(&error),
        }))
    }
}

impl StreamBody {
    /// Returns the next piece, and after the last one how the work failed.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        if let Some(task) = &mut self.task
            && let Poll::Ready(result) = Pin::new(task).poll(context)
        {
            self.task = None;
            self.failure = join(result).err();
            if self.failure.is_some() {
                // A thread may be at work that knows nothing of it, when the client's time is over.
                self.receiver.close();
            }
        }
        let piece = ready!(self.receiver.poll_recv(context));
        match (piece, &self.task) {
            (None, Some(_)) => Poll::Pending,
            (piece, _) => Poll::Ready(piece.map(Ok).or_else(|| self.failure.take().map(Err))),
        }
    }

    fn late(&self, error: &ApiError) -> Result<Frame<Bytes>, BrokenOff> {
        if !self.trailers {
            return Err(BrokenOff(error.message().to_owned()));
        }
        // A header takes visible ASCII; names in a message may hold anything.
        let told: String = error.message().chars().flat_map(visible).collect();
        let value = HeaderValue::from_str(&told).map_err(|_| BrokenOff(told))?;
        Ok(Frame::trailers(HeaderMap::from_iter([(STREAM_ERROR, value)])))
    }
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let is_visible = matches!(character, ' '..='~');
    let escaped = (!is_visible).then(|| character.escape_default()).into_iter().flatten();
    is_visible.then_some(character).into_iter().chain(escaped)
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A stream that ends early without a trailer to say why: the connection is broken off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokenOff(String);

#[cfg(test)]
mod tests {
    use axum::extract::{FromRequestParts as _, Request};
    use http_body_util::BodyExt as _;

    use super::*;

    async fn params(query: &str, te: &str) -> Params {
        let request = Request::builder().uri(format!("/x?{query}")).header("te", te).body(());
        let mut parts = request.unwrap().into_parts().0;
        parts.extensions.insert(Deadline::start(query).unwrap());
        Params::from_request_parts(&mut parts, &()).await.unwrap()
    }

    async fn fail_late(sink: Sink) -> Result<(), ApiError> {
        sink.bytes(Bytes::from_static(b"part")).await?;
        Err(ApiError::failed("\"broken\" \u{e9}"))
    }

    #[tokio::test]
    async fn a_late_error_is_told_in_the_trailer() {
        let params = params("", "trailers").await;
        let answer = stream(&params, Kind::Json, fail_late).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()[STREAM_ERROR], "\"broken\" \\u{e9}");
        assert_eq!(body.to_bytes(), "part");
    }

    #[tokio::test]
    async fn without_trailers_a_late_error_breaks_the_stream() {
        let params = params("", "").await;
        let answer = stream(&params, Kind::Json, fail_late).await.unwrap();
        assert!(answer.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn an_early_error_is_an_ordinary_failure() {
        let params = params("", "trailers").await;
        let early = |_| async { Err(ApiError::client("no")) };
        assert_eq!(stream(&params, Kind::Json, early).await.unwrap_err().message(), "no");
    }

    #[tokio::test]
    async fn the_time_of_the_client_ends_a_stream() {
        let params = params("timeout=20ms", "trailers").await;
        let wait = |sink: Sink| async move {
            sink.bytes(Bytes::from_static(b"part")).await?;
            std::future::pending().await
        };
        let answer = stream(&params, Kind::Json, wait).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert!(body.trailers().unwrap()[STREAM_ERROR].to_str().unwrap().contains("deadline"));
    }

    #[tokio::test]
    async fn the_time_of_the_client_ends_a_stream_whose_thread_goes_on() {
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let params = params("timeout=20ms", "trailers").await;
        let wait = move |sink: Sink| {
            sink.bytes_blocking(Bytes::from_static(b"part"))?;
            held.recv().unwrap();
            Ok(sink.bytes_blocking(Bytes::from_static(b"late"))?)
        };
        let answer = stream_blocking(&params, Kind::Json, wait).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert!(body.trailers().unwrap()[STREAM_ERROR].to_str().unwrap().contains("deadline"));
        assert_eq!(body.to_bytes(), "part");
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn the_time_of_the_client_ends_a_stream_that_has_more_to_bring() {
        let params = params("timeout=20ms", "trailers").await;
        let endless = |sink: Sink| loop {
            sink.bytes_blocking(Bytes::from_static(b"more"))?;
        };
        let answer = stream_blocking(&params, Kind::Json, endless).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        assert!(body.trailers().unwrap()[STREAM_ERROR].to_str().unwrap().contains("deadline"));
    }

    #[tokio::test]
    async fn the_time_of_the_client_ends_a_thread_whose_stream_nobody_reads() {
        let (alive, mut watch) = mpsc::channel::<()>(1);
        let params = params("timeout=20ms", "trailers").await;
        let endless = move |sink: Sink| {
            let _alive = alive;
            loop {
                sink.bytes_blocking(Bytes::from_static(b"more"))?;
            }
        };
        let answer = stream_blocking(&params, Kind::Json, endless).await.unwrap();
        assert_eq!(watch.recv().await, None);
        drop(answer);
    }

    #[tokio::test]
    async fn a_thread_waits_no_longer_than_the_client() {
        let (alive, mut watch) = mpsc::channel::<()>(1);
        for query in ["timeout=20ms", ""] {
            let (params, alive) = (params(query, "trailers").await, alive.clone());
            let wait = move |sink: Sink| {
                let _alive = alive;
                sink.bytes_blocking(Bytes::from_static(b"part"))?;
                sink.wait(std::future::pending())
            };
            let answer = stream_blocking(&params, Kind::Json, wait).await.unwrap();
            // One does not read, the other goes.
            if !query.is_empty() {
                std::mem::forget(answer);
            }
        }
        drop(alive);
        assert_eq!(watch.recv().await, None);
    }

    #[tokio::test]
    async fn the_time_of_the_client_may_end_before_the_first_piece() {
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let params = params("timeout=20ms", "trailers").await;
        let wait = move |_: Sink| {
            held.recv().unwrap();
            Ok(())
        };
        let error = stream_blocking(&params, Kind::Json, wait).await.unwrap_err();
        assert!(error.message().contains("deadline"), "{}", error.message());
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn a_client_that_goes_away_cancels_the_work() {
        let (alive, mut watch) = mpsc::channel::<()>(1);
        let params = params("", "").await;
        let work = |sink: Sink| async move {
            let _alive = alive;
            sink.bytes(Bytes::from_static(b"part")).await?;
            std::future::pending().await
        };
        drop(stream(&params, Kind::Json, work).await.unwrap());
        assert_eq!(watch.recv().await, None);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_request_alone() {
        let result = blocking(|| -> Result<(), ApiError> { panic!("a bug") }).await;
        assert!(result.unwrap_err().message().contains("internal error"));
    }
}
