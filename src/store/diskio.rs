//! The file calls whose failure decides what may be acknowledged: writing and syncing.
//!
//! Packs, index files, tombstones and the journal all go through [`DiskIo`], so that a test can
//! fail the n-th call. Reading, renaming and opening are plain `std` calls and not behind it.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::uio::pwritev;

use super::StoreError;
use super::error::AtPath as _;

/// Most slices in one `pwritev` call (`IOV_MAX` on Linux).
pub(super) const SLICES_MAX: usize = 1024;

/// How deep the files of a repository lie at most, for counting the disk they use.
const DEPTH_MAX: u32 = 4;

/// Writes and syncs files.
pub trait DiskIo: Debug + Send + Sync + 'static {
    /// Writes at most 1,024 slices at `offset`; may write less and says how much.
    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes the content and length of a file durable (`fdatasync`).
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The kernel's calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl DiskIo for RealDisk {
    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(pwritev(file, slices, offset)?)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
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
    let new = with_suffix(path, "new");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .at(&new)?;
    let written = write_all(disk, &file, content, 0).and_then(|()| disk.sync(&file));
    written.and_then(|()| std::fs::rename(&new, path)).at(path).inspect_err(|_| {
        if let Err(error) = std::fs::remove_file(&new) {
            tracing::warn!(path = %new.display(), %error, "cannot remove a half-written file");
        }
    })?;
    sync_parent(path)?;
    Ok(file)
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).at(dir)
}

/// Renames a damaged file or directory to the first free `<name>.broken-<n>` and returns that name.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let to = broken_name(path)?;
    std::fs::rename(path, &to).at(path)?;
    sync_parent(path)?;
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
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
            let aside = set_aside(&path).unwrap();
            assert_eq!(aside, dir.path().join(format!("x.broken-{n}")));
        }
        assert_eq!(std::fs::read(dir.path().join("x.broken-1")).unwrap(), [1]);
    }
}
