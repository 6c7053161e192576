//! Entries in any order → blocks, bottom-up.
//!
//! Small files are hashed whole by threads while the caller goes on; each directory is built as
//! soon as it is closed and its last entry has a result. What is in memory: the entries of
//! directories that are not built yet, and the jobs in flight.

use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{CHUNK_LEN_MAX, Chunker, Segments};
use super::directory::{self, Entry};
use super::dirs::{DirId, Dirs, TOP, text};
use super::error::ImportError;
use super::home::{Home, Homes};
use super::layout::FileDag;
use super::nodes::{BlockSink, Child, Made, Nodes};
use super::options::{Follow, ImportOptions, ImportedRoot, Progress, ProgressFn};
use super::output::Output;
use super::profile::Layout;
use super::source::{PIECE_LEN, Piece, Ranges, Source, Stamp};
use super::workers::{InFlight, JOBS_IN_FLIGHT_MAX, Workers};
use crate::block::{Block, Buffers};
use crate::codec::node::{Metadata, SYMLINK_LEN_MAX};
use crate::store::BlockStore;

/// Memory kept for later: a buffer for each job of a big file, or for every other one where a chunk is longer
/// than a piece.
const IDLE_BYTES_MAX: usize = JOBS_IN_FLIGHT_MAX * PIECE_LEN;

/// A reserved name.
type Place = (DirId, Box<[u8]>);

/// A file's blocks: leaves in order, then those above them, root last. One of a single block has no
/// other.
#[derive(Debug)]
struct Built {
    leaves: Vec<Made>,
    nodes: Vec<Block>,
    root: Child,
}

/// Builds one import from its entries.
pub struct TreeBuilder<'p> {
    options: ImportOptions,
    nodes: Nodes,
    workers: Workers,
    buffers: Buffers,
    output: Output,
    homes: Homes,
    progress: ProgressFn<'p>,
    dirs: Dirs,
    small_files: InFlight<Place, Built>,
    total_bytes: u64,
    roots: Vec<ImportedRoot>,
}

impl std::fmt::Debug for TreeBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'p> TreeBuilder<'p> {
    /// Starts an import into `store`, or into nothing to learn the CIDs only.
    ///
    /// # Errors
    /// [`ImportError::Setting`] and [`ImportError::Chunker`] when the options are out of range.
    pub fn new(
        options: &ImportOptions,
        store: Option<Arc<dyn BlockStore>>,
        progress: ProgressFn<'p>,
    ) -> Result<Self, ImportError> {
        options.check()?;
        Ok(Self {
            nodes: Nodes::new(Arc::new(options.profile.clone())),
            workers: Workers::new(options.threads),
            buffers: Buffers::new(IDLE_BYTES_MAX),
            output: Output::new(store),
            homes: Homes::of(options),
            progress,
            dirs: Dirs::new(options.metadata.of(Metadata::default())),
            small_files: InFlight::new(),
            total_bytes: 0,
            roots: Vec::new(),
            options: options.clone(),
        })
    }

    /// Adds a directory; those above it that are never given have no metadata. Given twice it is
    /// one directory.
    ///
    /// # Errors
    /// [`ImportError::Name`], [`ImportError::TooDeep`], or [`ImportError::Duplicate`] when a file
    /// has this path.
    pub fn directory(&mut self, path: &[u8], own: Metadata) -> Result<(), ImportError> {
        let metadata = self.kept(own, || path.to_vec())?;
        self.dirs.make_path(path, metadata)
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
        let (dir, name) = self.dirs.locate(path)?;
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
        let metadata = self.kept(own, || path.to_vec())?;
        let failed = |source| ImportError::Stream { name: text(path), source };
        let place = self.place(path)?;
        let mut head = Vec::new();
        let head_max = CHUNK_LEN_MAX as u64 + 1;
        (&mut content).take(head_max).read_to_end(&mut head).map_err(failed)?;
        if head.len() <= CHUNK_LEN_MAX {
            let nodes = self.nodes.clone();
            let job = move || whole(&nodes, head.into(), metadata);
            return match place {
                Some(place) => self.give(place, job),
                None => self.nameless(job()?),
            };
        }
        let mut segments =
            Segments::new(Cursor::new(head).chain(content), self.options.profile.chunker);
        let pieces = || chunks(segments.next_batch(PIECE_LEN).map_err(failed));
        let mut home = self.homes.of_stream()?;
        let root = self.big(path, pieces, &mut home, metadata)?;
        self.homes.take(home)?;
        match place {
            Some((dir, name)) => self.finished(dir, &name, root),
            None => self.nameless(Built { leaves: Vec::new(), nodes: Vec::new(), root }),
        }
    }

