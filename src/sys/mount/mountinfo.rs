//! The table of mounts (`/proc/self/mountinfo`), parsed.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount, unique while it lives.
    pub id: u64,
    /// Device numbers of what is mounted.
    pub device: (u32, u32),
    /// Where.
    pub point: PathBuf,
    /// Filesystem type, with the subtype: `fuse.cidfs`.
    pub fs_type: String,
    /// What is mounted, as the filesystem calls it.
    pub source: String,
}

/// Returns all mounts that this process can see, in the kernel's order: of two on one directory the
/// later one is on top.
///
/// # Errors
/// Those of reading `/proc`.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read(TABLE)?))
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Returns the mount that is on top of the directory `point`, a path without symbolic links.
///
/// # Errors
/// Those of reading `/proc`.
pub fn mount_at(point: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rev().find(|entry| entry.point == point))
}

/// Returns the mount that a path without symbolic links lies on, asking no filesystem. The table is
/// read again only when the kernel says that it changed.
///
/// # Errors
/// Those of reading `/proc`.
pub fn mount_of(path: &Path) -> io::Result<Option<MountEntry>> {
    static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);
    let mut watched = WATCHED.lock();
    // After an error it is opened anew.
    let mut table = watched.take().map_or_else(Watched::open, Ok)?;
    let found = deepest_above(table.now()?, path).cloned();
    *watched = Some(table);
    Ok(found)
}

/// The table as it was read last.
struct Watched {
    file: File,
    mounts: Vec<MountEntry>,
}

impl Watched {
    fn open() -> io::Result<Self> {
        let mut watched = Self { file: File::open(TABLE)?, mounts: Vec::new() };
        watched.read()?;
        Ok(watched)
    }

    /// Returns the mounts, read again if there was a change since the last call (proc(5)).
    fn now(&mut self) -> io::Result<&[MountEntry]> {
        let mut change = [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut change, PollTimeout::ZERO)? > 0 {
            self.read()?;
        }
        Ok(&self.mounts)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut table = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut table)?;
        self.mounts = parse(&table);
        Ok(())
    }
}

fn deepest_above<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let above = mounts.iter().filter(|entry| path.starts_with(&entry.point));
    // Of two on one directory the last is found, which is on top.
    above.max_by_key(|entry| entry.point.as_os_str().len())
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw` (proc(5)); the fields between
/// the options and the dash are optional.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let (major, minor) = text(fields.nth(1)?)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(1)?)));
    let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
    let fs_type = text(rest.next()?)?.to_owned();
    let source = std::ffi::OsStr::from_bytes(&unescape(rest.next()?)).to_string_lossy().into();
    Some(MountEntry { id, device, point, fs_type, source })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let escaped = digits.and_then(text).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        out.push(escaped.unwrap_or(field[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_parsed() {
        let line =
            b"36 35 0:98 / /a\\040b\\134c rw,relatime master:1 shared:2 - fuse.cidfs cid\\040fs rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.device, (0, 98));
        assert_eq!(entry.point, Path::new("/a b\\c"));
        assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), ("fuse.cidfs", "cid fs"));
        let plain = parse_line(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!(plain.fs_type, "ext4");
    }

    #[test]
    fn a_path_lies_on_the_deepest_mount_above_it_that_is_on_top() {
        let entry = |id: u64, point: &str| {
            parse_line(format!("{id} 0 0:{id} / {point} rw - ext4 x rw").as_bytes()).unwrap()
        };
        let all = [entry(1, "/"), entry(2, "/a"), entry(3, "/a/b"), entry(4, "/a")];
        let of = |path: &str| deepest_above(&all, Path::new(path)).unwrap().id;
        assert_eq!([of("/a/b/c"), of("/a/b"), of("/a/bc"), of("/ab")], [3, 3, 4, 1]);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in [&b""[..], b"36", b"x 35 0:9 / /a rw - t s", b"36 35 09 / /a rw - t s"] {
            assert_eq!(parse_line(line), None, "{line:?}");
        }
        assert_eq!(unescape(b"\\9\\04"), b"\\9\\04");
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
