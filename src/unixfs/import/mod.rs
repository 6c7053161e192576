//! Real trees and streams → UnixFS DAGs with the CIDs that the network's tools give them
//! (spec 03 §6–§8).
//!
//! The idea: one thread walks and puts blocks together in a fixed order, all processors read, cut
//! and hash. A [`Profile`] alone decides the CIDs; memory is bounded whatever the size of a file.
//! Synchronous: the caller gives it a thread. It does not pin, and it changes no existing DAG.

mod chunk;
mod directory;
mod dirs;
mod error;
mod home;
mod layout;
mod nodes;
mod options;
mod output;
mod profile;
mod source;
mod tree;
mod walk;
mod workers;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use self::chunk::{CHUNK_LEN_MAX, Chunker, ChunkerError};
pub use self::dirs::DEPTH_MAX;
pub use self::error::ImportError;
pub use self::options::{
    BigFiles, Follow, ImportOptions, ImportedRoot, MetadataRules, Progress, ProgressFn, Selection,
};
pub use self::profile::{
    AddressFlags, HamtEstimate, INLINE_LIMIT_DEFAULT, LINKS_MAX_LIMIT, Layout, Profile,
};
pub use self::tree::TreeBuilder;

use self::dirs::TOP;
use self::walk::{Step, Walk, ignore_rules};
use crate::codec::node::Metadata;
use crate::store::BlockStore;

/// Imports files, directories and symlinks of this machine, into nothing when `store` is `None`
/// (`--only-hash`). Everything is durable when it returns; the roots are not pinned.
///
/// # Errors
/// [`ImportError`] names the path or the setting to blame. A tree that changes meanwhile is one.
pub fn import_paths(
    paths: &[impl AsRef<Path>],
    options: &ImportOptions,
    store: Option<Arc<dyn BlockStore>>,
    progress: ProgressFn<'_>,
) -> Result<Vec<ImportedRoot>, ImportError> {
    let rules = ignore_rules(&options.selection)?;
    let mut tree = TreeBuilder::new(options, store, progress)?;
    for path in paths {
        let mut walk = Walk::new(path.as_ref(), &options.selection, &rules)?;
        let mut dirs = vec![TOP];
        while let Some(step) = walk.next()? {
            let dir = dirs.last().copied().unwrap_or(TOP);
            match step {
                Step::Enter { name, metadata } => dirs.push(tree.enter(dir, &name, metadata)?),
                Step::Leave => {
                    dirs.pop();
                    tree.leave(dir)?;
                }
                Step::File { name, path, stamp, metadata } => {
                    tree.source_in(dir, &name, path, stamp, metadata)?;
                }
                Step::Symlink { name, target, metadata } => {
                    tree.symlink_in(dir, &name, &target, metadata)?;
                }
            }
        }
    }
    tree.finish()
}

/// Imports what a reader delivers as one file; without a name it is named by its CID.
///
/// # Errors
/// As [`import_paths`].
pub fn import_stream(
    content: impl Read,
    name: Option<&str>,
    options: &ImportOptions,
    store: Option<Arc<dyn BlockStore>>,
    progress: ProgressFn<'_>,
) -> Result<Vec<ImportedRoot>, ImportError> {
    let mut tree = TreeBuilder::new(options, store, progress)?;
    tree.file(name.unwrap_or_default().as_bytes(), content, Metadata::default())?;
    tree.finish()
}

/// Returns how many bytes of content an import of `paths` will read, for a progress bar.
///
/// # Errors
/// As [`import_paths`].
pub fn content_len(paths: &[impl AsRef<Path>], selection: &Selection) -> Result<u64, ImportError> {
    let rules = ignore_rules(selection)?;
    let mut len = 0_u64;
    for path in paths {
        let mut walk = Walk::new(path.as_ref(), selection, &rules)?;
        while let Some(step) = walk.next()? {
            if let Step::File { stamp, .. } = step {
                len = len.saturating_add(stamp.len());
            }
        }
    }
    Ok(len)
}
