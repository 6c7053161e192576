//! `store/…` (ours): archives of others, and plain files, that are used where they lie.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::add::path_of;
use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Gone, Kind, Sink, blocking};
use crate::api::request::{Form, Params};
use crate::store::{AddProgress, AddedPack, ForeignStat};

/// Bytes that are read between two reports of progress: some tenths of a second of hashing.
const PROGRESS_BYTES: u64 = 64 * 1024 * 1024;
/// Archives that one directory may bring, as many as the store takes in all.
const DIRECTORY_ARCHIVES_MAX: usize = 10_000;

/// A file that is used in place.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PackStat {
    /// Where it lies.
    pub path: String,
    /// `archive`, or `file` for one that was added without copying it.
    pub kind: String,
    /// Its length in bytes.
    pub size: u64,
    /// Blocks in it, each counted once.
    pub num_blocks: u64,
    /// Bytes of these blocks.
    pub block_bytes: u64,
    /// Why it cannot be used now, to be read after "it"; empty if it can.
    pub problem: String,
}

/// Something that happened while archives were added: one of the three.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PackEvent {
    /// How far the hashing of one has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<PackProgress>,
    /// One is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<PackAdded>,
    /// One could not be added, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far the hashing of an archive has come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PackProgress {
    /// Bytes of it that were read.
    pub bytes: u64,
    /// All its bytes.
    pub total: u64,
}

/// An archive that was added.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PackAdded {
    /// What it is now.
    pub pack: PackStat,
    /// Sections that were left out because they are not what they claim.
    pub refused: u64,
    /// What is wrong with the first of them; empty if there are none.
    pub first_refused: String,
}

/// A file that was forgotten.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PackRemoved {
    /// Where it lies.
    pub path: String,
}

impl From<&ForeignStat> for PackStat {
    fn from(stat: &ForeignStat) -> Self {
        Self {
            path: stat.path.display().to_string(),
            kind: stat.kind.to_string(),
            size: stat.len,
            num_blocks: stat.blocks,
            block_bytes: stat.block_bytes,
            problem: stat.lost.clone().unwrap_or_default(),
        }
    }
}

impl From<AddedPack> for PackAdded {
    fn from(added: AddedPack) -> Self {
        Self {
            pack: (&added.stat).into(),
            refused: added.refused,
            first_refused: added.first_refused.unwrap_or_default(),
        }
    }
}

/// `store/add-pack?path=…&progress=`: archives, or directories of them
pub(super) async fn add_pack(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let paths = paths_of(&params)?;
    let shows_progress = params.is_on("progress")?;
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        let archives: Vec<_> = paths.into_iter().map(archives_of).collect::<Result<_, _>>()?;
        let archives = archives.concat();
        let mut failed = 0;
        for archive in &archives {
            let added = add(&node, archive, shows_progress, &sink);
            if sink.is_gone() {
                return Err(Gone.into());
            }
            failed += u64::from(added.is_err());
            sink.json_blocking(&event_of(added))?;
        }
        if failed == 0 {
            return Ok(());
        }
        let count = archives.len();
        Err(ApiError::failed(format!("{failed} of {count} archives are not in use")))
    })
    .await
}

fn add(
    node: &Node,
    archive: &Path,
    shows_progress: bool,
    sink: &Sink,
) -> Result<AddedPack, ApiError> {
    let mut told = 0;
    let mut progress = |done: &AddProgress| {
        if shows_progress && done.bytes >= told + PROGRESS_BYTES {
            told = done.bytes;
            let progress = PackProgress { bytes: done.bytes, total: done.len };
            let event = PackEvent { progress: Some(progress), ..PackEvent::default() };
            if sink.json_blocking(&event).is_err() {
                return ControlFlow::Break(());
            }
        }
        if sink.is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let added = node.repository().blocks.add_pack(archive, &mut progress)?;
    added.ok_or_else(|| Gone.into())
}

fn event_of(added: Result<AddedPack, ApiError>) -> PackEvent {
    match added {
        Ok(added) => PackEvent { added: Some(added.into()), ..PackEvent::default() },
        Err(error) => PackEvent { error: Some(error.message().to_owned()), ..PackEvent::default() },
    }
}

/// `store/ls-packs`
pub(super) async fn ls_packs(State(node): State<Node>) -> Result<Response, ApiError> {
    let packs = blocking(move || Ok(node.repository().blocks.foreign_packs())).await?;
    let packs: Vec<PackStat> = packs.iter().map(PackStat::from).collect();
    Ok(reply::json(&serde_json::json!({ "Packs": packs })))
}

/// `store/rm-pack?path=…`
pub(super) async fn rm_pack(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let paths = paths_of(&params)?;
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        let mut unknown = Vec::new();
        for path in paths {
            let path_text = path.display().to_string();
            if node.repository().blocks.remove_pack(&path)? {
                sink.json_blocking(&PackRemoved { path: path_text })?;
            } else {
                unknown.push(path_text);
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let not_used = ApiError::client("not used in place").about(unknown.join(", "));
        Err(not_used.hint("`cidfs store ls-packs` lists what is"))
    })
    .await
}

fn paths_of(params: &Params) -> Result<Vec<PathBuf>, ApiError> {
    let paths: Vec<_> = params.all("path").map(path_of).collect();
    if paths.is_empty() {
        return Err(ApiError::client("argument \"path\" is required"));
    }
    match paths.iter().find(|path| !path.is_absolute()) {
        None => Ok(paths),
        Some(path) => Err(ApiError::client("a path must be absolute").about(path.display())),
    }
}

/// Returns the archives in a directory in the order of their names, or the file itself.
fn archives_of(path: PathBuf) -> Result<Vec<PathBuf>, ApiError> {
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    let told = |error| ApiError::failed(error).about(path.display());
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(told)? {
        let file = entry.map_err(told)?.path();
        if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("car")) {
            archives.push(file);
        }
        if archives.len() > DIRECTORY_ARCHIVES_MAX {
            let error = format!("over {DIRECTORY_ARCHIVES_MAX} archives in one directory");
            return Err(ApiError::failed(error).about(path.display()));
        }
    }
    if archives.is_empty() {
        return Err(ApiError::failed("there is no file *.car in it").about(path.display()));
    }
    archives.sort_unstable();
    Ok(archives)
}
