//! `id`, `swarm/…` and `bitswap/…`: this node among others.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::car::Link;
use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply;
use crate::api::request::Form;
use crate::exchange::swarm::{PeerInfo, Swarm, SwarmError};
use crate::exchange::{Multiaddr, PeerId};

/// Who a node is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Id {
    /// Its peer id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its public key: libp2p's protobuf in base64.
    pub public_key: String,
    /// Where it can be called, each with its peer id; none when it talks to nobody.
    pub addresses: Vec<String>,
    /// What it calls itself.
    pub agent_version: String,
}

/// A peer that is connected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peer {
    /// Its address.
    pub addr: String,
    /// Its id.
    pub peer: String,
    /// What its last answer to a ping took, in Go's words; empty when it is not known.
    pub latency: String,
    /// 1 when it called this node, 2 when this node called it (Go's numbers).
    pub direction: u8,
    /// What it calls itself (ours).
    pub agent: String,
}

/// The peers that are connected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peers {
    /// In the order of their ids.
    pub peers: Vec<Peer>,
}

/// Lines of text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Strings {
    /// The lines.
    pub strings: Vec<String>,
}

/// Addresses of peers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Addrs {
    /// By peer id.
    pub addrs: BTreeMap<String, Vec<String>>,
}

/// What came over bitswap since the start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BitswapStat {
    /// What is wanted.
    pub wantlist: Vec<Link>,
    /// Ids of peers that speak bitswap.
    pub peers: Vec<String>,
    /// Blocks that were wanted and came.
    pub blocks_received: u64,
    /// Bytes of them.
    pub data_received: u64,
    /// Blocks that came twice or too late.
    pub dup_blks_received: u64,
    /// Bytes of them.
    pub dup_data_received: u64,
    /// Bytes that were sent to peers that are connected.
    pub data_sent: u64,
}

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Wantlist {
    /// The oldest first.
    pub keys: Vec<Link>,
}

/// What passed between this node and a peer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LedgerStat {
    /// Its id.
    pub peer: String,
    /// What it was sent for each byte that came from it.
    pub value: f64,
    /// Bytes that it was sent.
    pub sent: u64,
    /// Bytes that came from it.
    pub recv: u64,
    /// Wants of it that this node remembers (ours).
    pub wants: usize,
}

impl From<SwarmError> for ApiError {
    fn from(error: SwarmError) -> Self {
        match error {
            SwarmError::NoPeerId(_) => Self::client(error),
            SwarmError::Connect { .. }
            | SwarmError::Ping { .. }
            | SwarmError::Full(_)
            | SwarmError::Build(_)
            | SwarmError::Stopped => Self::failed(error),
        }
    }
}

/// `id`
pub(super) async fn id(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let identity = node.identity();
    let own = identity.key.to_peer_id();
    if let Some(asked) = params.args().next()
        && peer_id(asked)? != own
    {
        return Err(ApiError::client(
            "only this node itself can be asked for, without an argument",
        ));
    }
    let addresses = match node.network().swarm() {
        Some(swarm) => addresses(swarm).await?,
        None => Vec::new(),
    };
    let public_key = multibase::Base::Base64Pad.encode(identity.key.encode_protobuf());
    let (id, agent_version) = (own.to_string(), identity.agent);
    Ok(reply::json(&Id { id, public_key, addresses, agent_version }))
}

/// `swarm/peers`
pub(super) async fn peers(State(node): State<Node>) -> Result<Response, ApiError> {
    let mut peers = swarm(&node)?.peers().await?;
    peers.sort_by_key(|peer| peer.id.to_string());
    let peer = |peer: PeerInfo| Peer {
        addr: peer.address.to_string(),
        peer: peer.id.to_string(),
        latency: peer.latency.map(go_duration).unwrap_or_default(),
        direction: if peer.is_outbound { 2 } else { 1 },
        agent: peer.agent,
    };
    Ok(reply::json(&Peers { peers: peers.into_iter().map(peer).collect() }))
}

/// `swarm/connect?arg=ADDRESS`
pub(super) async fn connect(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let swarm = swarm(&node)?;
    let mut strings = Vec::new();
    for arg in params.args_some("address")? {
        let peer = swarm.connect(address(arg)?).await?;
        strings.push(format!("connect {peer} success"));
    }
    Ok(reply::json(&Strings { strings }))
}

