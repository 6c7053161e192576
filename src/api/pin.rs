//! `pin/…`: which DAGs are kept (spec 10 §1).
//!
//! A recursive pin is written when every block below it is here. Indirect pins are never stored;
//! they are found by walking, a stream at a time, and what is seen is remembered by its CID.

use std::collections::{BTreeMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, Sink, blocking};
use crate::api::request::{CidEncoder, Form};
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::{Pin, PinMode};
use crate::unixfs;

/// Blocks between two reports of progress: a few a second on a local disk.
const PROGRESS_EVERY: u64 = 1000;

/// Leaves whose presence is checked, or which are fetched, at once while a DAG is pinned.
const LEAVES_AHEAD: usize = 32;

/// Most indirect pins that one request may list: each costs about a hundred bytes.
const INDIRECT_MAX: usize = 10_000_000;

/// CIDs that were pinned or unpinned, or how far pinning has come.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PinOutput {
    /// The CIDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<Vec<String>>,
    /// Blocks looked at so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u64>,
}

/// A pin in a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PinEntry {
    /// What is pinned.
    pub cid: String,
    /// `recursive`, `direct`, `indirect` or `indirect through CID`.
    pub r#type: String,
    /// The name of the pin.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// A listing in one value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PinList {
    /// Pins by CID.
    pub keys: BTreeMap<String, PinType>,
}

/// What is told of a pin in [`PinList`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PinType {
    /// As in [`PinEntry`].
    pub r#type: String,
    /// The name of the pin.
    pub name: String,
}

/// What a verification says of a pin.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PinVerified {
    /// The pin.
    pub cid: String,
    /// Everything below it is here and whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ok: bool,
    /// What is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_nodes: Vec<BadNode>,
}

/// A block that is missing or damaged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BadNode {
    /// The block; the pin itself when the block below it cannot be named.
    pub cid: String,
    /// What is wrong.
    pub err: String,
}

/// `pin/add?arg=…&recursive=&name=&progress=`
pub(super) async fn add(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let mut roots = Vec::new();
    for arg in params.args_some("ipfs-path")? {
        roots.push(cid_of(&dag, arg).await?);
    }
    let recursive = params.flag("recursive")?.unwrap_or(true);
    let name = params.text("name")?.map(str::to_owned);
    let encoder = params.encoder()?;
    let shows_progress = params.is_on("progress")?;
    reply::stream(&params, Kind::Json, move |sink| async move {
        let pinned = roots.iter().map(|cid| encoder.encode(cid)).collect();
        let progress = shows_progress.then_some(&sink);
        for root in roots {
            pin(&node, &dag, root, recursive, name.clone(), progress).await?;
        }
        sink.json(&PinOutput { pins: Some(pinned), ..PinOutput::default() }).await
    })
    .await
}

/// Brings everything below `root` here and pins it.
///
/// # Errors
/// When a block cannot be had; nothing is pinned then.
pub(super) async fn pin(
    node: &Node,
    dag: &Dag,
    root: Cid,
    recursive: bool,
    name: Option<String>,
    progress: Option<&Sink>,
) -> Result<(), ApiError> {
    let mode = if recursive { PinMode::Recursive } else { PinMode::Direct };
    let cids = if recursive { blocks_below(dag, root).boxed() } else { only(root).boxed() };
    let mut fetched = std::pin::pin!(fetch_all(dag, cids));
    let mut count = 0_u64;
    while fetched.try_next().await?.is_some() {
        count += 1;
        if let Some(sink) = progress.filter(|_| count.is_multiple_of(PROGRESS_EVERY)) {
            sink.json(&PinOutput { progress: Some(count), ..PinOutput::default() }).await?;
        }
    }
    let node = node.clone();
    blocking(move || {
        // What was fetched was only cache until now.
        node.dag().store().commit()?;
        Ok(node.repository().pins.add(&root, mode, name.as_deref())?)
    })
    .await
}

/// Makes sure of every block, a few at once.
fn fetch_all<'a>(
    dag: &'a Dag,
    cids: impl Stream<Item = Result<Cid, ApiError>> + 'a,
) -> impl Stream<Item = Result<u64, ApiError>> + 'a {
    cids.map_ok(|cid| {
        let dag = dag.clone();
        async move { Ok(dag.block_len(&cid).await?) }
    })
    .try_buffered(LEAVES_AHEAD)
}

fn blocks_below(dag: &Dag, root: Cid) -> impl Stream<Item = Result<Cid, ApiError>> + Send + use<> {
    unixfs::walk(dag, root).map_ok(|visit| visit.cid).map_err(ApiError::from)
}

fn only(cid: Cid) -> impl Stream<Item = Result<Cid, ApiError>> {
    stream::iter([Ok(cid)])
}

