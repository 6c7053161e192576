//! Entries in any order → directories, bottom-up.
//!
//! Files are hashed by threads while the caller goes on; each directory is built as soon as it is
//! closed and its last entry is known. What is in memory: the entries of directories that are not
//! built yet, and the jobs in flight.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{CHUNK_LEN_MAX, Chunker, Segments};
use super::directory::{self, Entry};
use super::error::ImportError;
use super::layout::FileDag;
use super::nodes::{BlockSink, Child, Made, Nodes};
use super::options::{Follow, ImportOptions, ImportedRoot, Progress, ProgressFn};
use super::output::Output;
use super::profile::Layout;
use super::source::{PIECE_LEN, Piece, Ranges, Source, Stamp};
use super::workers::{InFlight, Workers};
use crate::block::Block;
use crate::codec::node::{Metadata, SYMLINK_LEN_MAX, name_is_legal};
use crate::store::BlockStore;

/// Directories inside each other: what the shortest names allow in a path of `PATH_MAX` (4,096)
/// bytes, so that no real tree is refused and a hostile stream of entries is.
pub const DEPTH_MAX: usize = 2048;

/// A directory of the tree that is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId(u64);

/// Holds the arguments; the wrapping directory if there is one.
pub(super) const TOP: DirId = DirId(0);

#[derive(Debug)]
struct Dir {
    parent: DirId,
    name: Box<[u8]>,
    depth: usize,
    metadata: Metadata,
    entries: BTreeMap<Box<[u8]>, Slot>,
    /// Entries that are not built yet.
    unfinished: usize,
    /// More entries may come.
    open: bool,
    /// An entry was given, even if an empty directory that is left out.
    used: bool,
}

#[derive(Debug)]
enum Slot {
    Pending,
    Directory(DirId),
    Done(Child),
}

/// A file's blocks, root last.
#[derive(Debug)]
struct Built {
    blocks: Vec<Block>,
    root: Child,
}

/// Builds one import from its entries.
pub struct TreeBuilder<'p> {
    options: ImportOptions,
    nodes: Nodes,
    workers: Workers,
    output: Output,
    progress: ProgressFn<'p>,
    dirs: HashMap<DirId, Dir>,
    dirs_made: u64,
    files: InFlight<(DirId, Box<[u8]>), Built>,
    total_bytes: u64,
    roots: Vec<ImportedRoot>,
}

impl std::fmt::Debug for TreeBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct("TreeBuilder");
        text.field("options", &self.options).field("open", &self.dirs.len()).finish_non_exhaustive()
    }
}

impl<'p> TreeBuilder<'p> {
    /// Starts an import into `store`, or into nothing to learn the CIDs only.
    ///
    /// # Errors
    /// [`ImportError::Setting`] and [`ImportError::Chunker`] when the profile is out of range.
    pub fn new(
        options: &ImportOptions,
        store: Option<Arc<dyn BlockStore>>,
        progress: ProgressFn<'p>,
    ) -> Result<Self, ImportError> {
        options.profile.check()?;
        let top = Dir {
            parent: TOP,
            name: Box::default(),
            depth: 0,
            metadata: options.metadata.of(Metadata::default()),
            entries: BTreeMap::new(),
            unfinished: 0,
            open: true,
            used: true,
        };
        Ok(Self {
            nodes: Nodes::new(Arc::new(options.profile.clone())),
            workers: Workers::new(options.threads),
            output: Output::new(store),
            progress,
            dirs: HashMap::from([(TOP, top)]),
            dirs_made: 0,
            files: InFlight::new(),
            total_bytes: 0,
            roots: Vec::new(),
            options: options.clone(),
        })
    }

    /// Adds a directory; those above it that were not given are made without metadata. Given
    /// twice it is one directory.
    ///
    /// # Errors
    /// [`ImportError::Name`], [`ImportError::TooDeep`], or [`ImportError::Duplicate`] when a file
    /// has this path.
    pub fn directory(&mut self, path: &[u8], own: Metadata) -> Result<(), ImportError> {
        let (dir, name) = self.locate(path)?;
        let id = self.find_or_make(dir, name)?;
        if let Some(dir) = self.dirs.get_mut(&id) {
            dir.metadata = self.options.metadata.of(own);
        }
        Ok(())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As for [`TreeBuilder::directory`]; a target over 4,095 bytes, empty or with a NUL is
    /// [`ImportError::Setting`].
    pub fn symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        own: Metadata,
    ) -> Result<(), ImportError> {
        let (dir, name) = self.locate(path)?;
        self.symlink_in(dir, name, target, own)
    }

