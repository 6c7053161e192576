//! `dag/import` and `dag/export`: archives of blocks (spec 04).

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use axum::extract::{FromRequest as _, FromRequestParts as _, Multipart, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::api::add::path_of;
use crate::api::control::{Node, dag_of};
use crate::api::error::ApiError;
use crate::api::multipart::next_part;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Gone, Kind, Sink};
use crate::api::request::{CidEncoder, Form, Params};
use crate::block::{Block, Cid};
use crate::codec::car::{self, CarError, CarReader, Section};
use crate::dag::Dag;
use crate::keep::{BringProgress, Hold};
use crate::store::{BlockStore, PinMode};
use crate::unixfs;

/// Bytes of blocks that are hashed together and stored in one call.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Memory of a section beside its data: an archive may be millions of empty blocks.
const SECTION_BYTES: usize = size_of::<Section>();

/// Batches that are hashed while others are read and stored: the disk is the slower side then.
const BATCHES_AHEAD: usize = 2;

/// Blocks that are loaded ahead of an export.
const BLOCKS_AHEAD: usize = 16;

/// Shortest block in bytes that an export sends as a piece of its own: copying it costs more.
const COPIED_BELOW: usize = 16 * 1024;

/// Bytes of sections that an export sends as one piece; one block may go over it.
const GATHERED_MAX: usize = 64 * 1024;

/// Roots that are pinned after an import: an archive is made for a few; a header of 1 MiB could
/// name thirty thousand.
const ROOTS_MAX: usize = 1000;

/// Something that happened during an import.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CarImported {
    /// A root of the header, and whether it could be pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<CarRoot>,
    /// What was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<CarStats>,
    /// Bytes of blocks stored so far (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u64>,
}

/// A root of an archive.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CarRoot {
    /// Its CID.
    pub cid: Link,
    /// Why it is not pinned; empty if it is.
    pub pin_error_msg: String,
}

/// A CID in the form of dag-json.
#[derive(Debug, Serialize, Deserialize)]
pub struct Link {
    /// The CID.
    #[serde(rename = "/")]
    pub cid: String,
}

/// What an import stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CarStats {
    /// Number of blocks.
    pub block_count: u64,
    /// Their bytes.
    pub block_bytes_count: u64,
}

/// `dag/import?pin-roots=&stats=`, with archives in a multipart body, or (ours) `path=…`.
pub(super) async fn import(
    State(node): State<Node>,
    request: Request,
) -> Result<Response, ApiError> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| value.starts_with("multipart/")) {
        let (mut parts, body) = request.into_parts();
        let params = Params::from_request_parts(&mut parts, &()).await?;
        let mut body = Multipart::from_request(Request::from_parts(parts, body), &())
            .await
            .map_err(|error| ApiError::client(error.body_text()))?;
        let mut importer = Importer::new(node, &params).await?;
        return reply::stream_blocking(&params, Kind::Json, move |sink| {
            let handle = Handle::current();
            while let Some(part) = next_part(&mut body, &handle)? {
                importer.archive(part, &sink)?;
            }
            importer.finish(&sink)
        })
        .await;
    }
    let Form(params) = Form::from_request(request, &()).await?;
    let paths: Vec<_> = params.all("path").map(path_of).collect();
    if paths.is_empty() {
        return Err(ApiError::client("argument \"path\" is required"));
    }
    let mut importer = Importer::new(node, &params).await?;
    reply::stream_blocking(&params, Kind::Json, move |sink| {
        for path in paths {
            let file = std::fs::File::open(&path)
                .map_err(|error| ApiError::failed(error).about(path.display()))?;
            importer.archive(file, &sink).map_err(|error| error.about(path.display()))?;
        }
        importer.finish(&sink)
    })
    .await
}

