//! A directory in memory for targets that need files, emptied and used again for each input.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

/// Returns the directory of this process; those of processes that have ended are removed.
pub fn dir(target: &str) -> PathBuf {
    let memory = Path::new(MEMORY);
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let prefix = format!("cidfs-fuzz-{target}-");
    for entry in fs::read_dir(&base).expect("a directory").flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // Another process may be at it too.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    base.join(format!("{prefix}{}", std::process::id()))
}

/// Makes `dir` an empty directory.
pub fn empty(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("a directory of ours");
    }
    fs::create_dir_all(dir).expect("room for a directory");
}
