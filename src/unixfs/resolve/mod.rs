//! From a content path to the CID it ends at.
//!
//! Names of UnixFS directories, names of links of other dag-pb nodes, and keys and indices of
//! dag-cbor and dag-json values may follow each other in one path, as on gateways. What is a
//! directory is left to [`lookup`]; symlinks are not followed, that is the kernel's.

use super::{ContentPath, PathRoot, Segment, UnixfsError, lookup};
use crate::block::{Cid, codecs};
use crate::codec::dag_pb::PbNode;
use crate::codec::ipld::{Ipld, IpldError};
use crate::codec::node::NodeError;
use crate::codec::{dag_cbor, dag_json};
use crate::dag::{Dag, DagError};

/// Most blocks on one path; a path of the kernel's 4,096 bytes has half as many names.
const HOPS_MAX: u32 = 4096;

/// Where a path ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The block.
    pub cid: Cid,
    /// The rest of the path inside that block, not empty only when the path ends at a value of a
    /// dag-cbor or dag-json block. The value exists.
    pub remainder: Vec<Segment>,
}

/// Resolves an immutable path.
///
/// # Errors
/// [`UnixfsError::MutableName`] for a path below `/ipns`; [`UnixfsError::NotFound`],
/// [`UnixfsError::NotADirectory`], [`UnixfsError::TooDeep`], [`UnixfsError::Ipld`], and what
/// [`lookup`] answers.
pub async fn resolve(dag: &Dag, path: &ContentPath) -> Result<Resolved, UnixfsError> {
    let mut cid = match &path.root {
        PathRoot::Ipfs(cid) => *cid,
        PathRoot::Ipns(name) => return Err(UnixfsError::MutableName { name: name.clone() }),
    };
    let mut rest = path.segments.as_slice();
    for _ in 0..HOPS_MAX {
        let Some((name, below)) = rest.split_first() else {
            return Ok(Resolved { cid, remainder: Vec::new() });
        };
        if !matches!(cid.codec(), codecs::DAG_CBOR | codecs::DAG_JSON) {
            cid = child(dag, &cid, name).await?;
            rest = below;
            continue;
        }
        match inside(dag, &cid, rest).await? {
            Inside::Value => return Ok(Resolved { cid, remainder: rest.to_vec() }),
            Inside::Link { target, used } => {
                cid = target;
                rest = &rest[used..];
            }
        }
    }
    Err(UnixfsError::TooDeep { cid: Box::new(cid), levels: HOPS_MAX })
}

async fn child(dag: &Dag, cid: &Cid, name: &Segment) -> Result<Cid, UnixfsError> {
    let found = match lookup(dag, cid, name.as_bytes()).await {
        Ok(entry) => entry.map(|entry| entry.cid),
        Err(UnixfsError::Dag(DagError::Node {
            source: NodeError::NotUnixFs | NodeError::UnixFs(_),
            ..
        })) => named_link(dag, cid, name).await?,
        Err(error) => return Err(error),
    };
    found.ok_or_else(|| not_found(cid, name))
}

/// Returns the first link of that name in a dag-pb node that is not UnixFS.
async fn named_link(dag: &Dag, cid: &Cid, name: &Segment) -> Result<Option<Cid>, UnixfsError> {
    let block = dag.block(cid).await?;
    let node = PbNode::decode(block.into_data())
        .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
    Ok(node.links().find(|link| link.name() == name.as_bytes()).map(|link| link.cid))
}

/// What a path into an IPLD value leads to.
enum Inside {
    /// A value of the same block.
    Value,
    /// Another block, after `used` segments.
    Link { target: Cid, used: usize },
}

async fn inside(dag: &Dag, cid: &Cid, rest: &[Segment]) -> Result<Inside, UnixfsError> {
    let block = dag.block(cid).await?;
    let value = decode_ipld(cid, block.data())?;
    // Keys are text; a name that is none cannot be a key.
    let keys: Vec<&str> =
        rest.iter().map_while(|segment| std::str::from_utf8(segment.as_bytes()).ok()).collect();
    match value.walk(&keys) {
        Some((Ipld::Link(target), used)) => Ok(Inside::Link { target: **target, used }),
        Some(_) if keys.len() == rest.len() => Ok(Inside::Value),
        _ => Err(not_found(cid, &rest[0])),
    }
}

/// Decodes a dag-cbor or dag-json block.
pub(super) fn decode_ipld(cid: &Cid, bytes: &[u8]) -> Result<Ipld, UnixfsError> {
    let decoded: Result<Ipld, IpldError> = match cid.codec() {
        codecs::DAG_JSON => dag_json::decode(bytes),
        _ => dag_cbor::decode(bytes),
    };
    decoded.map_err(|source| UnixfsError::Ipld { cid: Box::new(*cid), source })
}

fn not_found(cid: &Cid, name: &Segment) -> UnixfsError {
    let name = bytes::Bytes::copy_from_slice(name.as_bytes());
    UnixfsError::NotFound { name, cid: Box::new(*cid) }
}

#[cfg(test)]
mod tests;
