//! How many files this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Sets the bound to the highest that an unprivileged process may set.
///
/// # Errors
/// When the kernel refuses; the bound is what it was.
pub fn raise_open_max() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Returns the bound in force.
///
/// # Errors
/// When the kernel does not tell.
pub fn open_max() -> nix::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}
