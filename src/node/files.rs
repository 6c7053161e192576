//! Small files of the node beside the store: configuration, keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces the file at `path` in one step, so that a crash leaves the old content or the new; a new one has
/// the permissions `mode`, less the umask.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let replaced = write(&new, content, mode).and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = replaced {
        // On a full disk it takes room that is missing.
        if let Err(error) = std::fs::remove_file(&new) {
            tracing::warn!(path = %new.display(), %error, "cannot remove a half-written file");
        }
        return Err(error);
    }
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
