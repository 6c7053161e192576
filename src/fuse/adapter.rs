//! The `fuser` trait: a request in, one `vfs` call, a reply out. No decisions are made here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::backings::Backings;
use super::late::LateNames;
use super::requests::{Patience, Requests};
use crate::unixfs;
use crate::vfs::{
    Attr, Caller, Entry, Error, FOREVER, Found, LISTING_BYTES, Opened, Room, SetMode, Vfs,
};

/// Requests of the kernel's own, as read-ahead, that may be under way: enough for eight readers of
/// 1 MiB each in pieces of 128 KiB.
const BACKGROUND_MAX: u16 = 64;

/// Bytes of an entry besides its name (`struct fuse_direntplus`, `struct fuse_dirent`), with the
/// average padding.
const ENTRY_PLUS_BYTES: usize = 152 + 4;
const ENTRY_BYTES: usize = 24 + 4;

/// Length in bytes up to which a read is the kernel's demand for the page that its caller needs.
const PAGE_BYTES: u32 = 4096;

const O_DIRECT: i32 = nix::fcntl::OFlag::O_DIRECT.bits();

/// What is negotiated if the kernel can do it (all of it has been there since Linux 5.1).
const CAPABILITIES: InitFlags = InitFlags::FUSE_NO_OPENDIR_SUPPORT
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    // Attributes only for who looks at them: names alone are listed in half the time.
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_ASYNC_DIO);

/// Nothing is kept for an open file, so all have this handle.
const NO_HANDLE: FileHandle = FileHandle(0);
/// Our files may not lie on a stacked filesystem if the kernel reads them by itself; so others may be
/// stacked on ours (FUSE-NOTES §3).
const STACK_DEPTH: u32 = 1;
const GENERATION: Generation = Generation(0);

/// A [`Vfs`] as `fuser` wants it.
#[derive(Debug)]
pub(super) struct Adapter {
    vfs: Vfs,
    requests: Requests,
    late: Arc<LateNames>,
    backings: Arc<Backings>,
    has_no_opendir: bool,
    has_no_open: bool,
    has_passthrough: bool,
}

impl Adapter {
    /// Returns the adapter; with `small_files` the kernel opens files by itself.
    pub(super) fn new(vfs: Vfs, requests: Requests, small_files: bool) -> Self {
        Self {
            vfs,
            requests,
            late: Arc::default(),
            backings: Arc::default(),
            has_no_opendir: false,
            has_no_open: small_files,
            has_passthrough: false,
        }
    }

    fn answer<T: Send + 'static>(
        &self,
        request: &Request,
        op: &'static str,
        ino: INodeNo,
        patience: Patience,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
        reply: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let reply = move |result: Result<T, Error>| {
            if let Err(error) = &result {
                log(op, ino, error);
            }
            reply(result);
        };
        self.requests.answer(request.pid(), patience, work, reply);
    }
}

/// Wrong bytes and bugs are for the operator to see, and what readers waited for in vain; what is merely absent is
/// not.
fn log(op: &'static str, ino: INodeNo, error: &Error) {
    if error.is_fault() {
        tracing::warn!(op, ino = ino.0, %error, "a request failed");
    } else if matches!(error, Error::TimedOut) {
        tracing::info!(op, ino = ino.0, %error, "a request failed");
    } else {
        tracing::debug!(op, ino = ino.0, %error, "a request failed");
    }
}

fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno() as i32)
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = CAPABILITIES & config.capabilities();
        if config.add_capabilities(wanted).is_err()
            || config.set_max_background(BACKGROUND_MAX).is_err()
        {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        self.has_no_opendir = wanted.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        self.has_no_open &= config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
        // Only root may tell the kernel to read by itself, and only when files are opened.
        self.has_passthrough = !self.has_no_open
            && nix::unistd::geteuid().is_root()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok();
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, late) = (self.vfs.clone(), Arc::clone(&self.late));
        let name = Bytes::copy_from_slice(name.as_bytes());
        let asked = name.clone();
        let was_late = self.late.contains(parent.0, &name);
        let work = async move {
            if was_late { Err(Error::TimedOut) } else { vfs.lookup(parent.0, &asked).await }
        };
        self.answer(
            request,
            "lookup",
            parent,
            Patience::Deadline,
            work,
            move |found| match found {
                Ok(Some(Found { attr, ttl })) => reply.entry(&ttl, &file_attr(&attr), GENERATION),
                // Inode 0 is how absence is kept by the kernel (an error would be asked again).
                Ok(None) => reply.entry(&FOREVER, &absent(), GENERATION),
                Err(error) => {
                    if matches!(error, Error::TimedOut) && !was_late {
                        late.note(parent.0, name);
                    }
                    reply.error(errno(&error));
                }
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.backings.end_if(ino.0, || self.vfs.forget(ino.0, lookups));
    }

    fn getattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.getattr(ino.0).await };
        self.answer(request, "getattr", ino, Patience::Deadline, work, |found| match found {
            Ok(Found { attr, ttl }) => reply.attr(&ttl, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.readlink(ino.0).await };
        self.answer(request, "readlink", ino, Patience::Deadline, work, |target| match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// Once it is told that this is left to it, the kernel opens all files by itself.
    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.has_no_open {
            return reply.error(errno(&Error::LeftToKernel));
        }
        let vfs = self.vfs.clone();
        let to_write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let (has_passthrough, backings) = (self.has_passthrough, Arc::clone(&self.backings));
        let tid = request.pid();
        let work = async move {
            if to_write {
                return Err(Error::ReadOnly);
            }
            vfs.open(ino.0, has_passthrough, tid).await
        };
        self.answer(request, "open", ino, Patience::Deadline, work, move |opened| {
            let backing = match opened {
                Ok(Opened::Parts) => None,
                Ok(Opened::Whole(file)) => {
                    backings.get(ino.0, &file, |file| reply.open_backing(file.file()))
                }
                Err(error) => return reply.error(errno(&error)),
            };
            let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            // The disk would want aligned memory and offsets; read through the daemon, any will do.
            let past_cache = if flags.0 & O_DIRECT == 0 {
                FopenFlags::FOPEN_NOFLUSH
            } else {
                FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_DIRECT_IO
            };
            match backing {
                None => reply.opened(NO_HANDLE, keep),
                Some(backing) => reply.opened_passthrough(NO_HANDLE, past_cache, &backing.id),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backings.end_if(ino.0, || self.vfs.release(ino.0));
        reply.ok();
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs.clone();
        // Past the page cache there is nobody who would ask again.
        let is_demand = size <= PAGE_BYTES || flags.0 & O_DIRECT != 0;
        let patience = if is_demand { Patience::Deadline } else { Patience::Range };
        let len = usize::try_from(size).map_or(unixfs::READ_LEN_MAX, |size| size);
        let tid = request.pid();
        let work = async move { vfs.read(ino.0, offset, len, tid).await };
        self.answer(request, "read", ino, patience, work, |bytes| match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    /// Once it is told that this is left to it, the kernel opens directories by itself and lists them from its
    /// own cache.
    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.has_no_opendir {
            reply.error(errno(&Error::LeftToKernel));
        } else {
            let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(NO_HANDLE, keep);
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = self.vfs.clone();
        let room =
            Room { looks_up: false, bytes: LISTING_BYTES as usize, entry_bytes: ENTRY_BYTES };
        let tid = request.pid();
        let work = async move { list.readdir(ino.0, offset, room, tid).await };
        self.answer(request, "readdir", ino, Patience::Deadline, work, move |entries| {
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => return reply.error(errno(&error)),
            };
            let fits = |entry: &Entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.attr.ino), entry.cookie, file_type(entry.attr.kind), name)
            };
            let _full = entries.iter().all(fits);
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (vfs, list) = (self.vfs.clone(), self.vfs.clone());
        let room =
            Room { looks_up: true, bytes: LISTING_BYTES as usize, entry_bytes: ENTRY_PLUS_BYTES };
        let tid = request.pid();
        let work = async move { list.readdir(ino.0, offset, room, tid).await };
        self.answer(request, "readdirplus", ino, Patience::Deadline, work, move |entries| {
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => return reply.error(errno(&error)),
            };
            let is_full = |entry: &Entry| {
                let (attr, name) = (file_attr(&entry.attr), OsStr::from_bytes(&entry.name));
                reply.add(INodeNo(attr.ino.0), entry.cookie, name, &entry.ttl, &attr, GENERATION)
            };
            let sent = entries.iter().position(is_full).unwrap_or(entries.len());
            forget_all(&vfs, &entries[sent..]);
            reply.ok();
        });
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.statfs() };
        self.answer(request, "statfs", ino, Patience::Deadline, work, |volume| match volume {
            Ok(volume) => {
                let (total, free, available) = volume
                    .map_or((0, 0, 0), |volume| (volume.total, volume.free, volume.available));
                let unit = volume.map_or(PAGE_BYTES, |volume| volume.fragment_bytes);
                let name_max = u32::try_from(crate::codec::node::NAME_LEN_MAX).unwrap_or(u32::MAX);
                reply.statfs(total, free, available, 0, 0, unit, name_max, unit);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (vfs, name) = (self.vfs.clone(), Bytes::copy_from_slice(name.as_bytes()));
        let work = async move { vfs.getxattr(ino.0, &name).await };
        self.answer(request, "getxattr", ino, Patience::Deadline, work, move |value| {
            reply_xattr(value, size, reply);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.listxattr(ino.0).await };
        self.answer(request, "listxattr", ino, Patience::Deadline, work, move |names| {
            reply_xattr(names, size, reply);
        });
    }

    // What changes something never comes through a read-only mount; an administrator can remount
    // it, though, and then the answer is the same.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(errno(&Error::ReadOnly));
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name) = (self.vfs.clone(), Bytes::copy_from_slice(name.as_bytes()));
        let value = Bytes::copy_from_slice(value);
        let (how, caller) = (set_mode(flags), Caller { uid: request.uid() });
        let work = async move { vfs.setxattr(ino.0, &name, &value, how, caller).await };
        self.answer(request, "setxattr", ino, Patience::Signal, work, |set| match set {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), Bytes::copy_from_slice(name.as_bytes()));
        let caller = Caller { uid: request.uid() };
        let work = async move { vfs.removexattr(ino.0, &name, caller).await };
        self.answer(
            request,
            "removexattr",
            ino,
            Patience::Deadline,
            work,
            |removed| match removed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }
}

fn set_mode(flags: i32) -> SetMode {
    match flags {
        nix::libc::XATTR_CREATE => SetMode::Create,
        nix::libc::XATTR_REPLACE => SetMode::Replace,
        _ => SetMode::Any,
    }
}

/// Takes back the look-ups of entries that were not sent.
fn forget_all(vfs: &Vfs, entries: &[Entry]) {
    for entry in entries.iter().filter(|entry| !entry.is_dot()) {
        vfs.forget(entry.attr.ino, 1);
    }
}

/// A size of 0 asks how long the value is.
fn reply_xattr(value: Result<Bytes, Error>, size: u32, reply: ReplyXattr) {
    match value.map(|value| (u32::try_from(value.len()), value)) {
        Ok((Ok(len), _)) if size == 0 => reply.size(len),
        Ok((Ok(len), value)) if len <= size => reply.data(&value),
        Ok(_) => reply.error(errno(&Error::XattrTooLong)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time = UNIX_EPOCH + Duration::new(attr.mtime_seconds, attr.mtime_nanos);
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.len,
        blocks: attr.sectors,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.permissions,
        // Equal files share an inode but are no hard links of each other; 1 on a directory tells
        // walkers not to count subdirectories by it.
        nlink: 1,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block_bytes(),
        flags: 0,
    }
}

fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn file_type(kind: unixfs::FileType) -> FileType {
    match kind {
        unixfs::FileType::File => FileType::RegularFile,
        unixfs::FileType::Directory => FileType::Directory,
        unixfs::FileType::Symlink => FileType::Symlink,
    }
}
