//! The file calls that change a disk: their order and their failures decide what may be
//! acknowledged.
//!
//! Packs, index files, tombstones and the journal all go through [`DiskIo`], so that a test can
//! fail the n-th call, or say what a power cut after it would leave. Reading and opening change
//! nothing and are plain `std` calls, after [`DiskIo::check_place`] where the store has long been open;
//! what may be lost (the table of metadata, the lock's text) is
//! not behind it either.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::pwritev;

use super::StoreError;
use super::error::AtPath as _;
use crate::sys::clone;

/// Most slices in one `pwritev` call (`IOV_MAX` on Linux).
pub(super) const SLICES_MAX: usize = 1024;

/// How deep the files of a repository lie at most, for counting the disk they use.
const DEPTH_MAX: u32 = 4;

/// Changes files and directories; each method as it stands is the kernel's call.
pub trait DiskIo: Debug + Send + Sync + 'static {
    /// Fails when paths do not lead any more to the directories that were opened. Asked by whoever has
    /// opened a file by its path; the methods that change names ask it themselves.
    fn check_place(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes an empty file of mode 0600, open for reading and writing; fails if there is one.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    /// Writes at most 1,024 slices at `offset`; may write less and says how much.
    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(pwritev(file, slices, signed(offset)?)?)
    }

    /// Makes the content and length of a file durable (`fdatasync`).
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Cuts or grows a file.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Makes the content of an empty file that of another, sharing its bytes (`FICLONE`); most disks
    /// cannot.
    fn clone_file(&self, from: &File, to: &File) -> io::Result<()> {
        clone::clone_file(from, to)
    }

    /// Gives bytes back to the disk; they read as zeros from now on, the length stays.
    fn punch(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(file, flags, signed(offset)?, signed(len)?)?)
    }

    /// Moves a name, over another if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The kernel's calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl DiskIo for RealDisk {}

fn signed(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Writes all slices at `offset`, in as few calls as the kernel allows.
pub(super) fn write_all(
    disk: &dyn DiskIo,
    file: &File,
    mut slices: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let group = &slices[..slices.len().min(SLICES_MAX)];
        match disk.write(file, group, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Replaces the file at `path` in one step: new file beside it, sync, rename, sync of the directory.
pub(super) fn replace(
    disk: &dyn DiskIo,
    path: &Path,
    content: &mut [IoSlice<'_>],
) -> Result<File, StoreError> {
    let (new, file) = write_beside(disk, path, content)?;
    disk.sync(&file).and_then(|()| disk.rename(&new, path)).at(path).inspect_err(|_| {
        discard(disk, &new);
    })?;
    sync_parent(disk, path)?;
    Ok(file)
}

/// Writes the file that is to be moved over `path`; returns its name and it, which is not synced.
pub(super) fn write_beside(
    disk: &dyn DiskIo,
    path: &Path,
    content: &mut [IoSlice<'_>],
) -> Result<(PathBuf, File), StoreError> {
    let new = with_suffix(path, "new");
    remove_if_there(disk, &new)?;
    let file = disk.create(&new).at(&new)?;
    write_all(disk, &file, content, 0).at(path).inspect_err(|_| discard(disk, &new))?;
    Ok((new, file))
}

fn discard(disk: &dyn DiskIo, new: &Path) {
    if let Err(error) = disk.remove(new) {
        tracing::warn!(path = %new.display(), %error, "cannot remove a half-written file");
    }
}

/// Removes a file that need not be there.
pub(super) fn remove_if_there(disk: &dyn DiskIo, path: &Path) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, error)),
        _ => Ok(()),
    }
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_parent(disk: &dyn DiskIo, path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).at(dir)
}

/// Renames a damaged file or directory to the first free `<name>.broken-<n>` and returns that name.
pub(super) fn set_aside(disk: &dyn DiskIo, path: &Path) -> Result<PathBuf, StoreError> {
    let to = broken_name(path)?;
    disk.rename(path, &to).at(path)?;
    sync_parent(disk, path)?;
    Ok(to)
}

/// Returns the first free `<name>.broken-<n>`.
pub(super) fn broken_name(path: &Path) -> Result<PathBuf, StoreError> {
    for n in 1_u64.. {
        let to = with_suffix(path, &format!("broken-{n}"));
        if !to.try_exists().at(&to)? {
            return Ok(to);
        }
    }
    unreachable!("no directory holds 2^64 names")
}

/// Returns the bytes of disk that the files below `dir` take, as `du` counts them.
pub(super) fn disk_usage(dir: &Path) -> Result<u64, StoreError> {
    usage(dir, DEPTH_MAX)
}

fn usage(dir: &Path, depth: u32) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let metadata = match entry.metadata() {
            // Files come and go while this counts.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.at(&entry.path())?,
        };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() && depth > 1 {
            bytes += usage(&entry.path(), depth - 1)?;
        }
    }
    Ok(bytes)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slices_are_written_whole() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<[u8; 3]> =
            (0..3000_u16).map(|n| [n.to_le_bytes()[0], n.to_le_bytes()[1], 9]).collect();
        let mut slices: Vec<_> = bytes.iter().map(|bytes| IoSlice::new(bytes)).collect();
        slices.insert(0, IoSlice::new(&[]));
        write_all(&RealDisk, &file, &mut slices, 5).unwrap();
        let mut read = vec![0; 9005];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        assert_eq!(&read[5..], bytes.as_flattened());
    }

    #[test]
    fn broken_names_never_collide() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for n in 1..=2 {
            std::fs::write(&path, [n]).unwrap();
            let aside = set_aside(&RealDisk, &path).unwrap();
            assert_eq!(aside, dir.path().join(format!("x.broken-{n}")));
        }
        assert_eq!(std::fs::read(dir.path().join("x.broken-1")).unwrap(), [1]);
    }
}