struct Importer {
    node: Node,
    store: Arc<dyn BlockStore>,
    /// Held until the roots are pinned.
    _hold: Hold,
    encoder: CidEncoder,
    pins: bool,
    tells_stats: bool,
    tells_progress: bool,
    /// What is to be pinned, once each.
    roots: Vec<Cid>,
    /// What was read and is not hashed yet.
    batch: Vec<Section>,
    batch_bytes: usize,
    /// Batches that are being hashed, the oldest first.
    proving: VecDeque<JoinHandle<Proved>>,
    stats: CarStats,
    /// How many blocks were left out, and what is wrong with the first.
    refused: Option<(u64, String)>,
}

/// The blocks of a batch, and what is wrong with the others.
struct Proved {
    blocks: Vec<Block>,
    refused: Vec<String>,
}

impl Proved {
    fn of(batch: Vec<Section>) -> Self {
        let (mut blocks, mut refused) = (Vec::with_capacity(batch.len()), Vec::new());
        for Section { cid, data, offset } in batch {
            match Block::verify(cid, data) {
                Ok(block) => blocks.push(block),
                Err(error) => refused.push(format!("the section at byte {offset}: {error}")),
            }
        }
        Self { blocks, refused }
    }
}

impl Importer {
    async fn new(node: Node, params: &Params) -> Result<Self, ApiError> {
        let is_partial = params.is_on("local-only")?;
        Ok(Self {
            store: node.keeper().store(),
            _hold: node.keeper().hold().await,
            node,
            encoder: params.encoder()?,
            pins: params.flag("pin-roots")?.unwrap_or(!is_partial),
            tells_stats: params.is_on("stats")?,
            tells_progress: params.is_on("progress")?,
            roots: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            proving: VecDeque::new(),
            stats: CarStats { block_count: 0, block_bytes_count: 0 },
            refused: None,
        })
    }

