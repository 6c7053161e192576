//! `dag/{get,resolve,stat}` and `refs`: nodes and their links, whatever their codec.

use std::collections::{HashSet, VecDeque};

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::{cid_of, resolve_arg};
use crate::api::reply::{self, Kind, Sink};
use crate::api::request::{CidEncoder, Form};
use crate::block::{Block, Cid, codec_by_name, codec_name, codecs};
use crate::codec::dag_pb::PbNode;
use crate::codec::ipld::{Ipld, Map};
use crate::codec::{dag_cbor, dag_json};
use crate::dag::Dag;
use crate::unixfs::{self, Segment, UnixfsError};

/// Nodes that one `refs` request may remember, each of about a hundred bytes.
const REFS_MAX: usize = 10_000_000;

/// `dag/get?arg=…&output-codec=`
pub(super) async fn get(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let resolved = resolve_arg(&dag, params.arg("ref")?).await?;
    let block = dag.block(&resolved.cid).await?;
    let name = params.text("output-codec")?.unwrap_or("dag-json");
    let codec =
        codec_by_name(name).ok_or_else(|| ApiError::client(format!("unknown codec \"{name}\"")))?;
    let bytes = if resolved.remainder.is_empty() && codec == block.cid().codec() {
        block.into_data()
    } else {
        encode(&value_at(&block, &resolved.remainder)?, codec)?
    };
    let kind = Kind::Bytes("text/plain", Some(bytes.len() as u64));
    reply::stream(&params, kind, |sink| async move { Ok(sink.bytes(bytes).await?) }).await
}

/// Returns the value at the end of a path inside a block.
fn value_at(block: &Block, path: &[Segment]) -> Result<Ipld, ApiError> {
    let value = decode(block)?;
    let keys: Vec<String> = path.iter().map(ToString::to_string).collect();
    match value.walk(&keys) {
        Some((value, used)) if used == keys.len() => Ok(value.clone()),
        _ => Err(ApiError::failed(format!("no value at {} in {}", keys.join("/"), block.cid()))),
    }
}

fn decode(block: &Block) -> Result<Ipld, ApiError> {
    let (cid, data) = (block.cid(), block.data());
    let ipld = |source| UnixfsError::Ipld { cid: Box::new(*cid), source };
    Ok(match cid.codec() {
        codecs::DAG_CBOR | codecs::CBOR => dag_cbor::decode(data).map_err(ipld)?,
        codecs::DAG_JSON | codecs::JSON => dag_json::decode(data).map_err(ipld)?,
        codecs::RAW => Ipld::Bytes(data.to_vec()),
        codecs::DAG_PB => of_pb(block)?,
        other => {
            let name = codec_name(other);
            return Err(ApiError::failed(format!("{cid}: the codec {name} cannot be decoded"))
                .hint("`cidfs block get` writes its bytes"));
        }
    })
}

/// Returns a dag-pb node in the IPLD data model.
fn of_pb(block: &Block) -> Result<Ipld, ApiError> {
    let cid = block.cid();
    let node = PbNode::decode(block.data().clone())
        .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
    let map = |entries: Vec<(&str, Ipld)>| {
        let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Map::new(entries).map(Ipld::Map).map_err(ApiError::failed)
    };
    let mut links = Vec::with_capacity(node.link_count());
    for link in node.links() {
        let name = String::from_utf8_lossy(link.name()).into_owned();
        let tsize = link.tsize.unwrap_or_default();
        links.push(map(vec![
            ("Hash", Ipld::Link(Box::new(link.cid))),
            ("Name", Ipld::String(name)),
            ("Tsize", Ipld::Integer(tsize.into())),
        ])?);
    }
    let data = node.data().map(|data| ("Data", Ipld::Bytes(data.to_vec())));
    map(data.into_iter().chain([("Links", Ipld::List(links))]).collect())
}

fn encode(value: &Ipld, codec: u64) -> Result<Bytes, ApiError> {
    let bytes = match (codec, value) {
        (codecs::DAG_JSON | codecs::JSON, _) => dag_json::encode(value),
        (codecs::DAG_CBOR | codecs::CBOR, _) => dag_cbor::encode(value),
        (codecs::RAW, Ipld::Bytes(bytes)) => return Ok(bytes.clone().into()),
        _ => {
            let name = codec_name(codec);
            return Err(ApiError::client(format!("the value cannot be written as {name}")));
        }
    };
    bytes.map(Bytes::from).map_err(ApiError::failed)
}

/// `dag/resolve?arg=…`
pub(super) async fn resolve(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let resolved = resolve_arg(&dag, params.arg("ref")?).await?;
    let remainder: Vec<String> = resolved.remainder.iter().map(ToString::to_string).collect();
    let cid = params.encoder()?.encode(&resolved.cid);
    Ok(reply::json(&json!({ "Cid": { "/": cid }, "RemPath": remainder.join("/") })))
}