    /// Builds what is not built yet, makes everything durable and returns the roots: the wrapping
    /// directory, else each entry at the top in the order of its name.
    ///
    /// # Errors
    /// Whatever a thread or the store reports.
    pub fn finish(mut self) -> Result<Vec<ImportedRoot>, ImportError> {
        while self.take_small_file()? {}
        for id in self.dirs.close_all() {
            self.settle(id)?;
        }
        self.homes.finish()?;
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
        let metadata = self.kept(own, || self.dirs.path(parent, name))?;
        self.dirs.make(parent, name, metadata)
    }

    /// Tells that a directory has all its entries.
    pub(super) fn leave(&mut self, id: DirId) -> Result<(), ImportError> {
        self.dirs.close(id);
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
                text(&self.dirs.path(dir, name))
            )));
        }
        self.dirs.reserve(dir, name)?;
        let made = self.nodes.symlink(target, self.options.metadata.of_symlink(own))?;
        self.output.put(made.block)?;
        self.finished(dir, name, made.child)
    }

    /// Adds a file of this machine, which was looked up before.
    pub(super) fn source_in(
        &mut self,
        dir: DirId,
        name: &[u8],
        path: PathBuf,
        stamp: Stamp,
        own: Metadata,
    ) -> Result<(), ImportError> {
        let metadata = self.kept(own, || self.dirs.path(dir, name))?;
        let follow = self.options.selection.follow != Follow::Never;
        self.dirs.reserve(dir, name)?;
        if stamp.len() <= CHUNK_LEN_MAX as u64 {
            let nodes = self.nodes.clone();
            let job = move || {
                let data = Source::open(path, stamp, follow)?.read_whole()?;
                whole(&nodes, data, metadata)
            };
            return self.give((dir, name.into()), job);
        }
        let mut source = Source::open(path, stamp, follow)?;
        let shown = self.dirs.path(dir, name);
        let mut home = self.homes.of_source(&mut source)?;
        let source = Arc::new(source);
        let root = match self.options.profile.chunker {
            Chunker::Size(chunk_len) => {
                let (nodes, buffers) = (self.nodes.clone(), self.buffers.clone());
                let mut ranges = Ranges::new(Arc::clone(&source), nodes, buffers, chunk_len);
                self.big(&shown, || ranges.next(), &mut home, metadata)?
            }
            chunker => {
                let mut segments = Segments::new(&*source, chunker);
                let failed = |error| source.error(error);
                let pieces = || chunks(segments.next_batch(PIECE_LEN).map_err(failed));
                self.big(&shown, pieces, &mut home, metadata)?
            }
        };
        source.check_unchanged()?;
        self.homes.take(home)?;
        self.finished(dir, name, root)
    }

    /// Builds a file of more than one chunk, its leaves by all threads. They go to `home`.
    fn big(
        &mut self,
        shown: &[u8],
        mut pieces: impl FnMut() -> Result<Option<Piece>, ImportError>,
        home: &mut Home,
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
                let child = leaf.child;
                self.store_leaf(leaf, home)?;
                dag.push(child, &mut self.output)?;
            }
            self.read_event(shown, file_bytes)?;
        }
        dag.finish(metadata, &mut self.output)
    }

    fn give(
        &mut self,
        place: Place,
        job: impl FnOnce() -> Result<Built, ImportError> + Send + 'static,
    ) -> Result<(), ImportError> {
        if self.small_files.is_full() {
            self.take_small_file()?;
        }
        let answer = self.workers.give(job)?;
        self.small_files.add(place, answer);
        Ok(())
    }

    /// Takes the oldest small file from the threads; returns whether there was one.
    fn take_small_file(&mut self) -> Result<bool, ImportError> {
        let Some(((dir, name), answer)) = self.small_files.next() else { return Ok(false) };
        let built = answer.take()?;
        let file_len = built.root.file_len;
        self.total_bytes += file_len;
        let root = self.store(built)?;
        let shown = self.dirs.path(dir, &name);
        self.read_event(&shown, file_len)?;
        self.finished(dir, &name, root)?;
        Ok(true)
    }

    fn store(&mut self, built: Built) -> Result<Child, ImportError> {
        let mut home = self.homes.of_short(built.root.file_len, built.leaves.len())?;
        for leaf in built.leaves {
            self.store_leaf(leaf, &mut home)?;
        }
        self.homes.take(home)?;
        built.nodes.into_iter().try_for_each(|block| self.output.put(block))?;
        Ok(built.root)
    }

    fn store_leaf(&mut self, leaf: Made, home: &mut Home) -> Result<(), ImportError> {
        if home.push(&leaf.block, leaf.child.file_len)? {
            return Ok(());
        }
        self.output.put(leaf.block)
    }

    /// Reserves the place of a file, unless its CID will name it.
    fn place(&mut self, path: &[u8]) -> Result<Option<Place>, ImportError> {
        if path.is_empty() {
            return Ok(None);
        }
        let (dir, name) = self.dirs.locate(path)?;
        self.dirs.reserve(dir, name)?;
        Ok(Some((dir, name.into())))
    }

    fn nameless(&mut self, built: Built) -> Result<(), ImportError> {
        let root = self.store(built)?;
        let name = root.cid.to_string().into_bytes();
        self.dirs.reserve(TOP, &name)?;
        self.finished(TOP, &name, root)
    }

    /// Puts a file or symlink into its directory, and builds what is complete thereby.
    fn finished(&mut self, dir: DirId, name: &[u8], root: Child) -> Result<(), ImportError> {
        self.added_event(&self.dirs.path(dir, name), &root)?;
        self.dirs.resolve(dir, name, Some(root));
        self.settle(dir)
    }

    /// Builds a directory if it is complete, and those above it for which it was the last entry.
    fn settle(&mut self, id: DirId) -> Result<(), ImportError> {
        let mut id = id;
        while let Some(dir) = self.dirs.take_complete(id) {
            if id == TOP {
                return self.build_top(dir.metadata, dir.into_entries().collect());
            }
            let (parent, name) = (dir.parent, dir.name.clone());
            // An argument is kept even if it is empty; the wrapping directory is the argument
            // when there is one.
            let is_argument = parent == TOP && !self.options.wrap;
            let kept = dir.used || is_argument || !self.options.skip_empty_dirs;
            let shown = self.dirs.path(parent, &name);
            let metadata = dir.metadata;
            let entries: Vec<_> = dir.into_entries().collect();
            let built = if kept { Some(self.build(metadata, &entries, &shown)?) } else { None };
            self.dirs.resolve(parent, &name, built);
            id = parent;
        }
        Ok(())
    }

    fn build_top(&mut self, metadata: Metadata, entries: Vec<Entry>) -> Result<(), ImportError> {
        let root = |name: Box<[u8]>, child: Child| ImportedRoot {
            name: name.into(),
            cid: child.cid,
            dag_size: child.dag_size,
        };
        if self.options.wrap {
            let child = self.build(metadata, &entries, b"")?;
            self.roots.push(root(Box::default(), child));
        } else {
            self.roots.extend(entries.into_iter().map(|entry| root(entry.name, entry.child)));
        }
        Ok(())
    }

    fn build(
        &mut self,
        metadata: Metadata,
        entries: &[Entry],
        shown: &[u8],
    ) -> Result<Child, ImportError> {
        let child =
            directory::build(&self.nodes, entries, metadata, &text(shown), &mut self.output)?;
        self.added_event(shown, &child)?;
        Ok(child)
    }

    /// Returns what is stored of an entry's own metadata.
    fn kept(&self, own: Metadata, name: impl FnOnce() -> Vec<u8>) -> Result<Metadata, ImportError> {
        if self.options.metadata.loses_mode(own) {
            self.event(Progress::ModeLost { name: &name() })?;
        }
        Ok(self.options.metadata.of(own))
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
}

/// Builds a file of at most [`CHUNK_LEN_MAX`] bytes at once. Only here can a file have one chunk,
/// and so a leaf that carries the metadata.
fn whole(nodes: &Nodes, data: Bytes, metadata: Metadata) -> Result<Built, ImportError> {
    let profile = nodes.profile();
    if profile.layout == Layout::Balanced && profile.chunker.cut(&data) == data.len() {
        let made = nodes.single(data, metadata)?;
        return Ok(Built { leaves: Vec::new(), nodes: vec![made.block], root: made.child });
    }
    let (mut leaves, mut inner) = (Vec::new(), Vec::new());
    let mut dag = FileDag::new(nodes.clone());
    let mut rest = data;
    while !rest.is_empty() {
        let leaf = nodes.leaf(rest.split_to(profile.chunker.cut(&rest)))?;
        dag.push(leaf.child, &mut inner)?;
        leaves.push(leaf);
    }
    let root = dag.finish(metadata, &mut inner)?;
    Ok(Built { leaves, nodes: inner, root })
}

fn chunks(batch: Result<Vec<Bytes>, ImportError>) -> Result<Option<Piece>, ImportError> {
    batch.map(|chunks| (!chunks.is_empty()).then_some(Piece::Chunks(chunks)))
}
