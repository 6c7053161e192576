//! Kernel calls that need `unsafe` or care, behind safe functions; nothing else is decided here.

pub mod mmap;
pub mod writeback;
