//! `ping`: how long a peer takes for an answer.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, Kind};
use crate::api::request::Form;
use crate::api::swarm::{address, reach, swarm};
use crate::exchange::PeerId;

/// Pings unless a request says otherwise (kubo's number), …
const COUNT_DEFAULT: u32 = 10;
/// … and at most: a quarter of an hour of them.
const COUNT_MAX: u32 = 1000;
/// Time between two pings (kubo's).
const PING_EVERY: Duration = Duration::from_secs(1);
/// Pings without an answer, one after another, after which there are no more.
const FAILURES_MAX: u32 = 3;

/// One answer, or a sentence.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PingResult {
    /// Whether this is an answer.
    pub success: bool,
    /// What it took, in nanoseconds.
    pub time: u64,
    /// The sentence.
    pub text: String,
}

/// `ping?arg=PEER&count=`, an id or an address that ends with one.
pub(super) async fn ping(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let address = address(params.arg("peer ID")?)?;
    let count = params.parse("count")?.unwrap_or(COUNT_DEFAULT);
    if !(1..=COUNT_MAX).contains(&count) {
        let message = format!("ping count must be from 1 to {COUNT_MAX}, was {count}");
        return Err(ApiError::client(message));
    }
    reply::stream(&params, Kind::Json, move |sink| async move {
        let swarm = swarm(&node)?;
        let peer = reach(swarm, &address).await?;
        sink.json(&sentence(format!("PING {peer}."))).await?;
        let mut times = Vec::new();
        let mut failures = 0;
        for number in 0..count {
            if number > 0 {
                tokio::time::sleep(PING_EVERY).await;
            }
            match swarm.ping(peer).await {
                Ok(time) => {
                    failures = 0;
                    times.push(time);
                    sink.json(&answer(time)).await?;
                }
                Err(error) => {
                    failures += 1;
                    sink.json(&sentence(format!("Ping error: {error}"))).await?;
                }
            }
            if failures == FAILURES_MAX {
                break;
            }
        }
        let Some(average) = average(&times) else { return Err(silent(peer)) };
        let millis = average.as_secs_f64() * 1000.0;
        sink.json(&sentence(format!("Average latency: {millis:.2}ms"))).await
    })
    .await
}

fn answer(time: Duration) -> PingResult {
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    PingResult { success: true, time, text: String::new() }
}

fn sentence(text: String) -> PingResult {
    PingResult { text, ..PingResult::default() }
}

fn average(times: &[Duration]) -> Option<Duration> {
    let count = u32::try_from(times.len()).ok().filter(|count| *count > 0)?;
    Some(times.iter().sum::<Duration>() / count)
}

fn silent(peer: PeerId) -> ApiError {
    ApiError::failed(format!("{peer} answered no ping"))
}
