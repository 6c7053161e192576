//! `pin/…`: which DAGs are kept (spec 10 §1).
//!
//! What a pin promises is decided in [`keep`](crate::keep); here are the words of kubo.

pub mod listing;
pub mod verify;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::fetch::{Arrivals, Counter, follow};
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, blocking};
use crate::api::request::Form;
use crate::block::Cid;
use crate::keep::BringProgress;
use crate::store::PinMode;

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
    /// What of them peers gave meanwhile (ours).
    #[serde(flatten)]
    pub arrivals: Option<Arrivals>,
}

/// `pin/add?arg=…&recursive=&name=&progress=`
pub(super) async fn add(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let (dag, counter) = (dag_of(&node, &params)?, Counter::start(&node, &params));
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
        for root in roots {
            let progress = BringProgress::default();
            let pinning = node.keeper().pin(&dag, root, mode, name.clone(), &progress);
            let report = || PinOutput {
                progress: Some(progress.blocks()),
                bytes: Some(progress.bytes()),
                arrivals: Some(counter.arrivals()),
                ..PinOutput::default()
            };
            follow(pinning, shows_progress.then_some(&sink), report).await?;
        }
        sink.json(&PinOutput { pins: Some(pinned), ..PinOutput::default() }).await
    })
    .await
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
    match node.repository().unpin(cid)? {
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
    let progress = BringProgress::default();
    node.keeper().pin(&dag, to, PinMode::Recursive, old.name, &progress).await?;
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
