//! `pin/…`: which DAGs are kept (spec 10 §1).
//!
//! A recursive pin is written when every block below it is here, and durable before it is told.

pub mod listing;
pub mod verify;

use axum::extract::State;
use axum::response::Response;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, Sink, blocking};
use crate::api::request::Form;
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::PinMode;
use crate::unixfs;

/// Blocks between two reports of progress: a few a second on a local disk.
const PROGRESS_EVERY: u64 = 1000;

/// Leaves whose presence is checked, or which are fetched, at once while a DAG is pinned.
const LEAVES_AHEAD: usize = 32;

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
    let _keeping = node.keeping().clone().read_owned().await;
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

/// Returns the word for a mode.
pub(super) fn mode_name(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Recursive => "recursive",
        PinMode::Direct => "direct",
    }
}
