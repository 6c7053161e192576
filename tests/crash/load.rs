//! What clients ask of a daemon that will be killed, and what they were told before that.
//!
//! The idea: each client has items of its own, content that nobody else adds or removes, so what it
//! was told of an item is the whole truth about it. A command that did not end leaves open whether
//! it was obeyed; the next start shows it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cidfs::block::Cid;
use cidfs::codec::car;
use cidfs::codec::dag_pb::PbLink;
use cidfs::codec::unixfs::{Kind, UnixFs};
use cidfs::testkit::dag_builder::DagBuilder;

use crate::cli::sandbox::Sandbox;

/// Items of one client; it makes room before it goes beyond them, so that the repository is small.
const ITEMS_MAX: usize = 60;
/// The first items of each client, which it pins and never lets go.
const KEPT: usize = 8;
/// Length in bytes of the blocks of a file, and how clients ask for it.
const CHUNK_LEN: usize = 16 * 1024;
const CHUNKER: &str = "--chunker=size-16384";
/// Most bytes of a file of one block, of a file of many, and of a file in a tree.
const FILE_LEN_MAX: u64 = CHUNK_LEN as u64;
const CHUNKED_LEN_MAX: u64 = 200_000;
const TREE_FILE_LEN_MAX: u64 = 5000;
/// Least bytes of a file that lies in the store as one file, and how many more it may have.
const BIG_LEN_MIN: usize = 2_100_000;
const BIG_LEN_MORE: usize = 400_000;
/// Of so many items one is such a file.
const BIG_EVERY: u64 = 8;
/// Shortest block in bytes, and what all lengths are multiples of: no two items share a block.
const LEN_UNIT: u64 = 16;
/// Times that a removal is asked for again while another client is adding something.
const REMOVE_TRIES: usize = 10;

/// Numbers that follow from a seed, so that a run can be repeated in its choices.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// One of so many things.
    pub(super) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }

    fn many_bytes(&mut self) -> Vec<u8> {
        let len = BIG_LEN_MIN + self.index(BIG_LEN_MORE);
        (0..len / 8).flat_map(|_| self.draw().to_le_bytes()).collect()
    }

    fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        let len = LEN_UNIT * (1 + self.below(len_max / LEN_UNIT));
        (0..len).map(|_| self.draw().to_le_bytes()[0]).collect()
    }
}

/// A file or a tree, with the CID that it must get.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) cid: Cid,
    /// Path of each file below a mount of /ipfs, and its bytes.
    files: Vec<(String, Vec<u8>)>,
    dag: DagBuilder,
    is_tree: bool,
}

impl Content {
    fn draw(random: &mut Random) -> Self {
        if random.below(BIG_EVERY) == 0 {
            return Self::file(random.many_bytes());
        }
        match random.below(3) {
            0 => Self::file(random.bytes(FILE_LEN_MAX)),
            1 => Self::file(random.bytes(CHUNKED_LEN_MAX)),
            _ => Self::tree((0..3).map(|_| random.bytes(TREE_FILE_LEN_MAX)).collect()),
        }
    }

    fn file(bytes: Vec<u8>) -> Self {
        let mut dag = DagBuilder::new();
        let part = |part: &[u8]| (dag.raw(part.to_vec()), part.len() as u64);
        let parts: Vec<_> = bytes.chunks(CHUNK_LEN).map(part).collect();
        let cid = match parts.as_slice() {
            [(only, _)] => *only,
            _ => add_root(&mut dag, &parts),
        };
        Self { cid, files: vec![(cid.to_string(), bytes)], dag, is_tree: false }
    }

    fn tree(files: Vec<Vec<u8>>) -> Self {
        let mut dag = DagBuilder::new();
        let names: Vec<_> = (0..files.len()).map(|n| format!("file {n}")).collect();
        let links: Vec<_> = names
            .iter()
            .zip(&files)
            .map(|(name, bytes)| PbLink {
                cid: dag.raw(bytes.clone()),
                name: Some(name.as_bytes()),
                tsize: Some(bytes.len() as u64),
            })
            .collect();
        let cid = dag.node(&links, &UnixFs::new(Kind::Directory));
        let names = names.iter().map(|name| format!("{cid}/{name}"));
        Self { cid, files: names.zip(files).collect(), dag, is_tree: true }
    }

