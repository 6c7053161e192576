//! Mounting and unmounting FUSE, as root by mount(2) and else through `fusermount3`.
//!
//! The idea: this is the one seam behind which privilege lies. [`mount`] gives back a `/dev/fuse`
//! descriptor and a [`Mounted`] that can undo what was done; nothing here reads a request. All
//! mounts are read-only, nosuid and nodev, whoever asks.
//!
//! Paths: the daemon must never look below its own mount (it would wait for itself), so everything
//! is found by the table of mounts and by the parent directory.

mod fusermount;
mod mountinfo;
mod point;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{getegid, geteuid};

pub use self::mountinfo::{MountEntry, mount_at, mount_of, mounts};
pub use self::point::{clear_dead, prepare_point, real_path, refuse_inside};

/// Filesystem type of our mounts: the subtype is the name of the binary, so that mount(8) finds its
/// helper.
pub const FS_TYPE: &str = "fuse.cidfs";

const DEVICE: &str = "/dev/fuse";

/// Why a directory could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {} does not exist; make it with `mkdir -p`", .0.display())]
    Missing(PathBuf),
    /// Something that is not a directory.
    #[error("the mount point {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Files would be hidden.
    #[error(
        "the mount point {} is not empty; use an empty directory, or -o nonempty to hide what is in it",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// Something else is mounted there.
    #[error("{source_name} ({fs_type}) is already mounted on {}; unmount it first", point.display())]
    Occupied {
        /// The mount point.
        point: PathBuf,
        /// Filesystem type.
        fs_type: String,
        /// What is mounted.
        source_name: String,
    },
    /// A mount of ours is there and does not answer.
    #[error(
        "{} is a cidfs mount that does not answer; if its daemon hangs, end it or run `umount -l {}`",
        .0.display(), .0.display()
    )]
    Unresponsive(PathBuf),
    /// The repository would disappear below the mount.
    #[error(
        "the repository {} lies under the mount point {}, where the mount would hide it; choose another mount point",
        repository.display(), point.display()
    )]
    RepositoryInside {
        /// The repository.
        repository: PathBuf,
        /// The mount point.
        point: PathBuf,
    },
    /// The kernel has no FUSE, or the container hides it.
    #[error(
        "/dev/fuse is missing; load the kernel module with `modprobe fuse` (in a container, start it with `--device /dev/fuse`)"
    )]
    NoDevice,
    /// Mounting is not allowed.
    #[error(
        "mounting on {} is not permitted; run as root (in a container, with `--cap-add SYS_ADMIN`) or install the package `fuse3` for `fusermount3`",
        .0.display()
    )]
    NotPermitted(PathBuf),
    /// `fusermount3` refused; it says why.
    #[error("fusermount3: {0}")]
    Fusermount(String),
    /// Users may not open the device.
    #[error(
        "/dev/fuse is closed to this user; run `chmod 666 /dev/fuse` as root (udev does so when the package `fuse3` is installed), or mount as root"
    )]
    DeviceClosed,
    /// The last users did not let go, and the connection cannot be aborted.
    #[error(
        "{} is unmounted, but files below it are still open (`fuser -m` and `lsof` show by whom)",
        .0.display()
    )]
    StillOpen(PathBuf),
    /// The operating system failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl MountError {
    fn io(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { what, path: path.to_owned(), source: source.into() }
    }
}

/// How a mount is to be made; what is not here (read-only, nosuid, nodev, permissions checked by
/// the kernel) is the same for all.
#[derive(Debug, Clone, Default)]
pub struct MountSpec {
    /// What the table of mounts shows as source.
    pub source: String,
    /// Lets users other than the one who mounts in.
    pub allow_other: bool,
    /// Forbids to run programs from the mount.
    pub noexec: bool,
    /// Lets the kernel refuse every change.
    pub read_only: bool,
}

/// A mount that was made, to be undone by [`Mounted::unmount`] or [`Mounted::force`].
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    device: (u32, u32),
    direct: bool,
}

