//! An archive of `get`, unpacked while it comes.
//!
//! Everything goes below one directory and nowhere else, whatever names the archive holds. Files that
//! are there are replaced and directories added to; anything else that has a name already stays, since
//! it was put there for more than its content.

use std::error::Error;
use std::fs::{File, FileType, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Set-user-id and set-group-id: what is copied belongs to the person who copies it, and a
/// stranger's program is not to run with that person's rights.
const POWER_BITS: u32 = 0o6000;

/// Unpacks an archive below `folder`.
pub(super) fn unpack(receiver: mpsc::Receiver<io::Result<Bytes>>, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Pieces { receiver, piece: Bytes::new() });
    archive.set_preserve_permissions(true);
    archive.set_mask(POWER_BITS);
    archive.set_preserve_mtime(true);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(folder, &entry.path()?)?;
        make_way(&path, &entry)?;
        if entry.header().entry_type().is_dir() {
            directories.push(Directory::make(path, entry.header())?);
        } else if !entry.unpack_in(folder).map_err(|error| about(&path, &cause(&error)))? {
            return Err(outside(&path));
        }
    }
    directories.iter().rev().try_for_each(Directory::finish)
}

/// Refuses what lies at `path` and would be lost if something took its place, in a sentence. A file
/// or a directory may be what is wanted there.
pub(super) fn refuse_special(path: &Path) -> io::Result<()> {
    match kind_at(path)? {
        Some(kind) if !kind.is_file() && !kind.is_dir() => Err(in_the_way(path, kind)),
        _ => Ok(()),
    }
}

/// Refuses an entry of which the place is taken by something of another kind.
fn make_way<R: Read>(path: &Path, entry: &tar::Entry<'_, R>) -> io::Result<()> {
    let Some(kind) = kind_at(path)? else { return Ok(()) };
    let entry_kind = entry.header().entry_type();
    let is_good = if entry_kind.is_dir() {
        kind.is_dir()
    } else if kind.is_symlink() && entry_kind.is_symlink() {
        // The same tree once more.
        entry.link_name()?.is_some_and(|link| path.read_link().is_ok_and(|here| here == link))
    } else {
        kind.is_file()
    };
    if is_good { Ok(()) } else { Err(in_the_way(path, kind)) }
}

/// Returns what `path` itself is: a symbolic link could lead anywhere.
fn kind_at(path: &Path) -> io::Result<Option<FileType>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(about(path, &error)),
    }
}

fn is_directory(path: &Path) -> bool {
    matches!(kind_at(path), Ok(Some(kind)) if kind.is_dir())
}

fn in_the_way(path: &Path, kind: FileType) -> io::Error {
    let name = match kind {
        kind if kind.is_file() => "a file",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!(
            "{} exists, is {name} and is not replaced; move it away, or name another place with -o",
            path.display()
        ),
    )
}

fn inside(folder: &Path, name: &Path) -> io::Result<PathBuf> {
    let is_inside = name.components().all(|part| matches!(part, Component::Normal(_)));
    if is_inside { Ok(folder.join(name)) } else { Err(outside(name)) }
}

fn outside(name: &Path) -> io::Error {
    io::Error::other(format!("the archive holds {}, which leads out of it", name.display()))
}

fn about(path: &Path, error: &dyn Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Returns what is below the words that were wrapped around it.
fn cause<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// A directory gets its permissions and time when everything is in it: they may forbid writing,
/// and writing changes the time.
struct Directory {
    path: PathBuf,
    mode: u32,
    mtime: u64,
}

impl Directory {
    fn make(path: PathBuf, header: &tar::Header) -> io::Result<Self> {
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path) => {}
            made => made.map_err(|error| about(&path, &error))?,
        }
        Ok(Self { path, mode: header.mode()?, mtime: header.mtime()? })
    }

    fn finish(&self) -> io::Result<()> {
        self.set().map_err(|error| about(&self.path, &error))
    }

    fn set(&self) -> io::Result<()> {
        let directory = File::open(&self.path)?;
        directory.set_permissions(Permissions::from_mode(self.mode & 0o7777 & !POWER_BITS))?;
        directory.set_modified(UNIX_EPOCH + Duration::from_secs(self.mtime))
    }
}

/// The archive as it comes, for a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "x", io::empty()).unwrap();
        let archive = archive.into_inner().unwrap();
        let mut archive = tar::Archive::new(&archive[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let error = entry.unpack_in(dir.path()).unwrap_err();
        let told = about(Path::new("x"), cause(&error)).to_string();
        assert_eq!(told, "x: Is a directory (os error 21)");
    }
}
