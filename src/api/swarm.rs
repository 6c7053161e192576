//! `id`, `swarm/…` and `bitswap/…`: this node among others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::car::Link;
use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Kind};
use crate::api::request::{Form, Params};
use crate::exchange::swarm::{PeerInfo, Swarm, SwarmError};
use crate::exchange::{Ledger, Limit, Multiaddr, PeerId, PublicKey, is_id_alone, peer_of};

/// How long a peer may take to say who it is (go-libp2p's time), …
const INTRODUCTION_WAIT: Duration = Duration::from_secs(5);
/// … and how often it is looked whether it has.
const INTRODUCTION_POLL: Duration = Duration::from_millis(50);

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
    /// What it says it speaks; empty for this node itself.
    #[serde(default)]
    pub protocols: Vec<String>,
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

/// Peers that this node stays connected to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peerings {
    /// In the order of their ids.
    pub peers: Vec<Peering>,
}

/// A peer that this node stays connected to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Peering {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Where it is called.
    #[serde(rename = "Addrs")]
    pub addrs: Vec<String>,
}

/// A peer that is kept from now on, or no longer.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeeringChange {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Always `success`.
    #[serde(rename = "Status")]
    pub status: String,
}

/// The bounds of a node among others (ours; kubo has `swarm resources`).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Limits {
    /// One after another.
    pub limits: Vec<LimitUse>,
}

/// A bound, and what is used of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LimitUse {
    /// What is bounded.
    pub name: String,
    /// How much of it there is now.
    pub used: u64,
    /// How much there can be.
    pub limit: u64,
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
    /// Blocks that were sent.
    pub blocks_sent: u64,
    /// Bytes of them.
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

/// `id?arg=PEER`, an id or an address that ends with one; this node itself without an argument.
pub(super) async fn id(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let identity = node.identity();
    let own = identity.key.to_peer_id();
    if let Some(asked) = params.args().next()
        && peer_id(asked)? != own
    {
        let swarm = swarm(&node)?;
        let asked = reach(swarm, &address(asked)?).await?;
        return Ok(reply::json(&introduction(swarm, asked).await?));
    }
    let addresses = match node.network().swarm() {
        Some(swarm) => addresses(swarm).await?,
        None => Vec::new(),
    };
    Ok(reply::json(&Id {
        id: own.to_string(),
        public_key: encoded(&identity.key),
        addresses,
        agent_version: identity.agent,
        protocols: Vec::new(),
    }))
}

/// Returns what a connected peer says of itself, which comes a moment after the connection.
async fn introduction(swarm: &Swarm, peer: PeerId) -> Result<Id, ApiError> {
    let give_up = Instant::now() + INTRODUCTION_WAIT;
    loop {
        if let Some(mut said) = swarm.introduction(peer).await? {
            said.protocols.sort();
            let end = format!("/p2p/{peer}");
            let with_id = |text: String| format!("{}{end}", text.trim_end_matches(&end));
            return Ok(Id {
                id: peer.to_string(),
                public_key: encoded(&said.public_key),
                addresses: said.addresses.iter().map(|at| with_id(at.to_string())).collect(),
                agent_version: said.agent,
                protocols: said.protocols,
            });
        }
        if Instant::now() > give_up {
            return Err(ApiError::failed(format!("{peer} does not say who it is")));
        }
        tokio::time::sleep(INTRODUCTION_POLL).await;
    }
}

fn encoded(key: &PublicKey) -> String {
    multibase::Base::Base64Pad.encode(key.encode_protobuf())
}

/// Makes sure that this node is connected to a peer, and returns its id.
pub(super) async fn reach(swarm: &Swarm, address: &Multiaddr) -> Result<PeerId, ApiError> {
    require_other(swarm, address)?;
    swarm.connect(address.clone()).await.map_err(|error| {
        let failed = ApiError::from(error);
        if !is_id_alone(address) {
            return failed;
        }
        failed.hint(format!("give its address too, as in /ip4/192.0.2.7/tcp/4001{address}"))
    })
}

