//! `bootstrap/…`: where a node begins to look for others, in `network.bootstrap` of its configuration.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, blocking};
use crate::api::request::{Form, Params};
use crate::api::swarm::address;
use crate::exchange::swarm::SwarmError;
use crate::exchange::{Multiaddr, is_id_alone, peer_of};

/// The key of the list.
const KEY: &str = "network.bootstrap";

/// Addresses of the list, or those that were added or removed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BootstrapOutput {
    /// In the order of the list.
    pub peers: Vec<String>,
}

/// `bootstrap` and `bootstrap/list`
pub(super) async fn list(State(node): State<Node>) -> Result<Response, ApiError> {
    let list = blocking(move || node.config(Some(KEY))).await?;
    Ok(reply::json(&BootstrapOutput { peers: texts(&list) }))
}

/// `bootstrap/add?arg=…&default=`; answers with those that were not there yet.
pub(super) async fn add(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    if params.is_on("default")? {
        return add_default(State(node)).await;
    }
    let peers = addresses(&params)?;
    if let Some(address) = peers.iter().find(|address| peer_of(address).is_none()) {
        return Err(SwarmError::NoPeerId(address.clone()).into());
    }
    if let Some(address) = peers.iter().find(|address| is_id_alone(address)) {
        return Err(ApiError::client(format!("{address} says not where the peer is")));
    }
    let new = peers.iter().map(ToString::to_string).collect();
    change(node, |_, list| Ok(add_to(list, new))).await
}

/// `bootstrap/add/default`
pub(super) async fn add_default(State(node): State<Node>) -> Result<Response, ApiError> {
    change(node, |node, list| Ok(add_to(list, texts(&node.default_config(KEY)?)))).await
}

/// `bootstrap/rm?arg=…&all=`; a peer's id stands for all its addresses.
pub(super) async fn rm(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    if params.is_on("all")? {
        return rm_all(State(node)).await;
    }
    let named = addresses(&params)?;
    change(node, move |_, list| remove_from(list, &named)).await
}

/// `bootstrap/rm/all`
pub(super) async fn rm_all(State(node): State<Node>) -> Result<Response, ApiError> {
    change(node, |_, list| Ok(std::mem::take(list))).await
}

/// Changes the list, and answers with what was changed of it.
async fn change(
    node: Node,
    edit: impl FnOnce(&Node, &mut Vec<String>) -> Result<Vec<String>, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let peers = blocking(move || {
        let (mut edit, mut changed) = (Some(edit), Vec::new());
        node.edit_config_list(KEY, &mut |list| {
            if let Some(edit) = edit.take() {
                changed = edit(&node, list)?;
            }
            Ok(())
        })?;
        Ok(changed)
    });
    Ok(reply::json(&BootstrapOutput { peers: peers.await? }))
}

fn add_to(list: &mut Vec<String>, new: Vec<String>) -> Vec<String> {
    let before = list.len();
    for address in new {
        if !list.contains(&address) {
            list.push(address);
        }
    }
    list[before..].to_vec()
}

fn remove_from(list: &mut Vec<String>, named: &[Multiaddr]) -> Result<Vec<String>, ApiError> {
    let mut removed = Vec::new();
    for named in named {
        let is_meant = |known: &String| {
            let known: Option<Multiaddr> = known.parse().ok();
            let is_same_peer = || known.as_ref().and_then(peer_of) == peer_of(named);
            known.as_ref() == Some(named) || (is_id_alone(named) && is_same_peer())
        };
        let found: Vec<String> = list.extract_if(.., |known| is_meant(known)).collect();
        if found.is_empty() {
            return Err(ApiError::failed(format!("{named} is not in the list")));
        }
        removed.extend(found);
    }
    Ok(removed)
}

fn addresses(params: &Params) -> Result<Vec<Multiaddr>, ApiError> {
    params.args_some("peer")?.into_iter().map(address).collect()
}

fn texts(list: &Json) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}
