//! `stats/bw`: how much passes between this node and others.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Kind};
use crate::api::request::{Form, parse_duration};
use crate::api::swarm::{ledger_of, peer_id, swarm};
use crate::exchange::PeerId;
use crate::exchange::swarm::Swarm;

/// Time between two answers to a request with `poll=`, unless it says otherwise, …
const POLL_EVERY: Duration = Duration::from_secs(1);
/// … and at least.
const POLL_MIN: Duration = Duration::from_millis(100);

/// Bytes of blocks that passed over bitswap, and pass in a second over the last few.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Bandwidth {
    /// Bytes that came.
    pub total_in: u64,
    /// Bytes that were sent.
    pub total_out: u64,
    /// Bytes that come in a second (kubo writes a fraction too).
    pub rate_in: f64,
    /// Bytes that are sent in a second.
    pub rate_out: f64,
}

/// `stats/bw?peer=&poll=&interval=`
pub(super) async fn bw(State(node): State<Node>, Form(params): Form) -> Result<Response, ApiError> {
    if params.text("proto")?.is_some_and(|proto| !proto.is_empty()) {
        return Err(ApiError::client("bytes are counted by peer, not by protocol"));
    }
    swarm(&node)?;
    let peer = params.text("peer")?.filter(|text| !text.is_empty());
    let peer = peer.map(|text| peer_id(text.as_bytes())).transpose()?;
    let polls = params.is_on("poll")?;
    let interval = params.text("interval")?.map(parse_duration).transpose()?;
    let interval = interval.unwrap_or(POLL_EVERY).max(POLL_MIN);
    reply::stream(&params, Kind::Json, move |sink| async move {
        let mut due = Instant::now();
        loop {
            sink.json(&bandwidth(swarm(&node)?, peer).await?).await?;
            if !polls {
                return Ok(());
            }
            due += interval;
            tokio::time::sleep_until(due.into()).await;
        }
    })
    .await
}

#[expect(clippy::cast_precision_loss, reason = "rates are far below 2⁵²")]
async fn bandwidth(swarm: &Swarm, peer: Option<PeerId>) -> Result<Bandwidth, ApiError> {
    let Some(peer) = peer else {
        let traffic = swarm.traffic().await?;
        return Ok(Bandwidth {
            total_in: traffic.received_bytes,
            total_out: traffic.sent_bytes,
            rate_in: traffic.received_per_s as f64,
            rate_out: traffic.sent_per_s as f64,
        });
    };
    let ledger = ledger_of(swarm, peer).await?;
    Ok(Bandwidth {
        total_in: ledger.received_bytes,
        total_out: ledger.sent_bytes,
        rate_in: ledger.received_per_s as f64,
        rate_out: ledger.sent_per_s as f64,
    })
}
