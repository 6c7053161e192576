//! `ls`: the names of a directory with what they are, as a stream.
//!
//! The type and size of a dag-pb entry need its root block; a few are looked at ahead. An entry
//! whose block cannot be had is listed with type 0, which means unknown (spec 09 §2), because one
//! missing block is no reason to hide the other names.

use axum::extract::State;
use axum::response::Response;
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::name::Name;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, Sink};
use crate::api::request::{CidEncoder, Form, Params};
use crate::api::stat::go_mode;
use crate::api::time::rfc3339;
use crate::block::{Cid, codecs};
use crate::codec::dag_pb::PbNode;
use crate::codec::node::Node as UnixfsNode;
use crate::dag::{Dag, DagError};
use crate::unixfs::{self, Cookie, DirEntry, FileType, UnixfsError};

/// Entries taken from a directory at a time.
const BATCH_LEN: usize = 256;

/// Entries whose root blocks are looked at ahead.
const LOOK_AHEAD: usize = 32;

/// Type numbers of UnixFS, as `ls` sends them.
pub mod types {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// A directory in one block.
    pub const DIRECTORY: u8 = 1;
    /// A file.
    pub const FILE: u8 = 2;
    /// A symbolic link.
    pub const SYMLINK: u8 = 4;
    /// A sharded directory.
    pub const SHARDED: u8 = 5;
}

/// A listing, or a piece of one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LsOutput {
    /// One for each argument.
    pub objects: Vec<LsObject>,
}

/// The entries of one argument, or some of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LsObject {
    /// The argument as given.
    pub hash: String,
    /// Its entries.
    pub links: Vec<LsLink>,
}

/// An entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LsLink {
    /// Its name.
    #[serde(flatten)]
    pub name: Name,
    /// Its CID.
    pub hash: String,
    /// Bytes of a file.
    pub size: u64,
    /// One of [`types`].
    pub r#type: u8,
    /// Where a symlink points.
    pub target: String,
    /// Go's `os.FileMode`, if permissions are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Modification time (RFC 3339), if stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_time: Option<String>,
    /// The same in seconds since 1970 (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
}

/// `ls?arg=…&stream=&resolve-type=&size=&batches=` (`batches` is ours)
pub(super) async fn ls(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let mut roots = Vec::new();
    for arg in params.args_some("ipfs-path")? {
        roots.push((String::from_utf8_lossy(arg).into_owned(), cid_of(&dag, arg).await?));
    }
    let listing = Listing {
        dag,
        encoder: params.encoder()?,
        looks: params.flag("resolve-type")?.unwrap_or(true) || params.flag("size")?.unwrap_or(true),
    };
    if params.is_on("stream")? {
        return lines(&params, listing, roots).await;
    }
    reply::stream(&params, Kind::OneJson, |sink| async move {
        sink.bytes("{\"Objects\":[".into()).await?;
        for (index, (arg, cid)) in roots.into_iter().enumerate() {
            let head = serde_json::to_string(&arg).map_err(ApiError::failed)?;
            let comma = if index == 0 { "" } else { "," };
            sink.bytes(format!("{comma}{{\"Hash\":{head},\"Links\":[").into()).await?;
            listing.send_array(&cid, &sink).await?;
            sink.bytes("]}".into()).await?;
        }
        Ok(sink.bytes("]}\n".into()).await?)
    })
    .await
}

/// Sends one link a line, which is what kubo's clients take. In batches (ours) a line has some of
/// the links, and a directory without any has a line too.
async fn lines(
    params: &Params,
    listing: Listing,
    roots: Vec<(String, Cid)>,
) -> Result<Response, ApiError> {
    let in_batches = params.is_on("batches")?;
    reply::stream(params, Kind::Json, |sink| async move {
        for (hash, cid) in roots {
            let line = |links| LsOutput { objects: vec![LsObject { hash: hash.clone(), links }] };
            if in_batches {
                sink.json(&line(Vec::new())).await?;
            }
            let mut place = Place::Start;
            while let Some(links) = listing.next(&cid, &mut place).await? {
                if in_batches {
                    sink.json(&line(links)).await?;
                    continue;
                }
                for link in links {
                    sink.json(&line(vec![link])).await?;
                }
            }
        }
        Ok(())
    })
    .await
}

