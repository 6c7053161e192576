//! `repo/…`: the store as a whole.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::reply::{self, Gone, Kind, Sink, blocking};
use crate::api::request::Form;
use crate::dag::Dag;
use crate::store::{Damage, Progress, SpaceReport};
use crate::sys::volume::volume;
use crate::unixfs::BLOCKS_AHEAD;

/// Blocks between two reports of progress.
const PROGRESS_EVERY: u64 = 1000;

/// After so long without any of the damaged blocks that were asked for, others are asked for.
const REPAIR_TIME: Duration = Duration::from_mins(1);

/// What the repository holds (spec 09 §2).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RepoStat {
    /// Stored blocks.
    pub num_objects: u64,
    /// Bytes of disk that the repository takes.
    pub repo_size: u64,
    /// Bytes that blocks may take: the cap, or the disk if there is none.
    pub storage_max: u64,
    /// Its directory.
    pub repo_path: String,
    /// The version of its format.
    pub version: String,
}

/// What a sweep has removed so far, or would remove.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Swept {
    /// It is the last report.
    pub done: bool,
    /// Blocks removed.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks copied, because little else was left in their pack.
    pub moved: u64,
    /// Packs deleted.
    pub packs: u64,
    /// Bytes of disk that the store takes; counted at the end.
    pub disk_bytes: u64,
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
    let storage_max = match node.repository().blocks.cache_max_bytes() {
        Some(cap) => cap,
        None => disk_total(&stat.path)?,
    };
    Ok(RepoStat {
        num_objects: stat.blocks,
        repo_size: stat.disk_bytes,
        storage_max,
        repo_path: stat.path.display().to_string(),
        version: format!("cidfs-repo@{}", stat.version),
    })
}

fn disk_total(path: &Path) -> Result<u64, ApiError> {
    let disk =
        volume(path).map_err(|error| ApiError::failed(error.desc()).about(path.display()))?;
    Ok(disk.total.saturating_mul(disk.fragment_bytes.into()))
}

/// `repo/version`
pub(super) async fn version(State(node): State<Node>) -> Result<Response, ApiError> {
    let stat = blocking(move || Ok(node.repository().stat()?)).await?;
    Ok(reply::json(&json!({ "Version": stat.version.to_string() })))
}

/// `repo/gc?dry-run=`; unlike kubo's, the answer has sums, not every CID.
pub(super) async fn gc(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    let dry_run = params.is_on("dry-run")?;
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        let report = if dry_run {
            node.keeper().sweep_dry_run()?
        } else {
            node.keeper().sweep(&mut |report| tell_swept(&sink, report))?
        };
        if sink.is_gone() {
            return Err(reply::Gone.into());
        }
        sink.json_blocking(&Swept { done: true, ..Swept::of(&report) })
    })
    .await
}

fn tell_swept(sink: &Sink, report: &SpaceReport) -> ControlFlow<()> {
    match sink.json_blocking(&Swept::of(report)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

impl Swept {
    fn of(report: &SpaceReport) -> Self {
        let &SpaceReport { blocks, bytes, moved, packs, disk_bytes, .. } = report;
        Self { done: false, blocks, bytes, moved, packs, disk_bytes }
    }
}

/// `repo/verify?repair=`
pub(super) async fn verify(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let repair = if params.is_on("repair")? { Some(dag_of(&node, &params)?.bulk()) } else { None };
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        let report = node.repository().verify(&mut |done| tell(&sink, done))?;
        if report.stopped {
            return Err(reply::Gone.into());
        }
        let mut left = report.damaged_count;
        let repaired = Cell::new(Instant::now());
        let outcomes = stream::iter(&report.damaged)
            .map(|damage| outcome(&node, repair.as_ref(), damage, &repaired))
            .buffer_unordered(BLOCKS_AHEAD);
        let mut outcomes = pin!(outcomes);
        let mut next = || sink.wait(async { Ok::<_, Gone>(outcomes.next().await) });
        while let Some((is_whole, msg)) = next()? {
            left -= u64::from(is_whole);
            sink.json_blocking(&VerifyProgress { msg, progress: 0 })?;
        }
        let Progress { blocks, bytes, packs, .. } = report.done;
        let say = |msg| sink.json_blocking(&VerifyProgress { msg, progress: blocks });
        say(format!("read {blocks} blocks ({bytes} bytes) in {packs} packs"))?;
        match (left, report.damaged_count) {
            (0, 0) => say("verify complete, all blocks validated.".to_owned()),
            (0, count) => say(format!("verify complete, {count} blocks repaired.")),
            _ => Err(ApiError::failed(format!("verify complete, {left} blocks corrupt"))),
        }
    })
    .await
}

/// Tries to make a damaged block whole if there is somebody to ask; tells whether it is, and what became of it.
/// `repaired` is when the last one came.
async fn outcome(
    node: &Node,
    repair: Option<&Dag>,
    damage: &Damage,
    repaired: &Cell<Instant>,
) -> (bool, String) {
    let Damage { cid, place, .. } = damage;
    let name = cid.map_or_else(|| "a block".to_owned(), |cid| format!("block {cid}"));
    let (is_whole, outcome) = match (repair, cid) {
        (None, _) => (false, String::new()),
        (Some(_), None) => (false, ", and its name cannot be read".to_owned()),
        (Some(dag), Some(cid)) => {
            let done = tokio::select! {
                biased;
                done = node.keeper().repair(dag, cid) => done.map_err(|error| error.to_string()),
                () = silence(repaired) => Err("nobody gives it".to_owned()),
            };
            match done {
                Ok(()) => {
                    repaired.set(Instant::now());
                    (true, ", and is whole again".to_owned())
                }
                Err(why) => (false, format!(", and not repaired: {why}")),
            }
        }
    };
    (is_whole, format!("{name} was corrupt ({place}){outcome}"))
}

/// Waits until for [`REPAIR_TIME`] nothing has come, though it was asked for.
async fn silence(last: &Cell<Instant>) {
    let asked = Instant::now();
    loop {
        let end = asked.max(last.get()) + REPAIR_TIME;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}

fn tell(sink: &Sink, done: &Progress) -> ControlFlow<()> {
    let is_due = done.blocks.is_multiple_of(PROGRESS_EVERY);
    let progress = VerifyProgress { msg: String::new(), progress: done.blocks };
    if sink.is_gone() || (is_due && sink.json_blocking(&progress).is_err()) {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}