/// `pin/rm?arg=…&recursive=`
pub(super) async fn rm(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?.offline();
    let encoder = params.encoder()?;
    let recursive = params.flag("recursive")?.unwrap_or(true);
    let mut pins = Vec::new();
    for arg in params.args_some("ipfs-path")? {
        let cid = cid_of(&dag, arg).await?;
        let node = node.clone();
        blocking(move || unpin(&node, &cid, recursive)).await?;
        pins.push(encoder.encode(&cid));
    }
    Ok(reply::json(&PinOutput { pins: Some(pins), ..PinOutput::default() }))
}

fn unpin(node: &Node, cid: &Cid, recursive: bool) -> Result<(), ApiError> {
    let pins = &node.repository().pins;
    if !recursive && pins.get(cid).is_some_and(|pin| pin.mode == PinMode::Recursive) {
        return Err(ApiError::failed(format!("{cid} is pinned recursively")));
    }
    match pins.rm(cid)? {
        Some(_) => Ok(()),
        None => Err(ApiError::failed(format!("{cid} is not pinned or pinned indirectly"))),
    }
}

/// `pin/update?arg=OLD&arg=NEW&unpin=`
pub(super) async fn update(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let args = params.args_some("from-path")?;
    let [from, to] = args[..] else {
        return Err(ApiError::client("argument \"to-path\" is required"));
    };
    let (from, to) = (cid_of(&dag.offline(), from).await?, cid_of(&dag, to).await?);
    let old = node.repository().pins.get(&from);
    let old = old.filter(|pin| pin.mode == PinMode::Recursive).ok_or_else(|| {
        ApiError::failed(format!("'from' cid was not recursively pinned already: {from}"))
    })?;
    pin(&node, &dag, to, true, old.name, None).await?;
    if params.flag("unpin")?.unwrap_or(true) && from != to {
        let node = node.clone();
        blocking(move || unpin(&node, &from, true)).await?;
    }
    let encoder = params.encoder()?;
    let pins = Some(vec![encoder.encode(&from), encoder.encode(&to)]);
    Ok(reply::json(&PinOutput { pins, ..PinOutput::default() }))
}

/// Which pins are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Mode(PinMode),
    Indirect,
}

impl Which {
    fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "all" => Ok(Self::All),
            "recursive" => Ok(Self::Mode(PinMode::Recursive)),
            "direct" => Ok(Self::Mode(PinMode::Direct)),
            "indirect" => Ok(Self::Indirect),
            other => Err(ApiError::client(format!(
                "invalid type '{other}', must be one of {{direct, indirect, recursive, all}}"
            ))),
        }
    }

    fn has(self, mode: PinMode) -> bool {
        self == Self::All || self == Self::Mode(mode)
    }

    fn has_indirect(self) -> bool {
        matches!(self, Self::All | Self::Indirect)
    }
}

