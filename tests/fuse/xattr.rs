//! getxattr(2) and listxattr(2).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use cidfs::store::PinMode;
use cidfs::testkit::dag_builder::DagBuilder;
use cidfs::testkit::exchange::TestExchange;
use cidfs::testkit::mount::TempMount;
use cidfs::vfs::{Caller, Error, SetMode};
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};
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

/// > A symlink lists none: the kernel refuses those of its class there.
#[test]
fn what_is_listed_can_be_read() {
    let mut builder = DagBuilder::new();
    let link = builder.symlink("x");
    let dir = builder.directory(&[("link", link)]);
    let mount = TempMount::of(builder, &[("dir", dir)], "");
    let path = mount.path("dir/link");
    assert_eq!(rustix::fs::llistxattr(&path, &mut [0; 100][..]), Ok(0));
    let mut value = [0; 200];
    let len = rustix::fs::lgetxattr(&path, "ipfs.cid", &mut value[..]).unwrap();
    assert_eq!(std::str::from_utf8(&value[..len]).unwrap(), link.to_string());
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

fn value(path: &Path, name: &str) -> Result<String, Errno> {
    let mut value = [0; 200];
    let len = getxattr(path, name, &mut value[..])?;
    Ok(String::from_utf8(value[..len].to_vec()).unwrap())
}

fn pin(path: &Path, mode: &str, flags: XattrFlags) -> Result<(), Errno> {
    setxattr(path, "user.ipfs.pin", mode.as_bytes(), flags)
}

/// > `user.ipfs.pin` is `recursive` or `direct` when the CID itself is pinned, and absent otherwise.
/// > With `-o setpins`, setting it pins, `recursive` after everything below was fetched; removing it
/// > unpins. It is for root and the owner of the mount, and a pin that cannot be whole is refused: with
/// > the error of the block that is missing, or with `ENOSPC` when the store is full of pins.
#[test]
fn pins_are_attributes() {
    let mut builder = DagBuilder::new();
    let file = builder.raw("x");
    let lost = builder.raw("lost");
    let dir = builder.directory(&[("file", file)]);
    let broken = builder.directory(&[("file", file), ("lost", lost)]);
    let blocks = builder.blocks.into_iter().filter(|block| *block.cid() != lost);
    let exchange = Arc::new(TestExchange::new(blocks));
    let (mount, pins) = TempMount::pinning(exchange.clone(), "setpins");
    let (whole, partial) = (mount.path(dir.to_string()), mount.path(broken.to_string()));
    let any = XattrFlags::empty();
    assert_eq!(value(&whole, "user.ipfs.pin"), Err(Errno::NODATA));
    assert_eq!(pin(&whole, "rec", any), Err(Errno::INVAL));
    assert_eq!(pin(&whole, "recursive", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert!(pins.pins().list().is_empty());
    let stranger = Caller { uid: 65_534 };
    let ino = std::fs::metadata(&whole).unwrap().ino();
    let set = mount.vfs.setxattr(ino, b"ipfs.pin", b"direct", SetMode::Any, stranger);
    assert!(matches!(mount.block_on(set), Err(Error::NotOwner)));
    assert!(pins.pins().list().is_empty());
    pin(&whole, "recursive", any).unwrap();
    assert_eq!(pins.pins().get(&dir).unwrap().mode, PinMode::Recursive);
    assert_eq!(value(&whole, "user.ipfs.pin").as_deref(), Ok("recursive"));
    assert_eq!(pin(&whole, "recursive", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(pin(&whole, "direct", any), Err(Errno::EXIST), "it has the stronger one");
    assert_eq!(value(&whole.join("file"), "user.ipfs.pin"), Err(Errno::NODATA));
    exchange.lose_every(1);
    assert_eq!(std::fs::read(whole.join("file")).unwrap(), b"x", "all of it came with the pin");
    removexattr(&whole, "user.ipfs.pin").unwrap();
    assert_eq!(removexattr(&whole, "user.ipfs.pin"), Err(Errno::NODATA));
    assert!(pins.pins().list().is_empty());
    exchange.lose_every(0);
    exchange.answer(&lost, bytes::Bytes::from_static(b"a lie"));
    assert_eq!(pin(&partial, "recursive", any), Err(Errno::IO));
    assert!(pins.pins().list().is_empty());
    pin(&partial, "direct", any).unwrap();
    assert_eq!(pins.pins().get(&broken).unwrap().mode, PinMode::Direct);
    assert_eq!(setxattr(&whole, "user.ipfs.cid", b"x", any), Err(Errno::ROFS));
}

/// > `user.ipfs.local` tells how much of the tree is on this disk: `complete` or `partial`, the
/// > number of different blocks that are here, their bytes, and how many blocks are known to be
/// > missing. Nobody is asked.
#[test]
fn what_is_here_is_an_attribute() {
    let mut builder = DagBuilder::new();
    let (one, two) = (builder.raw("one"), builder.raw("two"));
    let dir = builder.directory(&[("one", one), ("again", one), ("two", two)]);
    let dir_len = builder.blocks.last().unwrap().data().len();
    let exchange = Arc::new(TestExchange::new(builder.blocks));
    let (mount, _pins) = TempMount::pinning(exchange.clone(), "setpins");
    let tree = mount.path(dir.to_string());
    std::fs::read(tree.join("one")).unwrap();
    let fetched = exchange.counts().started;
    let bytes = dir_len + 3;
    let partial = format!("partial blocks=2 bytes={bytes} missing=1");
    assert_eq!(value(&tree, "user.ipfs.local").unwrap(), partial);
    assert_eq!(exchange.counts().started, fetched, "nobody was asked");
    pin(&tree, "recursive", XattrFlags::empty()).unwrap();
    let complete = format!("complete blocks=3 bytes={} missing=0", bytes + 3);
    assert_eq!(value(&tree, "ipfs.local").unwrap(), complete);
}
