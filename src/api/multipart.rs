//! Files in a multipart body, the way kubo's clients send them, read by a thread that may block.
//!
//! Each part is a file, directory or symbolic link; its path is in the escaped `filename` of
//! `Content-Disposition`, beside `mode`, `mtime` and `mtime-nsecs`. Nothing is held but one piece.

use std::io::{self, Read};

use axum::extract::Multipart;
use axum::extract::multipart::Field;
use axum::http::header::CONTENT_DISPOSITION;
use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;

use crate::api::error::{ApiError, root_cause};
use crate::api::request::unescape;
use crate::codec::node::Metadata;
use crate::codec::unixfs::Mtime;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// Its body is the content.
    File,
    /// It has no body.
    Directory,
    /// Its body is the target.
    Symlink,
}

/// A part whose body can be read.
pub(super) struct Part<'a> {
    /// What it is.
    pub(super) kind: PartKind,
    /// Its path, without a leading `/`; empty for a stream without a name.
    pub(super) path: Vec<u8>,
    /// What it says of permissions and time.
    pub(super) metadata: Metadata,
    field: Field<'a>,
    handle: Handle,
    piece: Bytes,
}

/// Returns the next part, `None` after the last.
///
/// # Errors
/// When the body is not multipart, or breaks off.
pub(super) fn next_part<'a>(
    body: &'a mut Multipart,
    handle: &Handle,
) -> Result<Option<Part<'a>>, ApiError> {
    let field = handle
        .block_on(body.next_field())
        .map_err(|error| ApiError::client(format!("the body: {}", root_cause(&error))))?;
    field.map(|field| Part::new(field, handle.clone())).transpose()
}

impl<'a> Part<'a> {
    fn new(field: Field<'a>, handle: Handle) -> Result<Self, ApiError> {
        let disposition = field.headers().get(CONTENT_DISPOSITION);
        let disposition = disposition.map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let kind = match field.content_type().map(|value| value.split(';').next().unwrap_or(value))
        {
            Some("application/x-directory") => PartKind::Directory,
            Some("application/symlink") => PartKind::Symlink,
            _ => PartKind::File,
        };
        let Disposition { path, metadata } = Disposition::parse(&disposition)?;
        Ok(Self { kind, path, metadata, field, handle, piece: Bytes::new() })
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let next = self.handle.block_on(self.field.chunk());
            match next.map_err(|error| io::Error::other(root_cause(&error).to_string()))? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// What the `Content-Disposition` of a part says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disposition {
    /// The path, without a leading `/`; empty for a stream without a name.
    pub path: Vec<u8>,
    /// Permissions and time.
    pub metadata: Metadata,
}

impl Disposition {
    /// Parses the header's value.
    ///
    /// # Errors
    /// When a parameter is malformed.
    pub fn parse(value: &[u8]) -> Result<Self, ApiError> {
        let path = match parameter(value, "filename") {
            Some(name) => unescape(&name)?,
            None => Vec::new(),
        };
        let path = path.strip_prefix(b"/").unwrap_or(&path).to_vec();
        Ok(Self { path, metadata: metadata_of(value)? })
    }
}

fn metadata_of(disposition: &[u8]) -> Result<Metadata, ApiError> {
    let text = |name| {
        parameter(disposition, name).map(|value| String::from_utf8_lossy(&value).into_owned())
    };
    let bad = |name: &str| ApiError::client(format!("a part with a malformed {name}"));
    let mode = text("mode")
        .map(|mode| u32::from_str_radix(&mode, 8).map_err(|_| bad("mode")))
        .transpose()?;
    let nanos = match text("mtime-nsecs") {
        Some(nanos) => nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000),
        None => Some(0),
    };
    let nanos = nanos.ok_or_else(|| bad("mtime-nsecs"))?;
    let mtime = text("mtime")
        .map(|seconds| seconds.parse().map_err(|_| bad("mtime")))
        .transpose()?
        .map(|seconds| Mtime { seconds, nanos });
    Ok(Metadata { mode, mtime })
}

/// Returns a parameter of a `Content-Disposition`, without its quotes.
fn parameter(disposition: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut is_quoted = false;
    let separators = disposition.split(|&byte| {
        is_quoted ^= byte == b'"';
        byte == b';' && !is_quoted
    });
    separators.skip(1).find_map(|part| {
        let at = part.iter().position(|&byte| byte == b'=')?;
        if !part[..at].trim_ascii().eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        let value = part[at + 1..].trim_ascii();
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(bare.unwrap_or(value).to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_in_quotes_and_without() {
        let line = b"form-data; name=\"file\"; filename=\"a%3Bb;c\"; mode=0644; mtime=12";
        let check = |name, value: Option<&[u8]>| {
            assert_eq!(parameter(line, name).as_deref(), value, "{name}");
        };
        check("name", Some(b"file"));
        check("filename", Some(b"a%3Bb;c"));
        check("mode", Some(b"0644"));
        check("mtime", Some(b"12"));
        check("form-data", None);
        let metadata = metadata_of(line).unwrap();
        assert_eq!(metadata.mode, Some(0o644));
        assert_eq!(metadata.mtime, Some(Mtime { seconds: 12, nanos: 0 }));
        assert!(metadata_of(b"x; mode=9").is_err());
        assert!(metadata_of(b"x; mtime=1; mtime-nsecs=1000000000").is_err());
    }
}