/// Mounts on `point`, which [`prepare_point`] returned, and returns the descriptor on which the
/// kernel's requests arrive.
///
/// # Errors
/// [`MountError`] says what to do about it.
pub fn mount(point: &Path, spec: &MountSpec) -> Result<(OwnedFd, Mounted), MountError> {
    match mount_direct(point, spec) {
        Err(MountError::NotPermitted(_)) => mount_by_helper(point, spec),
        done => done,
    }
}

fn mount_direct(point: &Path, spec: &MountSpec) -> Result<(OwnedFd, Mounted), MountError> {
    if !geteuid().is_root() {
        return Err(MountError::NotPermitted(point.to_owned()));
    }
    let device = open_device(point)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, spec.read_only);
    flags.set(MsFlags::MS_NOEXEC, spec.noexec);
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        geteuid(),
        getegid(),
        if spec.allow_other { ",allow_other" } else { "" },
    );
    let source = clean_source(&spec.source);
    match nix::mount::mount(
        Some(source.as_str()),
        point,
        Some(FS_TYPE),
        flags,
        Some(options.as_str()),
    ) {
        Ok(()) => Ok((device.into(), Mounted::find(point, true)?)),
        Err(Errno::EPERM) => Err(MountError::NotPermitted(point.to_owned())),
        Err(Errno::ENODEV) => Err(MountError::NoDevice),
        Err(error) => Err(MountError::io("cannot mount on", point, error)),
    }
}

fn mount_by_helper(point: &Path, spec: &MountSpec) -> Result<(OwnedFd, Mounted), MountError> {
    let mut options = format!(
        "{},nosuid,nodev,default_permissions,subtype=cidfs,fsname={}",
        if spec.read_only { "ro" } else { "rw" },
        clean_source(&spec.source)
    );
    for (on, name) in [(spec.allow_other, ",allow_other"), (spec.noexec, ",noexec")] {
        options.push_str(if on { name } else { "" });
    }
    let device = fusermount::mount(point, &options)?;
    Ok((device, Mounted::find(point, false)?))
}

fn open_device(point: &Path) -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        io::ErrorKind::PermissionDenied => MountError::NotPermitted(point.to_owned()),
        _ => MountError::io("cannot open", Path::new(DEVICE), error),
    })
}

/// Tells whether this process may open `/dev/fuse` itself, as each further session thread must.
pub fn can_open_device() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

/// A comma or backslash in the source would be read as further mount options by `fusermount3`.
fn clean_source(source: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "/._:-".contains(c);
    let clean: String = source.chars().map(|c| if legal(c) { c } else { '_' }).collect();
    if clean.is_empty() { "cidfs".to_owned() } else { clean }
}

impl Mounted {
    fn find(point: &Path, direct: bool) -> Result<Self, MountError> {
        let read = |error| MountError::io("cannot find the mount on", point, error);
        let entry = mount_at(point).map_err(read)?;
        let entry = entry.ok_or_else(|| read(io::Error::from(Errno::ENOENT)))?;
        Ok(Self { point: point.to_owned(), device: entry.device, direct })
    }

    /// Returns where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Tells whether this very mount is still on top of its directory.
    pub fn is_mounted(&self) -> bool {
        mount_at(&self.point).is_ok_and(|top| top.is_some_and(|top| top.device == self.device))
    }

    /// Unmounts, unless somebody else did already; returns whether it is gone, which it is not
    /// while files below it are open.
    ///
    /// # Errors
    /// Any failure but "busy".
    pub fn unmount(&self) -> Result<bool, MountError> {
        if !self.is_mounted() {
            return Ok(true);
        }
        if !self.direct {
            return fusermount::unmount(&self.point, false)
                .or_else(
                    |error| {
                        if error.to_string().contains("busy") { Ok(()) } else { Err(error) }
                    },
                )
                .map(|()| !self.is_mounted());
        }
        match umount2(&self.point, MntFlags::empty()) {
            Ok(()) | Err(Errno::EINVAL) => Ok(true),
            Err(Errno::EBUSY) => Ok(false),
            Err(error) => Err(MountError::io("cannot unmount", &self.point, error)),
        }
    }