    /// Reads all of it through a mount of /ipfs.
    ///
    /// # Errors
    /// When something cannot be read. What can be read and is wrong fails the test.
    pub(super) fn read(&self, mount: &Path) -> io::Result<()> {
        for (name, bytes) in &self.files {
            let found = std::fs::read(mount.join(name))?;
            assert!(found == *bytes, "{name} has wrong bytes, {} of {}", found.len(), bytes.len());
        }
        if self.is_tree {
            let found = std::fs::read_dir(mount.join(self.cid.to_string()))?;
            let found = found.collect::<io::Result<Vec<_>>>()?.len();
            assert_eq!(found, self.files.len(), "names in {}", self.cid);
        }
        Ok(())
    }

    /// Path of one of its files below a mount of /ipfs, and its bytes.
    pub(super) fn one_file(&self) -> (&str, &[u8]) {
        let (name, bytes) = &self.files[0];
        (name, bytes)
    }

    fn is_one_block(&self) -> bool {
        self.dag.blocks.len() == 1
    }

    /// Writes what a command takes to bring it in, and returns where.
    fn write(&self, dir: &Path, way: Way) -> PathBuf {
        if way == Way::Import {
            let path = dir.join("archive.car");
            std::fs::write(&path, self.archive()).unwrap();
            return path;
        }
        let path = dir.join(self.cid.to_string());
        if self.is_tree {
            std::fs::create_dir_all(&path).unwrap();
        }
        for (name, bytes) in &self.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        path
    }

    fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        car::write_header(&mut archive, &[self.cid]).unwrap();
        for block in &self.dag.blocks {
            car::write_section(&mut archive, block).unwrap();
        }
        archive
    }
}

/// Adds the root of a file of these raw blocks, as an import makes it.
fn add_root(dag: &mut DagBuilder, parts: &[(Cid, u64)]) -> Cid {
    let link = |&(cid, len)| PbLink { cid, name: Some(b"".as_slice()), tsize: Some(len) };
    let links: Vec<_> = parts.iter().map(link).collect();
    let block_sizes: Vec<u64> = parts.iter().map(|part| part.1).collect();
    let file_size = Some(block_sizes.iter().sum());
    dag.node(&links, &UnixFs { file_size, block_sizes, ..UnixFs::new(Kind::File) })
}

/// Whether something is so; `None` when a command that would change it did not end.
type Known = Option<bool>;

/// Content, and what its client knows of it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) content: Arc<Content>,
    /// All of its blocks are here, or none.
    pub(super) here: Known,
    pub(super) pinned: Known,
    /// It is never let go once it is pinned.
    pub(super) is_kept: bool,
    /// Something was asked for since it was checked.
    pub(super) is_touched: bool,
}

/// The daemon's process group, its end, and where its clients work.
pub(super) struct Target<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) group: i32,
    /// Set before the daemon is killed: from then on commands and reads may fail.
    pub(super) stop: &'a AtomicBool,
}

impl Target<'_> {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Runs a command in the daemon's process group, so that one signal can end both.
    fn run(&self, args: &[&str]) -> Output {
        self.sandbox.command().args(args).process_group(self.group).output().unwrap()
    }

    /// Runs a command and tells whether it ended well and named `cid`: that is its word.
    fn obeys(&self, args: &[&str], cid: &str) -> bool {
        let output = self.run(args);
        let named = String::from_utf8_lossy(&output.stdout).contains(cid);
        let obeyed = output.status.success() && named;
        assert!(
            obeyed || self.is_stopped(),
            "cidfs {args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        obeyed
    }
}

/// A way in which content comes into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Add,
    AddUnpinned,
    PutBlock,
    Import,
}

const WAYS: [Way; 4] = [Way::Add, Way::AddUnpinned, Way::PutBlock, Way::Import];

impl Way {
    fn pins(self) -> bool {
        matches!(self, Self::Add | Self::Import)
    }

    /// The command, but for the path.
    fn command(self, content: &Content) -> &'static [&'static str] {
        match self {
            Self::Add => &["add", "-rQ", CHUNKER],
            Self::PutBlock if content.is_one_block() => &["block", "put"],
            Self::AddUnpinned | Self::PutBlock => &["add", "-rQ", CHUNKER, "--pin=false"],
            Self::Import => &["dag", "import"],
        }
    }
}

impl Item {
    fn new(content: Content, is_kept: bool) -> Self {
        let content = Arc::new(content);
        Self { content, here: Some(false), pinned: Some(false), is_kept, is_touched: false }
    }

