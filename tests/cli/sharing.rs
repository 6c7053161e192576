//! `cidfs add` on a disk that can share bytes between files: nothing is copied.

use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;

use super::sandbox::{Sandbox, wait_for};
use super::space::big_file;

/// Bytes of the image: the least that mkfs.xfs takes, and some more.
const IMAGE_LEN: u64 = 400 << 20;
const MIB: u64 = 1 << 20;

/// A disk with XFS in a file, mounted on a directory; gone with the value.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// Returns `None`, and says so, where there can be none.
    fn new(image: &Path, point: &'a Path) -> Option<Self> {
        let told = |why: &str| {
            crate::report(&format!("NOT RUN: a_disk_that_can_share_bytes_copies_nothing: {why}"));
        };
        if !nix::unistd::geteuid().is_root() {
            told("a disk of its own needs root");
            return None;
        }
        std::fs::File::create(image).unwrap().set_len(IMAGE_LEN).unwrap();
        let Ok(made) = Command::new("mkfs.xfs").arg("-q").arg(image).output() else {
            told("there is no mkfs.xfs");
            return None;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mounted = Command::new("mount").args(["-o", "loop"]).args([image, point]).output();
        let mounted = mounted.unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Some(Self(point))
    }

    /// Bytes that are free once everything is written.
    fn free(&self) -> u64 {
        let synced = nix::unistd::syncfs(std::fs::File::open(self.0).unwrap());
        synced.unwrap();
        let stat = statvfs(self.0).unwrap();
        stat.blocks_free() * stat.fragment_size()
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_disk_that_can_share_bytes_copies_nothing() {
    let sandbox = Sandbox::without_repository();
    let point = sandbox.path("disk");
    std::fs::create_dir(&point).unwrap();
    let Some(disk) = Disk::new(&sandbox.path("image"), &point) else { return };
    let cidfs = |args: &[&str]| {
        let ran = sandbox.command().env("CIDFS_PATH", point.join("repo")).args(args).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    };
    cidfs(&["init", "--preset=offline"]);
    big_file(&sandbox, "disk/film", 1, 100);
    let content = std::fs::read(point.join("film")).unwrap();
    let before = disk.free();
    let cid = String::from_utf8(cidfs(&["add", "-Q", "disk/film"])).unwrap();
    let taken = before.saturating_sub(disk.free());
    assert!(taken < 8 * MIB, "{taken} bytes of disk for 100 MiB");
    // What becomes of the file is of no matter.
    big_file(&sandbox, "disk/film", 2, 100);
    assert!(cidfs(&["cat", cid.trim()]) == content);
    std::fs::remove_file(point.join("film")).unwrap();
    assert!(cidfs(&["cat", cid.trim()]) == content);
    cidfs(&["repo", "verify"]);
    let full = disk.free();
    cidfs(&["pin", "rm", cid.trim()]);
    cidfs(&["repo", "gc"]);
    // XFS gives the room of a removed file back in the background.
    wait_for("the disk to have the room again", || disk.free() > full + 90 * MIB);
}
