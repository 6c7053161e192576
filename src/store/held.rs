//! The directories of an open repository, so that no other one is changed in its place.
//!
//! Files are reached by path, and a repository can be moved while it is open. What lies at its path then
//! is another one, whose lock this process does not have. So names are changed through the directories that
//! are open, which is right at any moment, and only while the path leads to them, so that whoever moves a
//! repository that is in use hears of it.

use std::fs::{File, Metadata};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::diskio::DiskIo;
use super::error::AtPath as _;

/// A disk that changes names in the directories that were opened, as long as the path of the repository leads
/// to them.
#[derive(Debug)]
pub(super) struct HeldDisk {
    disk: Arc<dyn DiskIo>,
    home: PathBuf,
    dirs: Vec<Held>,
    /// The file whose lock keeps other processes out.
    lock: Held,
}

/// A directory or file that is open: the kernel gives its number to no other one.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: File,
}

impl HeldDisk {
    /// Holds the repository at `home`, which is locked, and in whose directories `disk` works.
    pub(super) fn open(home: &Path, disk: Arc<dyn DiskIo>) -> Result<Self, StoreError> {
        let dirs = [home.to_owned(), home.join("packs")].map(Held::open);
        let dirs = dirs.into_iter().collect::<Result<_, _>>()?;
        let lock = Held::open(home.join("lock"))?;
        Ok(Self { disk, home: home.to_owned(), dirs, lock })
    }

    /// Returns a way to a name that goes through the open directory, if it lies in one.
    fn held(&self, path: &Path) -> io::Result<PathBuf> {
        self.check_place()?;
        let dir = self.dirs.iter().find(|dir| path.parent() == Some(&*dir.path));
        let held = dir.zip(path.file_name()).map(|(dir, name)| dir.held().join(name));
        Ok(held.unwrap_or_else(|| path.to_owned()))
    }
}

