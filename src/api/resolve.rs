//! `resolve`: from a path to the CID it leads to.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::resolve_arg;
use crate::api::reply;
use crate::api::request::Form;

/// Where a path leads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resolved {
    /// An `/ipfs` path: a CID, and what remains inside its block.
    pub path: String,
}

/// `resolve?arg=…`
pub(super) async fn resolve(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let resolved = resolve_arg(&dag, params.arg("name")?).await?;
    let mut path = format!("/ipfs/{}", params.encoder()?.encode(&resolved.cid));
    for segment in resolved.remainder {
        path = format!("{path}/{segment}");
    }
    Ok(reply::json(&Resolved { path }))
}
