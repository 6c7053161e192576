//! The composition root: builds the stack of one repository bottom-up, stops it top-down.
//!
//! Store → exchange → dag → mounts; the control API sees it through [`Control`]. Below this layer
//! nothing reads configuration. A node that serves one command talks to nobody; a daemon does, as far as
//! its configuration says.

mod announced;
pub mod config;
mod files;
mod housekeeping;
mod identity;
mod mounts;
mod network;
pub mod size;
mod values;

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::api::add::unknown_profile;
use crate::api::control::{
    Control, Identity, ImportDefaults, ListEdit, MemoryLimits, MountInfo, MountRequest, MountSource,
};
use crate::api::error::ApiError;
use crate::block::HashFn;
use crate::dag::{Dag, DagLimits};
use crate::exchange::swarm::SwarmError;
use crate::exchange::{Keypair, Network};
use crate::keep::Keeper;
use crate::node::config::{Config, ConfigError, Serving};
use crate::node::housekeeping::Housekeeping;
use crate::node::mounts::Mounts;
use crate::store::{DiskOptions, OpenMode, Progress, RebuildReport, Repository, StoreError};
use crate::sys::volume::volume;
use crate::unixfs::FetchBudget;
use crate::unixfs::import::{AddressFlags, Profile};

/// Why a node could not be built, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The repository.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the node's own.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The network.
    #[error(transparent)]
    Network(#[from] SwarmError),
    /// Mounts that could not be taken down.
    #[error("{0}")]
    Unmount(String),
}

impl NodeError {
    /// Tells whether another process has the repository.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Store(StoreError::Locked { .. }))
    }
}

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Store(error) => error.into(),
            NodeError::Config(error) => {
                let is_value =
                    matches!(error, ConfigError::BadValue { .. } | ConfigError::WrongType { .. });
                let error = Self::from(error);
                if is_value { error.hint(CORRECT_IT) } else { error }
            }
            other => Self::failed(other),
        }
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Io { .. } | ConfigError::Syntax { .. } => Self::failed(error),
            ConfigError::UnknownKey { .. } => {
                Self::client(error).hint("the notes in config.toml of the repository name all keys")
            }
            ConfigError::WrongType { .. } | ConfigError::BadValue { .. } => Self::client(error),
        }
    }
}

/// What to do about a value that a file has already: as long as it does, no command reads the file.
const CORRECT_IT: &str =
    "correct it in config.toml of the repository with an editor; its notes say what each key takes";

/// A running node.
#[derive(Debug)]
pub struct Node {
    repository: Arc<Repository>,
    config: Config,
    key: Keypair,
    network: Arc<Network>,
    dag: Dag,
    keeper: Keeper,
    /// `None` once the node stops.
    housekeeping: Mutex<Option<Housekeeping>>,
    mounts: Mounts,
    /// Held while the file is read and written, so that no change undoes another.
    config_edit: Mutex<()>,
    stop: Notify,
}

/// Makes a repository with its configuration at `path`.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn init(path: &Path) -> Result<(), NodeError> {
    Repository::init(path)?;
    Ok(config::create(path)?)
}

/// Checks that there is a repository at `path` that this user may use, whoever has it.
///
/// # Errors
/// When there is none, or it is somebody else's.
pub fn require(path: &Path) -> Result<(), NodeError> {
    Ok(Repository::require(path)?)
}

