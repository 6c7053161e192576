//! `cat`: the bytes of files, one after the other.

use axum::extract::State;
use axum::response::Response;

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind};
use crate::api::request::Form;
use crate::block::Cid;
use crate::dag::Dag;
use crate::unixfs::{FileType, read, stat};

/// Bytes read and sent at a time: enough that the cost of a piece vanishes.
const PIECE_LEN: usize = 1024 * 1024;

/// A part of a file that is to be sent.
struct Part {
    cid: Cid,
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
        let file_len = file_len(&dag, &cid).await?;
        let start = skip.min(file_len);
        let end = file_len.min(start.saturating_add(left));
        skip -= start;
        left -= end - start;
        parts.push(Part { cid, start, end });
    }
    let total = parts.iter().map(|part| part.end - part.start).sum();
    reply::stream(&params, Kind::Bytes("text/plain", Some(total)), |sink| async move {
        for Part { cid, mut start, end } in parts {
            while start < end {
                let len = usize::try_from(end - start).unwrap_or(PIECE_LEN).min(PIECE_LEN);
                let bytes = read(&dag, &cid, start, len).await?;
                if bytes.is_empty() {
                    return Err(ApiError::failed(format!("{cid} ends before its length says")));
                }
                start += bytes.len() as u64;
                sink.bytes(bytes).await?;
            }
        }
        Ok(())
    })
    .await
}

async fn file_len(dag: &Dag, cid: &Cid) -> Result<u64, ApiError> {
    let stat = stat(dag, cid).await?;
    match stat.kind {
        FileType::File => Ok(stat.file_len),
        FileType::Directory => Err(ApiError::failed("this dag node is a directory")
            .hint("`cidfs ls` lists it, `cidfs get` copies it")),
        FileType::Symlink => Err(ApiError::failed("this dag node is a symbolic link")),
    }
}