    /// Takes the mount away from under its users: what they have open fails from now on.
    ///
    /// # Errors
    /// When the directory stays mounted, or [`MountError::StillOpen`] when it is gone but an
    /// unprivileged process could not cut off the files that are open.
    pub fn force(&self) -> Result<(), MountError> {
        let aborted = self.abort();
        if !self.is_mounted() {
            return aborted.map_err(|_| MountError::StillOpen(self.point.clone()));
        }
        if !self.direct {
            fusermount::unmount(&self.point, true)?;
            return aborted.map_err(|_| MountError::StillOpen(self.point.clone()));
        }
        match umount2(&self.point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(MountError::io("cannot unmount", &self.point, error)),
        }
    }

    /// Aborts the connection through fusectl, when that is mounted: waiting calls end, nothing is
    /// answered any more. The connection's number is the minor number of the device.
    fn abort(&self) -> io::Result<()> {
        fs::write(format!("/sys/fs/fuse/connections/{}/abort", self.device.1), "1")
    }

    /// Lets the kernel read ahead `kib` KiB; returns whether it was allowed (root only).
    pub fn set_read_ahead_kib(&self, kib: u32) -> bool {
        let (major, minor) = self.device;
        let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        fs::write(setting, kib.to_string()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_cannot_smuggle_options() {
        let check = |given: &str, clean: &str| assert_eq!(clean_source(given), clean);
        check("/ipfs/bafy", "/ipfs/bafy");
        check("a,suid\\,dev b\n", "a_suid__dev_b_");
        check("", "cidfs");
    }

    fn spec() -> MountSpec {
        MountSpec { source: "cidfs,test".to_owned(), ..MountSpec::default() }
    }

    type MountFn = fn(&Path, &MountSpec) -> Result<(OwnedFd, Mounted), MountError>;

    /// Both ways to mount give a mount of our type that its owner can take away.
    fn check_mount(mount: MountFn) {
        let dir = tempfile::tempdir().unwrap();
        let point = prepare_point(dir.path(), false).unwrap();
        let type_of = |path: &Path| mount_of(path).unwrap().unwrap().fs_type;
        let file = point.join("file");
        assert_ne!(type_of(&file), FS_TYPE);
        let (device, mounted) = mount(&point, &spec()).unwrap();
        assert_eq!(type_of(&file), FS_TYPE);
        let entry = mount_at(&point).unwrap().unwrap();
        assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), (FS_TYPE, "cidfs_test"));
        assert!(mounted.is_mounted());
        assert!(mounted.unmount().unwrap());
        assert!(!mounted.is_mounted());
        assert_ne!(type_of(&file), FS_TYPE);
        assert!(mounted.unmount().unwrap(), "gone already");
        mounted.force().unwrap_err();
        drop(device);
    }

    #[test]
    fn only_root_mounts_directly() {
        if geteuid().is_root() {
            return check_mount(mount_direct);
        }
        let refused = mount_direct(Path::new("/"), &spec());
        assert!(matches!(refused, Err(MountError::NotPermitted(_))));
    }

    #[test]
    fn others_mount_through_fusermount() {
        check_mount(mount_by_helper);
    }

    #[test]
    fn a_dead_mount_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let point = prepare_point(dir.path(), false).unwrap();
        // `fusermount3` does not mount over a dead mount, so only root can leave two of them.
        for _ in 0..if geteuid().is_root() { 2 } else { 1 } {
            let (device, _) = mount(&point, &spec()).unwrap();
            drop(device);
        }
        assert_eq!(fs::read_dir(&point).unwrap_err().raw_os_error(), Some(libc_enotconn()));
        assert_eq!(prepare_point(dir.path(), false).unwrap(), point);
        assert_eq!(mount_at(&point).unwrap(), None);
    }

    fn libc_enotconn() -> i32 {
        Errno::ENOTCONN as i32
    }

    #[test]
    fn a_mount_that_does_not_answer_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let point = prepare_point(dir.path(), false).unwrap();
        let (device, mounted) = mount(&point, &spec()).unwrap();
        let refused = prepare_point(dir.path(), false).unwrap_err();
        assert!(matches!(refused, MountError::Unresponsive(_)), "{refused}");
        assert!(mounted.unmount().unwrap() || mounted.force().is_ok());
        drop(device);
    }
}
