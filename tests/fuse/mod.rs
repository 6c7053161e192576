//! Real mounts, one file per operation. They need `/dev/fuse`, and root or `fusermount3`.

mod read;
