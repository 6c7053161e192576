//! `cat`: the bytes of files, one after the other. A symbolic link is its target, as kubo has it:
//! that is how its clients read one.

use std::pin::pin;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind};
use crate::api::request::Form;
use crate::block::Cid;
use crate::dag::Dag;
use crate::unixfs::{self, FileType};
use crate::vfs::Streams;

/// Bytes read and sent at a time: enough that the cost of a piece vanishes.
const PIECE_LEN: usize = 1024 * 1024;

/// Where bytes come from.
enum Content {
    File(Cid, u64),
    Target(Bytes),
}

/// A part of it that is to be sent.
struct Part {
    content: Content,
    start: u64,
    end: u64,
}

/// `cat?arg=…&offset=&length=`
pub(super) async fn cat(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let mut skip = params.parse::<u64>("offset")?.unwrap_or(0);
    let mut left = params.parse::<u64>("length")?.unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for arg in params.args_some("ipfs-path")? {
        let cid = cid_of(&dag, arg).await?;
        let content = Content::of(&dag, cid).await?;
        let start = skip.min(content.len());
        let end = content.len().min(start.saturating_add(left));
        skip -= start;
        left -= end - start;
        parts.push(Part { content, start, end });
    }
    let total = parts.iter().map(|part| part.end - part.start).sum();
    let streams = Streams::new(node.fetch_budget());
    reply::stream(&params, Kind::Bytes("text/plain", Some(total)), |sink| async move {
        for (number, Part { content, mut start, end }) in (0..).zip(parts) {
            while start < end {
                let len = usize::try_from(end - start).unwrap_or(PIECE_LEN).min(PIECE_LEN);
                let bytes = content.read(&dag, start, len, (&streams, number)).await?;
                start += bytes.len() as u64;
                sink.bytes(bytes).await?;
            }
        }
        Ok(())
    })
    .await
}

impl Content {
    async fn of(dag: &Dag, cid: Cid) -> Result<Self, ApiError> {
        let stat = unixfs::stat(dag, &cid).await?;
        match stat.kind {
            FileType::File => Ok(Self::File(cid, stat.file_len)),
            FileType::Symlink => Ok(Self::Target(unixfs::read_link(dag, &cid).await?)),
            FileType::Directory => Err(ApiError::failed("this dag node is a directory")
                .hint("`cidfs ls` lists it, `cidfs get` copies it")),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::File(_, len) => *len,
            Self::Target(target) => target.len() as u64,
        }
    }

    /// Returns up to `len` bytes from `start`, which lies before the end; at least one. What comes after them
    /// is fetched ahead, as of the file of that number in `streams`.
    async fn read(
        &self,
        dag: &Dag,
        start: u64,
        len: usize,
        (streams, number): (&Streams, u64),
    ) -> Result<Bytes, ApiError> {
        let bytes = match self {
            Self::File(cid, _) => {
                let range = start..start + len as u64;
                streams.read(number, &range);
                let mut read = pin!(unixfs::read(dag, cid, start, len));
                if let Some(here) = read.as_mut().now_or_never() {
                    here?
                } else {
                    streams.stalled(number, dag, cid, &range);
                    read.await?
                }
            }
            Self::Target(target) => {
                let rest = usize::try_from(start).ok().and_then(|start| target.get(start..));
                let rest = rest.unwrap_or_default();
                target.slice_ref(&rest[..len.min(rest.len())])
            }
        };
        if bytes.is_empty() {
            return Err(ApiError::failed("the content ends before its length says"));
        }
        Ok(bytes)
    }
}
