//! `pin/ls`: what is pinned, by which pin.
//!
//! Indirect pins are never stored; they are found by walking below recursive ones, a stream at a
//! time, and what was seen is remembered by its CID.

use std::collections::{BTreeMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::pin::mode_name;
use crate::api::reply::{self, Kind};
use crate::api::request::{CidEncoder, Form};
use crate::block::Cid;
use crate::dag::Dag;
use crate::store::{Pin, PinMode};
use crate::unixfs;

/// Most indirect pins that one request may list: each costs about a hundred bytes.
const INDIRECT_MAX: usize = 10_000_000;

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
pub(in crate::api) async fn ls(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
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
        let roots: Vec<Cid> = self.recursive().collect();
        let mut seen: HashSet<Cid> = roots.iter().copied().collect();
        let below = blocks_below(&self.dag, roots);
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
pub(in crate::api) async fn root_above(
    dag: &Dag,
    roots: impl Iterator<Item = Cid>,
    cid: &Cid,
) -> Result<Option<Cid>, ApiError> {
    for root in roots {
        let mut below = std::pin::pin!(blocks_below(dag, vec![root]));
        while let Some(found) = below.try_next().await? {
            if found.hash() == cid.hash() {
                return Ok(Some(root));
            }
        }
    }
    Ok(None)
}

fn blocks_below(
    dag: &Dag,
    roots: Vec<Cid>,
) -> impl Stream<Item = Result<Cid, ApiError>> + Send + use<> {
    unixfs::walk_all(dag, roots).map_ok(|visit| visit.cid).map_err(ApiError::from)
}