    /// Adds a file with what `content` delivers up to its end. An empty path names the file by
    /// its CID.
    ///
    /// # Errors
    /// As for [`TreeBuilder::directory`], and [`ImportError::Stream`] when the reader fails.
    pub fn file(
        &mut self,
        path: &[u8],
        mut content: impl Read,
        own: Metadata,
    ) -> Result<(), ImportError> {
        let metadata = self.options.metadata.of(own);
        let failed = |source| ImportError::Stream { name: text(path), source };
        let slot = if path.is_empty() {
            None
        } else {
            let (dir, name) = self.locate(path)?;
            self.reserve(dir, name)?;
            Some((dir, name.into()))
        };
        let mut head = Vec::new();
        let head_max = CHUNK_LEN_MAX as u64 + 1;
        (&mut content).take(head_max).read_to_end(&mut head).map_err(failed)?;
        if head.len() <= CHUNK_LEN_MAX {
            let nodes = self.nodes.clone();
            let job = move || whole(&nodes, head.into(), metadata);
            match slot {
                Some(slot) => self.give(slot, job),
                None => self.nameless(job()?),
            }
        } else {
            let chunker = self.options.profile.chunker;
            let mut segments = Segments::new(Cursor::new(head).chain(content), chunker);
            let pieces = || chunks(segments.next_batch(PIECE_LEN).map_err(failed));
            let root = self.big(path, pieces, metadata)?;
            match slot {
                Some((dir, name)) => self.finished(dir, &name, root),
                None => self.nameless(Built { blocks: Vec::new(), root }),
            }
        }
    }

    /// Builds what is not built yet, makes everything durable and returns the roots: the wrapping
    /// directory, else each entry at the top in the order of its name.
    ///
    /// # Errors
    /// Whatever a thread or the store reports.
    pub fn finish(mut self) -> Result<Vec<ImportedRoot>, ImportError> {
        while self.take_file()? {}
        let mut complete = Vec::new();
        for (&id, dir) in &mut self.dirs {
            dir.open = false;
            if dir.unfinished == 0 {
                complete.push(id);
            }
        }
        // The order of a hash table would make the order of events random.
        complete.sort_unstable_by_key(|id| id.0);
        for id in complete {
            self.settle(id)?;
        }
        self.output.commit()?;
        Ok(self.roots)
    }

    /// Makes the directory `name`, which is not there yet, in `parent`.
    pub(super) fn enter(
        &mut self,
        parent: DirId,
        name: &[u8],
        own: Metadata,
    ) -> Result<DirId, ImportError> {
        self.make(parent, name, self.options.metadata.of(own))
    }

    /// Tells that a directory has all its entries.
    pub(super) fn leave(&mut self, id: DirId) -> Result<(), ImportError> {
        if let Some(dir) = self.dirs.get_mut(&id) {
            dir.open = false;
        }
        self.settle(id)
    }

    pub(super) fn symlink_in(
        &mut self,
        dir: DirId,
        name: &[u8],
        target: &[u8],
        own: Metadata,
    ) -> Result<(), ImportError> {
        if target.is_empty() || target.len() > SYMLINK_LEN_MAX || target.contains(&0) {
            return Err(ImportError::Setting(format!(
                "the target of the symbolic link \"{}\" must have 1 to {SYMLINK_LEN_MAX} bytes \
                 and no NUL",
                self.path(dir, name)
            )));
        }
        self.reserve(dir, name)?;
        let made = self.nodes.symlink(target, self.options.metadata.of_symlink(own))?;
        self.output.put(made.block)?;
        self.finished(dir, name, made.child)
    }

    /// Adds a file of this machine.
    pub(super) fn source_in(
        &mut self,
        dir: DirId,
        name: &[u8],
        path: PathBuf,
        stamp: Stamp,
        own: Metadata,
    ) -> Result<(), ImportError> {
        let metadata = self.options.metadata.of(own);
        let follow = self.options.selection.follow != Follow::Never;
        self.reserve(dir, name)?;
        if stamp.len() <= CHUNK_LEN_MAX as u64 {
            let nodes = self.nodes.clone();
            let job = move || {
                let data = Source::open(path, stamp, follow)?.read_whole()?;
                whole(&nodes, data, metadata)
            };
            return self.give((dir, name.into()), job);
        }
        let source = Arc::new(Source::open(path, stamp, follow)?);
        let shown = self.path_bytes(dir, name);
        let root = match self.options.profile.chunker {
            Chunker::Size(chunk_len) => {
                let mut ranges = Ranges::new(Arc::clone(&source), self.nodes.clone(), chunk_len);
                self.big(&shown, || ranges.next(), metadata)?
            }
            chunker => {
                let mut segments = Segments::new(&*source, chunker);
                let failed = |error| source.error(error);
                let pieces = || chunks(segments.next_batch(PIECE_LEN).map_err(failed));
                self.big(&shown, pieces, metadata)?
            }
        };
        source.check_unchanged()?;
        self.finished(dir, name, root)
    }

