//! How much room a volume has (statvfs).

use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

/// Room on a volume, in fragments of `fragment_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Unit of the counts below, in bytes.
    pub fragment_bytes: u32,
    /// Size of the volume.
    pub total: u64,
    /// What is free.
    pub free: u64,
    /// What is free to users other than root.
    pub available: u64,
}

/// Returns the room on the volume that holds `path`.
///
/// # Errors
/// What the kernel says of `path`.
pub fn volume(path: &Path) -> Result<Volume, Errno> {
    let stat = statvfs(path)?;
    Ok(Volume {
        fragment_bytes: u32::try_from(stat.fragment_size()).unwrap_or(u32::MAX),
        total: stat.blocks(),
        free: stat.blocks_free(),
        available: stat.blocks_available(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_no_more_free_than_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let volume = volume(dir.path()).unwrap();
        assert!(volume.total >= volume.free && volume.free >= volume.available);
        assert!(volume.fragment_bytes > 0);
    }

    #[test]
    fn a_missing_path_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(volume(&dir.path().join("none")), Err(Errno::ENOENT));
    }
}
