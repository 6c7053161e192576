//! The mounts of a node: made, listed, taken down; those that others unmounted are forgotten.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::api::control::{MountInfo, MountRequest, MountSource};
use crate::api::error::ApiError;
use crate::dag::Dag;
use crate::fuse::{self, Mount, MountOptions};
use crate::keep::Keeper;
use crate::store::Repository;
use crate::sys::mount::{FS_TYPE, clear_dead, mount_at, real_path, refuse_inside};
use crate::unixfs::FetchBudget;
use crate::vfs::{Namespace, Root, Vfs, VfsOptions};

/// Mounts at one time: each has threads of its own and a table of inodes.
const MOUNTS_MAX: usize = 64;

/// The table of mounts.
#[derive(Debug)]
pub(super) struct Mounts {
    runtime: Handle,
    inode_key: [u8; 32],
    fetch_budget: Arc<FetchBudget>,
    table: Mutex<Vec<(MountInfo, Mount)>>,
    /// Held while a directory is looked at and mounted on, so that two requests cannot find the
    /// same one free.
    mounting: Mutex<()>,
}

impl Mounts {
    /// Returns an empty table.
    pub(super) fn new(runtime: Handle, inode_key: [u8; 32], fetch_budget: FetchBudget) -> Self {
        Self {
            runtime,
            inode_key,
            fetch_budget: Arc::new(fetch_budget),
            table: Mutex::default(),
            mounting: Mutex::default(),
        }
    }

    /// Returns the memory for what is on its way ahead of readers.
    pub(super) fn fetch_budget(&self) -> Arc<FetchBudget> {
        Arc::clone(&self.fetch_budget)
    }

    /// Returns how to mount, when that and the directory can be used.
    pub(super) fn check(
        repository: &Repository,
        request: &MountRequest,
    ) -> Result<MountOptions, ApiError> {
        let options = MountOptions::parse(&request.options)?;
        refuse_inside(repository.path(), &request.dir)?;
        Ok(options)
    }

    /// Mounts; may wait for the disk and the kernel.
    pub(super) fn mount(
        &self,
        repository: &Repository,
        dag: &Dag,
        keeper: &Keeper,
        source: &MountSource,
        request: &MountRequest,
    ) -> Result<MountInfo, ApiError> {
        let options = Self::check(repository, request)?;
        let (source, root): (_, Arc<dyn Root>) = match source {
            MountSource::Namespace => {
                ("/ipfs".to_owned(), Arc::new(Namespace::new(repository.pins.clone())))
            }
            MountSource::Directory { path, root } => (path.clone(), Arc::new(*root)),
        };
        let volume = Some(repository.path().to_owned());
        let vfs_options = options.vfs(self.inode_key, volume);
        let vfs_options = VfsOptions {
            keeper: Some(keeper.clone()),
            fetch_budget: Arc::clone(&self.fetch_budget),
            ..vfs_options
        };
        let vfs = Vfs::new(dag.clone(), root, vfs_options);
        let _mounting = self.mounting.lock();
        self.forget_ended();
        if self.table.lock().len() >= MOUNTS_MAX {
            return Err(ApiError::failed(format!("over {MOUNTS_MAX} mounts")));
        }
        let mount = fuse::mount(vfs, &request.dir, &options, &self.runtime)?;
        let dir = mount.point().to_owned();
        tracing::info!(source, dir = %dir.display(), "mounted");
        let info = MountInfo { source, dir, options: request.options.clone() };
        self.table.lock().push((info.clone(), mount));
        Ok(info)
    }

    /// Takes the mount on `dir` down; waits for those who have files open. A dead mount that a
    /// crash left there goes too.
    pub(super) fn umount(&self, dir: &Path) -> Result<(), ApiError> {
        self.forget_ended();
        let dir = real_path(dir).unwrap_or_else(|_| dir.to_owned());
        let mut table = self.table.lock();
        let Some(place) = table.iter().position(|(info, _)| info.dir == dir) else {
            drop(table);
            return umount_dead(&dir);
        };
        let (info, mount) = table.swap_remove(place);
        drop(table);
        if let Err(error) = mount.unmount() {
            self.table.lock().push((info, mount));
            return Err(error.into());
        }
        tracing::info!(dir = %info.dir.display(), "unmounted");
        Ok(())
    }

    /// Returns the live mounts.
    pub(super) fn list(&self) -> Vec<MountInfo> {
        self.forget_ended();
        self.table.lock().iter().map(|(info, _)| info.clone()).collect()
    }

    /// Takes all mounts down; tells which ones stayed.
    pub(super) fn unmount_all(&self) -> Result<(), String> {
        let mounts = std::mem::take(&mut *self.table.lock());
        let mut stayed = Vec::new();
        for (info, mount) in mounts.into_iter().rev().filter(|(_, mount)| mount.is_alive()) {
            match mount.unmount() {
                Ok(()) => tracing::info!(dir = %info.dir.display(), "unmounted"),
                Err(error) => stayed.push(error.to_string()),
            }
        }
        if stayed.is_empty() { Ok(()) } else { Err(stayed.join("; ")) }
    }

    fn forget_ended(&self) {
        let mut ended = Vec::new();
        let mut table = self.table.lock();
        let mut at = 0;
        while at < table.len() {
            if table[at].1.is_alive() {
                at += 1;
            } else {
                ended.push(table.swap_remove(at));
            }
        }
        // Dropping a mount may wait for the kernel, so it is done without the lock.
        drop(table);
        drop(ended);
    }
}

fn umount_dead(dir: &Path) -> Result<(), ApiError> {
    let is_ours = || {
        let entry = mount_at(dir).map_err(|error| ApiError::failed(error).about(dir.display()))?;
        Ok::<_, ApiError>(entry.is_some_and(|entry| entry.fs_type == FS_TYPE))
    };
    if is_ours()? {
        clear_dead(dir)?;
        if !is_ours()? {
            tracing::info!(dir = %dir.display(), "unmounted what a crash had left");
            return Ok(());
        }
    }
    let error = format!("{} is not a mount of this node", dir.display());
    Err(ApiError::failed(error).hint("`cidfs status` lists the mounts"))
}
