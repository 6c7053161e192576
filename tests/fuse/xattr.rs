//! getxattr(2) and listxattr(2).

use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::mount::TempMount;
use rustix::fs::{getxattr, getxattr_query, listxattr};
use rustix::io::Errno;

/// > `ipfs.cid` and `user.ipfs.cid` are the CID of a file or directory, as its directory writes it.
/// > Only the second is listed, since tools try to copy what is listed.
#[test]
fn the_cid_is_an_attribute() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let dir = builder.directory(&[("file", file)]);
    let mount = TempMount::of(builder, &[("dir", dir), ("file", file)], "");
    for (path, cid) in [("dir", dir), ("file", file), ("dir/file", file)] {
        for name in ["ipfs.cid", "user.ipfs.cid"] {
            let mut value = [0; 200];
            let len = getxattr(mount.path(path), name, &mut value[..]).unwrap();
            assert_eq!(std::str::from_utf8(&value[..len]).unwrap(), cid.to_string());
            assert_eq!(getxattr_query(mount.path(path), name).unwrap(), len);
            assert_eq!(getxattr(mount.path(path), name, &mut [0; 5][..]), Err(Errno::RANGE));
        }
        let mut list = [0; 100];
        let len = listxattr(mount.path(path), &mut list[..]).unwrap();
        assert_eq!(&list[..len], b"user.ipfs.cid\0");
        assert_eq!(listxattr(mount.path(path), &mut [0; 5][..]), Err(Errno::RANGE));
    }
}

/// > Other attributes do not exist.
#[test]
fn there_are_no_others() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let mount = TempMount::of(builder, &[("file", file)], "");
    for name in ["user.other", "ipfs_cid", "security.capability"] {
        let value = getxattr(mount.path("file"), name, &mut [0; 10][..]);
        assert_eq!(value, Err(Errno::NODATA), "{name}");
    }
}
