//! readlink(2).

use std::fs;
use std::path::Path;

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use nix::errno::Errno;

use super::check_errno;

/// > The target of a symlink is given byte for byte. The caller's kernel follows it; the daemon never
/// > does.
#[test]
fn targets_are_exact() {
    let mut builder = DagBuilder::new();
    let long = "t/".repeat(2047);
    let entries = [
        ("file", builder.raw("x")),
        ("good", builder.symlink("file")),
        ("dangling", builder.symlink("../nowhere/./x//")),
        ("outside", builder.symlink("/etc/hostname")),
        ("long", builder.symlink(&long)),
        ("loop", builder.symlink("loop")),
    ];
    let mount = TempMount::of(builder, &entries, "");
    let check = |name: &str, target: &str| {
        for _ in 0..2 {
            assert_eq!(fs::read_link(mount.path(name)).unwrap(), Path::new(target));
        }
    };
    check("good", "file");
    check("dangling", "../nowhere/./x//");
    check("outside", "/etc/hostname");
    check("long", &long);
    assert_eq!(fs::read(mount.path("good")).unwrap(), b"x");
    check_errno(fs::read(mount.path("dangling")), Errno::ENOENT);
    check_errno(fs::read(mount.path("loop")), Errno::ELOOP);
    check_errno(fs::read_link(mount.path("file")), Errno::EINVAL);
}