impl Held {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = File::open(&path).at(&path)?;
        Ok(Self { path, file })
    }

    fn held(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Tells whether the path still leads to it.
    fn is_here(&self) -> io::Result<bool> {
        let id = |found: Metadata| (found.dev(), found.ino());
        match self.path.metadata() {
            Ok(found) => Ok(id(found) == id(self.file.metadata()?)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl DiskIo for HeldDisk {
    fn check_place(&self) -> io::Result<()> {
        for dir in &self.dirs {
            if !dir.is_here()? {
                return Err(io::Error::other(format!(
                    "the repository was moved away from {} while it was in use; stop the daemon and start it where it is now",
                    self.home.display()
                )));
            }
        }
        if !self.lock.is_here()? {
            return Err(io::Error::other(format!(
                "{} was removed, so that another process may have the repository too; stop the daemon and start it again",
                self.lock.path.display()
            )));
        }
        self.disk.check_place()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.disk.create(&self.held(path)?)
    }

    fn write(&self, file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.disk.write(file, slices, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.disk.sync(file)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.disk.set_len(file, len)
    }

    fn clone_file(&self, from: &File, to: &File) -> io::Result<()> {
        self.disk.clone_file(from, to)
    }

    fn punch(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        self.disk.punch(file, offset, len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.held(from)?, &self.held(to)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(&self.held(from)?, &self.held(to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(&self.held(path)?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check_place()?;
        let held = self.dirs.iter().find(|held| held.path == dir).map(Held::held);
        self.disk.sync_dir(&held.unwrap_or_else(|| dir.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;

    use bytes::Bytes;

    use super::*;
    use crate::block::{Block, HashFn, codecs};
    use crate::store::diskio::RealDisk;
    use crate::store::{BlockStore as _, DiskOptions, OpenMode, Repository};

    fn block(n: u8) -> Block {
        Block::hash(codecs::RAW, HashFn::SHA2_256, Bytes::from(vec![n; 5000])).unwrap()
    }

    #[test]
    fn what_lies_where_a_repository_was_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("here"), dir.path().join("moved"));
        Repository::init(&path).unwrap();
        let options = || DiskOptions { pack_blocks_max: 1, ..DiskOptions::default() };
        let open = || Repository::open_with(&path, OpenMode::Existing, options()).unwrap();
        let first = open();
        first.blocks.put(&[block(1), block(2)]).unwrap();
        first.blocks.commit().unwrap();
        std::fs::rename(&path, &moved).unwrap();
        let told = first.blocks.put(&[block(3), block(4)]).unwrap_err().to_string();
        assert!(told.contains("was moved away from"), "nothing lies there: {told}");
        Repository::init(&path).unwrap();
        let second = open();
        second.blocks.put(&[block(5), block(6)]).unwrap();
        second.close().unwrap();
        drop(second);
        let before = files_below(&path);
        for refused in [
            first.blocks.put(&[block(3), block(4)]).map(drop),
            first.blocks.remove(block(1).cid()).map(drop),
            first.verify(&mut |_| ControlFlow::Continue(())).map(drop),
            first.check_place(),
            first.close(),
        ] {
            let told = refused.unwrap_err().to_string();
            assert!(told.contains("stop the daemon and start it where it is now"), "{told}");
        }
        drop(first);
        assert!(files_below(&path) == before, "the other one changed");
        let first = Repository::open(&moved, OpenMode::Existing).unwrap();
        assert_eq!(first.blocks.get(block(2).cid()).unwrap(), Some(block(2)));
    }

    #[test]
    fn what_is_not_where_it_was_takes_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        Repository::init(&home).unwrap();
        let held = Repository::open(&home, OpenMode::Existing).unwrap();
        held.blocks.put(&[block(0)]).unwrap();
        held.blocks.commit().unwrap();
        for (n, name, says) in [(1, "packs", "was moved away from"), (2, "lock", "was removed")] {
            let (here, away) = (home.join(name), home.join("away"));
            std::fs::rename(&here, &away).unwrap();
            // No name has to be changed for these.
            held.blocks.put(&[block(n)]).unwrap();
            let told = held.blocks.commit().unwrap_err().to_string();
            assert!(told.contains(says), "{told}");
            std::fs::rename(&away, &here).unwrap();
            held.blocks.commit().unwrap();
        }
        held.close().unwrap();
        drop(held);
        let again = Repository::open(&home, OpenMode::Existing).unwrap();
        for n in 0..3 {
            assert_eq!(again.blocks.get(block(n).cid()).unwrap(), Some(block(n)), "{n}");
        }
    }

    /// Moves the repository at the last moment before it changes a name.
    #[derive(Debug)]
    struct Mover {
        here: PathBuf,
        moved: PathBuf,
    }

    impl Mover {
        fn swap(&self) {
            std::fs::rename(&self.here, &self.moved).unwrap();
            std::fs::create_dir_all(self.here.join("packs")).unwrap();
            std::fs::write(self.here.join("packs/x"), "another's").unwrap();
        }
    }

    impl DiskIo for Mover {
        fn create(&self, path: &Path) -> io::Result<File> {
            self.swap();
            RealDisk.create(path)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.swap();
            RealDisk.remove(path)
        }
    }

    #[test]
    fn a_name_is_changed_where_it_was_meant_to_be_whatever_is_moved_meanwhile() {
        for is_removed in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (here, moved) = (dir.path().join("here"), dir.path().join("moved"));
            std::fs::create_dir_all(here.join("packs")).unwrap();
            std::fs::write(here.join("lock"), "").unwrap();
            let (name, mover) = (here.join("packs/x"), Mover { here, moved: moved.clone() });
            let held = HeldDisk::open(&mover.here.clone(), Arc::new(mover)).unwrap();
            if is_removed {
                std::fs::write(&name, "mine").unwrap();
                held.remove(&name).unwrap();
            } else {
                held.create(&name).unwrap();
            }
            assert_eq!(std::fs::read(&name).unwrap(), b"another's");
            assert_eq!(moved.join("packs/x").try_exists().unwrap(), !is_removed);
        }
    }

    fn files_below(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let content = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
        let below = dirs.iter().flat_map(|dir| files_below(dir));
        files.into_iter().map(content).chain(below).collect()
    }
}