    /// Tells whether it can be forgotten: it was removed, and the removal was checked.
    fn is_gone(&self) -> bool {
        (self.here, self.pinned, self.is_touched) == (Some(false), Some(false), false)
    }

    fn bring(&mut self, target: &Target<'_>, dir: &Path, way: Way) -> bool {
        let path = self.content.write(dir, way);
        let args = [way.command(&self.content), &[path.to_str().unwrap()]].concat();
        // Adding takes nothing away.
        self.here = self.here.filter(|here| *here);
        if way.pins() {
            self.pinned = self.pinned.filter(|pinned| *pinned);
        }
        let obeyed = target.obeys(&args, &self.content.cid.to_string());
        if obeyed {
            self.here = Some(true);
        }
        if obeyed && way.pins() {
            self.pinned = Some(true);
        }
        obeyed
    }

    fn pin(&mut self, target: &Target<'_>) -> bool {
        self.pinned = None;
        let obeyed = target.obeys(&["pin", "add", &self.content.cid.to_string()], "pinned");
        self.pinned = obeyed.then_some(true);
        obeyed
    }

    fn unpin(&mut self, target: &Target<'_>) -> bool {
        self.pinned = None;
        let obeyed = target.obeys(&["pin", "rm", &self.content.cid.to_string()], "unpinned");
        self.pinned = obeyed.then_some(false);
        obeyed
    }

    /// Removes all of its blocks. This is refused while others add something, so it is asked for
    /// some times.
    fn remove(&mut self, target: &Target<'_>) -> bool {
        self.here = None;
        let cids: Vec<_> =
            self.content.dag.blocks.iter().rev().map(|block| block.cid().to_string()).collect();
        let mut args = vec!["block", "rm", "-f"];
        args.extend(cids.iter().map(String::as_str));
        for _ in 0..REMOVE_TRIES {
            let output = target.run(&args);
            if output.status.success() {
                self.here = Some(false);
                return true;
            }
            let told = String::from_utf8_lossy(&output.stderr);
            let is_refused = told.contains("something is being added or pinned");
            assert!(is_refused || target.is_stopped(), "cidfs {args:?}: {told}");
            if target.is_stopped() {
                break;
            }
        }
        false
    }
}

/// Somebody who asks the daemon for things, one after the other.
#[derive(Debug)]
pub(super) struct Client {
    name: String,
    pub(super) items: Vec<Item>,
    random: Random,
    /// Commands that ended well.
    pub(super) obeyed: u64,
}

impl Client {
    pub(super) fn new(number: usize, random: Random) -> Self {
        Self { name: format!("client-{number}"), items: Vec::new(), random, obeyed: 0 }
    }

    /// Asks for one thing after the other until the daemon is killed.
    pub(super) fn work(&mut self, target: &Target<'_>) {
        let dir = target.sandbox.path(&self.name);
        std::fs::create_dir(&dir).unwrap();
        while !target.is_stopped() {
            self.obeyed += u64::from(self.step(target, &dir));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn step(&mut self, target: &Target<'_>, dir: &Path) -> bool {
        let way = WAYS[self.random.index(WAYS.len())];
        let place = self.choose();
        let item = &mut self.items[place];
        item.is_touched = true;
        let (here, pinned) = (item.here == Some(true), item.pinned == Some(true));
        match self.random.below(4) {
            _ if item.is_kept && !pinned => item.bring(target, dir, Way::Add),
            _ if item.is_kept || !here => item.bring(target, dir, way),
            0 if pinned => item.bring(target, dir, way),
            _ if pinned => item.unpin(target),
            0 => item.pin(target),
            1 => item.bring(target, dir, way),
            _ => item.remove(target),
        }
    }

    /// Chooses an item, or makes one as long as there is room.
    fn choose(&mut self) -> usize {
        let count = self.items.len();
        let free = match count {
            ITEMS_MAX => self.items.iter().position(Item::is_gone),
            _ => Some(count),
        };
        match free {
            Some(place) if count == 0 || self.random.below(2) == 0 => self.renew(place),
            _ => self.random.index(count),
        }
    }

    fn renew(&mut self, place: usize) -> usize {
        let item = Item::new(Content::draw(&mut self.random), place < KEPT);
        match self.items.get_mut(place) {
            Some(old) => *old = item,
            None => self.items.push(item),
        }
        place
    }
}
