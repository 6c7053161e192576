//! The control API: kubo's RPC for the commands that cidfs has (spec 09).
pub mod error;
mod guard;
pub mod reply;
pub mod request;
pub mod server;
