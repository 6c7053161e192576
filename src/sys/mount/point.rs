//! Is this directory fit to mount on? Dead mounts of an earlier crash are cleared away here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::{FS_TYPE, MountEntry, MountError, fusermount, mount_at};
use crate::sys::volume::volume;

/// How long a mount may take to answer before it counts as hanging.
const PROBE_WAIT: Duration = Duration::from_secs(2);

/// Dead mounts on one directory that are cleared away; more than one daemon can crash there.
const DEAD_MOUNTS_MAX: usize = 16;

/// Returns `dir` without symbolic links, ready to be mounted on: an existing, empty (or
/// `nonempty`) directory on which nothing is mounted. A dead cidfs mount is unmounted lazily.
///
/// # Errors
/// [`MountError`] says what is in the way.
pub fn prepare_point(dir: &Path, nonempty: bool) -> Result<PathBuf, MountError> {
    let point = real_path(dir)?;
    clear(&point)?;
    let metadata = fs::metadata(&point).map_err(|error| lookup_error(&point, error))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory(point));
    }
    let mut entries =
        fs::read_dir(&point).map_err(|error| MountError::io("cannot list", &point, error))?;
    if !nonempty && entries.next().is_some() {
        return Err(MountError::NotEmpty(point));
    }
    Ok(point)
}

/// Refuses a repository that the mount would hide: the daemon would look for its own store through
/// its own mount, and wait for itself.
///
/// # Errors
/// [`MountError::RepositoryInside`].
pub fn refuse_inside(repository: &Path, point: &Path) -> Result<(), MountError> {
    let (repository, point) = (real_path(repository)?, real_path(point)?);
    if repository.starts_with(&point) {
        return Err(MountError::RepositoryInside { repository, point });
    }
    Ok(())
}

/// Resolves symbolic links without asking a filesystem that may be mounted on the path itself.
///
/// # Errors
/// [`MountError::Missing`], [`MountError::NotADirectory`], or what else is wrong with the path.
pub fn real_path(path: &Path) -> Result<PathBuf, MountError> {
    let absolute = std::path::absolute(path)
        .map_err(|error| MountError::io("cannot find the directory of", path, error))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    let parent = parent.canonicalize().map_err(|error| lookup_error(path, error))?;
    let real = parent.join(name);
    match fs::read_link(&real) {
        Ok(_) => real.canonicalize().map_err(|error| lookup_error(path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(lookup_error(path, error)),
        Err(_) => Ok(real),
    }
}

fn lookup_error(path: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(path.to_owned()),
        _ => MountError::io("cannot use", path, error),
    }
}

/// Fails unless nothing is mounted on `point` once dead mounts of ours are gone.
fn clear(point: &Path) -> Result<(), MountError> {
    let Some((entry, probe)) = clear_to_live(point)? else { return Ok(()) };
    match probe {
        Probe::Silent => Err(MountError::Unresponsive(point.to_owned())),
        Probe::Alive | Probe::Dead => Err(MountError::Occupied {
            point: entry.point,
            fs_type: entry.fs_type,
            source_name: entry.source,
        }),
    }
}

/// Unmounts dead cidfs mounts from `point`, whoever left them there, and leaves others alone.
///
/// # Errors
/// Those of unmounting.
pub fn clear_dead(point: &Path) -> Result<(), MountError> {
    clear_to_live(point).map(drop)
}

/// Unmounts what is dead and returns what is on top then, if anything is mounted.
fn clear_to_live(point: &Path) -> Result<Option<(MountEntry, Probe)>, MountError> {
    for _ in 0..DEAD_MOUNTS_MAX {
        let read = |error| MountError::io("cannot read the mounts for", point, error);
        let Some(entry) = mount_at(point).map_err(read)? else { return Ok(None) };
        if entry.fs_type != FS_TYPE {
            return Ok(Some((entry, Probe::Alive)));
        }
        match probe(point) {
            Probe::Dead => unmount_lazily(point)?,
            probe => return Ok(Some((entry, probe))),
        }
    }
    Err(MountError::Unresponsive(point.to_owned()))
}

enum Probe {
    Alive,
    Dead,
    Silent,
}

/// Asks the mount how much room it has, which alone the kernel never answers from its memory: the
/// root's attributes outlive the daemon. Asked on a thread of its own, since a hanging daemon would
/// otherwise take this one with it.
fn probe(point: &Path) -> Probe {
    let (answer, wait) = sync_channel(1);
    let path = point.to_owned();
    let asked = std::thread::Builder::new().name("cidfs-probe".to_owned()).spawn(move || {
        // The other errno is that of a daemon that dies while it is asked.
        let dead = matches!(volume(&path), Err(Errno::ENOTCONN | Errno::ECONNABORTED));
        // The one who asked may have given up; then nobody needs the answer.
        answer.send(dead).ok();
    });
    match asked.map_err(drop).and_then(|_| wait.recv_timeout(PROBE_WAIT).map_err(drop)) {
        Ok(true) => Probe::Dead,
        Ok(false) => Probe::Alive,
        Err(()) => Probe::Silent,
    }
}

fn unmount_lazily(point: &Path) -> Result<(), MountError> {
    if !geteuid().is_root() {
        return fusermount::unmount(point, true);
    }
    umount2(point, MntFlags::MNT_DETACH)
        .map_err(|error| MountError::io("cannot clear the dead mount on", point, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dir: &Path, nonempty: bool, sentence: &str) {
        let error = prepare_point(dir, nonempty).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }

    #[test]
    fn unfit_directories_are_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        check(&dir.path().join("none"), false, "does not exist; make it with `mkdir -p`");
        check(&dir.path().join("none/none"), false, "does not exist");
        check(&file, false, "is not a directory");
        check(&file.join("below"), false, "is not a directory");
        check(dir.path(), false, "is not empty");
        check(Path::new("/proc"), true, "is already mounted on /proc");
        assert!(prepare_point(dir.path(), true).is_ok());
    }

    #[test]
    fn symbolic_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert_eq!(prepare_point(&dir.path().join("link"), false).unwrap(), real);
    }

    #[test]
    fn a_repository_below_the_mount_point_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("mount/repo");
        fs::create_dir_all(&repository).unwrap();
        let refused = refuse_inside(&repository, &dir.path().join("mount"));
        assert!(matches!(refused, Err(MountError::RepositoryInside { .. })));
        assert!(refuse_inside(&dir.path().join("mount"), &dir.path().join("mount")).is_err());
        assert!(refuse_inside(dir.path(), &dir.path().join("mount")).is_ok());
    }
}
