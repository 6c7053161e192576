//! One request of the control API, and reading its answer.
//!
//! The answer is read as it comes: nothing here holds more than one piece or one line of it.

use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST, TE};
use axum::http::{HeaderMap, Request, Response};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

use crate::api::error::ErrorBody;
use crate::api::reply;
use crate::api::request::{FORM_TYPE, escape};
use crate::cli::failure::Failure;

/// Longest answer in bytes that is read whole: error bodies and single values are far smaller.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Longest line in bytes of a stream of JSON values, each of which is one event.
const LINE_LEN_MAX: usize = 16 * 1024 * 1024;

/// A request in the making.
#[derive(Debug)]
pub(crate) struct Call {
    command: &'static str,
    /// Arguments and paths, of which there may be thousands.
    form: String,
    /// Options.
    query: String,
    body: Option<(String, Body)>,
}

impl Call {
    /// Starts a request of the command at `/api/v0/<command>`.
    pub(crate) fn new(command: &'static str) -> Self {
        Self { command, form: String::new(), query: String::new(), body: None }
    }

    /// Adds a positional argument.
    pub(crate) fn arg(self, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.argument("arg", value.as_ref().as_bytes())
    }

    /// Adds positional arguments.
    pub(crate) fn args<S: AsRef<std::ffi::OsStr>>(self, values: &[S]) -> Self {
        values.iter().fold(self, Self::arg)
    }

    /// Adds an option.
    pub(crate) fn option(mut self, name: &str, value: impl ToString) -> Self {
        push(&mut self.query, name, value.to_string().as_bytes());
        self
    }

    /// Adds an option if it was given.
    pub(crate) fn maybe(self, name: &str, value: Option<&impl ToString>) -> Self {
        match value {
            Some(value) => self.option(name, value.to_string()),
            None => self,
        }
    }

    /// Adds a switch if it is on.
    pub(crate) fn switch(self, name: &str, on: bool) -> Self {
        if on { self.option(name, true) } else { self }
    }

    /// Adds a path of this machine's file system.
    pub(crate) fn path(self, name: &str, path: &Path) -> Self {
        self.argument(name, path.as_os_str().as_bytes())
    }

    /// Sends `body` as the content; the parameters then go into the query.
    #[must_use]
    pub(crate) fn body(mut self, content_type: impl Into<String>, body: Body) -> Self {
        self.body = Some((content_type.into(), body));
        self
    }

    fn argument(mut self, name: &str, value: &[u8]) -> Self {
        push(&mut self.form, name, value);
        self
    }

    /// Returns the HTTP request.
    pub(crate) fn into_request(self) -> Result<Request<Body>, Failure> {
        let uri = format!("/api/v0/{}?{}", self.command, self.query);
        let (uri, content_type, body) = match self.body {
            None => (uri, FORM_TYPE.to_owned(), Body::from(self.form)),
            Some((content_type, body)) => (format!("{uri}&{}", self.form), content_type, body),
        };
        Request::post(uri)
            .header(HOST, "localhost")
            .header(TE, "trailers")
            .header(CONTENT_TYPE, content_type)
            .body(body)
            .map_err(|error| Failure::new(format!("too many arguments: {error}")))
    }
}

fn push(pairs: &mut String, name: &str, value: &[u8]) {
    if !pairs.is_empty() {
        pairs.push('&');
    }
    pairs.push_str(name);
    pairs.push('=');
    escape(value, pairs);
}

/// The answer to a request that was accepted.
#[derive(Debug)]
pub(crate) struct Answer {
    headers: HeaderMap,
    body: Body,
}

impl Answer {
    /// Takes a response, or turns it into the failure it tells of.
    pub(crate) async fn of(response: Response<Body>) -> Result<Self, Failure> {
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(Self { headers: parts.headers, body });
        }
        let text = whole(body).await?;
        match serde_json::from_slice::<ErrorBody>(&text) {
            Ok(body) => Err(body.into()),
            Err(_) => Err(Failure::new(format!("the daemon answered {}", parts.status))),
        }
    }

    /// Returns the number of bytes that a stream will bring, where the daemon knows it.
    pub(crate) fn content_len(&self) -> Option<u64> {
        self.headers.get(reply::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// Reads one JSON value.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, Failure> {
        parse(&whole(self.body).await?)
    }

    /// Reads JSON values as they come.
    pub(crate) async fn lines<T: DeserializeOwned>(
        self,
        mut each: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.raw_lines(|line| line.map_or(Ok(()), |line| each(parse(line)?))).await
    }

    /// Reads lines as they come, without their ends; `None` says that the next one is waited for.
    pub(crate) async fn raw_lines(
        mut self,
        mut each: impl FnMut(Option<&[u8]>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut buffer = BytesMut::new();
        let mut searched = 0;
        loop {
            let piece = if let Some(piece) = self.piece().now_or_never() {
                piece?
            } else {
                each(None)?;
                self.piece().await?
            };
            let Some(piece) = piece else { break };
            buffer.extend_from_slice(&piece);
            while let Some(end) = buffer[searched..].iter().position(|&byte| byte == b'\n') {
                each(Some(&buffer[..searched + end]))?;
                buffer.advance(searched + end + 1);
                searched = 0;
            }
            searched = buffer.len();
            if buffer.len() > LINE_LEN_MAX {
                return Err(Failure::new("the daemon sent a line of more than 16 MiB"));
            }
        }
        if buffer.is_empty() { Ok(()) } else { each(Some(&buffer)) }
    }

    /// Copies the bytes as they come; `seen` hears of each piece.
    pub(crate) async fn copy_to(
        mut self,
        out: &mut impl Write,
        mut seen: impl FnMut(usize),
    ) -> Result<(), Failure> {
        while let Some(piece) = self.piece().await? {
            out.write_all(&piece)?;
            seen(piece.len());
        }
        Ok(out.flush()?)
    }

    /// Returns the next piece; a late error of the daemon is an error here.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(broken_off)?;
            match frame.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(frame) => {
                    let late = frame.trailers_ref().and_then(|all| all.get(reply::STREAM_ERROR));
                    if let Some(late) = late {
                        return Err(Failure::new(String::from_utf8_lossy(late.as_bytes())));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn broken_off(error: axum::Error) -> Failure {
    Failure::new(format!("the daemon broke off: {error}"))
}

async fn whole(body: Body) -> Result<Bytes, Failure> {
    let read = Limited::new(body, ANSWER_LEN_MAX).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::new(format!("the daemon broke off: {error}")))
}

/// Parses a value that the daemon sent.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(text)
        .map_err(|error| Failure::new(format!("the daemon's answer is not understood: {error}")))
}
