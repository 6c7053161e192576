//! `files/stat` for `/ipfs` paths, and `stat`, which is the same with symlinks named.

use axum::extract::State;
use axum::response::Response;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply;
use crate::api::request::{Form, Params};
use crate::block::{Cid, codecs};
use crate::codec::dag_pb::PbNode;
use crate::dag::{Dag, DagError};
use crate::unixfs::{self, FileType, Stat, UnixfsError};

/// What a file or directory is (spec 09 §2).
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FileStat {
    /// Its CID.
    pub hash: String,
    /// Bytes of a file; 0 for a directory.
    pub size: u64,
    /// Bytes of all blocks below and including the root, as the root claims.
    pub cumulative_size: u64,
    /// Links of the root block.
    pub blocks: u64,
    /// `file`, `directory` or, for `stat` alone, `symlink`.
    pub r#type: String,
    /// Where a symlink points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Permissions and type in octal of Go's `os.FileMode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
    /// Nanoseconds of the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_nsecs: Option<u32>,
    /// The next two were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_locality: Option<bool>,
    /// Everything is on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<bool>,
    /// Bytes of the blocks that are on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_local: Option<u64>,
}

impl FileStat {
    /// Returns the twelve permission bits, if they are stored.
    pub fn mode_bits(&self) -> Option<u32> {
        u32::from_str_radix(self.mode.as_ref()?, 8).ok().map(posix_mode)
    }
}

/// Returns the permission bits of Go's `os.FileMode`.
pub fn posix_mode(go_mode: u32) -> u32 {
    let specials: u32 = GO_SPECIAL_BITS.iter().map(|(bit, go)| special(go_mode, *go, *bit)).sum();
    go_mode & 0o777 | specials
}

/// Set-user-id, set-group-id and sticky as POSIX and Go's `os.FileMode` number them.
const GO_SPECIAL_BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
const GO_DIRECTORY: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;

fn special(mode: u32, from: u32, to: u32) -> u32 {
    if mode & from == 0 { 0 } else { to }
}

/// Returns Go's `os.FileMode` of permission bits.
pub(super) fn go_mode(kind: FileType, bits: u32) -> u32 {
    let kind = match kind {
        FileType::File => 0,
        FileType::Directory => GO_DIRECTORY,
        FileType::Symlink => GO_SYMLINK,
    };
    let specials = GO_SPECIAL_BITS.iter().map(|(bit, go)| special(bits, *bit, *go)).sum::<u32>();
    kind | specials | bits & 0o777
}

/// `files/stat?arg=/ipfs/…&with-local=`
pub(super) async fn files_stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let mut stat = file_stat(&node, &params).await?;
    if stat.r#type == "symlink" {
        "file".clone_into(&mut stat.r#type);
    }
    Ok(reply::json(&stat))
}

/// `stat?arg=…&with-local=` (ours)
pub(super) async fn stat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    Ok(reply::json(&file_stat(&node, &params).await?))
}

async fn file_stat(node: &Node, params: &Params) -> Result<FileStat, ApiError> {
    let dag = dag_of(node, params)?;
    let arg = params.arg("path")?;
    if arg.starts_with(b"/") && !arg.starts_with(b"/ipfs/") {
        return Err(ApiError::failed("only paths below /ipfs/ can be looked at"));
    }
    let cid = cid_of(&dag, arg).await?;
    let attributes = unixfs::stat(&dag, &cid).await?;
    let mut stat = describe(&dag, &cid, &attributes).await?;
    stat.hash = params.encoder()?.encode(&cid);
    if params.is_on("with-local")? {
        let (all, bytes) = locality(&dag.offline(), cid).await?;
        stat.with_locality = Some(true);
        stat.local = Some(all);
        stat.size_local = Some(bytes);
    }
    Ok(stat)
}

async fn describe(dag: &Dag, cid: &Cid, attributes: &Stat) -> Result<FileStat, ApiError> {
    let (blocks, cumulative_size) = root_links(dag, cid).await?;
    let kind = match attributes.kind {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
    };
    let target = match attributes.kind {
        FileType::Symlink => Some(unixfs::read_link(dag, cid).await?),
        FileType::File | FileType::Directory => None,
    };
    let metadata = &attributes.metadata;
    Ok(FileStat {
        size: attributes.file_len,
        cumulative_size,
        blocks,
        r#type: kind.to_owned(),
        target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        mode: metadata.mode.map(|mode| format!("{:o}", go_mode(attributes.kind, mode))),
        mtime: metadata.mtime.map(|mtime| mtime.seconds),
        mtime_nsecs: metadata.mtime.map(|mtime| mtime.nanos),
        ..FileStat::default()
    })
}

/// Returns the links of a root block and the bytes of all blocks, as the root claims.
async fn root_links(dag: &Dag, cid: &Cid) -> Result<(u64, u64), ApiError> {
    if cid.codec() != codecs::DAG_PB {
        return Ok((0, dag.block_len(cid).await?));
    }
    let block = dag.block(cid).await?;
    let own = block.data().len() as u64;
    let node = PbNode::decode(block.into_data())
        .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
    let below = node.links().filter_map(|link| link.tsize).fold(0, u64::saturating_add);
    Ok((node.link_count() as u64, own.saturating_add(below)))
}

/// Returns whether all of a DAG is here, and the bytes of the blocks that were found here. Below a
/// node that is missing nothing can be found, and the walk ends there.
async fn locality(dag: &Dag, root: Cid) -> Result<(bool, u64), ApiError> {
    let mut is_whole = true;
    let mut bytes = 0;
    let mut walk = std::pin::pin!(unixfs::walk(dag, root));
    loop {
        let visit = match walk.try_next().await {
            Ok(Some(visit)) => visit,
            Ok(None) => return Ok((is_whole, bytes)),
            Err(UnixfsError::Dag(DagError::Offline { .. })) => return Ok((false, bytes)),
            Err(error) => return Err(error.into()),
        };
        match dag.block_len(&visit.cid).await {
            Ok(len) => bytes += len,
            Err(DagError::Offline { .. }) => is_whole = false,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(format!("{:o}", go_mode(FileType::Directory, 0o755)), "20000000755");
        for bits in [0, 0o644, 0o4755, 0o1777, 0o2070] {
            let mode = Some(format!("{:o}", go_mode(FileType::Directory, bits)));
            assert_eq!(FileStat { mode, ..FileStat::default() }.mode_bits(), Some(bits));
        }
    }
}
