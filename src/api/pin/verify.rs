//! `pin/verify`: whether what is pinned is here and whole.

use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Kind};
use crate::api::request::{CidEncoder, Form};
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::PinMode;
use crate::unixfs;

/// Bad blocks named for one pin; one is enough to know that it is broken.
const NAMED_MAX: usize = 100;

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

/// `pin/verify?verbose=`
pub(in crate::api) async fn verify(
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
