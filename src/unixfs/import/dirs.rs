//! The directories of an import that are not built yet: who is in whom, and what is still missing.
//!
//! Knows names and results only; hashing, storing and events are its caller's.

use std::collections::{BTreeMap, HashMap};

use super::directory::Entry;
use super::error::ImportError;
use super::nodes::Child;
use crate::codec::node::{Metadata, name_is_legal};

/// Directories inside each other: what the shortest names allow in a path of `PATH_MAX` (4,096)
/// bytes, so that no real tree is refused and a hostile stream of entries is.
pub const DEPTH_MAX: usize = 2048;

/// A directory that is not built yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DirId(u64);

/// Holds the arguments; the wrapping directory if there is one.
pub(super) const TOP: DirId = DirId(0);

/// One directory.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) parent: DirId,
    pub(super) name: Box<[u8]>,
    pub(super) metadata: Metadata,
    /// An entry was given, even if it was an empty directory that is left out.
    pub(super) used: bool,
    depth: usize,
    entries: BTreeMap<Box<[u8]>, Slot>,
    /// Entries without a result.
    unfinished: usize,
    /// More entries may come.
    open: bool,
}

#[derive(Debug)]
enum Slot {
    Pending,
    Directory(DirId),
    Done(Child),
}

impl Dir {
    fn new(parent: DirId, name: &[u8], depth: usize, metadata: Metadata) -> Self {
        Self {
            parent,
            name: name.into(),
            metadata,
            used: false,
            depth,
            entries: BTreeMap::new(),
            unfinished: 0,
            open: true,
        }
    }

    /// Returns the entries of a complete directory, sorted by name.
    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter().filter_map(|(name, slot)| match slot {
            Slot::Done(child) => Some(Entry { name, child }),
            Slot::Pending | Slot::Directory(_) => None,
        })
    }
}

/// All directories that are not built yet.
#[derive(Debug)]
pub(super) struct Dirs {
    dirs: HashMap<DirId, Dir>,
    made: u64,
}

impl Dirs {
    pub(super) fn new(top: Metadata) -> Self {
        Self { dirs: HashMap::from([(TOP, Dir::new(TOP, b"", 0, top))]), made: 0 }
    }

    /// Makes the directory `name`, which is not there yet.
    pub(super) fn make(
        &mut self,
        parent: DirId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<DirId, ImportError> {
        let depth = self.dir(parent).depth + 1;
        if depth > DEPTH_MAX {
            let path = text(&self.path(parent, name));
            return Err(ImportError::TooDeep { path, max: DEPTH_MAX });
        }
        self.reserve(parent, name)?;
        self.made += 1;
        let id = DirId(self.made);
        self.dir_mut(parent).entries.insert(name.into(), Slot::Directory(id));
        self.dirs.insert(id, Dir::new(parent, name, depth, metadata));
        Ok(id)
    }

    /// Finds or makes the directory at `path`, and tells its metadata.
    pub(super) fn make_path(&mut self, path: &[u8], metadata: Metadata) -> Result<(), ImportError> {
        let (parent, name) = self.locate(path)?;
        let id = self.find_or_make(parent, name)?;
        self.dir_mut(id).metadata = metadata;
        Ok(())
    }

    /// Splits a path into the directory, made if it is missing, and the last name.
    pub(super) fn locate<'n>(&mut self, path: &'n [u8]) -> Result<(DirId, &'n [u8]), ImportError> {
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let segments = || path.split(|&byte| byte == b'/');
        if !segments().all(name_is_legal) {
            return Err(ImportError::Name { path: text(path) });
        }
        let mut dir = TOP;
        for segment in above.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
            dir = self.find_or_make(dir, segment)?;
        }
        Ok((dir, name))
    }

    fn find_or_make(&mut self, parent: DirId, name: &[u8]) -> Result<DirId, ImportError> {
        match self.dir(parent).entries.get(name) {
            Some(&Slot::Directory(id)) => Ok(id),
            _ => self.make(parent, name, Metadata::default()),
        }
    }

    /// Takes a name whose result comes later.
    pub(super) fn reserve(&mut self, parent: DirId, name: &[u8]) -> Result<(), ImportError> {
        let path = || text(&self.path(parent, name));
        if !name_is_legal(name) {
            return Err(ImportError::Name { path: path() });
        }
        if self.dir(parent).entries.contains_key(name) {
            return Err(ImportError::Duplicate { path: path() });
        }
        let dir = self.dir_mut(parent);
        dir.used = true;
        dir.unfinished += 1;
        dir.entries.insert(name.into(), Slot::Pending);
        Ok(())
    }

    /// Sets the result of a reserved name; `None` leaves the entry out.
    pub(super) fn resolve(&mut self, parent: DirId, name: &[u8], result: Option<Child>) {
        let dir = self.dir_mut(parent);
        dir.unfinished -= 1;
        match result {
            Some(child) => dir.entries.insert(name.into(), Slot::Done(child)),
            None => dir.entries.remove(name),
        };
    }

    /// Tells that a directory has all its entries.
    pub(super) fn close(&mut self, id: DirId) {
        self.dir_mut(id).open = false;
    }

    /// Closes all directories and returns those that are complete, oldest first.
    pub(super) fn close_all(&mut self) -> Vec<DirId> {
        let mut complete = Vec::new();
        for (&id, dir) in &mut self.dirs {
            dir.open = false;
            if dir.unfinished == 0 {
                complete.push(id);
            }
        }
        complete.sort_unstable();
        complete
    }

    /// Takes a directory out if it is closed and all its entries have results.
    pub(super) fn take_complete(&mut self, id: DirId) -> Option<Dir> {
        let dir = self.dirs.get(&id)?;
        if dir.open || dir.unfinished > 0 { None } else { self.dirs.remove(&id) }
    }

    /// Returns the path of an entry, relative to the top.
    pub(super) fn path(&self, parent: DirId, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut id = parent;
        while id != TOP {
            let dir = self.dir(id);
            names.push(&dir.name);
            id = dir.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn dir(&self, id: DirId) -> &Dir {
        self.dirs.get(&id).expect("a directory is kept until its last entry has a result")
    }

    fn dir_mut(&mut self, id: DirId) -> &mut Dir {
        self.dirs.get_mut(&id).expect("a directory is kept until its last entry has a result")
    }
}

/// A path as people read it.
pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_complete_when_closed_and_nothing_is_missing() {
        let mut dirs = Dirs::new(Metadata::default());
        let (b, name) = dirs.locate(b"a/b/f").unwrap();
        dirs.reserve(b, name).unwrap();
        assert_eq!(dirs.path(b, name), b"a/b/f");
        assert!(dirs.close_all().is_empty());
        assert!(dirs.take_complete(b).is_none());
        dirs.resolve(b, name, None);
        let b = dirs.take_complete(b).unwrap();
        assert!(b.used);
        assert_eq!(b.into_entries().count(), 0, "left out");
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut dirs = Dirs::new(Metadata::default());
        dirs.make_path(b"a/b", Metadata::default()).unwrap();
        dirs.make_path(b"a", Metadata::default()).unwrap();
        let (a, name) = dirs.locate(b"a/b").unwrap();
        for again in [dirs.reserve(a, name), dirs.make(a, name, Metadata::default()).map(|_| ())] {
            assert!(matches!(again, Err(ImportError::Duplicate { path }) if path == "a/b"));
        }
    }
}