/// Sizes of DAGs.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DagStats {
    /// Different blocks in all of them.
    pub unique_blocks: u64,
    /// Bytes of the different blocks.
    pub total_size: u64,
    /// Bytes saved because DAGs share blocks.
    pub shared_size: u64,
    /// Bytes with repetition for each byte without.
    pub ratio: f32,
    /// Each DAG.
    #[serde(rename = "DagStats")]
    pub dags: Vec<DagStat>,
}

/// Size of one DAG.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DagStat {
    /// Its root.
    pub cid: String,
    /// Bytes of its blocks, each counted once.
    pub size: u64,
    /// Number of its blocks.
    pub num_blocks: u64,
}

/// `dag/stat?arg=…`
pub(super) async fn stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let encoder = params.encoder()?;
    let mut stats = DagStats::default();
    let roots = params.args_some("root")?;
    // One DAG alone shares with nobody, so nothing has to be remembered for it.
    let mut seen = (roots.len() > 1).then(HashSet::new);
    let mut redundant = 0;
    for arg in roots {
        let root = cid_of(&dag, arg).await?;
        let mut own = DagStat { cid: encoder.encode(&root), ..DagStat::default() };
        let mut walk = std::pin::pin!(unixfs::walk(&dag, root));
        while let Some(visit) = walk.try_next().await? {
            let len = dag.block_len(&visit.cid).await?;
            own.size += len;
            own.num_blocks += 1;
            if seen.as_mut().is_none_or(|seen| seen.insert(visit.cid)) {
                stats.unique_blocks += 1;
                stats.total_size += len;
            }
            check_refs(seen.as_ref().map_or(0, HashSet::len))?;
        }
        redundant += own.size;
        stats.dags.push(own);
    }
    stats.shared_size = redundant - stats.total_size;
    stats.ratio = ratio(redundant, stats.total_size);
    Ok(reply::json(&stats))
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(redundant: u64, total: u64) -> f32 {
    if total == 0 { 1.0 } else { redundant as f32 / total as f32 }
}

fn check_refs(count: usize) -> Result<(), ApiError> {
    if count <= REFS_MAX {
        return Ok(());
    }
    Err(ApiError::failed(format!("over {REFS_MAX} blocks; ask for one DAG at a time")))
}

/// `refs?arg=…&recursive=&unique=&edges=&format=&max-depth=`
pub(super) async fn refs(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let format = params.text("format")?.unwrap_or("<dst>").to_owned();
    let format = if params.is_on("edges")? { "<src> -> <dst>".to_owned() } else { format };
    let max_depth = match (params.is_on("recursive")?, params.parse::<i64>("max-depth")?) {
        (false, _) => Some(1),
        (true, depth) => depth.and_then(|depth| u32::try_from(depth).ok()),
    };
    let mut roots = Vec::new();
    for arg in params.args_some("ipfs-path")? {
        roots.push(cid_of(&dag, arg).await?);
    }
    let unique = params.is_on("unique")?;
    let encoder = params.encoder()?;
    let refs = Refs { dag, encoder, format, unique, max_depth, seen: HashSet::new() };
    reply::stream(&params, Kind::Json, |sink| refs.send(roots, sink)).await
}

struct Refs {
    dag: Dag,
    encoder: CidEncoder,
    format: String,
    unique: bool,
    max_depth: Option<u32>,
    seen: HashSet<Cid>,
}

impl Refs {
    async fn send(mut self, roots: Vec<Cid>, sink: Sink) -> Result<(), ApiError> {
        for root in roots {
            let mut pending = VecDeque::from([(root, 0)]);
            // A node is entered once, or a small DAG could take for ever.
            let mut entered = HashSet::from([root]);
            while let Some((cid, depth)) = pending.pop_front() {
                if self.max_depth.is_some_and(|max| depth >= max) {
                    continue;
                }
                for (name, target) in self.links(&cid).await? {
                    if !self.unique || self.seen.insert(target) {
                        sink.json(&self.line(&cid, &target, &name)).await?;
                    }
                    if entered.insert(target) {
                        pending.push_back((target, depth + 1));
                    }
                    check_refs(entered.len() + self.seen.len())?;
                }
            }
        }
        Ok(())
    }

    async fn links(&self, cid: &Cid) -> Result<Vec<(String, Cid)>, ApiError> {
        match cid.codec() {
            codecs::RAW | codecs::CBOR | codecs::JSON => return Ok(Vec::new()),
            codecs::DAG_PB => {}
            _ => {
                let value = decode(&self.dag.block(cid).await?)?;
                return Ok(value.links().map(|link| (String::new(), *link)).collect());
            }
        }
        let block = self.dag.block(cid).await?;
        let node = PbNode::decode(block.into_data())
            .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
        let named =
            node.links().map(|link| (String::from_utf8_lossy(link.name()).into_owned(), link.cid));
        Ok(named.collect())
    }

    fn line(&self, source: &Cid, target: &Cid, name: &str) -> Json {
        let text = self
            .format
            .replace("<src>", &self.encoder.encode(source))
            .replace("<dst>", &self.encoder.encode(target))
            .replace("<linkname>", name);
        json!({ "Ref": text, "Err": "" })
    }
}
