//! A file that gets its name when it is whole: whatever ends the program earlier, nothing of it stays.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, futimens, umask};
use nix::sys::time::TimeSpec;
use nix::unistd::linkat;

use crate::sys::volume;

/// Begins the names of files that are not whole, where a file must have a name.
const NAME_PREFIX: &str = ".cidfs-get";
/// Names that are tried for one.
const NAMES_MAX: u32 = 100;
/// Until it is whole, a file is for its owner alone.
const MODE: u32 = 0o600;
/// A file of fewer bytes is not compared with the room that there is.
const SHORT: u64 = 16 * 1024 * 1024;

/// What happens to a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is replaced.
    Replace,
    /// It stays.
    Keep,
}

/// A file that is not whole yet; gone with the value, unless it was put in its place.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    target: PathBuf,
    /// Its name in the meantime, on a disk where it must have one.
    name: Option<PathBuf>,
}

impl Part {
    /// Begins what is to be at `target`, of `len` bytes if that is known.
    ///
    /// # Errors
    /// When the disk has not so much room, and what it says.
    pub(super) fn begin(target: &Path, len: Option<u64>) -> io::Result<Self> {
        let folder = folder_of(target);
        if let Some(len) = len.filter(|len| *len >= SHORT) {
            let room = volume::volume(folder)?;
            let free = room.available.saturating_mul(room.fragment_bytes.into());
            // Some disks do not tell their size.
            if room.total > 0 && len > free {
                let why = format!("it takes {len} bytes, and {free} are free");
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
        }
        match nameless(folder) {
            Ok(file) => Ok(Self { file, target: target.to_owned(), name: None }),
            // Not every disk can do that, and what each says then differs.
            Err(_) => Self::begin_with_name(target),
        }
    }

    fn begin_with_name(target: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(MODE);
        for name in names_beside(target) {
            match options.open(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => {
                    return Ok(Self { file: file?, target: target.to_owned(), name: Some(name) });
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Puts the file in its place, with these permissions and this time.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] for one that stays, and what the disk says.
    pub(super) fn finish(
        mut self,
        mode: u32,
        mtime: Option<TimeSpec>,
        existing: Existing,
    ) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))?;
        if let Some(mtime) = mtime {
            futimens(&self.file, &TimeSpec::UTIME_OMIT, &mtime)?;
        }
        if self.name.is_none() {
            match self.link(&self.target) {
                Err(error) if is_taken(&error) && existing == Existing::Replace => {
                    self.name = Some(self.link_beside()?);
                }
                linked => return linked,
            }
        }
        let Some(name) = &self.name else { return Ok(()) };
        if existing == Existing::Keep && self.target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(name, &self.target)?;
        // From here on that name may be somebody else's.
        self.name = None;
        Ok(())
    }

    fn link(&self, to: &Path) -> io::Result<()> {
        let from = own_path(&self.file);
        Ok(linkat(AT_FDCWD, from.as_path(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)?)
    }

    fn link_beside(&self) -> io::Result<PathBuf> {
        for name in names_beside(&self.target) {
            match self.link(&name) {
                Err(error) if is_taken(&error) => {}
                linked => return linked.map(|()| name),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(name) = &self.name else { return };
        if let Err(error) = std::fs::remove_file(name) {
            tracing::warn!(path = %name.display(), %error, "cannot remove half a file");
        }
    }
}

/// Returns the permissions that this program gives to nobody.
pub(super) fn own_umask() -> u32 {
    // It can only be read by being set.
    let own = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    umask(own);
    own.bits()
}

/// Creates a file without a name that can get one.
fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(MODE).custom_flags(OFlag::O_TMPFILE.bits());
    let file = options.open(folder)?;
    own_path(&file).symlink_metadata().map(|_| file)
}

fn own_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn names_beside(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = |number| format!("{NAME_PREFIX}-{}-{number}", std::process::id());
    (0..NAMES_MAX).map(move |number| path.with_file_name(name(number)))
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    type Begin = fn(&Path) -> io::Result<Part>;
    const WAYS: [Begin; 2] = [|path| Part::begin(path, None), Part::begin_with_name];

    fn put(begin: Begin, path: &Path, content: &str, existing: Existing) -> io::Result<()> {
        let mut part = begin(path)?;
        part.file.write_all(content.as_bytes())?;
        part.finish(0o640, Some(TimeSpec::new(5, 7)), existing)
    }

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        for begin in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x");
            let read = || std::fs::read_to_string(&path).unwrap();
            drop(begin(&path).unwrap());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            put(begin, &path, "one", Existing::Keep).unwrap();
            let error = put(begin, &path, "two", Existing::Keep).unwrap_err();
            assert_eq!((error.kind(), read()), (io::ErrorKind::AlreadyExists, "one".to_owned()));
            put(begin, &path, "three", Existing::Replace).unwrap();
            assert_eq!(read(), "three");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    /// As one that an interrupted program has left, and that was added.
    #[test]
    fn a_file_may_have_the_name_of_a_part() {
        for begin in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = names_beside(&dir.path().join("x")).next().unwrap();
            put(begin, &path, "one", Existing::Replace).unwrap();
            put(begin, &path, "two", Existing::Replace).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let error = Part::begin(&dir.path().join("x"), Some(1 << 60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("it takes 1152921504606846976 bytes, and "));
    }
}