/// Makes all indexes of a repository anew that nobody has open.
///
/// # Errors
/// When it is in use, or the disk fails; damage is no error but in the report.
pub fn rebuild(
    path: &Path,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<RebuildReport, NodeError> {
    Ok(Repository::rebuild(path, progress)?)
}

impl Node {
    /// Opens the repository at `path`; waits for the disk. `runtime` carries the mounts.
    ///
    /// # Errors
    /// When there is none, another process has it, or its configuration cannot be used.
    pub fn open(path: &Path, runtime: Handle) -> Result<Arc<Self>, NodeError> {
        // What is no repository is told as such, not as one without a configuration.
        Repository::require(path)?;
        let config = Config::load(path)?;
        let cache_max_bytes = cache_max(path, &config)?;
        let reserve_bytes = DiskOptions::RESERVE;
        let assemble_min_bytes = config.store.assemble_min_bytes;
        let options = DiskOptions {
            cache_max_bytes,
            reserve_bytes,
            assemble_min_bytes,
            ..Default::default()
        };
        let repository = Arc::new(Repository::open_with(path, OpenMode::Existing, options)?);
        let limits =
            DagLimits { node_cache_bytes: config.store.node_cache, ..DagLimits::default() };
        let key = identity::load(path)?;
        let network = Arc::new(Network::default());
        let dag = Dag::new(repository.blocks.clone(), network.clone(), limits);
        let keeper = Keeper::new(repository.clone(), runtime.clone());
        let rate = config.store.scrub_bytes_per_s;
        let housekeeping = Housekeeping::start(&keeper, &repository, rate, &runtime);
        let fetch_budget = FetchBudget::new(config.mount.fetch_ahead_bytes);
        let mounts = Mounts::new(runtime, inode_key(path)?, fetch_budget);
        Ok(Arc::new(Self {
            repository,
            config,
            key,
            network,
            dag,
            keeper,
            housekeeping: Mutex::new(Some(housekeeping)),
            mounts,
            config_edit: Mutex::default(),
            stop: Notify::new(),
        }))
    }

    /// Returns the configuration in use.
    pub fn config_in_use(&self) -> &Config {
        &self.config
    }

    /// Begins to talk to other nodes, as far as the configuration says. Runs in the runtime of the node.
    ///
    /// # Errors
    /// When the network cannot be set up.
    pub fn take_part(&self) -> Result<(), NodeError> {
        let repo = self.repository.path();
        let Some(mut options) = network::options(repo, &self.key, &self.config.network)? else {
            return Ok(());
        };
        if self.config.network.serve == Serving::Announced {
            options.shared = Some(announced::pinned(self.keeper.clone(), &self.repository));
        }
        self.network.start(options, self.repository.blocks.clone())?;
        let network = Arc::downgrade(&self.network);
        tokio::spawn(network::keep_remembering(network, Arc::downgrade(&self.repository)));
        Ok(())
    }

    /// Waits until somebody asks the node to stop.
    pub async fn stop_requested(&self) {
        self.stop.notified().await;
    }

    /// Stops top-down: mounts, network, then the store.
    ///
    /// # Errors
    /// When a mount stays, or what was written cannot be made durable; the rest is stopped anyway.
    pub async fn close(self: Arc<Self>) -> Result<(), NodeError> {
        let housekeeping = self.housekeeping.lock().take();
        if let Some(housekeeping) = housekeeping {
            housekeeping.stop().await;
        }
        network::remember(&self.network, &self.repository).await;
        let close = move || {
            let unmounted = self.mounts.unmount_all();
            self.network.stop();
            let closed = self.repository.close();
            unmounted.map_err(NodeError::Unmount)?;
            Ok(closed?)
        };
        match tokio::task::spawn_blocking(close).await {
            Ok(result) => result,
            Err(panic) => Err(NodeError::Unmount(format!("stopping failed: {panic}"))),
        }
    }
}

impl Control for Node {
    fn repository(&self) -> &Repository {
        &self.repository
    }

    fn dag(&self) -> &Dag {
        &self.dag
    }

    fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    fn network(&self) -> &Network {
        &self.network
    }

    fn identity(&self) -> Identity {
        Identity { key: self.key.public(), agent: agent() }
    }

    fn import_defaults(&self) -> Result<ImportDefaults, ApiError> {
        let import = &self.config.import;
        let mut profile =
            Profile::by_name(&import.profile).ok_or_else(|| unknown_profile(&import.profile))?;
        if !import.hash.is_empty() {
            let hash = HashFn::by_name(&import.hash).map_err(ApiError::client)?;
            profile =
                profile.with_flags(AddressFlags { hash: Some(hash), ..Default::default() })?;
        }
        if !import.chunker.is_empty() {
            profile.chunker = import.chunker.parse().map_err(ApiError::client)?;
        }
        let (preserve_mode, preserve_mtime) = (import.preserve_mode, import.preserve_mtime);
        Ok(ImportDefaults { profile, preserve_mode, preserve_mtime })
    }

    fn config(&self, key: Option<&str>) -> Result<Json, ApiError> {
        self.repository.check_place()?;
        // What the file says now, which after a change is what the next start will use.
        let config = Config::load(self.repository.path())?;
        match key {
            Some(key) => Ok(config.get(key)?),
            None => Ok(config.show()),
        }
    }

    fn set_config(&self, key: &str, value: &str) -> Result<Json, ApiError> {
        let _edit = self.config_edit.lock();
        self.repository.check_place()?;
        Ok(config::set(self.repository.path(), key, value)?)
    }

    fn default_config(&self, key: &str) -> Result<Json, ApiError> {
        Ok(config::default_value(key)?)
    }

    fn edit_config_list(&self, key: &str, edit: &mut ListEdit<'_>) -> Result<(), ApiError> {
        let _edit = self.config_edit.lock();
        self.repository.check_place()?;
        let mut list = config::list(self.repository.path(), key)?;
        edit(&mut list)?;
        Ok(config::set_list(self.repository.path(), key, &list)?)
    }

    fn check_mount(&self, request: &MountRequest) -> Result<(), ApiError> {
        Mounts::check(&self.repository, request).map(drop)
    }

    fn mount(&self, source: &MountSource, request: &MountRequest) -> Result<MountInfo, ApiError> {
        self.mounts.mount(&self.repository, &self.dag, &self.keeper, source, request)
    }

    fn umount(&self, dir: &Path) -> Result<(), ApiError> {
        self.mounts.umount(dir)
    }

    fn mounts(&self) -> Vec<MountInfo> {
        self.mounts.list()
    }

    fn fetch_budget(&self) -> Arc<FetchBudget> {
        self.mounts.fetch_budget()
    }

    fn memory_limits(&self) -> MemoryLimits {
        MemoryLimits {
            node_cache_bytes: self.config.store.node_cache as u64,
            fetch_ahead_bytes: self.config.mount.fetch_ahead_bytes,
        }
    }

    fn shutdown(&self) {
        self.stop.notify_one();
    }
}

/// What this node calls itself among others.
fn agent() -> String {
    concat!("cidfs/", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Returns the most bytes of disk that blocks may take.
fn cache_max(repo: &Path, config: &Config) -> Result<Option<u64>, NodeError> {
    let disk = volume(repo).map_err(|errno| {
        let (path, source) = (repo.to_owned(), io::Error::from(errno));
        NodeError::Io { path, source }
    })?;
    let free = disk.available.saturating_mul(disk.fragment_bytes.into());
    let taken = Repository::packs_disk_bytes(repo)?;
    Ok(config.store.cache_max_bytes.bytes(free.saturating_add(taken)))
}

/// Returns the key of the inode numbers, made at the first use: they stay the same over restarts,
/// and strangers cannot choose CIDs whose numbers collide.
fn inode_key(repo: &Path) -> Result<[u8; 32], NodeError> {
    let path = repo.join("keys").join("inodes");
    let io = |source| NodeError::Io { path: path.clone(), source };
    let mut key = [0; 32];
    match std::fs::File::open(&path) {
        Ok(mut file) => {
            if file.read_exact(&mut key).is_ok() {
                return Ok(key);
            }
            tracing::warn!(path = %path.display(), "the key of the inode numbers is cut short; making a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key))
        .map_err(io)?;
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&key)).map_err(io)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_opens_closes_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        init(&path).unwrap();
        assert!(init(&path).is_err(), "made twice");
        let node = Node::open(&path, Handle::current()).unwrap();
        assert!(Node::open(&path, Handle::current()).unwrap_err().is_locked());
        node.close().await.unwrap();
        let key = inode_key(&path).unwrap();
        Node::open(&path, Handle::current()).unwrap().close().await.unwrap();
        assert_eq!(inode_key(&path).unwrap(), key);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bad_configuration_leaves_a_clean_repository() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        init(&path).unwrap();
        std::fs::write(path.join(config::FILE_NAME), "[store]\nnode_cash = \"1MiB\"").unwrap();
        let error = Node::open(&path, Handle::current()).unwrap_err();
        assert!(error.to_string().contains("did you mean \"store.node_cache\""), "{error}");
        assert!(!path.join("dirty").try_exists().unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_change_of_the_configuration_undoes_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        init(&path).unwrap();
        let node = Node::open(&path, Handle::current()).unwrap();
        std::thread::scope(|scope| {
            for (key, value) in [("log.level", "debug"), ("mount.ipfs", "/x"), ("log.json", "true")]
            {
                let node = &node;
                scope.spawn(move || {
                    for _ in 0..20 {
                        node.set_config(key, value).unwrap();
                    }
                });
            }
        });
        let config = Config::load(&path).unwrap();
        assert_eq!((config.log.level.as_str(), config.log.json), ("debug", true));
        assert_eq!(config.mount.ipfs, Path::new("/x"));
        node.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_configuration_shapes_imports() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repo");
        init(&path).unwrap();
        config::set(&path, "import.profile", "unixfs-v0-2015").unwrap();
        config::set(&path, "import.hash", "blake3").unwrap();
        config::set(&path, "import.chunker", "size-1000").unwrap();
        let node = Node::open(&path, Handle::current()).unwrap();
        let profile = node.import_defaults().unwrap().profile;
        assert_eq!(profile.cid_version, cid::Version::V1);
        assert_eq!(profile.chunker.len_max(), 1000);
        node.close().await.unwrap();
    }
}
