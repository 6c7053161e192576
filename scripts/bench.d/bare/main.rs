//! The ceiling: a filesystem that answers the kernel from memory at once, and checks nothing.
//!
//!     bare SOURCE MOUNTPOINT
//!
//! What SOURCE holds is read into memory first, files and directories alone. The kernel is told the same as
//! cidfs tells it: all may be kept for ever, directories are opened without asking.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, Request,
};

const FOREVER: Duration = Duration::from_secs(1 << 30);
const THREADS: usize = 2;
/// Requests of the kernel's own that may be under way, as with cidfs.
const BACKGROUND_MAX: u16 = 64;
const FRAGMENT_BYTES: u32 = 4096;

struct Bare {
    /// The inode with number N at N − 1.
    inodes: Vec<Inode>,
}

struct Inode {
    attr: FileAttr,
    body: Body,
}

enum Body {
    File(Vec<u8>),
    Directory { entries: Vec<(OsString, INodeNo)>, by_name: HashMap<OsString, INodeNo> },
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(source), Some(mountpoint)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare SOURCE MOUNTPOINT".into());
    };
    let mut bare = Bare { inodes: Vec::new() };
    bare.load(Path::new(&source))?;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("bare".to_owned())];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    Ok(fuser::mount(bare, mountpoint, &config)?)
}

impl Bare {
    fn load(&mut self, path: &Path) -> io::Result<INodeNo> {
        let place = self.inodes.len();
        let number = INodeNo(place as u64 + 1);
        let is_dir = fs::metadata(path)?.is_dir();
        let body = if is_dir { Body::directory(Vec::new()) } else { Body::File(fs::read(path)?) };
        self.inodes.push(Inode { attr: attributes(number, &body), body });
        if is_dir {
            let mut entries = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                entries.push((entry.file_name(), self.load(&entry.path())?));
            }
            self.inodes[place].body = Body::directory(entries);
        }
        Ok(number)
    }

    fn get(&self, number: INodeNo) -> Option<&Inode> {
        self.inodes.get(usize::try_from(number.0).ok()?.checked_sub(1)?)
    }

    fn entries(
        &self,
        number: INodeNo,
        offset: u64,
    ) -> Option<impl Iterator<Item = (u64, &OsStr, &FileAttr)>> {
        let Body::Directory { entries, .. } = &self.get(number)?.body else { return None };
        let start = usize::try_from(offset).ok()?;
        let after = entries.iter().enumerate().skip(start);
        Some(after.filter_map(|(place, (name, child))| {
            Some((place as u64 + 1, name.as_os_str(), &self.get(*child)?.attr))
        }))
    }
}

impl Body {
    fn directory(entries: Vec<(OsString, INodeNo)>) -> Self {
        Self::Directory { by_name: entries.iter().cloned().collect(), entries }
    }
}

fn attributes(number: INodeNo, body: &Body) -> FileAttr {
    let (kind, perm, nlink, size) = match body {
        Body::File(content) => (FileType::RegularFile, 0o444, 1, content.len() as u64),
        Body::Directory { .. } => (FileType::Directory, 0o555, 2, 0),
    };
    FileAttr {
        ino: number,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: FRAGMENT_BYTES,
        flags: 0,
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO;
        config.add_capabilities(wanted).map_err(|_| io::Error::other("an old kernel"))?;
        config.set_max_background(BACKGROUND_MAX).map_err(|_| io::Error::other("an old kernel"))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let child = match self.get(parent).map(|parent| &parent.body) {
            Some(Body::Directory { by_name, .. }) => by_name.get(name),
            _ => None,
        };
        match child.and_then(|child| self.get(*child)) {
            Some(child) => reply.entry(&FOREVER, &child.attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.get(number) {
            Some(inode) => reply.attr(&FOREVER, &inode.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(Inode { body: Body::File(content), .. }) = self.get(number) else {
            return reply.error(Errno::EISDIR);
        };
        let start = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let end = content.len().min(start + size as usize);
        reply.data(&content[start..end]);
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(mut entries) = self.entries(number, offset) else {
            return reply.error(Errno::ENOTDIR);
        };
        let _is_full = entries.any(|(next, name, attr)| reply.add(attr.ino, next, attr.kind, name));
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(mut entries) = self.entries(number, offset) else {
            return reply.error(Errno::ENOTDIR);
        };
        let _is_full = entries.any(|(next, name, attr)| {
            reply.add(attr.ino, next, name, &FOREVER, attr, Generation(0))
        });
        reply.ok();
    }
}
