//! `version` and `shutdown`.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply;

/// The version of kubo whose control API this is; its clients refuse what they do not know.
const EMULATED_VERSION: &str = "0.42.0";
/// The version of the repository of that kubo, for the same clients.
const EMULATED_REPO: &str = "18";

/// What answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// The version of kubo whose control API this is.
    pub version: String,
    /// Always empty.
    pub commit: String,
    /// The version of kubo's repository.
    pub repo: String,
    /// Processor and system, in Go's words.
    pub system: String,
    /// Always empty.
    pub golang: String,
    /// The version of cidfs (ours).
    pub cidfs: String,
}

/// `version`
pub(super) async fn version() -> Response {
    let processor = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    reply::json(&Version {
        version: EMULATED_VERSION.to_owned(),
        commit: String::new(),
        repo: EMULATED_REPO.to_owned(),
        system: format!("{processor}/{}", std::env::consts::OS),
        golang: String::new(),
        cidfs: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// `shutdown`
pub(super) async fn shutdown(State(node): State<Node>) -> Result<Response, ApiError> {
    node.shutdown();
    Ok(reply::json(&serde_json::json!({})))
}
