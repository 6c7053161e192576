//! `pin/…`: which DAGs are kept (spec 10 §1).
//!
//! What a pin promises is decided in [`keep`](crate::keep); here are the words of kubo.

pub mod listing;
pub mod verify;

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, Sink, blocking};
use crate::api::request::Form;
use crate::block::Cid;
use crate::dag::Dag;
use crate::keep::PinProgress;
use crate::store::PinMode;

/// Time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

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
    /// Their bytes (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
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
    let mode = match params.flag("recursive")? {
        Some(false) => PinMode::Direct,
        Some(true) | None => PinMode::Recursive,
    };
    let name = params.text("name")?.map(str::to_owned);
    let encoder = params.encoder()?;
    let shows_progress = params.is_on("progress")?;
    reply::stream(&params, Kind::Json, move |sink| async move {
        let pinned = roots.iter().map(|cid| encoder.encode(cid)).collect();
        let progress = shows_progress.then_some(&sink);
        for root in roots {
            pin(&node, &dag, root, mode, name.clone(), progress).await?;
        }
        sink.json(&PinOutput { pins: Some(pinned), ..PinOutput::default() }).await
    })
    .await
}

/// Pins, telling now and then how far it has come.
async fn pin(
    node: &Node,
    dag: &Dag,
    root: Cid,
    mode: PinMode,
    name: Option<String>,
    sink: Option<&Sink>,
) -> Result<(), ApiError> {
    let progress = PinProgress::default();
    let mut pinning = std::pin::pin!(node.keeper().pin(dag, root, mode, name, &progress));
    loop {
        match (tokio::time::timeout(PROGRESS_EVERY, &mut pinning).await, sink) {
            (Ok(pinned), _) => return Ok(pinned?),
            (Err(_), Some(sink)) => {
                let (progress, bytes) = (Some(progress.blocks()), Some(progress.bytes()));
                sink.json(&PinOutput { progress, bytes, ..PinOutput::default() }).await?;
            }
            (Err(_), None) => {}
        }
    }
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
    pin(&node, &dag, to, PinMode::Recursive, old.name, None).await?;
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
