//! What memory this process holds, and how the allocator of the C library takes it: a named bound in place of
//! its guess.
//!
//! glibc reserves 64 MiB of addresses for each of up to eight heaps a core. Nothing of that is
//! memory, but it counts under a limit on the address space (`ulimit -v`), where a daemon would
//! then be refused the memory that it does need.

#![allow(unsafe_code, reason = "nix has no wrapper for mallopt(3) and malloc_trim(3)")]

/// Heaps that threads share: two are enough to keep apart those who allocate at the same time, and
/// reserve 128 MiB of addresses.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: nix::libc::c_int = 2;

/// Bounds the number of heaps of this process; to be called before there are other threads.
///
/// Other C libraries than glibc have no such heaps.
pub fn bound_heaps() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two numbers and touches only the allocator's own settings; one that
        // it does not know is ignored.
        unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, HEAPS_MAX) };
    }
}

/// Gives memory back that is free but that the allocator holds; where it holds much, it is slow for that long.
///
/// Other C libraries than glibc do so by themselves.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes a number and touches only what is not allocated.
        unsafe { nix::libc::malloc_trim(0) };
    }
}

/// Returns the bytes of memory that this process holds, `None` where the kernel does not tell.
pub fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok().map(|kib| kib * 1024)
}
