//! The lock on a repository: one process at a time, and a message that names it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::StoreError;
use super::error::AtPath as _;

/// Longest command line in bytes that is shown.
const COMMAND_LEN_MAX: usize = 200;

/// Longest text in bytes that is read as the number of a process: ten digits and a line end fit.
const PID_LEN_MAX: u64 = 16;

/// Held as long as it lives; the kernel lets go when the process dies.
#[derive(Debug)]
pub(super) struct RepositoryLock {
    _file: Flock<File>,
}

impl RepositoryLock {
    /// Takes the lock of the repository at `dir` without waiting.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = file.open(&path).at(&path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                note_holder(&lock, &path)?;
                Ok(Self { _file: lock })
            }
            Err((_, errno)) => match io::Error::from(errno) {
                error if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(StoreError::Locked { path: dir.to_owned(), holder: holder(&path) })
                }
                error => Err(StoreError::io(&path, error)),
            },
        }
    }
}

/// Writes the number of this process over that of the last one, in place, since a full disk would
/// not give back the room of a file that was emptied. Without room only a message says less.
fn note_holder(lock: &File, path: &Path) -> Result<(), StoreError> {
    let number = format!("{}\n", std::process::id());
    let noted = lock.write_all_at(number.as_bytes(), 0);
    match noted.and_then(|()| lock.set_len(number.len() as u64)).at(path) {
        Err(error @ StoreError::Full { .. }) => {
            tracing::warn!(%error, "others will not be told who has the repository");
            Ok(())
        }
        noted => noted,
    }
}

/// Describes the process that wrote its number into the lock file.
fn holder(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(PID_LEN_MAX).read_to_string(&mut text));
    let Some(pid) = read.ok().and_then(|_len| text.trim().parse::<u32>().ok()) else {
        return "another process".to_owned();
    };
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) if !line.is_empty() => format!("process {pid} ({})", command(&line)),
        _ => format!("process {pid}"),
    }
}

/// Returns a command line for people: the program without its folder, spaces, no control
/// characters.
fn command(line: &[u8]) -> String {
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let text = words.fold(program, |text, word| text + " " + &word);
    let text = text.trim_end().chars().filter(|char| !char.is_control());
    text.take(COMMAND_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RepositoryLock::take(dir.path()).unwrap();
        let refused = RepositoryLock::take(dir.path()).unwrap_err().to_string();
        let pid = format!("process {} (", std::process::id());
        assert!(refused.contains(&pid), "{refused}");
        drop(lock);
        RepositoryLock::take(dir.path()).unwrap();
    }

    #[test]
    fn the_last_holder_is_written_over_and_a_full_disk_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "4294967295 and more\n").unwrap();
        drop(RepositoryLock::take(dir.path()).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        note_holder(&full, &path).unwrap();
    }

    #[test]
    fn commands_are_shown_as_typed() {
        assert_eq!(command(b"/usr/bin/cidfs\0daemon\0"), "cidfs daemon");
        assert_eq!(command(b"x\0\x1b[2J\0"), "x [2J");
    }
}
