//! `get`: a file or tree as a tar archive, written while it is read.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::Response;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::{cid_of, last_name};
use crate::api::reply::{self, Gone, Kind, Sink};
use crate::api::request::Form;
use crate::block::Cid;
use crate::codec::node::Metadata;
use crate::codec::unixfs::{Mtime, NANOS_PER_SECOND};
use crate::dag::Dag;
use crate::unixfs::{self, Cookie, DirEntry, FileType, Stat, UnixfsError};

/// Bytes read at a time.
const PIECE_LEN: usize = 1024 * 1024;

/// Bytes of archive collected before they are sent: headers are 512 bytes each.
const WRITE_LEN: usize = 64 * 1024;

/// Entries taken from a directory at a time.
const BATCH_LEN: usize = 256;

/// How often work on what is here lets others go first; what is not done then waits for peers.
const PAUSES_MAX: usize = 16;

/// Longest path in bytes inside an archive: the kernel's (`PATH_MAX`, with its final NUL), beyond
/// which nobody can unpack it. It bounds the depth too.
const PATH_LEN_MAX: usize = 4095;

/// Permissions of what stores none, kubo's.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// `get?arg=…&archive=&name=&umask=` (`name`, the name of the root in the archive, and `umask`, what is taken
/// from the permissions of what stores none, are ours)
pub(super) async fn get(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    if params.is_on("compress")? {
        return Err(ApiError::client("compression is not supported; pipe the archive into gzip"));
    }
    let dag = dag_of(&node, &params)?;
    let arg = params.arg("ipfs-path")?;
    let name = params.bytes("name").map_or_else(|| last_name(arg), <[u8]>::to_vec);
    let umask = params.parse("umask")?.unwrap_or(0);
    let cid = cid_of(&dag, arg).await?;
    // The root decides about success before the first byte is sent.
    unixfs::stat(&dag, &cid).await?;
    reply::stream_blocking(&params, Kind::Bytes("application/x-tar", None), move |sink| {
        let source = Source { dag, root: cid, sink, bringing: OnceLock::new() };
        Archive::new(Arc::new(source), umask).write(name, cid)
    })
    .await
}

/// Why content does not come.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Content(#[from] UnixfsError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl From<Unread> for ApiError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Content(error) => error.into(),
            Unread::Gone(gone) => gone.into(),
        }
    }
}

/// Where the content comes from, for a thread that waits for it.
struct Source {
    dag: Dag,
    root: Cid,
    sink: Sink,
    bringing: OnceLock<AbortOnDropHandle<()>>,
}

impl Source {
    /// Waits for content as long as somebody reads the archive. When something is not here, all below the root is
    /// brought here: the archive is written block by block, but all of it will be read.
    fn wait<T>(&self, work: impl Future<Output = Result<T, UnixfsError>>) -> Result<T, Unread> {
        self.sink.wait(async {
            let mut work = pin!(work);
            for _ in 0..PAUSES_MAX {
                if let Some(here) = work.as_mut().now_or_never() {
                    return Ok(here?);
                }
                yield_now().await;
            }
            self.bring();
            Ok(work.await?)
        })
    }

    fn bring(&self) {
        self.bringing.get_or_init(|| {
            let (dag, root) = (self.dag.clone(), self.root);
            AbortOnDropHandle::new(tokio::spawn(async move {
                unixfs::fetch_below(&dag, root).await;
            }))
        });
    }
}

/// A directory whose entries are being written.
struct Frame {
    path: Vec<u8>,
    cid: Cid,
    cookie: Cookie,
    entries: VecDeque<DirEntry>,
}

struct Archive {
    source: Arc<Source>,
    umask: u32,
    builder: tar::Builder<SinkWriter>,
    now: u64,
    /// The first path that is not in the archive though the tree has it.
    left_out: Option<Vec<u8>>,
}

impl Archive {
    fn new(source: Arc<Source>, umask: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let writer = SinkWriter { sink: source.sink.clone(), buffer: BytesMut::new() };
        Self { source, umask, builder: tar::Builder::new(writer), now, left_out: None }
    }

    fn write(mut self, name: Vec<u8>, root: Cid) -> Result<(), ApiError> {
        let mut frames = Vec::new();
        frames.extend(self.entry(name, root)?);
        while let Some(frame) = frames.last_mut() {
            let Some(entry) = self.next(frame)? else {
                self.note_left_out(frame)?;
                frames.pop();
                continue;
            };
            let path = [&frame.path[..], b"/", &entry.name].concat();
            if path.len() > PATH_LEN_MAX {
                return Err(ApiError::failed(format!("a path of over {PATH_LEN_MAX} bytes"))
                    .about(frame.cid));
            }
            frames.extend(self.entry(path, entry.cid)?);
        }
        let mut writer = self.builder.into_inner().map_err(ApiError::failed)?;
        writer.flush().map_err(ApiError::failed)?;
        // Only now, so that who unpacks the archive has all the rest.
        self.left_out.map_or(Ok(()), |path| Err(not_copied(&path)))
    }

    /// Notes what listing a directory has not shown, unless something is noted already.
    fn note_left_out(&mut self, frame: &Frame) -> Result<(), ApiError> {
        if self.left_out.is_none() {
            let name = self.source.wait(unixfs::left_out(&self.source.dag, &frame.cid))?;
            self.left_out = name.map(|name| [&frame.path[..], b"/", &name].concat());
        }
        Ok(())
    }

