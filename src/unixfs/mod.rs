//! Files and directories as DAGs.

pub mod import;
