//! Whether another thread has been sent a signal that ends its wait (`/proc/<tid>/status`).
//!
//! The kernel tells a filesystem of an interrupted caller by `FUSE_INTERRUPT`, which the FUSE library
//! in use does not pass on. So the pending signals of the caller are read here instead. A thread of
//! another pid namespace cannot be seen; it is then never found interrupted.

use std::fs;

/// Signal sets of a thread, as `/proc` shows them: bit n-1 stands for signal n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signals {
    pending: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

/// Tells whether a signal is pending for thread `tid` that will end it or run its handler once its
/// system call returns. A thread that is gone is not waiting, so it counts as interrupted.
pub fn is_interrupted(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => parse(&status).interrupts(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Returns the name that the kernel shows of thread `tid`: its program's, cut after 15 bytes, unless it
/// took another. `None` when there is no such thread in this pid namespace.
pub fn name(tid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{tid}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

impl Signals {
    /// Signals whose default is to be ignored: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
    const HARMLESS: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27;

    fn interrupts(self) -> bool {
        let harmless = Self::HARMLESS & !self.caught;
        self.pending & !self.blocked & !self.ignored & !harmless != 0
    }
}

fn parse(status: &str) -> Signals {
    let mut signals = Signals::default();
    for line in status.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let Ok(mask) = u64::from_str_radix(value.trim(), 16) else { continue };
        match key {
            "SigPnd" | "ShdPnd" => signals.pending |= mask,
            "SigBlk" => signals.blocked = mask,
            "SigIgn" => signals.ignored = mask,
            "SigCgt" => signals.caught = mask,
            _ => {}
        }
    }
    signals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, interrupted: bool) {
        assert_eq!(parse(lines).interrupts(), interrupted, "{lines}");
    }

    #[test]
    fn a_pending_signal_interrupts_unless_it_is_blocked_or_ignored() {
        check("Name:\tcat\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n", false);
        check("SigPnd:\t0000000000000100\n", true);
        check("ShdPnd:\t0000000000000002\n", true);
        check("ShdPnd:\t0000000000000002\nSigBlk:\t0000000000000002\n", false);
        check("ShdPnd:\t0000000000000002\nSigIgn:\t0000000000000002\n", false);
        check("ShdPnd:\t0000000000000002\nSigCgt:\t0000000000000002\n", true);
        check("ShdPnd:\t0000000000010000\n", false);
        check("ShdPnd:\t0000000000010000\nSigCgt:\t0000000000010000\n", true);
        check("SigPnd:\tzz\n", false);
    }

    #[test]
    fn this_thread_is_not_interrupted_and_no_thread_is_zero() {
        assert!(!is_interrupted(nix::unistd::gettid().as_raw().unsigned_abs()));
        assert!(!is_interrupted(0));
        assert!(is_interrupted(u32::MAX), "a thread that cannot exist is not waiting");
    }
}