/// `pin/ls?arg=…&type=&name=&names=&stream=`
pub(super) async fn ls(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let which = Which::parse(params.text("type")?.unwrap_or("all"))?;
    let dag = dag_of(&node, &params)?.offline();
    let listing = Listing {
        which,
        encoder: params.encoder()?,
        name_part: params.text("name")?.unwrap_or_default().to_owned(),
        names: params.is_on("names")? || params.text("name")?.is_some(),
        pins: node.repository().pins.list(),
        dag,
    };
    let mut wanted = Vec::new();
    for arg in params.args() {
        let cid = cid_of(&listing.dag, arg).await?;
        wanted.push((String::from_utf8_lossy(arg).into_owned(), cid));
    }
    if params.is_on("stream")? {
        return reply::stream(&params, Kind::Json, |sink| async move {
            let mut entries = std::pin::pin!(listing.entries(wanted));
            while let Some(entry) = entries.try_next().await? {
                sink.json(&entry).await?;
            }
            Ok(())
        })
        .await;
    }
    let entries: Vec<PinEntry> = listing.entries(wanted).try_collect().await?;
    let keys = entries
        .into_iter()
        .map(|entry| (entry.cid, PinType { r#type: entry.r#type, name: entry.name }));
    Ok(reply::json(&PinList { keys: keys.collect() }))
}

struct Listing {
    which: Which,
    encoder: CidEncoder,
    name_part: String,
    names: bool,
    pins: Vec<Pin>,
    dag: Dag,
}

impl Listing {
    fn entries(
        &self,
        wanted: Vec<(String, Cid)>,
    ) -> impl Stream<Item = Result<PinEntry, ApiError>> + '_ {
        let is_all = wanted.is_empty();
        let found = stream::iter(wanted).then(|(arg, cid)| self.find(arg, cid));
        let own = stream::iter(is_all.then_some(())).flat_map(|()| self.all());
        found.chain(own)
    }

    fn all(&self) -> impl Stream<Item = Result<PinEntry, ApiError>> + '_ {
        let stored = self.pins.iter().filter(|pin| self.which.has(pin.mode));
        let stored = stored.filter(|pin| {
            self.name_part.is_empty()
                || pin.name.as_ref().is_some_and(|name| name.contains(&self.name_part))
        });
        let stored = stream::iter(stored.map(|pin| Ok(self.entry(pin))));
        let has_indirect = self.which.has_indirect() && self.name_part.is_empty();
        stored.chain(stream::iter(has_indirect.then_some(())).flat_map(|()| self.indirect()))
    }

    fn entry(&self, pin: &Pin) -> PinEntry {
        let name = pin.name.clone().filter(|_| self.names).unwrap_or_default();
        let r#type = mode_name(pin.mode).to_owned();
        PinEntry { cid: self.encoder.encode(&pin.cid), r#type, name }
    }

    /// Lists what is below recursive pins and not pinned itself.
    fn indirect(&self) -> impl Stream<Item = Result<PinEntry, ApiError>> + '_ {
        let mut seen: HashSet<Cid> = self.recursive().collect();
        let below = stream::iter(self.recursive()).flat_map(|root| blocks_below(&self.dag, root));
        below.try_filter_map(move |cid| {
            let is_new = seen.insert(cid);
            let is_too_many = seen.len() > INDIRECT_MAX;
            let cid = self.encoder.encode(&cid);
            let entry = PinEntry { cid, r#type: "indirect".to_owned(), name: String::new() };
            std::future::ready(if is_too_many {
                Err(ApiError::failed(format!("over {INDIRECT_MAX} indirect pins; list by type")))
            } else {
                Ok(is_new.then_some(entry))
            })
        })
    }

    fn recursive(&self) -> impl Iterator<Item = Cid> + '_ {
        self.pins.iter().filter(|pin| pin.mode == PinMode::Recursive).map(|pin| pin.cid)
    }

    async fn find(&self, arg: String, cid: Cid) -> Result<PinEntry, ApiError> {
        let stored = self.pins.iter().find(|pin| pin.cid == cid && self.which.has(pin.mode));
        if let Some(pin) = stored {
            return Ok(self.entry(pin));
        }
        if self.which.has_indirect()
            && let Some(root) = root_above(&self.dag, self.recursive(), &cid).await?
        {
            let cid = self.encoder.encode(&cid);
            let r#type = format!("indirect through {}", self.encoder.encode(&root));
            return Ok(PinEntry { cid, r#type, name: String::new() });
        }
        Err(ApiError::failed(format!("path '{arg}' is not pinned")))
    }
}

/// Returns the first of `roots` below which the multihash of `cid` is found.
///
/// # Errors
/// When a block of a pinned DAG is missing.
pub(super) async fn root_above(
    dag: &Dag,
    roots: impl Iterator<Item = Cid>,
    cid: &Cid,
) -> Result<Option<Cid>, ApiError> {
    for root in roots {
        let mut below = std::pin::pin!(blocks_below(dag, root));
        while let Some(found) = below.try_next().await? {
            if found.hash() == cid.hash() {
                return Ok(Some(root));
            }
        }
    }
    Ok(None)
}

/// Returns the word for a mode.
pub(super) fn mode_name(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Recursive => "recursive",
        PinMode::Direct => "direct",
    }
}

/// `pin/verify?verbose=`
pub(super) async fn verify(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let verbose = params.is_on("verbose")?;
    let encoder = params.encoder()?;
    let dag = node.dag().offline();
    reply::stream(&params, Kind::Json, move |sink| async move {
        for pin in node.repository().pins.list() {
            if pin.mode != PinMode::Recursive {
                continue;
            }
            let bad_nodes = bad_below(&dag, pin.cid, encoder).await;
            if verbose || !bad_nodes.is_empty() {
                let cid = encoder.encode(&pin.cid);
                sink.json(&PinVerified { cid, ok: bad_nodes.is_empty(), bad_nodes }).await?;
            }
        }
        Ok(())
    })
    .await
}

/// Reads and hashes everything below a pin; the first error below a node hides what is below it.
async fn bad_below(dag: &Dag, root: Cid, encoder: CidEncoder) -> Vec<BadNode> {
    /// Bad blocks named for one pin; one is enough to know that it is broken.
    const NAMED_MAX: usize = 100;
    let mut bad = Vec::new();
    let mut walk = std::pin::pin!(unixfs::walk(dag, root));
    while bad.len() < NAMED_MAX {
        match walk.try_next().await {
            Ok(None) => break,
            Ok(Some(visit)) => {
                if let Err(error) = dag.block(&visit.cid).await {
                    bad.push(BadNode { cid: encoder.encode(&visit.cid), err: error.to_string() });
                }
            }
            Err(error) => {
                bad.push(BadNode { cid: encoder.encode(&root), err: error.to_string() });
                break;
            }
        }
    }
    bad
}
