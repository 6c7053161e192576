//! Attributes of inodes: what a node stores, made safe and shown as the mount's options say.

use crate::codec::unixfs::Mtime;
use crate::unixfs::{FileType, Stat};

/// Preferred size of a read in bytes: four leaves of the usual 256 KiB.
const BLOCK_BYTES: u32 = 1024 * 1024;

/// Preferred size of a piece of a listing. The C library and the kernel make room for as much for each call,
/// which costs more than small directories are worth; the C library takes no less.
pub const LISTING_BYTES: u32 = 32 * 1024;

/// Latest time in seconds that is shown: the end of ext4's range in the year 2446, so that a copy
/// keeps it. Later ones are shown as this one.
pub const MTIME_MAX: u64 = 0x3_7fff_ffff;

/// Bits of a stored mode that are shown; set-uid, set-gid and sticky are a stranger's wish.
const PERMISSIONS: u32 = 0o777;

/// Length in bytes of the sectors that `st_blocks` counts.
const SECTOR_BYTES: u64 = 512;

/// What stat(2) shows of an inode; the link count is always 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// File, directory or symlink.
    pub kind: FileType,
    /// Permission bits.
    pub permissions: u16,
    /// Length in bytes.
    pub len: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Modification time in seconds since the epoch, at most [`MTIME_MAX`].
    pub mtime_seconds: u64,
    /// Its nanoseconds.
    pub mtime_nanos: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attr {
    /// Returns the preferred size in bytes of a call that reads it.
    pub fn block_bytes(&self) -> u32 {
        match self.kind {
            FileType::Directory => LISTING_BYTES,
            FileType::File | FileType::Symlink => BLOCK_BYTES,
        }
    }
}

/// Who owns everything, and which permission bits are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits taken from files. When given, files that store no mode start from 0555
    /// instead of 0444, so that programs in a tree without modes can be run (vfat's convention).
    pub file_mask: Option<u32>,
    /// Permission bits taken from directories.
    pub dir_mask: u32,
}

impl Ownership {
    /// Returns the attributes that inode `ino` shows for what its root block says.
    pub fn attr(&self, ino: u64, stat: &Stat) -> Attr {
        let (mtime_seconds, mtime_nanos) = clamp_time(stat.metadata.mtime);
        Attr {
            ino,
            kind: stat.kind,
            permissions: self.permissions(stat.kind, stat.metadata.mode),
            len: stat.file_len,
            sectors: stat.file_len.div_ceil(SECTOR_BYTES),
            mtime_seconds,
            mtime_nanos,
            uid: self.uid,
            gid: self.gid,
        }
    }

    fn permissions(&self, kind: FileType, stored: Option<u32>) -> u16 {
        let (default, mask) = match kind {
            FileType::File if self.file_mask.is_some() => (0o555, self.file_mask),
            FileType::File => (0o444, None),
            FileType::Directory => (0o555, Some(self.dir_mask)),
            FileType::Symlink => (0o777, None),
        };
        let shown = stored.unwrap_or(default) & PERMISSIONS & !mask.unwrap_or(0);
        u16::try_from(shown).unwrap_or_default()
    }
}

fn clamp_time(mtime: Option<Mtime>) -> (u64, u32) {
    let Some(mtime) = mtime else { return (0, 0) };
    match u64::try_from(mtime.seconds) {
        Err(_) => (0, 0),
        Ok(seconds) if seconds > MTIME_MAX => (MTIME_MAX, 0),
        Ok(seconds) => (seconds, mtime.nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Ownership = Ownership { uid: 1, gid: 2, file_mask: None, dir_mask: 0 };
    const MASKED: Ownership = Ownership { file_mask: Some(0o022), dir_mask: 0o027, ..PLAIN };

    #[test]
    fn modes_are_stored_or_default_less_the_mask() {
        let check = |owner: Ownership, kind, stored, shown| {
            assert_eq!(owner.permissions(kind, stored), shown, "{owner:?} {kind:?} {stored:?}");
        };
        check(PLAIN, FileType::File, None, 0o444);
        check(PLAIN, FileType::Directory, None, 0o555);
        check(PLAIN, FileType::Symlink, None, 0o777);
        check(PLAIN, FileType::File, Some(0o100_755), 0o755);
        check(PLAIN, FileType::File, Some(0o7777), 0o777);
        check(PLAIN, FileType::File, Some(0), 0);
        check(MASKED, FileType::File, None, 0o555);
        check(MASKED, FileType::File, Some(0o777), 0o755);
        check(MASKED, FileType::Directory, None, 0o550);
        check(MASKED, FileType::Symlink, None, 0o777);
    }

    #[test]
    fn times_are_what_a_disk_could_hold() {
        let check = |seconds, nanos, shown| {
            assert_eq!(clamp_time(Some(Mtime { seconds, nanos })), shown);
        };
        assert_eq!(clamp_time(None), (0, 0));
        check(1_700_000_000, 5, (1_700_000_000, 5));
        check(-1, 5, (0, 0));
        check(i64::MIN, 0, (0, 0));
        check(i64::MAX, 5, (MTIME_MAX, 0));
    }

    #[test]
    fn sectors_are_rounded_up_and_never_overflow() {
        let check = |file_len, sectors| {
            let stat = Stat::plain_file(file_len);
            assert_eq!(PLAIN.attr(7, &stat).sectors, sectors);
        };
        check(0, 0);
        check(1, 1);
        check(512, 1);
        check(513, 2);
        check(u64::MAX, u64::MAX / 512 + 1);
    }
}
