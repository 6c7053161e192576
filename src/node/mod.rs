//! The composition root.
pub mod config;
