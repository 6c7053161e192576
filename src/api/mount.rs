//! `mount`, `umount` and `status` (with arguments of ours; kubo's `mount` knows two fixed places).

use std::cmp::Reverse;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::add::path_of;
use crate::api::control::{MountInfo, MountRequest, MountSource, Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, blocking};
use crate::api::repo::{RepoStat, repo_stat};
use crate::api::request::{Form, Params};
use crate::exchange::swarm::{Swarm, SwarmError};
use crate::exchange::{Given, Network, PeerId};
use crate::sys::memory::resident_bytes;
use crate::vfs::FixedRoot;

/// Peers that are named as those which gave most.
const GIVERS_SHOWN: usize = 5;

/// The node at a glance (ours).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// Version of cidfs.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The store.
    pub repo: RepoStat,
    /// Number of pins.
    pub pins: u64,
    /// Live mounts.
    pub mounts: Vec<MountInfo>,
    /// What is exchanged with others; absent when the node talks to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStatus>,
    /// Bytes of memory that the process holds.
    pub memory_bytes: u64,
    /// Bytes of memory for decoded nodes, at most.
    pub node_cache_bytes_max: u64,
    /// Bytes of memory for blocks on their way ahead of readers, at most.
    pub fetch_ahead_bytes_max: u64,
}

/// The network at a glance.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkStatus {
    /// Peers that are connected.
    pub peers: u64,
    /// Blocks that are wanted of them.
    pub wanted: u64,
    /// Bytes of blocks that were wanted and came since the start.
    pub data_received: u64,
    /// Bytes of blocks that were sent.
    pub data_sent: u64,
    /// Bytes of blocks that come in a second, over the last few.
    pub rate_in: u64,
    /// Bytes of blocks that are sent in a second, over the last few.
    pub rate_out: u64,
    /// The shortest time that a peer takes for a ping, in microseconds; absent before one was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_min_us: Option<u64>,
    /// The longest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_max_us: Option<u64>,
    /// Blocks that were asked for and found in the store.
    pub blocks_from_store: u64,
    /// Blocks that were asked for and came from peers.
    pub blocks_from_peers: u64,
    /// The peers that gave most, at most five.
    pub givers: Vec<Giver>,
}

/// What came from one peer since the start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Giver {
    /// Its id.
    pub peer: String,
    /// Blocks that were wanted.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// `mount?arg=SOURCE&path=DIR&options=`
pub(super) async fn mount(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let options = params.text("options")?.unwrap_or_default().to_owned();
    let request = MountRequest { dir: mount_point(&params)?, options };
    let (asked, mounting) = (node.clone(), request.clone());
    blocking(move || asked.check_mount(&request)).await?;
    let source = source_of(&node, &params).await?;
    Ok(reply::json(&blocking(move || node.mount(&source, &mounting)).await?))
}

async fn source_of(node: &Node, params: &Params) -> Result<MountSource, ApiError> {
    let source = params.arg("source")?;
    match source.strip_suffix(b"/").unwrap_or(source) {
        b"/ipfs" => Ok(MountSource::Namespace),
        b"/ipns" => Err(ApiError::failed("/ipns cannot be mounted yet; /ipfs can")),
        path => {
            let dag = dag_of(node, params)?;
            let root = FixedRoot::new(&dag, cid_of(&dag, path).await?).await?;
            Ok(MountSource::Directory { path: String::from_utf8_lossy(source).into_owned(), root })
        }
    }
}

/// `umount?path=DIR`
pub(super) async fn umount(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dir = mount_point(&params)?;
    blocking(move || node.umount(&dir)).await?;
    Ok(reply::json(&serde_json::json!({})))
}

fn mount_point(params: &Params) -> Result<PathBuf, ApiError> {
    let dir = params.bytes("path").map(path_of);
    let dir = dir.ok_or_else(|| ApiError::client("argument \"path\" is required"))?;
    if dir.is_absolute() {
        return Ok(dir);
    }
    Err(ApiError::client("a mount point is an absolute path"))
}

/// `status`
pub(super) async fn status(State(node): State<Node>) -> Result<Response, ApiError> {
    let network = match node.network().swarm() {
        Some(swarm) => Some(network_status(&node, swarm).await?),
        None => None,
    };
    let status = blocking(move || {
        let memory = node.memory_limits();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            repo: repo_stat(&node)?,
            pins: node.repository().pins.list().len() as u64,
            mounts: node.mounts(),
            network,
            memory_bytes: resident_bytes().unwrap_or_default() as u64,
            node_cache_bytes_max: memory.node_cache_bytes,
            fetch_ahead_bytes_max: memory.fetch_ahead_bytes,
        })
    });
    Ok(reply::json(&status.await?))
}

async fn network_status(node: &Node, swarm: &Swarm) -> Result<NetworkStatus, SwarmError> {
    let (peers, traffic, sources) =
        (swarm.peers().await?, swarm.traffic().await?, node.dag().sources());
    let latencies = || peers.iter().filter_map(|peer| peer.latency.map(micros));
    Ok(NetworkStatus {
        peers: peers.len() as u64,
        wanted: swarm.wanted().await?.len() as u64,
        data_received: swarm.totals().await?.bytes,
        data_sent: traffic.sent_bytes,
        rate_in: traffic.received_per_s,
        rate_out: traffic.sent_per_s,
        latency_min_us: latencies().min(),
        latency_max_us: latencies().max(),
        blocks_from_store: sources.store,
        blocks_from_peers: sources.peers,
        givers: givers(node.network()),
    })
}

/// Returns the peers that gave most, the first one most of all.
fn givers(network: &Network) -> Vec<Giver> {
    let mut givers = network.givers();
    givers.sort_by_key(|(peer, given)| (Reverse(given.bytes), *peer));
    givers.truncate(GIVERS_SHOWN);
    let giver = |(peer, given): (PeerId, Given)| Giver {
        peer: peer.to_string(),
        blocks: given.blocks,
        bytes: given.bytes,
    };
    givers.into_iter().map(giver).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
