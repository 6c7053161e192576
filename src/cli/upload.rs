//! Files of a multipart body, the way kubo's clients send them.

use std::fmt::Display;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;

use crate::api::request::escape;
use crate::cli::call::Call;
use crate::cli::failure::Failure;

/// Bytes sent at a time.
const PIECE_LEN: usize = 256 * 1024;

/// Pieces read ahead.
const PIECES_MAX: usize = 8;

/// Tells whether paths on the command line mean standard input: there are none, or the one is `-`.
pub(crate) fn is_standard_input(paths: &[PathBuf]) -> bool {
    match paths {
        [] => true,
        [only] => only.as_os_str() == "-",
        _ => false,
    }
}

/// Sends standard input under `name`, which may be empty.
pub(crate) fn standard_input(call: Call, name: &str) -> Result<Call, Failure> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if is_directory(&input, "standard input")? {
        return Err(Failure::new("standard input is a directory, which cannot be read so")
            .hint("`cidfs add -r DIR` adds a directory"));
    }
    Ok(part(call, name, io::stdin()))
}

fn is_directory(file: &File, name: impl Display) -> Result<bool, Failure> {
    let metadata = file.metadata().map_err(|error| Failure::from(error).about(name))?;
    Ok(metadata.is_dir())
}

/// Sends a file.
pub(crate) fn file(call: Call, path: &Path) -> Result<Call, Failure> {
    let file = File::open(path).map_err(|error| Failure::from(error).about(path.display()))?;
    if is_directory(&file, path.display())? {
        return Err(Failure::new(format!("{} is a directory, not a file", path.display())));
    }
    Ok(part(call, "", file))
}

fn part(call: Call, name: &str, content: impl Read + Send + 'static) -> Call {
    let mut escaped = String::new();
    escape(name.as_bytes(), &mut escaped);
    let boundary = boundary();
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{escaped}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let body = stream::iter([Ok(Bytes::from(head))])
        .chain(pieces(content))
        .chain(stream::iter([Ok(Bytes::from(tail))]));
    call.body(format!("multipart/form-data; boundary={boundary}"), Body::from_stream(body))
}

/// Returns what ends the one part. The content is not searched for it, so nobody may know it before.
fn boundary() -> String {
    let random = |half: u8| RandomState::new().hash_one(half);
    format!("cidfs-{:016x}{:016x}", random(0), random(1))
}

/// Reads on a thread of its own, which ends when nobody takes the pieces any more.
fn pieces(mut content: impl Read + Send + 'static) -> impl Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; PIECE_LEN];
        loop {
            let piece = match content.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => Ok(Bytes::copy_from_slice(&buffer[..len])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}
