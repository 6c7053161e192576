//! An archive of `get`, unpacked while it comes.
//!
//! Everything goes below one directory and nowhere else, whatever names the archive holds. Files that
//! are there are replaced, each when the new one is whole, and directories added to; anything else that
//! has a name already stays, since it was put there for more than its content.

use std::collections::HashSet;
use std::error::Error;
use std::fs::{DirBuilder, File, FileType, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use bytes::{Buf as _, Bytes};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tokio::sync::mpsc;

use crate::api::error::root_cause;
use crate::cli::part::{Existing, Part};
use crate::codec::unixfs::NANOS_PER_SECOND;

/// Set-user-id and set-group-id: what is copied belongs to the person who copies it, and a
/// stranger's program is not to run with that person's rights.
const POWER_BITS: u32 = 0o6000;

/// What the owner of a directory needs until everything is in it.
const DIRECTORY_MODE: u32 = 0o700;

/// Unpacks an archive below `folder`.
pub(super) fn unpack(receiver: mpsc::Receiver<io::Result<Bytes>>, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Pieces { receiver, piece: Bytes::new() });
    archive.set_preserve_permissions(true);
    archive.set_mask(POWER_BITS);
    archive.set_preserve_mtime(false);
    let mut directories = Vec::new();
    let mut made = HashSet::from([folder.to_owned()]);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(folder, &entry.path()?)?;
        make_way(&path, &entry)?;
        // What lies below a symbolic link lies elsewhere.
        if !path.parent().is_some_and(|parent| made.contains(parent)) {
            return Err(outside(&path));
        }
        if entry.header().entry_type().is_dir() {
            made.insert(path.clone());
            directories.push(Directory::make(path, &mut entry)?);
        } else if entry.header().entry_type().is_file() {
            put_file(&path, &mut entry).map_err(|error| about(&path, &error))?;
        } else if entry.unpack_in(folder).map_err(|error| about(&path, &root_cause(&error)))? {
            let mtime = mtime_of(&mut entry)?;
            set_mtime(&path, mtime).map_err(|error| about(&path, &error))?;
        } else {
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

/// Refuses whatever lies at `path`, in a sentence.
pub(super) fn refuse_any(path: &Path) -> io::Result<()> {
    kind_at(path)?.map_or(Ok(()), |kind| Err(in_the_way(path, kind)))
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

/// Returns when an entry was changed last. Its header has seconds from 1970 on; a time with more to it
/// stands in front of that, in decimal (pax).
fn mtime_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<TimeSpec> {
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if extension.key_bytes() == b"mtime" {
            let time = extension.value().ok().and_then(parse_time);
            return time.ok_or_else(|| io::Error::other("the archive holds a time that is none"));
        }
    }
    let seconds = i64::try_from(entry.header().mtime()?).unwrap_or(i64::MAX);
    Ok(TimeSpec::new(seconds, 0))
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let is_number = fraction.bytes().all(|digit| digit.is_ascii_digit());
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok().filter(|_| is_number)?;
    if whole.starts_with('-') && nanos > 0 {
        return Some(TimeSpec::new(seconds.checked_sub(1)?, i64::from(NANOS_PER_SECOND) - nanos));
    }
    Some(TimeSpec::new(seconds, nanos))
}

/// Puts a file in its place when it is whole: until then, what was there stays.
fn put_file<R: Read>(path: &Path, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
    let (mode, mtime, len) = (entry.header().mode()?, mtime_of(entry)?, entry.size());
    let mut part = Part::begin(path, Some(len))?;
    if io::copy(entry, &mut part.file)? != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    part.finish(without_power(mode), Some(mtime), Existing::Replace)
}

fn without_power(mode: u32) -> u32 {
    mode & 0o7777 & !POWER_BITS
}

/// By path, since permissions may forbid to open it, and of a symbolic link itself.
fn set_mtime(path: &Path, mtime: TimeSpec) -> io::Result<()> {
    let as_it_is = TimeSpec::UTIME_OMIT;
    Ok(utimensat(AT_FDCWD, path, &as_it_is, &mtime, UtimensatFlags::NoFollowSymlink)?)
}

/// A directory gets its permissions and time when everything is in it: they may forbid writing,
/// and writing changes the time.
struct Directory {
    path: PathBuf,
    mode: u32,
    mtime: TimeSpec,
}

impl Directory {
    fn make<R: Read>(path: PathBuf, entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path) => {
                let_in(&path)
            }
            made => made,
        }
        .map_err(|error| about(&path, &error))?;
        Ok(Self { path, mode: entry.header().mode()?, mtime: mtime_of(entry)? })
    }

    fn finish(&self) -> io::Result<()> {
        self.set().map_err(|error| about(&self.path, &error))
    }

    fn set(&self) -> io::Result<()> {
        let mode = Permissions::from_mode(without_power(self.mode));
        File::open(&self.path)?.set_permissions(mode)?;
        set_mtime(&self.path, self.mtime)
    }
}

/// Lets the owner of a directory put something into it.
fn let_in(path: &Path) -> io::Result<()> {
    let before = path.metadata()?.permissions().mode();
    let open = before | DIRECTORY_MODE;
    if open == before {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(open))
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
    fn times_are_read_to_the_nanosecond() {
        let check = |text, time: Option<(i64, i64)>| {
            let time = time.map(|(seconds, nanos)| TimeSpec::new(seconds, nanos));
            assert_eq!(parse_time(text), time, "{text}");
        };
        check("0", Some((0, 0)));
        check("1700000000.123456789", Some((1_700_000_000, 123_456_789)));
        check("1.5", Some((1, 500_000_000)));
        check("1.1234567899", Some((1, 123_456_789)));
        check("-1", Some((-1, 0)));
        check("-1.5", Some((-2, 500_000_000)));
        check("-0.000000001", Some((-1, 999_999_999)));
        check("-9223372036854775808", Some((i64::MIN, 0)));
        for text in ["", ".5", "x", "1.x", "1.-5", "-9223372036854775808.5", "9223372036854775808"]
        {
            check(text, None);
        }
    }

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
        let told = about(Path::new("x"), root_cause(&error)).to_string();
        assert_eq!(told, "x: Is a directory (os error 21)");
    }

    #[test]
    fn nothing_goes_through_a_link_of_the_archive() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, "d", io::empty()).unwrap();
        header.set_entry_type(tar::EntryType::Symlink);
        archive.append_link(&mut header, "d/link", elsewhere.path()).unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, "d/link/file", io::empty()).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Ok(archive.into_inner().unwrap().into())).unwrap();
        drop(sender);
        let error = unpack(receiver, folder.path()).unwrap_err().to_string();
        assert!(error.contains("d/link/file, which leads out of it"), "{error}");
        assert!(folder.path().join("d/link").is_symlink());
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);
    }
}
