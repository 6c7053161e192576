//! `block/…`: single blocks.

use std::io::Read as _;

use axum::extract::{Multipart, State};
use axum::response::Response;
use bytes::Bytes;
use futures::TryFutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::multipart::next_part;
use crate::api::paths::cid_of;
use crate::api::pin::listing::root_above;
use crate::api::pin::mode_name;
use crate::api::reply::{self, Kind, blocking};
use crate::api::request::{Form, Params, parse_cid};
use crate::block::{BLOCK_LEN_MAX, Block, Cid, HashFn, codecs};
use crate::keep::BringProgress;
use crate::store::PinMode;

/// A block that is here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockStat {
    /// Its CID.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What became of a block that was to be removed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockRemoved {
    /// Its CID.
    pub hash: String,
    /// Why it is still here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// `block/get?arg=…`
pub(super) async fn get(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let cid = cid_of(&dag, params.arg("cid")?).await?;
    let block = dag.block(&cid).await?;
    let kind = Kind::Bytes("application/vnd.ipld.raw", Some(block.data().len() as u64));
    reply::stream(&params, kind, |sink| async move { Ok(sink.bytes(block.into_data()).await?) })
        .await
}

/// `block/stat?arg=…`
pub(super) async fn stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let cid = cid_of(&dag, params.arg("cid")?).await?;
    let size = dag.block_len(&cid).await?;
    Ok(reply::json(&BlockStat { key: params.encoder()?.encode(&cid), size }))
}

/// `block/put?cid-codec=&mhtype=&pin=`, one block for each part of the body.
pub(super) async fn put(
    State(node): State<Node>,
    params: Params,
    mut body: Multipart,
) -> Result<Response, ApiError> {
    let address = Address::of(&params)?;
    let encoder = params.encoder()?;
    let pins = params.is_on("pin")?;
    let dag = dag_of(&node, &params)?;
    let handle = Handle::current();
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        while let Some(mut part) = next_part(&mut body, &handle)? {
            let mut data = Vec::new();
            let mut limited = (&mut part).take(BLOCK_LEN_MAX as u64 + 1);
            limited.read_to_end(&mut data).map_err(|error| ApiError::client(error.to_string()))?;
            if data.len() > BLOCK_LEN_MAX {
                return Err(too_long());
            }
            let block = address.block(data.into())?;
            let store = node.keeper().store();
            let _hold = handle.block_on(node.keeper().hold());
            store.put(std::slice::from_ref(&block))?;
            store.commit()?;
            if pins {
                let (root, mode) = (*block.cid(), PinMode::Recursive);
                let progress = BringProgress::default();
                let pin = node.keeper().pin(&dag, root, mode, None, &progress);
                sink.wait(pin.map_err(ApiError::from))?;
            }
            let size = block.data().len() as u64;
            sink.json_blocking(&BlockStat { key: encoder.encode(block.cid()), size })?;
        }
        Ok(())
    })
    .await
}

/// How much more there is was not read.
fn too_long() -> ApiError {
    ApiError::client(format!("what is to be a block is over the limit of {BLOCK_LEN_MAX} bytes"))
        .hint("`cidfs add` makes as many blocks as a file needs")
}

/// How a new block is addressed.
struct Address {
    codec: u64,
    hash: HashFn,
    is_v0: bool,
}

impl Address {
    fn of(params: &Params) -> Result<Self, ApiError> {
        let hash = match params.text("mhtype")? {
            None => HashFn::SHA2_256,
            Some(name) => HashFn::by_name(name).map_err(|_| {
                ApiError::client(format!("unrecognized multihash function: {name}"))
            })?,
        };
        let mhlen = params.parse::<i64>("mhlen")?.filter(|len| *len != -1);
        if mhlen.is_some_and(|len| usize::try_from(len) != Ok(hash.digest_len())) {
            return Err(ApiError::client("a hash is not cut short; leave out mhlen"));
        }
        let format = params.text("format")?;
        let codec = format.or(params.text("cid-codec")?).unwrap_or("raw");
        let is_v0 = format == Some("v0") || codec == "v0";
        let codec = match codec {
            "v0" | "protobuf" => codecs::DAG_PB,
            "cbor" if format.is_some() => codecs::DAG_CBOR,
            name => crate::block::codec_by_name(name)
                .ok_or_else(|| ApiError::client(format!("unknown codec \"{name}\"")))?,
        };
        Ok(Self { codec, hash, is_v0 })
    }

    fn block(&self, data: Bytes) -> Result<Block, ApiError> {
        let block = if self.is_v0 {
            Block::hash_v0(data)
        } else {
            Block::hash(self.codec, self.hash, data)
        };
        block.map_err(ApiError::client)
    }
}

/// `block/rm?arg=…&force=&quiet=`
pub(super) async fn rm(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let encoder = params.encoder()?;
    let (force, quiet) = (params.is_on("force")?, params.is_on("quiet")?);
    let args = params.args_some("cid")?.into_iter();
    let cids = args.map(parse_cid).collect::<Result<Vec<Cid>, ApiError>>()?;
    reply::stream(&params, Kind::Json, move |sink| async move {
        for cid in cids {
            let error = remove(&node, cid, force).await.err();
            if !quiet || error.is_some() {
                let error = error.map(|error| error.message().to_owned()).unwrap_or_default();
                sink.json(&BlockRemoved { hash: encoder.encode(&cid), error }).await?;
            }
        }
        Ok(())
    })
    .await
}

async fn remove(node: &Node, cid: Cid, force: bool) -> Result<(), ApiError> {
    let Some(_removing) = node.keeper().remove_named() else {
        return Err(ApiError::failed("something is being added or pinned; try again afterwards"));
    };
    let pins = node.repository().pins.list();
    if let Some(pin) = pins.iter().find(|pin| pin.cid.hash() == cid.hash()) {
        return Err(ApiError::failed(format!("pinned: {}", mode_name(pin.mode))));
    }
    let recursive = pins.iter().filter(|pin| pin.mode == PinMode::Recursive).map(|pin| pin.cid);
    if let Some(root) = root_above(&node.dag().offline(), recursive, &cid).await? {
        return Err(ApiError::failed(format!("pinned via {root}")));
    }
    let node = node.clone();
    let was_here = blocking(move || {
        let store = node.dag().store();
        let was_here = store.remove(&cid)?;
        store.commit()?;
        Ok(was_here)
    });
    if was_here.await? || force {
        return Ok(());
    }
    Err(ApiError::failed(format!("{cid} is not here")))
}