    fn archive(&mut self, reader: impl Read, sink: &Sink) -> Result<(), ApiError> {
        let reader = CarReader::new(reader)?;
        for &root in reader.roots().iter().filter(|_| self.pins) {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
            if self.roots.len() > ROOTS_MAX {
                return Err(ApiError::failed(format!("over {ROOTS_MAX} roots"))
                    .hint("import it with --pin-roots=false and pin what you need"));
            }
        }
        for section in reader {
            match section {
                Ok(section) => self.section(section, sink)?,
                Err(error @ CarError::BlockTooBig { .. }) => self.refuse(error.to_string()),
                Err(error) => {
                    self.commit(sink)?;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, section: Section, sink: &Sink) -> Result<(), ApiError> {
        self.batch_bytes += section.data.len() + SECTION_BYTES;
        self.batch.push(section);
        if self.batch_bytes >= BATCH_BYTES { self.prove(sink) } else { Ok(()) }
    }

    /// Gives a batch to another thread to be hashed, while more is read and stored here.
    fn prove(&mut self, sink: &Sink) -> Result<(), ApiError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.proving.push_back(tokio::task::spawn_blocking(move || Proved::of(batch)));
        if self.proving.len() > BATCHES_AHEAD { self.store_next(sink) } else { Ok(()) }
    }

    /// A block that is too big or not what it claims is left out; the others may be all that is
    /// wanted.
    fn refuse(&mut self, why: String) {
        tracing::warn!(why, "refused a block of an archive");
        self.refused.get_or_insert((0, why)).0 += 1;
    }

    fn commit(&mut self, sink: &Sink) -> Result<(), ApiError> {
        self.prove(sink)?;
        while !self.proving.is_empty() {
            self.store_next(sink)?;
        }
        Ok(self.store.commit()?)
    }

    /// Stores the oldest batch.
    fn store_next(&mut self, sink: &Sink) -> Result<(), ApiError> {
        let Some(proved) = self.proving.pop_front() else { return Ok(()) };
        let proved = Handle::current().block_on(proved).map_err(ApiError::failed)?;
        if sink.is_gone() {
            return Err(Gone.into());
        }
        proved.refused.into_iter().for_each(|why| self.refuse(why));
        self.store.put(&proved.blocks)?;
        self.stats.block_count += proved.blocks.len() as u64;
        let bytes = proved.blocks.iter().map(|block| block.data().len() as u64);
        self.stats.block_bytes_count += bytes.sum::<u64>();
        if self.tells_progress {
            let progress = Some(self.stats.block_bytes_count);
            sink.json_blocking(&CarImported { progress, ..CarImported::default() })?;
        }
        Ok(())
    }

    fn finish(mut self, sink: &Sink) -> Result<(), ApiError> {
        self.commit(sink)?;
        for root in &self.roots {
            let offline = self.node.dag().offline();
            let (mode, progress) = (PinMode::Recursive, BringProgress::default());
            let pinned = self.node.keeper().pin(&offline, *root, mode, None, &progress);
            let pinned = Handle::current().block_on(pinned).map_err(ApiError::from);
            let pin_error_msg = pinned.err().map(|error| error.message().to_owned());
            let root = CarRoot {
                cid: Link { cid: self.encoder.encode(root) },
                pin_error_msg: pin_error_msg.unwrap_or_default(),
            };
            sink.json_blocking(&CarImported { root: Some(root), ..CarImported::default() })?;
        }
        if self.tells_stats {
            let stats = Some(self.stats);
            sink.json_blocking(&CarImported { stats, ..CarImported::default() })?;
        }
        match self.refused {
            None => Ok(()),
            Some((count, first)) => Err(ApiError::failed(format!(
                "{count} blocks were refused, the others stored; {first}"
            ))),
        }
    }
}

/// `dag/export?arg=…`, with several arguments (ours) an archive of several roots.
pub(super) async fn export(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let dag = dag_of(&node, &params)?;
    let mut roots = Vec::new();
    for arg in params.args_some("root")? {
        roots.push(cid_of(&dag, arg).await?);
    }
    // The roots decide about success before the first byte is sent.
    for root in &roots {
        dag.block(root).await?;
    }
    reply::stream(&params, Kind::Bytes("application/vnd.ipld.car", None), |sink| async move {
        let mut pieces = Pieces { sink, gathered: Vec::new() };
        car::write_header(&mut pieces.gathered, &roots).map_err(ApiError::failed)?;
        pieces.send().await?;
        // Tasks of their own, so that several processors hash what is read.
        let blocks = unixfs::walk_all(&dag, roots).map(|visit| {
            let block = visit
                .map(|visit| AbortOnDropHandle::new(tokio::spawn(block(dag.clone(), visit.cid))));
            async move { block?.await.map_err(ApiError::failed)? }
        });
        let mut blocks = std::pin::pin!(blocks.buffered(BLOCKS_AHEAD));
        while let Some(block) = blocks.try_next().await? {
            pieces.block(block).await?;
        }
        if pieces.gathered.is_empty() { Ok(()) } else { pieces.send().await }
    })
    .await
}

async fn block(dag: Dag, cid: Cid) -> Result<Block, ApiError> {
    Ok(dag.block(&cid).await?)
}

/// Sends sections of an archive in pieces that are worth their cost, without copying big blocks.
struct Pieces {
    sink: Sink,
    /// Sections of small blocks, and the head of a big one.
    gathered: Vec<u8>,
}

impl Pieces {
    async fn block(&mut self, block: Block) -> Result<(), ApiError> {
        if block.data().len() < COPIED_BELOW {
            car::write_section(&mut self.gathered, &block).map_err(ApiError::failed)?;
            return if self.gathered.len() < GATHERED_MAX { Ok(()) } else { self.send().await };
        }
        car::write_section_head(&mut self.gathered, &block).map_err(ApiError::failed)?;
        self.send().await?;
        Ok(self.sink.bytes(block.into_data()).await?)
    }

    async fn send(&mut self) -> Result<(), ApiError> {
        let gathered = std::mem::take(&mut self.gathered);
        Ok(self.sink.bytes(gathered.into()).await?)
    }
}