    fn next(&self, frame: &mut Frame) -> Result<Option<DirEntry>, ApiError> {
        if frame.entries.is_empty() {
            let list = unixfs::list(&self.source.dag, &frame.cid, frame.cookie, BATCH_LEN);
            let batch = self.source.wait(list)?;
            frame.cookie = batch.last().map_or(frame.cookie, |(cookie, _)| *cookie);
            frame.entries = batch.into_iter().map(|(_, entry)| entry).collect();
        }
        Ok(frame.entries.pop_front())
    }

    /// Writes one entry; a directory comes back to have its own entries written.
    fn entry(&mut self, path: Vec<u8>, cid: Cid) -> Result<Option<Frame>, ApiError> {
        let stat = self.source.wait(unixfs::stat(&self.source.dag, &cid))?;
        self.exact_time(&stat.metadata)
            .map_err(|error| ApiError::failed(error).about(String::from_utf8_lossy(&path)))?;
        let result = match stat.kind {
            FileType::File => self.file(&path, cid, &stat),
            FileType::Directory => self.directory(&path, &stat.metadata),
            FileType::Symlink => self.symlink(&path, cid, &stat.metadata)?,
        };
        result.map_err(|error| ApiError::failed(error).about(String::from_utf8_lossy(&path)))?;
        Ok((stat.kind == FileType::Directory).then(|| Frame {
            path,
            cid,
            cookie: Cookie::START,
            entries: VecDeque::new(),
        }))
    }

    fn file(&mut self, path: &[u8], cid: Cid, stat: &Stat) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, &stat.metadata, FILE_MODE);
        header.set_size(stat.file_len);
        let (source, len) = (Arc::clone(&self.source), stat.file_len);
        let content = FileReader { source, cid, offset: 0, len, piece: Bytes::new() };
        self.builder.append_data(&mut header, as_path(path), content)
    }

    fn directory(&mut self, path: &[u8], metadata: &Metadata) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Directory, metadata, DIRECTORY_MODE);
        self.builder.append_data(&mut header, as_path(path), io::empty())
    }

    fn symlink(
        &mut self,
        path: &[u8],
        cid: Cid,
        metadata: &Metadata,
    ) -> Result<io::Result<()>, ApiError> {
        let target = self.source.wait(unixfs::read_link(&self.source.dag, &cid))?;
        let mut header = self.header(tar::EntryType::Symlink, metadata, 0o777);
        // What has no room in the header stands in front of it; the rest must not be tidied up as a path.
        Ok(match header.set_link_name_literal(&target) {
            Ok(()) => self.builder.append_data(&mut header, as_path(path), io::empty()),
            Err(_) => self.builder.append_link(&mut header, as_path(path), as_path(&target)),
        })
    }

    /// Writes what a header has no room for in front of it, as POSIX has it (pax).
    fn exact_time(&mut self, metadata: &Metadata) -> io::Result<()> {
        match metadata.mtime.filter(|mtime| mtime.seconds < 0 || mtime.nanos > 0) {
            Some(mtime) => {
                self.builder.append_pax_extensions([("mtime", decimal(mtime).as_bytes())])
            }
            None => Ok(()),
        }
    }

    fn header(&self, kind: tar::EntryType, metadata: &Metadata, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(metadata.mode.unwrap_or(mode & !self.umask));
        // A header has no time before 1970, and none is stored as now, as kubo does.
        let stored = metadata.mtime.map(|mtime| u64::try_from(mtime.seconds).unwrap_or(0));
        header.set_mtime(stored.unwrap_or(self.now));
        header
    }
}

fn not_copied(path: &[u8]) -> ApiError {
    ApiError::failed(
        "not copied, and maybe others like it: no file can have this name, or its address is refused",
    )
    .about(path.escape_ascii())
}

/// Writes a time in seconds.
fn decimal(mtime: Mtime) -> String {
    let sign = if mtime.seconds < 0 { "-" } else { "" };
    let (mut seconds, mut nanos) = (mtime.seconds.unsigned_abs(), mtime.nanos);
    if mtime.seconds < 0 && nanos > 0 {
        (seconds, nanos) = (seconds - 1, NANOS_PER_SECOND - nanos);
    }
    if nanos == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{nanos:09}") }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The content of a file, exactly as long as its header says.
struct FileReader {
    source: Arc<Source>,
    cid: Cid,
    offset: u64,
    len: u64,
    piece: Bytes,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.offset < self.len {
            let read = unixfs::read(&self.source.dag, &self.cid, self.offset, PIECE_LEN);
            self.piece = self.source.wait(read).map_err(io::Error::other)?;
            self.offset += self.piece.len() as u64;
            if self.piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let len = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

/// Sends what is written in pieces.
struct SinkWriter {
    sink: Sink,
    buffer: BytesMut,
}

impl Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = self.buffer.split().freeze();
        if bytes.is_empty() {
            return Ok(());
        }
        self.sink
            .bytes_blocking(bytes)
            .map_err(|gone| io::Error::new(io::ErrorKind::BrokenPipe, gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        let check = |seconds, nanos, text: &str| {
            assert_eq!(decimal(Mtime { seconds, nanos }), text);
        };
        check(0, 1, "0.000000001");
        check(1_700_000_000, 123_456_789, "1700000000.123456789");
        check(-1, 0, "-1");
        check(-2, 500_000_000, "-1.500000000");
        check(-1, 999_999_999, "-0.000000001");
        check(i64::MIN, 0, "-9223372036854775808");
    }
}
