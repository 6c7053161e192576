//! Where the shared fixtures lie: real archives, blocks and records with their answers.
//!
//! They are third-party data and no part of the package, so a test that needs them says plainly when
//! it did not run.

use std::io::Write;
use std::path::PathBuf;

/// Returns the folder of the shared fixtures; when it is absent, says `NOT RUN` with the name of the
/// calling test's thread and returns `None`.
///
/// # Panics
/// When the folder is absent and the environment says `CI=true`: there, no test may be left out.
pub fn shared_fixtures() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures"));
    if folder.is_dir() {
        return Some(folder);
    }
    let thread = std::thread::current();
    let message = format!(
        "NOT RUN: {}: no fixtures in {}",
        thread.name().unwrap_or("test"),
        folder.display()
    );
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{message}");
    // Past the capture of `println!` and its like: a test that passes without having run must show.
    writeln!(std::io::stderr(), "{message}").expect("an error stream");
    None
}
