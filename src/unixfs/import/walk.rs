//! The real filesystem, depth first, names in byte order: what of it is imported (kubo's rules).
//!
//! One open directory's names at each level are in memory; no descriptor stays open.

use std::ffi::OsString;
use std::fs::{self, Metadata as Stat};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::dirs::DEPTH_MAX;
use super::error::ImportError;
use super::options::{Follow, Selection};
use super::source::Stamp;
use crate::codec::node::Metadata;
use crate::codec::unixfs::{MODE_MASK, Mtime};

/// One step of the walk.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory begins.
    Enter {
        name: Vec<u8>,
        metadata: Metadata,
    },
    /// The innermost directory ends.
    Leave,
    File {
        name: Vec<u8>,
        path: PathBuf,
        stamp: Stamp,
        metadata: Metadata,
    },
    Symlink {
        name: Vec<u8>,
        target: Vec<u8>,
        metadata: Metadata,
    },
}

/// Walks one argument.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    selection: &'a Selection,
    rules: &'a Gitignore,
    /// The argument itself, until it was visited.
    argument: Option<(PathBuf, Vec<u8>)>,
    levels: Vec<Level>,
}

/// A directory whose entries are being visited.
#[derive(Debug)]
struct Level {
    path: PathBuf,
    /// The same, relative to the argument: what ignore rules are matched against.
    below: PathBuf,
    /// Device and inode, to notice a circle of followed links.
    identity: (u64, u64),
    /// Names to come, last first.
    names: Vec<OsString>,
}

/// Compiles the ignore rules of a selection.
pub(super) fn ignore_rules(selection: &Selection) -> Result<Gitignore, ImportError> {
    let mut builder = GitignoreBuilder::new("");
    if let Some(error) = selection.ignore_rules.as_ref().and_then(|file| builder.add(file)) {
        return Err(error.into());
    }
    for rule in &selection.ignore {
        builder.add_line(None, rule)?;
    }
    Ok(builder.build()?)
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        path: &Path,
        selection: &'a Selection,
        rules: &'a Gitignore,
    ) -> Result<Self, ImportError> {
        let name = argument_name(path)?;
        let argument = Some((path.to_owned(), name));
        Ok(Self { selection, rules, argument, levels: Vec::new() })
    }

    /// Returns the next step, nothing after the argument's last.
    pub(super) fn next(&mut self) -> Result<Option<Step>, ImportError> {
        if let Some((path, name)) = self.argument.take() {
            let follow = self.selection.follow != Follow::Never;
            return self.visit(path, PathBuf::new(), name, follow).map(Some);
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                return Ok(Some(Step::Leave));
            };
            let path = level.path.join(&name);
            let below = level.below.join(&name);
            if self.is_ignored(&path, &below)? {
                continue;
            }
            let follow = self.selection.follow == Follow::Always;
            return self.visit(path, below, name.into_vec(), follow).map(Some);
        }
    }

    /// gitignore tells directories from files, so rules cost a look at the type.
    fn is_ignored(&self, path: &Path, below: &Path) -> Result<bool, ImportError> {
        if self.rules.is_empty() {
            return Ok(false);
        }
        let is_dir = fs::symlink_metadata(path).map_err(|error| failed(path, error))?.is_dir();
        Ok(self.rules.matched(below, is_dir).is_ignore())
    }

    fn visit(
        &mut self,
        path: PathBuf,
        below: PathBuf,
        name: Vec<u8>,
        follow: bool,
    ) -> Result<Step, ImportError> {
        let stat = if follow { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let stat = stat.map_err(|error| failed(&path, error))?;
        let metadata = metadata_of(&stat);
        let kind = stat.file_type();
        if kind.is_file() {
            return Ok(Step::File { name, path, stamp: Stamp::of(&stat), metadata });
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(|error| failed(&path, error))?;
            return Ok(Step::Symlink {
                name,
                target: target.into_os_string().into_vec(),
                metadata,
            });
        }
        if !kind.is_dir() {
            let kind = special(&stat);
            return Err(ImportError::Special { path, kind });
        }
        self.open(path, below, &stat)?;
        Ok(Step::Enter { name, metadata })
    }

    fn open(&mut self, path: PathBuf, below: PathBuf, stat: &Stat) -> Result<(), ImportError> {
        let identity = (stat.dev(), stat.ino());
        if self.levels.iter().any(|level| level.identity == identity) {
            return Err(ImportError::Loop { path });
        }
        if self.levels.len() >= DEPTH_MAX {
            let path = path.to_string_lossy().into_owned();
            return Err(ImportError::TooDeep { path, max: DEPTH_MAX });
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| failed(&path, error))? {
            let name = entry.map_err(|error| failed(&path, error))?.file_name();
            if self.selection.hidden || !name.as_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { path, below, identity, names });
        Ok(())
    }
}

fn failed(path: &Path, source: io::Error) -> ImportError {
    ImportError::Io { path: path.to_owned(), source }
}

/// Returns the last segment of an argument; `.` and `..` have the name of what they mean.
fn argument_name(path: &Path) -> Result<Vec<u8>, ImportError> {
    if let Some(name) = path.file_name() {
        return Ok(name.as_bytes().to_vec());
    }
    let full = fs::canonicalize(path).map_err(|error| failed(path, error))?;
    match full.file_name() {
        Some(name) => Ok(name.as_bytes().to_vec()),
        None => Err(ImportError::Name { path: path.to_string_lossy().into_owned() }),
    }
}

fn metadata_of(stat: &Stat) -> Metadata {
    let nanos = u32::try_from(stat.mtime_nsec()).unwrap_or_default();
    Metadata {
        mode: Some(stat.mode() & MODE_MASK),
        mtime: Some(Mtime { seconds: stat.mtime(), nanos }),
    }
}

fn special(stat: &Stat) -> &'static str {
    let kind = stat.file_type();
    if kind.is_fifo() {
        "named pipe"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() {
        "block device"
    } else if kind.is_char_device() {
        "character device"
    } else {
        "special file"
    }
}
