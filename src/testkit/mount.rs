//! A real mount in a temporary directory, over a store and an exchange that the test holds.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};

use super::dag_builder::DagBuilder;
use super::exchange::TestExchange;
use super::store::TestStore;
use crate::block::Cid;
use crate::dag::{Dag, DagLimits};
use crate::exchange::Exchange;
use crate::fuse::{self, Mount, MountOptions};
use crate::keep::Keeper;
use crate::store::{BlockStore, OpenMode, Pins, Repository};
use crate::vfs::{FixedRoot, Namespace, Root, Vfs, VfsOptions};

/// Key of the inode numbers in tests.
pub const INODE_KEY: [u8; 32] = [42; 32];

/// A mount that lives as long as this does.
#[derive(Debug)]
pub struct TempMount {
    /// The mount.
    pub mount: Mount,
    /// The filesystem on it.
    pub vfs: Vfs,
    keeper: Option<Keeper>,
    runtime: Runtime,
    dir: TempDir,
}

impl TempMount {
    /// Mounts `root`, over a dag that the runtime of the mount drives.
    ///
    /// # Panics
    /// When it cannot be mounted: this needs `/dev/fuse` and root or `fusermount3`.
    pub fn new(dag: Dag, root: Arc<dyn Root>, options: &str) -> Self {
        Self::with_keeper(dag, root, options, |_| None)
    }

    fn with_keeper(
        dag: Dag,
        root: Arc<dyn Root>,
        options: &str,
        keeper: impl FnOnce(Handle) -> Option<Keeper>,
    ) -> Self {
        let options = MountOptions::parse(options).expect("a test's options are right");
        let runtime = runtime();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keeper = keeper(runtime.handle().clone());
        let vfs_options = VfsOptions {
            keeper: keeper.clone(),
            ..options.vfs(INODE_KEY, Some(dir.path().into()))
        };
        let vfs = Vfs::new(dag, root, vfs_options);
        let point = dir.path().join("mount");
        std::fs::create_dir(&point).expect("a new directory");
        let mount = fuse::mount(vfs.clone(), &point, &options, runtime.handle())
            .expect("these tests need /dev/fuse, and root or fusermount3");
        Self { mount, vfs, keeper, runtime, dir }
    }

    /// Mounts the directory `root`, whose block `store` or `exchange` has.
    ///
    /// # Panics
    /// As [`TempMount::new`], and when `root` is no directory.
    pub fn directory(
        store: Arc<dyn BlockStore>,
        exchange: Arc<dyn Exchange>,
        root: &Cid,
        options: &str,
    ) -> Self {
        let dag = Dag::new(store, exchange, DagLimits::default());
        let root = runtime().block_on(FixedRoot::new(&dag, *root)).expect("a directory");
        Self::new(dag, Arc::new(root), options)
    }

    /// Mounts a directory with these entries, all of whose blocks are here.
    ///
    /// # Panics
    /// As [`TempMount::new`].
    pub fn of(mut builder: DagBuilder, entries: &[(&str, Cid)], options: &str) -> Self {
        let root = builder.directory(entries);
        let store = Arc::new(TestStore::new(builder.blocks));
        Self::directory(store, Arc::new(TestExchange::default()), &root, options)
    }

    /// Mounts the namespace of all CIDs; the pins are those of a new repository, which lives as
    /// long as the test holds it.
    ///
    /// # Panics
    /// As [`TempMount::new`].
    pub fn namespace(
        store: Arc<dyn BlockStore>,
        exchange: Arc<dyn Exchange>,
        options: &str,
    ) -> (Self, TempPins) {
        let pins = TempPins::new();
        let dag = Dag::new(store, exchange, DagLimits::default());
        (Self::new(dag, Arc::new(Namespace::new(pins.pins().clone())), options), pins)
    }

    /// Mounts the namespace over the blocks of a new repository, through which can be pinned.
    ///
    /// # Panics
    /// As [`TempMount::new`].
    pub fn pinning(exchange: Arc<dyn Exchange>, options: &str) -> (Self, TempPins) {
        Self::over(TempPins::new(), exchange, options)
    }

    /// Mounts what [`TempMount::pinning`] mounted once more, as after a restart, asking nobody.
    ///
    /// # Panics
    /// As [`TempMount::new`], and when somebody else still has the repository.
    pub fn pinning_again(pins: TempPins) -> (Self, TempPins) {
        Self::over(pins.reopen(), Arc::new(TestExchange::default()), "offline")
    }

    fn over(pins: TempPins, exchange: Arc<dyn Exchange>, options: &str) -> (Self, TempPins) {
        let repository = pins.repository.clone();
        let dag = Dag::new(repository.blocks.clone(), exchange, DagLimits::default());
        let root = Arc::new(Namespace::new(repository.pins.clone()));
        let keeper = |runtime| Some(Keeper::new(repository, runtime));
        (Self::with_keeper(dag, root, options, keeper), pins)
    }

    /// Returns who pins through the mount, if anybody does.
    pub fn keeper(&self) -> Option<Keeper> {
        self.keeper.clone()
    }

    /// Returns the path of a name below the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.point().join(name)
    }

    /// Returns a directory beside the mount, removed with it.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// Opens a file so that reads bypass the page cache: each is one request.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_direct(&self, name: impl AsRef<Path>) -> std::io::Result<File> {
        let flags = nix::fcntl::OFlag::O_DIRECT.bits();
        File::options().read(true).custom_flags(flags).open(self.path(name))
    }

    /// Runs a future on the runtime of the mount.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// The pins of a repository that has nothing else.
#[derive(Debug)]
pub struct TempPins {
    repository: Arc<Repository>,
    dir: TempDir,
}

impl TempPins {
    /// Returns no pins yet.
    ///
    /// # Panics
    /// When the temporary directory cannot be written.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("repository");
        let repository =
            Repository::open(&path, OpenMode::CreateIfMissing).expect("a new repository");
        Self { repository: Arc::new(repository), dir }
    }

    fn reopen(self) -> Self {
        let Self { repository, dir } = self;
        repository.close().expect("a clean stop");
        drop(Arc::into_inner(repository).expect("nobody else has it"));
        let repository = Repository::open(&dir.path().join("repository"), OpenMode::Existing)
            .expect("it was there");
        Self { repository: Arc::new(repository), dir }
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the pins.
    pub fn pins(&self) -> &Pins {
        &self.repository.pins
    }
}

impl Default for TempPins {
    fn default() -> Self {
        Self::new()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
