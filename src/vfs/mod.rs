//! The filesystem without a kernel: inodes, attributes, names, reads, and what they mean.
//!
//! Every operation here can be called from a plain test. When nothing has to be fetched, the first
//! poll of each future is ready. Nothing here waits by itself for longer than a listing's grace:
//! deadlines and signals belong to the caller, who drops the future.
//!
//! **A claim is never an attribute of someone else's inode.** What a link says of the length of a
//! file is shown, for a moment, under an inode of its own; before such a file is opened its block
//! is fetched, and a disproved claim is [`Error::Stale`], upon which the kernel looks up again.
//!
//! This layer knows no FUSE messages, no descriptors and no mount points.

mod attr;
mod child;
mod error;
mod inode;
mod listing;
mod opened;
mod proved;
mod root;
mod streams;
mod unkept;
mod walks;
mod xattr;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::Semaphore;

use self::child::{Child, UNKNOWN_LEN};
use self::inode::{Identity, Inode, InodeTable, PackedCid};
use self::opened::OpenFiles;
use self::proved::ProvedLinks;
use self::unkept::Unkept;
use self::walks::Walks;
use crate::block::{Cid, cid_from_text};
use crate::codec::node::{Metadata, NAME_LEN_MAX};
use crate::dag::Dag;
use crate::keep::Keeper;
use crate::sys::thread;
use crate::sys::volume::{self, Volume};
use crate::unixfs::{self, DirEntry, FetchBudget, FileType, Stat, UnixfsError};

pub use self::attr::{Attr, LISTING_BYTES, MTIME_MAX, Ownership};
pub use self::error::Error;
pub use self::inode::ROOT_INO;
pub use self::listing::{Entry, Room};
pub use self::opened::Opened;
pub use self::root::{FixedRoot, Namespace, Root};
pub use self::streams::Streams;
pub use self::unkept::Changes;
pub use self::walks::WALKAHEAD_BLOCKS;
pub use self::xattr::{Caller, SetMode};

/// How long the kernel keeps what cannot change: 34 years, the longest it was seen to take.
pub const FOREVER: Duration = Duration::from_secs(1 << 30);

/// How long the kernel keeps what is only claimed.
pub const CLAIM_TTL: Duration = Duration::from_secs(1);

/// How a filesystem presents itself.
#[derive(Debug, Clone)]
pub struct VfsOptions {
    /// Owner and permission bits.
    pub owner: Ownership,
    /// Whether what is not here is asked of other nodes.
    pub offline: bool,
    /// Whether the length that a link claims is shown until a file is opened. It must not be where
    /// opening a file is not told.
    pub claims: bool,
    /// Whether a listing of the namespace shows the pinned roots.
    pub list_root: bool,
    /// Key of the inode numbers: the same key gives the same numbers.
    pub inode_key: [u8; 32],
    /// A path on the volume whose room statfs(2) shows; `None` shows none.
    pub volume: Option<PathBuf>,
    /// Memory for what is fetched ahead of readers.
    pub fetch_budget: Arc<FetchBudget>,
    /// Blocks that are fetched ahead of one who walks through a tree; 0 for none.
    pub walkahead: usize,
    /// Programs that nothing is fetched ahead for, by the names that the kernel shows of them.
    pub no_fetch: Vec<String>,
    /// Who pins; without one nothing can be pinned through this tree.
    pub keeper: Option<Keeper>,
}

/// An inode that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its attributes.
    pub attr: Attr,
    /// How long the kernel may keep them.
    pub ttl: Duration,
}

/// A mounted tree; cloning gives another handle to the same inodes.
#[derive(Debug, Clone)]
pub struct Vfs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dag: Dag,
    /// The same dag, which never asks others.
    local: Dag,
    root: Arc<dyn Root>,
    inodes: InodeTable,
    options: VfsOptions,
    unkept: Unkept,
    proved: ProvedLinks,
    open_files: OpenFiles,
    streams: Streams,
    walks: Walks,
    /// Turns of listings that are fetched ahead.
    ahead: Arc<Semaphore>,
}

