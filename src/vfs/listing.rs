//! Directory listings in pieces: names at once, and what they lead to without ever failing for it.
//!
//! Names come from the directory alone. What a name leads to is looked up on this disk; what is
//! not here is fetched for the whole piece together, and ahead of the reader, for as long as the
//! short grace of the listing lasts. The rest is shown as unknown, with nothing to be kept.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::attr::Attr;
use super::child::Child;
use super::inode::{Identity, Inode};
use super::proved::Piece;
use super::{Error, Vfs, stale_unless_directory};
use crate::block::{Cid, codecs};
use crate::dag::{BATCH_AHEAD, Dag};
use crate::unixfs::{self, Cookie, DirEntry, FileType, Stat};

/// How long in milliseconds one listing of a directory waits for blocks in all. Long enough for a
/// near peer, short enough for `ls`.
const GRACE_MS: u32 = 1000;

/// Names whose blocks are fetched ahead of the reader of a listing: what `ls` reads in a few calls.
const AHEAD_NAMES: usize = 1024;

/// Listings that may be fetched ahead at one time; others fetch as they go.
pub(super) const AHEAD_LISTINGS_MAX: usize = 8;

/// How long fetching ahead goes on for a reader that may be gone.
const AHEAD_TIME: Duration = Duration::from_secs(10);

/// Place of what follows `.` and `..`.
const COOKIE_DOT: u64 = 1;
const COOKIE_DOTDOT: u64 = 2;

/// One piece of a listing: how much fits, and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Whether each entry, unless it is `.` or `..`, counts as a look-up of its inode.
    pub looks_up: bool,
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes that an entry takes besides its name.
    pub entry_bytes: usize,
}

/// One name of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name.
    pub name: Bytes,
    /// Where the listing goes on after this name.
    pub cookie: u64,
    /// Attributes of what it leads to.
    pub attr: Attr,
    /// How long the kernel may keep the name and the attributes.
    pub ttl: Duration,
}

impl Entry {
    /// Tells whether it is the directory itself or its parent, whose inodes a listing does not
    /// count.
    pub fn is_dot(&self) -> bool {
        matches!(&self.name[..], b"." | b"..")
    }
}

/// Who lists.
#[derive(Debug, Clone, Copy)]
struct By {
    tid: u32,
    /// The directory where it began to walk through the tree, if it does and is alone.
    walk_from: Option<u64>,
}

impl Vfs {
    /// Lists the directory `ino` for the thread `tid` after the place `cookie` (0: from the start), as
    /// much as fits; no entries mean the end.
    ///
    /// # Errors
    /// [`Error::Content`] when the directory itself cannot be read, never for what is in it;
    /// [`Error::NotListed`] in a root that must not be listed.
    pub async fn readdir(
        &self,
        ino: u64,
        cookie: u64,
        room: Room,
        tid: u32,
    ) -> Result<Vec<Entry>, Error> {
        let inode = self.inode(ino)?;
        let mut by = By { tid, walk_from: None };
        if cookie == 0 {
            inode.grace_ms.store(GRACE_MS, Ordering::Relaxed);
            if let Identity::Directory { parent, .. } = &inode.identity {
                by.walk_from = self.inner.walks.begun(ino, *parent);
                self.inner.walks.listed_by(tid, ino);
            }
        }
        let mut names = self.names(&inode, cookie, room).await?;
        names.truncate(room.holds(&names));
        if let Identity::Directory { cid, .. } = &inode.identity {
            let to = names.last().map_or(u64::MAX, |(cookie, _)| *cookie);
            self.inner.walks.listed(ino, &cid.get(), Cookie::from(to));
        }
        let children = self.children(&inode, &names, by).await;
        let mut entries = dots(self, ino, &inode, cookie);
        entries.reserve(names.len());
        let mut unknown = false;
        for ((cookie, entry), child) in names.into_iter().zip(children) {
            unknown |= matches!(child, Child::Unknown(_));
            let (inodes, identity) = (&self.inner.inodes, child.identity(ino, &entry));
            let ino = if room.looks_up {
                inodes.admit(identity, &inode)
            } else {
                inodes.number(&identity)
            };
            let (attr, ttl) = child.attr(ino, &entry, &self.inner.options.owner);
            entries.push(Entry { name: entry.name, cookie, attr, ttl });
        }
        if unknown {
            self.inner.unkept.note(ino);
        }
        Ok(entries)
    }

    async fn names(
        &self,
        inode: &Inode,
        cookie: u64,
        room: Room,
    ) -> Result<Vec<(u64, DirEntry)>, Error> {
        let max = room.bytes / room.entry_bytes.max(1) + 1;
        match &inode.identity {
            Identity::Namespace => self.roots(cookie, max),
            Identity::Directory { cid, .. } | Identity::File { cid, .. } => {
                let (dag, cid) = (self.dag_of(inode), cid.get());
                let names = unixfs::list(&dag, &cid, Cookie::from(cookie), max).await;
                let names = names.map_err(stale_unless_directory)?;
                Ok(names.into_iter().map(|(cookie, entry)| (cookie.to_u64(), entry)).collect())
            }
        }
    }

    /// The pinned roots in the order of a keyed hash: a place in it stays a place when pins come
    /// and go between two calls.
    fn roots(&self, cookie: u64, max: usize) -> Result<Vec<(u64, DirEntry)>, Error> {
        if !self.inner.options.list_root {
            return Err(Error::NotListed);
        }
        let mut places: Vec<(u64, Cid)> = self
            .inner
            .root
            .listed()
            .into_iter()
            .map(|cid| (self.inner.inodes.place(&cid), cid))
            .filter(|(place, _)| *place > cookie)
            .collect();
        places.sort_unstable_by_key(|(place, _)| *place);
        places.truncate(max);
        let entry = |cid: Cid| DirEntry { name: cid.to_string().into(), cid, tsize: None };
        Ok(places.into_iter().map(|(place, cid)| (place, entry(cid))).collect())
    }

