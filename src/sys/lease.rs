//! Whether anybody else has a file open or mapped (`fcntl(2)`, `F_SETLEASE`).
//!
//! A write lease is given only to who alone has the file open, and a mapping counts as open after its
//! descriptor was closed. So asking for one, and giving it back, tells.

#![allow(unsafe_code, reason = "the only binding of F_SETLEASE is the system call's own")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;
use parking_lot::Mutex;

/// Which signal tells that a lease is broken (`include/uapi/asm-generic/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// A lease belongs to the open file, not to who asked for it: of two who ask at one time through one
/// descriptor, one gives back what the other relies on, and the other is told of an error.
static ASKING: Mutex<()> = Mutex::new(());

/// Tells whether somebody else has `file`, which is open for writing, open or mapped; another descriptor
/// of this process counts too.
///
/// # Errors
/// What fcntl(2) says: the filesystem knows no leases, or the file is someone else's.
pub fn is_open_elsewhere(file: &File) -> io::Result<bool> {
    let _one_at_a_time = ASKING.lock();
    // Who opens the file just now breaks the lease; the signal for that is one that is ignored.
    set(file, F_SETSIG, libc::SIGURG)?;
    match set(file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => set(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
    .map_err(io::Error::from)
}

fn set(file: &File, command: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: both commands take an integer and no memory; the descriptor is open as long as `file` is.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), command, value) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmap::ReadMap;

    #[test]
    fn an_open_descriptor_and_a_mapping_count_until_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 5000]).unwrap();
        let ours = File::options().read(true).write(true).open(&path).unwrap();
        assert!(!is_open_elsewhere(&ours).unwrap());
        let theirs = File::open(&path).unwrap();
        assert!(is_open_elsewhere(&ours).unwrap());
        let map = ReadMap::of(&theirs).unwrap();
        drop(theirs);
        assert!(is_open_elsewhere(&ours).unwrap());
        drop(map);
        assert!(!is_open_elsewhere(&ours).unwrap());
    }

    #[test]
    fn two_who_ask_at_one_time_both_learn_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 5000]).unwrap();
        let ours = File::options().read(true).write(true).open(&path).unwrap();
        let ask = || (0..20_000).for_each(|_| assert!(!is_open_elsewhere(&ours).unwrap()));
        std::thread::scope(|scope| {
            scope.spawn(ask);
            scope.spawn(ask);
        });
    }
}
