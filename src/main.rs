//! The `cidfs` binary: everything is in the library, the command line in [`cidfs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cidfs::cli::run()
}
