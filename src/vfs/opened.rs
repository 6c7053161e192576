//! Open files, and the one way in which each of them is read until its last handle is closed.
//!
//! The kernel reads an inode either through us or from a file of ours by itself, never both ways at
//! once, so the first who opens it decides for all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::Vfs;
use super::inode::Identity;
use crate::block::{Cid, codecs};
use crate::store::{FileState, WholeFile};
use crate::unixfs;

/// Shorter files are not worth a look: opening costs more than reading them saves.
const WHOLE_LEN_MIN: u64 = 256 * 1024;
/// Bytes that are hashed while somebody waits to open a file: a fifth of a second. More is hashed
/// afterwards, for those who open it next.
const PROVE_AT_OPEN_MAX: u64 = 256 * 1024 * 1024;
/// Files that are looked at for who opens them at one time. Who gives up leaves a look, and its
/// hashing, behind.
const LOOKS_MAX: usize = 4;
/// Files that are hashed for a later open at the same time.
const PROVE_LATER_MAX: usize = 1;

/// How an open file is read.
#[derive(Debug, Clone)]
pub enum Opened {
    /// Through [`Vfs::read`].
    Parts,
    /// From this file, or through [`Vfs::read`], but all handles in the same way.
    Whole(Arc<WholeFile>),
}

/// The open files, by inode number.
#[derive(Debug)]
pub(super) struct OpenFiles {
    files: Mutex<HashMap<u64, OpenFile>>,
    /// Turns of those who look for who opens a file.
    looking: Arc<Semaphore>,
    /// Turns of those who hash for a later open.
    proving: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct OpenFile {
    handles: u64,
    verdict: Arc<OnceCell<Opened>>,
}

/// A handle that is not given out yet; dropping it closes it.
struct Opening<'a> {
    files: &'a OpenFiles,
    ino: u64,
    verdict: Arc<OnceCell<Opened>>,
    is_given_out: bool,
}

impl Default for OpenFiles {
    fn default() -> Self {
        let turns = |max| Arc::new(Semaphore::new(max));
        Self { files: Mutex::default(), looking: turns(LOOKS_MAX), proving: turns(PROVE_LATER_MAX) }
    }
}

impl OpenFiles {
    fn open(&self, ino: u64) -> Opening<'_> {
        let mut files = self.files.lock();
        let file = files.entry(ino).or_default();
        file.handles += 1;
        let verdict = Arc::clone(&file.verdict);
        Opening { files: self, ino, verdict, is_given_out: false }
    }

    /// Closes a handle; returns whether it was the last.
    fn close(&self, ino: u64) -> bool {
        let mut files = self.files.lock();
        let Some(file) = files.get_mut(&ino) else { return false };
        file.handles = file.handles.saturating_sub(1);
        let is_last = file.handles == 0;
        if is_last {
            files.remove(&ino);
        }
        is_last
    }

    /// Forgets handles of an inode that the kernel has forgotten, whose answer it never got.
    pub(super) fn forget(&self, ino: u64) {
        self.files.lock().remove(&ino);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.is_given_out {
            self.files.close(self.ino);
        }
    }
}

impl Vfs {
    /// Gives out a handle of a file and tells how all of its handles are read.
    pub(super) async fn give_out(
        &self,
        ino: u64,
        identity: &Identity,
        may_be_whole: bool,
    ) -> Opened {
        let Identity::File { cid, .. } = identity else { return Opened::Parts };
        let cid = cid.get();
        let mut opening = self.inner.open_files.open(ino);
        let look = async || {
            if !may_be_whole || self.is_short(&cid).await {
                return Opened::Parts;
            }
            self.look(cid).await
        };
        let opened = opening.verdict.get_or_init(look).await.clone();
        opening.is_given_out = true;
        opened
    }

    /// Takes a handle back that [`Vfs::open`] gave out; returns whether it was the last of its inode.
    pub fn release(&self, ino: u64) -> bool {
        let is_last = self.inner.open_files.close(ino);
        if is_last {
            self.inner.streams.close(ino);
        }
        is_last
    }

    /// Tells whether a file is known to be too short to lie in a file of its own.
    async fn is_short(&self, cid: &Cid) -> bool {
        if cid.codec() == codecs::RAW {
            return true;
        }
        let known = unixfs::stat(&self.inner.local, cid).await;
        known.is_ok_and(|stat| stat.file_len < WHOLE_LEN_MIN)
    }

    async fn look(&self, cid: Cid) -> Opened {
        let local = self.inner.local.clone();
        let turn = Arc::clone(&self.inner.open_files.looking).acquire_owned().await;
        let look = tokio::spawn(async move {
            // Its turn ends with the hashing, which goes on when nobody waits for it any more.
            let _turn = turn;
            unixfs::whole_file(&local, &cid, PROVE_AT_OPEN_MAX).await
        });
        match look.await {
            Ok(Ok(FileState::Whole(file))) => return Opened::Whole(Arc::new(file)),
            Ok(Ok(FileState::Unproved)) => self.prove_later(cid),
            Ok(Ok(FileState::Parts)) => self.gather_later(cid),
            Ok(Err(error)) => tracing::warn!(%cid, %error, "a file cannot be read as a whole"),
            Err(error) => tracing::error!(%cid, %error, "looking for a whole file failed"),
        }
        Opened::Parts
    }

    /// Returns how many files may be looked at now.
    #[cfg(test)]
    pub(super) fn looks_free(&self) -> usize {
        self.inner.open_files.looking.available_permits()
    }

    /// Asks for a file to be laid out as one, so that it is whole when it is opened next.
    fn gather_later(&self, cid: Cid) {
        if let Some(keeper) = &self.inner.options.keeper {
            keeper.gather_soon(cid);
        }
    }

    fn prove_later(&self, cid: Cid) {
        let Ok(turn) = Arc::clone(&self.inner.open_files.proving).try_acquire_owned() else {
            return;
        };
        let local = self.inner.local.clone();
        tokio::spawn(async move {
            if let Err(error) = unixfs::whole_file(&local, &cid, u64::MAX).await {
                tracing::warn!(%cid, %error, "a file cannot be proved");
            }
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_lasts_until_the_last_handle_is_closed() {
        let files = OpenFiles::default();
        drop(files.open(7));
        assert!(files.files.lock().is_empty(), "nobody got that handle");
        let first = Arc::clone(&files.open(7).verdict);
        let keep = |ino| files.open(ino).is_given_out = true;
        keep(7);
        assert!(!Arc::ptr_eq(&first, &files.files.lock()[&7].verdict), "it was closed meanwhile");
        let second = Arc::clone(&files.files.lock()[&7].verdict);
        keep(7);
        assert!(Arc::ptr_eq(&second, &files.files.lock()[&7].verdict));
        assert!(!files.close(7));
        assert!(files.close(7));
        assert!(!files.close(7), "there is no such handle");
        keep(8);
        files.forget(8);
        assert!(files.files.lock().is_empty());
    }
}