    /// Builds a file of more than one chunk, its leaves by all threads.
    fn big(
        &mut self,
        shown: &[u8],
        mut pieces: impl FnMut() -> Result<Option<Piece>, ImportError>,
        metadata: Metadata,
    ) -> Result<Child, ImportError> {
        let mut dag = FileDag::new(self.nodes.clone());
        let mut flight: InFlight<(), Vec<Made>> = InFlight::new();
        let mut file_bytes = 0;
        loop {
            let piece = if flight.is_full() { None } else { pieces()? };
            if let Some(piece) = piece {
                let nodes = self.nodes.clone();
                flight.add((), self.workers.give(move || piece.leaves(&nodes))?);
                continue;
            }
            let Some(((), answer)) = flight.next() else { break };
            for leaf in answer.take()? {
                file_bytes += leaf.child.file_len;
                self.total_bytes += leaf.child.file_len;
                self.output.put(leaf.block)?;
                dag.push(leaf.child, &mut self.output)?;
            }
            self.read_event(shown, file_bytes)?;
        }
        dag.finish(metadata, &mut self.output)
    }

    fn give(
        &mut self,
        slot: (DirId, Box<[u8]>),
        job: impl FnOnce() -> Result<Built, ImportError> + Send + 'static,
    ) -> Result<(), ImportError> {
        if self.files.is_full() {
            self.take_file()?;
        }
        let answer = self.workers.give(job)?;
        self.files.add(slot, answer);
        Ok(())
    }

    /// Takes the oldest small file from the threads; returns whether there was one.
    fn take_file(&mut self) -> Result<bool, ImportError> {
        let Some(((dir, name), answer)) = self.files.next() else { return Ok(false) };
        let built = answer.take()?;
        let shown = self.path_bytes(dir, &name);
        self.store(&built.blocks)?;
        self.total_bytes += built.root.file_len;
        self.read_event(&shown, built.root.file_len)?;
        self.finished(dir, &name, built.root)?;
        Ok(true)
    }

    fn store(&mut self, blocks: &[Block]) -> Result<(), ImportError> {
        blocks.iter().try_for_each(|block| self.output.put(block.clone()))
    }

    fn nameless(&mut self, built: Built) -> Result<(), ImportError> {
        let name = built.root.cid.to_string().into_bytes();
        self.store(&built.blocks)?;
        self.reserve(TOP, &name)?;
        self.finished(TOP, &name, built.root)
    }