/// `swarm/disconnect?arg=PEER`, an id or an address that ends with one.
pub(super) async fn disconnect(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let swarm = swarm(&node)?;
    let mut strings = Vec::new();
    for arg in params.args_some("peer")? {
        let peer = peer_id(arg)?;
        if !swarm.disconnect(peer).await? {
            return Err(ApiError::failed(format!("not connected to {peer}")));
        }
        strings.push(format!("disconnect {peer} success"));
    }
    Ok(reply::json(&Strings { strings }))
}

/// `swarm/addrs`
pub(super) async fn addrs(State(node): State<Node>) -> Result<Response, ApiError> {
    let peers = swarm(&node)?.peers().await?;
    let addrs = peers.iter().map(|peer| (peer.id.to_string(), vec![peer.address.to_string()]));
    Ok(reply::json(&Addrs { addrs: addrs.collect() }))
}

/// `swarm/addrs/local` and `swarm/addrs/listen`
pub(super) async fn addrs_local(State(node): State<Node>) -> Result<Response, ApiError> {
    Ok(reply::json(&Strings { strings: addresses(swarm(&node)?).await? }))
}

/// `bitswap/stat`
pub(super) async fn stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let (swarm, encoder) = (swarm(&node)?, params.encoder()?);
    let (totals, peers) = (swarm.totals().await?, swarm.peers().await?);
    let wanted = swarm.wanted().await?;
    let speaks = peers.iter().filter(|peer| peer.ledger.is_some());
    Ok(reply::json(&BitswapStat {
        wantlist: wanted.iter().map(|cid| Link { cid: encoder.encode(cid) }).collect(),
        peers: speaks.map(|peer| peer.id.to_string()).collect(),
        blocks_received: totals.blocks,
        data_received: totals.bytes,
        dup_blks_received: totals.late_blocks,
        dup_data_received: totals.late_bytes,
        data_sent: peers.iter().filter_map(|peer| Some(peer.ledger?.sent_bytes)).sum(),
    }))
}

/// `bitswap/wantlist`
pub(super) async fn wantlist(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let encoder = params.encoder()?;
    let wanted = swarm(&node)?.wanted().await?;
    let keys = wanted.iter().map(|cid| Link { cid: encoder.encode(cid) }).collect();
    Ok(reply::json(&Wantlist { keys }))
}

/// `bitswap/ledger?arg=PEER`
pub(super) async fn ledger(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let asked = peer_id(params.arg("peer")?)?;
    let peers = swarm(&node)?.peers().await?;
    let ledger = peers.iter().find(|peer| peer.id == asked).and_then(|peer| peer.ledger);
    let ledger = ledger.ok_or_else(|| {
        ApiError::failed(format!("not connected to {asked}, or it does not speak bitswap"))
    })?;
    let (sent, recv) = (ledger.sent_bytes, ledger.received_bytes);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let value = sent as f64 / (recv as f64 + 1.0);
    Ok(reply::json(&LedgerStat { peer: asked.to_string(), value, sent, recv, wants: ledger.wants }))
}

fn swarm(node: &Node) -> Result<&Swarm, ApiError> {
    node.network().swarm().ok_or_else(|| {
        ApiError::failed("this node does not talk to others").hint(
            "start a daemon, and say whom it may talk to: cidfs config network.preset peers-only",
        )
    })
}

/// Returns where this node can be called, with its id.
async fn addresses(swarm: &Swarm) -> Result<Vec<String>, ApiError> {
    let id = swarm.id();
    Ok(swarm.addresses().await?.iter().map(|address| format!("{address}/p2p/{id}")).collect())
}

fn text(arg: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(arg).map_err(|_| ApiError::client("an address is text"))
}

fn address(arg: &[u8]) -> Result<Multiaddr, ApiError> {
    let text = text(arg)?;
    text.parse().map_err(|error| {
        ApiError::client(format!("\"{text}\" is no address: {error}"))
            .hint("addresses look like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…")
    })
}

/// Returns the id that was given, or that an address ends with.
fn peer_id(arg: &[u8]) -> Result<PeerId, ApiError> {
    let text = text(arg)?;
    let id = text.rsplit('/').next().unwrap_or(text);
    id.parse().map_err(|_| ApiError::client(format!("\"{text}\" is no peer id")))
}

/// Writes a time as Go does, to the microsecond.
fn go_duration(time: Duration) -> String {
    let micros = time.as_micros();
    if micros < 1000 {
        return format!("{micros}µs");
    }
    format!("{}ms", micros / 1000)
}
