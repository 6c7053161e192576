//! Every call that would change something.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::time::SystemTime;

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use rustix::fs::XattrFlags;

use super::check_errno;

fn tree(options: &str) -> TempMount {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let dir = builder.directory(&[("file", file)]);
    TempMount::of(builder, &[("file", file), ("dir", dir)], options)
}

fn nix_result<T>(result: nix::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::from)
}

fn check_all(tree: &TempMount) {
    let (file, dir, new) = (tree.path("file"), tree.path("dir"), tree.path("new"));
    let erofs = Errno::EROFS;
    check_errno(File::create(&new), erofs);
    check_errno(OpenOptions::new().write(true).open(&file), erofs);
    check_errno(OpenOptions::new().read(true).write(true).open(&file), erofs);
    check_errno(OpenOptions::new().append(true).open(&file), erofs);
    check_errno(OpenOptions::new().write(true).truncate(true).open(&file), erofs);
    check_errno(nix_result(nix::unistd::truncate(&file, 0)), erofs);
    check_errno(fs::create_dir(&new), erofs);
    check_errno(fs::remove_dir(&dir), erofs);
    check_errno(fs::remove_file(&file), erofs);
    check_errno(fs::rename(&file, &new), erofs);
    check_errno(fs::hard_link(&file, &new), erofs);
    check_errno(symlink("target", &new), erofs);
    check_errno(fs::set_permissions(&file, Permissions::from_mode(0o777)), erofs);
    check_errno(chown(&file, Some(1), Some(1)), erofs);
    check_errno(nix_result(nix::unistd::mkfifo(&new, Mode::S_IRWXU)), erofs);
    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    check_errno(File::open(&file).unwrap().set_times(times), erofs);
    let set = rustix::fs::setxattr(&file, "user.a", b"b", XattrFlags::empty());
    check_errno(set.map_err(io::Error::from), erofs);
    let removed = rustix::fs::removexattr(&file, "user.ipfs.cid");
    check_errno(removed.map_err(io::Error::from), erofs);
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

/// > Whatever would change something fails with `EROFS`: the kernel takes the mount for read-only.
#[test]
fn nothing_can_be_changed() {
    for options in ["", "setpins"] {
        let tree = tree(options);
        check_all(&tree);
        let read_only = statvfs(tree.mount.point()).unwrap().flags().contains(FsFlags::ST_RDONLY);
        assert_eq!(read_only, options.is_empty());
    }
}

/// > It stays read-only when an administrator remounts it read-write.
#[test]
fn a_remount_does_not_make_it_writable() {
    let tree = tree("");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, tree.mount.point(), None::<&str>, flags, None::<&str>).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(None::<&str>, tree.mount.point(), None::<&str>, flags, None::<&str>).unwrap();
    check_all(&tree);
}
