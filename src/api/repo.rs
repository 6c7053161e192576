//! `repo/…`: the store as a whole.

use std::ops::ControlFlow;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Kind, Sink, blocking};
use crate::api::request::Form;
use crate::store::{Damage, Progress};
use crate::sys::volume::volume;

/// Blocks between two reports of progress.
const PROGRESS_EVERY: u64 = 1000;

/// What the repository holds (spec 09 §2).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RepoStat {
    /// Stored blocks.
    pub num_objects: u64,
    /// Bytes of disk that the repository takes.
    pub repo_size: u64,
    /// Bytes that it may take: the disk, as there is no cap yet.
    pub storage_max: u64,
    /// Its directory.
    pub repo_path: String,
    /// The version of its format.
    pub version: String,
}

/// How far a verification has come, or what it found.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VerifyProgress {
    /// A sentence; empty in a report of progress.
    pub msg: String,
    /// Blocks read so far.
    pub progress: u64,
}

/// `repo/stat`
pub(super) async fn stat(State(node): State<Node>) -> Result<Response, ApiError> {
    Ok(reply::json(&blocking(move || repo_stat(&node)).await?))
}

/// Returns what the repository holds.
pub(super) fn repo_stat(node: &Node) -> Result<RepoStat, ApiError> {
    let stat = node.repository().stat()?;
    let disk = volume(&stat.path)
        .map_err(|error| ApiError::failed(error.desc()).about(stat.path.display()))?;
    Ok(RepoStat {
        num_objects: stat.blocks,
        repo_size: stat.disk_bytes,
        storage_max: disk.total.saturating_mul(disk.fragment_bytes.into()),
        repo_path: stat.path.display().to_string(),
        version: format!("cidfs-repo@{}", stat.version),
    })
}

/// `repo/version`
pub(super) async fn version(State(node): State<Node>) -> Result<Response, ApiError> {
    let stat = blocking(move || Ok(node.repository().stat()?)).await?;
    Ok(reply::json(&json!({ "Version": stat.version.to_string() })))
}

/// `repo/verify`
pub(super) async fn verify(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        let report = node.repository().verify(&mut |done| tell(&sink, done))?;
        if report.stopped {
            return Err(reply::Gone.into());
        }
        for Damage { cid, place } in &report.damaged {
            let name = cid.map_or_else(|| "a block".to_owned(), |cid| format!("block {cid}"));
            let msg = format!("{name} was corrupt ({place})");
            sink.json_blocking(&VerifyProgress { msg, progress: 0 })?;
        }
        if report.damaged_count > 0 {
            let count = report.damaged_count;
            return Err(ApiError::failed(format!("verify complete, {count} blocks corrupt")));
        }
        let msg = "verify complete, all blocks validated.".to_owned();
        sink.json_blocking(&VerifyProgress { msg, progress: report.done.blocks })
    })
    .await
}

fn tell(sink: &Sink, done: &Progress) -> ControlFlow<()> {
    let is_due = done.blocks.is_multiple_of(PROGRESS_EVERY);
    let progress = VerifyProgress { msg: String::new(), progress: done.blocks };
    if sink.is_gone() || (is_due && sink.json_blocking(&progress).is_err()) {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}
