//! The `cidfs` binary: everything is in the library, the command line in [`cidfs::cli`].

fn main() {}