    async fn children(&self, inode: &Inode, names: &[(u64, DirEntry)], by: By) -> Vec<Child> {
        let piece = inode.cid().and_then(|dir| Piece::of(dir, names));
        let is_proved = piece.as_ref().is_some_and(|piece| self.inner.proved.has(piece));
        let (local, claims) = (&self.inner.local, self.inner.options.claims);
        let mut children = Vec::with_capacity(names.len());
        for (_, entry) in names {
            children.push(match Child::as_linked(entry).filter(|_| is_proved) {
                Some(linked) => Child::Proved(linked),
                None => Child::locally(local, entry, claims).await,
            });
        }
        let missing: Vec<usize> =
            (0..children.len()).filter(|&at| children[at].may_come()).collect();
        if !missing.is_empty() && !self.inner.dag.is_offline() {
            if let (Identity::Directory { cid, .. }, Some((first, _))) =
                (&inode.identity, names.first())
                && self.may_fetch_ahead(by.tid)
            {
                let dag = self.dag_of(inode);
                self.fetch_ahead(&dag, cid.get(), first.saturating_sub(1));
                if let Some(ino) = by.walk_from
                    && let Some(top) = self.inner.inodes.get(ino).and_then(|inode| inode.cid())
                {
                    self.inner.walks.start(&dag, ino, top);
                }
            }
            self.wait_for(inode, names, missing, &mut children).await;
        }
        if let Some(piece) = piece.filter(|_| !is_proved) {
            self.inner.proved.note(piece, names, &children);
        }
        children
    }

    /// Fetches what the names at `missing` lead to until the grace of the listing is used up.
    async fn wait_for(
        &self,
        inode: &Inode,
        names: &[(u64, DirEntry)],
        missing: Vec<usize>,
        children: &mut [Child],
    ) {
        let grace_ms = inode.grace_ms.load(Ordering::Relaxed);
        if grace_ms == 0 {
            return;
        }
        let started = Instant::now();
        let dag = self.dag_of(inode);
        let mut stats = futures::stream::iter(missing)
            .map(|at| {
                let (dag, cid) = (&dag, names[at].1.cid);
                async move { (at, unixfs::stat(dag, &cid).await) }
            })
            .buffer_unordered(BATCH_AHEAD);
        let grace = tokio::time::sleep(Duration::from_millis(grace_ms.into()));
        let mut grace = std::pin::pin!(grace);
        loop {
            tokio::select! {
                () = &mut grace => break,
                next = stats.next() => match next {
                    Some((at, Ok(stat))) => children[at] = Child::Proved(stat),
                    Some((at, Err(error))) => children[at] = Child::Unknown(error),
                    None => break,
                },
            }
        }
        let used_ms = u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX);
        inode.grace_ms.store(grace_ms.saturating_sub(used_ms), Ordering::Relaxed);
    }

    /// Starts to fetch what the names of `dir` after the place `from` lead to, unless enough
    /// listings are fetched ahead already. Callers that wait for the same block join in.
    fn fetch_ahead(&self, dag: &Dag, dir: Cid, from: u64) {
        let Ok(permit) = self.inner.ahead.clone().try_acquire_owned() else { return };
        let dag = dag.ahead();
        tokio::spawn(async move {
            let ended = tokio::time::timeout(AHEAD_TIME, fetch_children(&dag, &dir, from)).await;
            tracing::trace!(%dir, whole = ended.is_ok(), "fetched ahead of a listing");
            drop(permit);
        });
    }
}

/// Loads the root blocks of children; whoever asks for one of them later gets its error then.
async fn fetch_children(dag: &Dag, dir: &Cid, from: u64) {
    let Ok(names) = unixfs::list(dag, dir, Cookie::from(from), AHEAD_NAMES).await else { return };
    let roots = names.into_iter().map(|(_, entry)| entry.cid);
    let mut nodes = std::pin::pin!(dag.nodes(roots.filter(|cid| cid.codec() == codecs::DAG_PB)));
    while nodes.next().await.is_some() {
        consume_budget().await;
    }
}

/// `.` and `..`, as far as they come after `cookie`.
fn dots(vfs: &Vfs, ino: u64, inode: &Inode, cookie: u64) -> Vec<Entry> {
    let stat = Stat {
        kind: FileType::Directory,
        file_len: 0,
        metadata: crate::codec::node::Metadata::default(),
    };
    [(".", COOKIE_DOT, ino), ("..", COOKIE_DOTDOT, inode.parent())]
        .into_iter()
        .filter(|(_, place, _)| *place > cookie)
        .map(|(name, place, ino)| Entry {
            name: Bytes::from_static(name.as_bytes()),
            cookie: place,
            attr: vfs.inner.options.owner.attr(ino, &stat),
            ttl: Duration::ZERO,
        })
        .collect()
}

impl Room {
    /// Returns how many of these names fit; at least one, so that a listing goes on.
    fn holds(&self, names: &[(u64, DirEntry)]) -> usize {
        let mut used = 0;
        let fits = names.iter().take_while(|(_, entry)| {
            used += self.entry_bytes + entry.name.len();
            used <= self.bytes
        });
        fits.count().max(1)
    }
}
