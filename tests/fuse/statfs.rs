//! statfs(2).

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use nix::sys::statvfs::{FsFlags, statvfs};

/// > The room shown is that of the volume that holds the repository; the mount is nosuid and nodev.
#[test]
fn room_is_that_of_the_repository() {
    let mount = TempMount::of(DagBuilder::new(), &[], "");
    let (shown, real) = (statvfs(&mount.path("")).unwrap(), statvfs(mount.outside()).unwrap());
    assert_eq!((shown.blocks(), shown.fragment_size()), (real.blocks(), real.fragment_size()));
    assert!(shown.blocks_free() > 0);
    assert_eq!(shown.name_max(), 255);
    assert!(shown.flags().contains(FsFlags::ST_NOSUID), "{:?}", shown.flags());
}
