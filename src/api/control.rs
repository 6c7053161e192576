//! What the control API needs of the node: the one seam between requests and the process.
//!
//! The API lies below the composition root and cannot name it, so the root implements this trait.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use crate::api::error::ApiError;
use crate::api::request::Params;
use crate::block::Cid;
use crate::dag::Dag;
use crate::exchange::{Network, PublicKey, Session};
use crate::keep::Keeper;
use crate::store::Repository;
use crate::unixfs::import::Profile;
use crate::unixfs::{ContentPath, FetchBudget, PathRoot};
use crate::vfs::FixedRoot;

/// The node as requests see it; shared by all of them.
pub type Node = Arc<dyn Control>;

/// Changes a list in place.
pub type ListEdit<'a> = dyn FnMut(&mut Vec<String>) -> Result<(), ApiError> + 'a;

/// What the control API needs of the node. Calls without `async` may wait for the disk and are
/// made from threads that may block.
pub trait Control: Debug + Send + Sync + 'static {
    /// Returns the repository: blocks and pins.
    fn repository(&self) -> &Repository;

    /// Returns the way to blocks and nodes.
    fn dag(&self) -> &Dag;

    /// Returns who pins, and makes room for what is not pinned.
    fn keeper(&self) -> &Keeper;

    /// Returns the way to other nodes.
    fn network(&self) -> &Network;

    /// Returns who this node is among others.
    fn identity(&self) -> Identity;

    /// Returns how files are imported unless a request says otherwise.
    ///
    /// # Errors
    /// When the configuration asks for what does not exist.
    fn import_defaults(&self) -> Result<ImportDefaults, ApiError>;

    /// Returns one value or section of the configuration in use, or all of it.
    ///
    /// # Errors
    /// When there is no such key.
    fn config(&self, key: Option<&str>) -> Result<Json, ApiError>;

    /// Changes a value in the file, for the next start.
    ///
    /// # Errors
    /// When the key or value is refused; the file is then as it was.
    fn set_config(&self, key: &str, value: &str) -> Result<Json, ApiError>;

    /// Returns the value that a key of the configuration has unless a file says otherwise.
    ///
    /// # Errors
    /// When there is no such key.
    fn default_config(&self, key: &str) -> Result<Json, ApiError>;

    /// Changes a list of the configuration for the next start; `edit` is called once with what the file says.
    ///
    /// # Errors
    /// Those of `edit`; when the key is no list of texts, or what came of it does not fit.
    fn edit_config_list(&self, key: &str, edit: &mut ListEdit<'_>) -> Result<(), ApiError>;

    /// Looks whether something can be mounted so, before anybody waits for what it is.
    ///
    /// # Errors
    /// When the options or the directory cannot be used.
    fn check_mount(&self, request: &MountRequest) -> Result<(), ApiError>;

    /// Mounts a source on a directory and returns when it is live.
    ///
    /// # Errors
    /// Why it cannot be mounted.
    fn mount(&self, source: &MountSource, request: &MountRequest) -> Result<MountInfo, ApiError>;

    /// Takes a mount of this node down.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    fn umount(&self, dir: &Path) -> Result<(), ApiError>;

    /// Returns the live mounts.
    fn mounts(&self) -> Vec<MountInfo>;

    /// Returns the bounds of what the node keeps in memory.
    fn memory_limits(&self) -> MemoryLimits;

    /// Returns the memory for what is on its way ahead of readers.
    fn fetch_budget(&self) -> Arc<FetchBudget>;

    /// Tells the process to stop; returns at once.
    fn shutdown(&self);
}

/// Who a node is among others.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What its peer id is made of.
    pub key: PublicKey,
    /// What it calls itself.
    pub agent: String,
}

/// Bounds of memory, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Decoded nodes.
    pub node_cache_bytes: u64,
    /// Blocks on their way ahead of readers.
    pub fetch_ahead_bytes: u64,
}

/// How files are imported unless a request says otherwise.
#[derive(Debug, Clone)]
pub struct ImportDefaults {
    /// What decides the CIDs.
    pub profile: Profile,
    /// Whether permissions are kept.
    pub preserve_mode: bool,
    /// Whether modification times are kept.
    pub preserve_mtime: bool,
}

/// What a mount shows.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// All of `/ipfs`.
    Namespace,
    /// One directory.
    Directory {
        /// The path that led to it.
        path: String,
        /// The directory itself.
        root: FixedRoot,
    },
}

/// Where to mount, and how.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// The mount point, absolute.
    pub dir: PathBuf,
    /// Options as after `-o`.
    pub options: String,
}

/// A live mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MountInfo {
    /// `/ipfs`, or a path below it.
    pub source: String,
    /// The mount point; in JSON as text, which cannot say what is not UTF-8.
    #[serde(serialize_with = "as_text")]
    pub dir: PathBuf,
    /// Options as given.
    pub options: String,
}

fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Returns the way to blocks that a request may use, which are those below its first argument.
///
/// # Errors
/// When `offline=` is neither true nor false.
pub(crate) fn dag_of(node: &Node, params: &Params) -> Result<Dag, ApiError> {
    let dag = match root_of(params) {
        Some(root) => node.dag().below(&root),
        None => node.dag().clone(),
    };
    Ok(if params.is_on("offline")? { dag.offline() } else { dag })
}

/// Returns what tells the blocks of [`dag_of`] from others when they come.
pub(crate) fn session_of(params: &Params) -> Session {
    root_of(params).map(|root| *root.hash())
}

fn root_of(params: &Params) -> Option<Cid> {
    match ContentPath::parse(params.args().next()?).ok()?.root {
        PathRoot::Ipfs(root) => Some(root),
        PathRoot::Ipns(_) => None,
    }
}