/// How far a listing has come.
enum Place {
    Start,
    After(Cookie),
    End,
}

struct Listing {
    dag: Dag,
    encoder: CidEncoder,
    /// Whether types and sizes are looked up.
    looks: bool,
}

impl Listing {
    async fn send_array(&self, cid: &Cid, sink: &Sink) -> Result<(), ApiError> {
        let mut place = Place::Start;
        let mut is_first = true;
        while let Some(links) = self.next(cid, &mut place).await? {
            let mut text = Vec::new();
            for link in links {
                if !std::mem::take(&mut is_first) {
                    text.push(b',');
                }
                serde_json::to_writer(&mut text, &link).map_err(ApiError::failed)?;
            }
            sink.bytes(text.into()).await?;
        }
        Ok(())
    }

    /// Returns the next entries, `None` at the end.
    async fn next(&self, cid: &Cid, place: &mut Place) -> Result<Option<Vec<LsLink>>, ApiError> {
        let from = match place {
            Place::End => return Ok(None),
            Place::After(cookie) => *cookie,
            Place::Start if is_directory(&self.dag, cid).await? => Cookie::START,
            Place::Start => {
                *place = Place::End;
                return Ok(Some(self.parts_of_file(cid).await?));
            }
        };
        let entries = unixfs::list(&self.dag, cid, from, BATCH_LEN).await?;
        let Some((last, _)) = entries.last() else {
            return Ok(None);
        };
        *place = Place::After(*last);
        let links = stream::iter(entries).map(|(_, entry)| self.describe(entry));
        let links: Vec<Result<LsLink, ApiError>> = links.buffered(LOOK_AHEAD).collect().await;
        links.into_iter().collect::<Result<_, _>>().map(Some)
    }

    async fn describe(&self, entry: DirEntry) -> Result<LsLink, ApiError> {
        let mut link = LsLink {
            name: Name::new(&entry.name),
            hash: self.encoder.encode(&entry.cid),
            size: 0,
            r#type: types::UNKNOWN,
            target: String::new(),
            mode: None,
            mod_time: None,
            mtime: None,
        };
        if entry.cid.codec() != codecs::DAG_PB {
            link.r#type = types::FILE;
            link.size = entry.tsize.unwrap_or_default();
        } else if self.looks {
            match self.dag.node(&entry.cid).await {
                Ok(node) => fill(&mut link, &node),
                Err(DagError::Store(error)) => return Err(DagError::Store(error).into()),
                Err(error) => tracing::debug!(%error, "listed as unknown"),
            }
        }
        Ok(link)
    }

    /// Returns the links of a file, which have no names.
    async fn parts_of_file(&self, cid: &Cid) -> Result<Vec<LsLink>, ApiError> {
        if cid.codec() != codecs::DAG_PB {
            return Ok(Vec::new());
        }
        let block = self.dag.block(cid).await?;
        let node = PbNode::decode(block.into_data())
            .map_err(|source| UnixfsError::Pb { cid: Box::new(*cid), source })?;
        let mut links = Vec::new();
        for part in node.links() {
            links.push(self.describe(DirEntry::from(part)).await?);
        }
        Ok(links)
    }
}

async fn is_directory(dag: &Dag, cid: &Cid) -> Result<bool, ApiError> {
    Ok(unixfs::stat(dag, cid).await?.kind == FileType::Directory)
}

fn fill(link: &mut LsLink, node: &UnixfsNode) {
    let stat = unixfs::Stat::of(node);
    link.size = stat.file_len;
    link.r#type = match (stat.kind, node) {
        (FileType::File, _) => types::FILE,
        (FileType::Symlink, _) => types::SYMLINK,
        (FileType::Directory, UnixfsNode::Shard(_)) => types::SHARDED,
        (FileType::Directory, _) => types::DIRECTORY,
    };
    if let UnixfsNode::Symlink(symlink) = node {
        link.target = String::from_utf8_lossy(&symlink.target).into_owned();
    }
    link.mode = stat.metadata.mode.map(|bits| go_mode(stat.kind, bits));
    link.mtime = stat.metadata.mtime.map(|mtime| mtime.seconds);
    link.mod_time = stat.metadata.mtime.map(|mtime| rfc3339(mtime.seconds, mtime.nanos));
}