/// Refuses an address of this node itself.
fn require_other(swarm: &Swarm, address: &Multiaddr) -> Result<(), ApiError> {
    let own = swarm.id();
    if peer_of(address) == Some(own) {
        return Err(ApiError::client(format!("{own} is this node itself")));
    }
    Ok(())
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
        let peer = reach(swarm, &address(arg)?).await?;
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

/// `swarm/peering/add?arg=ADDRESS`
pub(super) async fn peering_add(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let swarm = swarm(&node)?;
    let addresses = params.args_some("address")?.into_iter().map(address);
    let mut lines = Vec::new();
    for address in addresses.collect::<Result<Vec<_>, _>>()? {
        require_other(swarm, &address)?;
        lines.push(peering_change(swarm.keep(address).await?));
    }
    lines_of(&params, lines).await
}

/// `swarm/peering/rm?arg=PEER`, an id or an address that ends with one.
pub(super) async fn peering_rm(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let swarm = swarm(&node)?;
    let mut lines = Vec::new();
    for arg in params.args_some("ID")? {
        let peer = peer_id(arg)?;
        if !swarm.release(peer).await? {
            return Err(ApiError::failed(format!("{peer} is not among the peers that are kept")));
        }
        lines.push(peering_change(peer));
    }
    lines_of(&params, lines).await
}

/// `swarm/peering/ls`
pub(super) async fn peering_ls(State(node): State<Node>) -> Result<Response, ApiError> {
    let kept = swarm(&node)?.kept().await?;
    let peering = |(id, addresses): (PeerId, Vec<Multiaddr>)| Peering {
        id: id.to_string(),
        addrs: addresses.iter().map(ToString::to_string).collect(),
    };
    let mut peers: Vec<_> = kept.into_iter().map(peering).collect();
    peers.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(reply::json(&Peerings { peers }))
}

fn peering_change(peer: PeerId) -> PeeringChange {
    PeeringChange { id: peer.to_string(), status: "success".to_owned() }
}

/// Answers with one JSON value a line.
async fn lines_of<L: Serialize + Send + Sync + 'static>(
    params: &Params,
    lines: Vec<L>,
) -> Result<Response, ApiError> {
    reply::stream(params, Kind::Json, move |sink| async move {
        for line in lines {
            sink.json(&line).await?;
        }
        Ok(())
    })
    .await
}

/// `swarm/limits`
pub(super) async fn limits(State(node): State<Node>) -> Result<Response, ApiError> {
    let limits = swarm(&node)?.limits().await?;
    let limit =
        |Limit { name, used, max }: Limit| LimitUse { name: name.to_owned(), used, limit: max };
    Ok(reply::json(&Limits { limits: limits.into_iter().map(limit).collect() }))
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

/// `bitswap/stat` and `stats/bitswap`
pub(super) async fn stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let (swarm, encoder) = (swarm(&node)?, params.encoder()?);
    let (totals, peers) = (swarm.totals().await?, swarm.peers().await?);
    let (wanted, traffic) = (swarm.wanted().await?, swarm.traffic().await?);
    let speaks = peers.iter().filter(|peer| peer.ledger.is_some());
    Ok(reply::json(&BitswapStat {
        wantlist: wanted.iter().map(|cid| Link { cid: encoder.encode(cid) }).collect(),
        peers: speaks.map(|peer| peer.id.to_string()).collect(),
        blocks_received: totals.blocks,
        data_received: totals.bytes,
        dup_blks_received: totals.late_blocks,
        dup_data_received: totals.late_bytes,
        blocks_sent: traffic.sent_blocks,
        data_sent: traffic.sent_bytes,
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
    let ledger = ledger_of(swarm(&node)?, asked).await?;
    let (sent, recv) = (ledger.sent_bytes, ledger.received_bytes);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let value = sent as f64 / (recv as f64 + 1.0);
    Ok(reply::json(&LedgerStat { peer: asked.to_string(), value, sent, recv, wants: ledger.wants }))
}

/// Returns what passed between this node and a peer.
pub(super) async fn ledger_of(swarm: &Swarm, asked: PeerId) -> Result<Ledger, ApiError> {
    let peers = swarm.peers().await?;
    let ledger = peers.iter().find(|peer| peer.id == asked).and_then(|peer| peer.ledger);
    ledger.ok_or_else(|| {
        ApiError::failed(format!("not connected to {asked}, or it does not speak bitswap"))
    })
}

/// Returns this node among others.
///
/// # Errors
/// When it talks to nobody, with how that is changed.
pub(super) fn swarm(node: &Node) -> Result<&Swarm, ApiError> {
    node.network().swarm().ok_or_else(|| {
        ApiError::failed("this node does not talk to others").hint(
            "say whom it may talk to, with `cidfs config network.preset public`, and start `cidfs daemon`",
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

/// Parses an address; the id of a peer alone becomes `/p2p/ID`.
pub(super) fn address(arg: &[u8]) -> Result<Multiaddr, ApiError> {
    let text = text(arg)?;
    let text = if text.parse::<PeerId>().is_ok() { &format!("/p2p/{text}") } else { text };
    let wrong = |error: &str| {
        ApiError::client(format!("\"{text}\" is no address: {error}"))
            .hint("addresses look like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…")
    };
    let address: Multiaddr = text.parse().map_err(|error| wrong(&format!("{error}")))?;
    if address.is_empty() { Err(wrong("it is empty")) } else { Ok(address) }
}

/// Returns the id that was given, or that an address ends with.
pub(super) fn peer_id(arg: &[u8]) -> Result<PeerId, ApiError> {
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
