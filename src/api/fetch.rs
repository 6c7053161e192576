//! `fetch` (ours): everything below a path is brought here, without being pinned.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::{Node, dag_of, session_of};
use crate::api::error::ApiError;
use crate::api::paths::cid_of;
use crate::api::reply::{self, Kind, Sink};
use crate::api::request::{Form, Params};
use crate::exchange::{Given, PeerId, Session};
use crate::keep::BringProgress;

/// Time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How far bringing a DAG here has come.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FetchOutput {
    /// What the path leads to, once all of it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// Blocks that are here.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What of them peers gave meanwhile.
    #[serde(flatten)]
    pub arrivals: Arrivals,
    /// Seconds since the beginning.
    pub seconds: f64,
}

/// What came from peers since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Arrivals {
    /// Blocks.
    pub received_blocks: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// How many peers gave some of them.
    pub peers: u64,
}

/// Counts what comes from peers below a root from now on.
#[derive(Debug)]
pub(super) struct Counter {
    node: Node,
    session: Session,
    before: HashMap<PeerId, Given>,
}

impl Counter {
    /// Begins to count what comes below the first argument.
    pub(super) fn start(node: &Node, params: &Params) -> Self {
        let session = session_of(params);
        let before = node.network().given(&session).into_iter().collect();
        Self { node: node.clone(), session, before }
    }

    /// Returns what came so far.
    pub(super) fn arrivals(&self) -> Arrivals {
        let mut sum = Arrivals::default();
        for (peer, given) in self.node.network().given(&self.session) {
            let before = self.before.get(&peer).copied().unwrap_or_default();
            let blocks = given.blocks.saturating_sub(before.blocks);
            sum.received_blocks += blocks;
            sum.received_bytes += given.bytes.saturating_sub(before.bytes);
            sum.peers += u64::from(blocks > 0);
        }
        sum
    }
}

/// `fetch?arg=PATH&progress=`
pub(super) async fn fetch(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let (started, counter) = (Instant::now(), Counter::start(&node, &params));
    let dag = dag_of(&node, &params)?;
    let root = cid_of(&dag, params.arg("ipfs-path")?).await?;
    let (encoder, shows_progress) = (params.encoder()?, params.is_on("progress")?);
    reply::stream(&params, Kind::Json, move |sink| async move {
        let progress = BringProgress::default();
        let report = |cid| FetchOutput {
            cid,
            blocks: progress.blocks(),
            bytes: progress.bytes(),
            arrivals: counter.arrivals(),
            seconds: started.elapsed().as_secs_f64(),
        };
        let fetch = node.keeper().fetch(&dag, root, &progress);
        follow(fetch, shows_progress.then_some(&sink), || report(None)).await?;
        sink.json(&report(Some(encoder.encode(&root)))).await
    })
    .await
}

/// Waits for work that brings blocks here, and tells now and then how far it has come.
pub(super) async fn follow<T, E, L>(
    work: impl Future<Output = Result<T, E>>,
    sink: Option<&Sink>,
    report: impl Fn() -> L,
) -> Result<T, ApiError>
where
    ApiError: From<E>,
    L: Serialize,
{
    let mut work = std::pin::pin!(work);
    loop {
        match (tokio::time::timeout(PROGRESS_EVERY, &mut work).await, sink) {
            (Ok(done), _) => return Ok(done?),
            (Err(_), Some(sink)) => sink.json(&report()).await?,
            (Err(_), None) => {}
        }
    }
}