    fn locate<'n>(&mut self, path: &'n [u8]) -> Result<(DirId, &'n [u8]), ImportError> {
        let mut dir = TOP;
        let mut segments = path.split(|&byte| byte == b'/').peekable();
        while let Some(segment) = segments.next() {
            if !name_is_legal(segment) {
                return Err(ImportError::Name { path: text(path) });
            }
            if segments.peek().is_none() {
                return Ok((dir, segment));
            }
            dir = self.find_or_make(dir, segment)?;
        }
        Err(ImportError::Name { path: text(path) })
    }

    fn find_or_make(&mut self, parent: DirId, name: &[u8]) -> Result<DirId, ImportError> {
        match self.dirs[&parent].entries.get(name) {
            Some(&Slot::Directory(id)) => Ok(id),
            _ => self.make(parent, name, Metadata::default()),
        }
    }

    fn make(
        &mut self,
        parent: DirId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<DirId, ImportError> {
        let depth = self.dirs[&parent].depth + 1;
        if depth > DEPTH_MAX {
            return Err(ImportError::TooDeep { path: self.path(parent, name), max: DEPTH_MAX });
        }
        self.reserve(parent, name)?;
        self.dirs_made += 1;
        let id = DirId(self.dirs_made);
        self.set(parent, name, Slot::Directory(id));
        let dir = Dir {
            parent,
            name: name.into(),
            depth,
            metadata,
            entries: BTreeMap::new(),
            unfinished: 0,
            open: true,
            used: false,
        };
        self.dirs.insert(id, dir);
        Ok(id)
    }

    fn reserve(&mut self, dir: DirId, name: &[u8]) -> Result<(), ImportError> {
        let path = || text(&self.path_bytes(dir, name));
        if !name_is_legal(name) {
            return Err(ImportError::Name { path: path() });
        }
        if self.dirs[&dir].entries.contains_key(name) {
            return Err(ImportError::Duplicate { path: path() });
        }
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.used = true;
            dir.unfinished += 1;
            dir.entries.insert(name.into(), Slot::Pending);
        }
        Ok(())
    }

    fn set(&mut self, dir: DirId, name: &[u8], slot: Slot) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.entries.insert(name.into(), slot);
        }
    }

    /// Puts a file or symlink into its directory, and builds what is complete thereby.
    fn finished(&mut self, dir: DirId, name: &[u8], root: Child) -> Result<(), ImportError> {
        let shown = self.path_bytes(dir, name);
        self.added_event(&shown, &root)?;
        self.set(dir, name, Slot::Done(root));
        if let Some(dir) = self.dirs.get_mut(&dir) {
            dir.unfinished -= 1;
        }
        self.settle(dir)
    }

    /// Builds a directory that is closed and complete, and those above it for which it was the
    /// last entry.
    fn settle(&mut self, id: DirId) -> Result<(), ImportError> {
        let mut id = id;
        loop {
            match self.dirs.get(&id) {
                Some(dir) if !dir.open && dir.unfinished == 0 => {}
                _ => return Ok(()),
            }
            let shown = self.dir_path_bytes(id);
            let Some(dir) = self.dirs.remove(&id) else { return Ok(()) };
            if id == TOP {
                return self.build_top(dir);
            }
            let (parent, name) = (dir.parent, dir.name.clone());
            let kept = dir.used || !self.options.skip_empty_dirs || self.is_argument(parent);
            let built = if kept { Some(self.build(dir, &shown)?) } else { None };
            if let Some(above) = self.dirs.get_mut(&parent) {
                above.unfinished -= 1;
                match built {
                    Some(child) => above.entries.insert(name, Slot::Done(child)),
                    None => above.entries.remove(&name),
                };
            }
            id = parent;
        }
    }

    /// An argument is kept even if it is empty; under a wrapping directory that is the argument.
    fn is_argument(&self, parent: DirId) -> bool {
        parent == TOP && !self.options.wrap
    }

    fn build_top(&mut self, top: Dir) -> Result<(), ImportError> {
        if self.options.wrap {
            let Child { cid, dag_size, .. } = self.build(top, b"")?;
            self.roots.push(ImportedRoot { name: Vec::new(), cid, dag_size });
            return Ok(());
        }
        for (name, slot) in top.entries {
            if let Slot::Done(Child { cid, dag_size, .. }) = slot {
                self.roots.push(ImportedRoot { name: name.into(), cid, dag_size });
            }
        }
        Ok(())
    }

    fn build(&mut self, dir: Dir, shown: &[u8]) -> Result<Child, ImportError> {
        let entries: Vec<_> = dir
            .entries
            .into_iter()
            .filter_map(|(name, slot)| match slot {
                Slot::Done(child) => Some(Entry { name, child }),
                Slot::Pending | Slot::Directory(_) => None,
            })
            .collect();
        let path = text(shown);
        let child = directory::build(&self.nodes, &entries, dir.metadata, &path, &mut self.output)?;
        self.added_event(shown, &child)?;
        Ok(child)
    }

    fn read_event(&self, name: &[u8], file_bytes: u64) -> Result<(), ImportError> {
        self.event(Progress::Read { name, file_bytes, total_bytes: self.total_bytes })
    }

    fn added_event(&self, name: &[u8], child: &Child) -> Result<(), ImportError> {
        self.event(Progress::Added { name, cid: &child.cid, dag_size: child.dag_size })
    }

    fn event(&self, event: Progress<'_>) -> Result<(), ImportError> {
        match (self.progress)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImportError::Cancelled),
        }
    }

    fn path(&self, dir: DirId, name: &[u8]) -> String {
        text(&self.path_bytes(dir, name))
    }

    fn path_bytes(&self, dir: DirId, name: &[u8]) -> Vec<u8> {
        let mut path = self.dir_path_bytes(dir);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn dir_path_bytes(&self, dir: DirId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut id = dir;
        while id != TOP
            && let Some(dir) = self.dirs.get(&id)
        {
            names.push(&*dir.name);
            id = dir.parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// Builds a file of at most [`CHUNK_LEN_MAX`] bytes at once. Only here can a file have one chunk,
/// and so a leaf that carries the metadata.
fn whole(nodes: &Nodes, data: Bytes, metadata: Metadata) -> Result<Built, ImportError> {
    let profile = nodes.profile();
    let mut blocks = Vec::new();
    let first = profile.chunker.cut(&data);
    if profile.layout == Layout::Balanced && first == data.len() {
        let made = nodes.single(data, metadata)?;
        return Ok(Built { blocks: vec![made.block], root: made.child });
    }
    let mut dag = FileDag::new(nodes.clone());
    let mut rest = data;
    while !rest.is_empty() {
        let leaf = nodes.leaf(rest.split_to(profile.chunker.cut(&rest)))?;
        blocks.push(leaf.block);
        dag.push(leaf.child, &mut blocks)?;
    }
    let root = dag.finish(metadata, &mut blocks)?;
    Ok(Built { blocks, root })
}

fn chunks(batch: Result<Vec<Bytes>, ImportError>) -> Result<Option<Piece>, ImportError> {
    batch.map(|chunks| (!chunks.is_empty()).then_some(Piece::Chunks(chunks)))
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