impl Vfs {
    /// Returns the tree below `root`.
    pub fn new(dag: Dag, root: Arc<dyn Root>, options: VfsOptions) -> Self {
        let identity = match root.directory() {
            None => Identity::Namespace,
            Some(cid) => Identity::Directory {
                parent: ROOT_INO,
                name: Box::default(),
                cid: PackedCid::new(&cid),
            },
        };
        let local = dag.offline();
        let dag = if options.offline { local.clone() } else { dag };
        let inner = Inner {
            streams: Streams::new(Arc::clone(&options.fetch_budget)),
            walks: Walks::new(options.walkahead),
            dag,
            local,
            root,
            inodes: InodeTable::new(options.inode_key, identity),
            options,
            unkept: Unkept::default(),
            proved: ProvedLinks::default(),
            open_files: OpenFiles::default(),
            ahead: Arc::new(Semaphore::new(listing::AHEAD_LISTINGS_MAX)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Looks up a name and counts one look-up of what it leads to; `None` means that there is no
    /// such name, now and for ever.
    ///
    /// # Errors
    /// [`Error::Content`], [`Error::NameTooLong`], [`Error::Stale`].
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Found>, Error> {
        if name.len() > NAME_LEN_MAX {
            return Err(Error::NameTooLong);
        }
        let inode = self.inode(parent)?;
        let dag = self.dag_of(&inode);
        let entry = match inode.cid() {
            None => root_entry(name),
            Some(dir) => unixfs::lookup(&dag, &dir, name).await.map_err(stale_unless_directory)?,
        };
        let Some(entry) = entry else { return Ok(None) };
        let dag = if inode.root.is_some() { dag } else { dag.below(&entry.cid) };
        let Inner { local, options, .. } = &*self.inner;
        let child = Child::anywhere(local, &dag, &entry, options.claims).await?;
        let ino = self.inner.inodes.admit(child.identity(parent, &entry), &inode);
        let (attr, ttl) = child.attr(ino, &entry, &self.inner.options.owner);
        Ok(Some(Found { attr, ttl }))
    }

    /// Returns the way to what lies below the root of an inode.
    fn dag_of(&self, inode: &Inode) -> Dag {
        let dag = &self.inner.dag;
        inode.root.as_ref().map_or_else(|| dag.clone(), |root| dag.below(root))
    }

    /// Takes back look-ups of an inode; returns whether they were the last.
    pub fn forget(&self, ino: u64, lookups: u64) -> bool {
        let is_freed = self.inner.inodes.forget(ino, lookups);
        if is_freed {
            self.inner.open_files.forget(ino);
            self.inner.streams.forget(ino);
        }
        is_freed
    }

    /// Returns the number of inodes that were looked up and not forgotten, with the root.
    pub fn inode_count(&self) -> usize {
        self.inner.inodes.len()
    }

    /// Returns the attributes of an inode.
    ///
    /// # Errors
    /// [`Error::Content`], [`Error::Stale`].
    pub async fn getattr(&self, ino: u64) -> Result<Found, Error> {
        let inode = self.inode(ino)?;
        let (stat, ttl) = match &inode.identity {
            Identity::Namespace => (self.namespace_stat(), FOREVER),
            Identity::Directory { cid, .. } => {
                let stat = unixfs::stat(&self.dag_of(&inode), &cid.get()).await?;
                if stat.kind != FileType::Directory {
                    return Err(Error::Stale);
                }
                (stat, FOREVER)
            }
            Identity::File { cid, claimed_len } => {
                self.file_stat(&self.dag_of(&inode), cid.get(), *claimed_len).await?
            }
        };
        Ok(Found { attr: self.inner.options.owner.attr(ino, &stat), ttl })
    }

    /// A root that is not listed can be entered, and its names opened by those who know them.
    fn namespace_stat(&self) -> Stat {
        let mode = (!self.inner.options.list_root).then_some(0o111);
        let metadata = Metadata { mode, ..Metadata::default() };
        Stat { kind: FileType::Directory, file_len: 0, metadata }
    }

    async fn file_stat(
        &self,
        dag: &Dag,
        cid: Cid,
        claimed_len: Option<u64>,
    ) -> Result<(Stat, Duration), Error> {
        let known_soon = claimed_len.is_none_or(|len| len == UNKNOWN_LEN);
        let dag = if known_soon { dag } else { &self.inner.local };
        match (unixfs::stat(dag, &cid).await, claimed_len) {
            (Ok(stat), None) => Ok((stat, FOREVER)),
            (Ok(stat), Some(len)) if stat.file_len == len => Ok((stat, FOREVER)),
            (Ok(_), Some(_)) => Err(Error::Stale),
            (Err(_), Some(file_len)) if !known_soon => Ok((Stat::plain_file(file_len), CLAIM_TTL)),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Returns the target of a symlink, byte for byte.
    ///
    /// # Errors
    /// [`Error::Content`].
    pub async fn readlink(&self, ino: u64) -> Result<Bytes, Error> {
        let inode = self.inode(ino)?;
        let cid = inode.cid().ok_or(Error::Stale)?;
        Ok(unixfs::read_link(&self.dag_of(&inode), &cid).await?)
    }

    /// Opens a file to read it, until [`Vfs::release`]. A length that was only claimed is proved first.
    /// Unless `may_be_whole`, it is read in parts; who opens one inode says the same each time. What the thread
    /// `tid` will open next is fetched ahead.
    ///
    /// # Errors
    /// [`Error::Stale`] when the claim was false, [`Error::Content`].
    pub async fn open(&self, ino: u64, may_be_whole: bool, tid: u32) -> Result<Opened, Error> {
        let inode = self.inode(ino)?;
        match &inode.identity {
            Identity::File { cid, claimed_len: Some(len) } => {
                let (dag, cid) = (self.dag_of(&inode), cid.get());
                let mut stat = std::pin::pin!(unixfs::stat(&dag, &cid));
                let stat = if let Some(here) = stat.as_mut().now_or_never() {
                    here?
                } else {
                    self.waits_for_bytes(tid);
                    stat.await?
                };
                if stat.file_len != *len {
                    return Err(Error::Stale);
                }
            }
            Identity::Namespace | Identity::Directory { .. } | Identity::File { .. } => {}
        }
        Ok(self.give_out(ino, &inode.identity, may_be_whole).await)
    }

    /// Returns bytes of a file: `len` of them, fewer only at its end or when `len` is over
    /// [`unixfs::READ_LEN_MAX`]. What the thread `tid` will read next is fetched ahead.
    ///
    /// # Errors
    /// [`Error::Content`].
    pub async fn read(&self, ino: u64, offset: u64, len: usize, tid: u32) -> Result<Bytes, Error> {
        let streams = &self.inner.streams;
        let inode = self.inode(ino)?;
        let (dag, cid) = (self.dag_of(&inode), inode.cid().ok_or(Error::Stale)?);
        let range = offset..offset.saturating_add(len as u64);
        streams.read(ino, &range);
        let mut read = std::pin::pin!(unixfs::read(&dag, &cid, offset, len));
        if let Some(here) = read.as_mut().now_or_never() {
            return Ok(here?);
        }
        if self.may_fetch_ahead(tid) {
            streams.stalled(ino, &dag, &cid, &range);
        }
        self.waits_for_bytes(tid);
        Ok(read.await?)
    }

    /// Has files fetched ahead of a thread that reads one after the other.
    fn waits_for_bytes(&self, tid: u32) {
        if !self.may_fetch_ahead(tid) {
            return;
        }
        let walks = &self.inner.walks;
        let Some(ino) = walks.waits_for_bytes(tid) else { return };
        let Some(dir) = self.inner.inodes.get(ino) else { return };
        if let Some(top) = dir.cid() {
            walks.start_reading(&self.dag_of(&dir), ino, top);
        }
    }

    fn may_fetch_ahead(&self, tid: u32) -> bool {
        let no_fetch = &self.inner.options.no_fetch;
        !self.inner.dag.is_offline()
            && (no_fetch.is_empty()
                || thread::name(tid).is_none_or(|name| !no_fetch.contains(&name)))
    }

    /// Returns the room on the volume of the repository, `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Volume`].
    pub fn statfs(&self) -> Result<Option<Volume>, Error> {
        let Some(path) = &self.inner.options.volume else { return Ok(None) };
        volume::volume(path).map(Some).map_err(Error::Volume)
    }

    /// Returns what happens to directories whose listing the kernel must not keep.
    pub fn changes(&self) -> Changes {
        Changes::new(self.inner.root.changes(), self.clone())
    }

    fn inode(&self, ino: u64) -> Result<Arc<Inode>, Error> {
        self.inner.inodes.get(ino).ok_or(Error::Stale)
    }
}

/// A name in the namespace is a CID in any of its forms; what is no CID never exists.
fn root_entry(name: &[u8]) -> Option<DirEntry> {
    let cid = cid_from_text(std::str::from_utf8(name).ok()?).ok()?;
    Some(DirEntry { name: Bytes::copy_from_slice(name), cid, tsize: None })
}

/// What was presumed to be a directory and is none has to be looked up again.
fn stale_unless_directory(error: UnixfsError) -> Error {
    match error {
        UnixfsError::NotADirectory { .. } => Error::Stale,
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
