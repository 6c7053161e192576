//! The control API: kubo's RPC for the commands that cidfs has (spec 09).
//!
//! The idea: one router serves the Unix socket of a daemon and, inside the process, every command
//! that runs without one, so both mean the same. Bodies are streamed in both directions; a request
//! holds a few MiB at most. What kubo's clients need looks as they expect; what is ours (`stat`,
//! `status`, `store`, `umount`, `path=`) is added beside it. This layer reads no configuration and
//! opens nothing: the [`control`] seam gives it a running node.

pub mod add;
pub mod block;
pub mod bootstrap;
pub mod car;
mod cat;
mod config;
pub mod control;
pub mod dag;
pub mod error;
pub mod fetch;
mod get;
mod guard;
mod hints;
pub mod ls;
pub mod mount;
pub mod multipart;
pub mod name;
mod paths;
pub mod pin;
pub mod ping;
pub mod reply;
pub mod repo;
pub mod request;
pub mod resolve;
pub mod server;
pub mod stat;
pub mod stats;
pub mod store;
pub mod swarm;
pub mod time;
mod turns;
pub mod version;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::post;

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::turns::Turns;

/// Returns the service for all requests, of which so many are served at once.
pub fn router(node: Node, requests: usize) -> Router {
    Router::new()
        .nest("/api/v0", commands())
        .fallback(unknown)
        .layer(from_fn_with_state(Turns::new(requests), turns::wait))
        .layer(from_fn(guard::guard))
        // Bodies are read in pieces, whatever their length; parameters have a limit of their own.
        .layer(DefaultBodyLimit::disable())
        .with_state(node)
}

fn commands() -> Router<Node> {
    Router::new()
        .route("/add", post(add::add))
        .route("/bitswap/ledger", post(swarm::ledger))
        .route("/bitswap/stat", post(swarm::stat))
        .route("/bitswap/wantlist", post(swarm::wantlist))
        .route("/block/get", post(block::get))
        .route("/block/put", post(block::put))
        .route("/block/rm", post(block::rm))
        .route("/block/stat", post(block::stat))
        .route("/bootstrap", post(bootstrap::list))
        .route("/bootstrap/add", post(bootstrap::add))
        .route("/bootstrap/add/default", post(bootstrap::add_default))
        .route("/bootstrap/list", post(bootstrap::list))
        .route("/bootstrap/rm", post(bootstrap::rm))
        .route("/bootstrap/rm/all", post(bootstrap::rm_all))
        .route("/cat", post(cat::cat))
        .route("/config", post(config::config))
        .route("/config/show", post(config::show))
        .route("/dag/export", post(car::export))
        .route("/dag/get", post(dag::get))
        .route("/dag/import", post(car::import))
        .route("/dag/resolve", post(dag::resolve))
        .route("/dag/stat", post(dag::stat))
        .route("/fetch", post(fetch::fetch))
        .route("/files/stat", post(stat::files_stat))
        .route("/get", post(get::get))
        .route("/id", post(swarm::id))
        .route("/ls", post(ls::ls))
        .route("/mount", post(mount::mount))
        .route("/pin/add", post(pin::add))
        .route("/pin/ls", post(pin::listing::ls))
        .route("/pin/rm", post(pin::rm))
        .route("/pin/update", post(pin::update))
        .route("/pin/verify", post(pin::verify::verify))
        .route("/ping", post(ping::ping))
        .route("/refs", post(dag::refs))
        .route("/repo/gc", post(repo::gc))
        .route("/repo/stat", post(repo::stat))
        .route("/repo/verify", post(repo::verify))
        .route("/repo/version", post(repo::version))
        .route("/resolve", post(resolve::resolve))
        .route("/shutdown", post(version::shutdown))
        .route("/stat", post(stat::stat))
        .route("/stats/bitswap", post(swarm::stat))
        .route("/stats/bw", post(stats::bw))
        .route("/stats/repo", post(repo::stat))
        .route("/status", post(mount::status))
        .route("/store/add-pack", post(store::add_pack))
        .route("/store/ls-packs", post(store::ls_packs))
        .route("/store/rm-pack", post(store::rm_pack))
        .route("/swarm/addrs", post(swarm::addrs))
        .route("/swarm/addrs/listen", post(swarm::addrs_local))
        .route("/swarm/addrs/local", post(swarm::addrs_local))
        .route("/swarm/connect", post(swarm::connect))
        .route("/swarm/disconnect", post(swarm::disconnect))
        .route("/swarm/limits", post(swarm::limits))
        .route("/swarm/peering/add", post(swarm::peering_add))
        .route("/swarm/peering/ls", post(swarm::peering_ls))
        .route("/swarm/peering/rm", post(swarm::peering_rm))
        .route("/swarm/peers", post(swarm::peers))
        .route("/umount", post(mount::umount))
        .route("/version", post(version::version))
}

async fn unknown(request: Request) -> ApiError {
    ApiError::unknown_command(request.uri().path())
}
