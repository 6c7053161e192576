//! `config` and `config/show`.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use crate::api::control::Node;
use crate::api::error::ApiError;
use crate::api::reply::{self, blocking};
use crate::api::request::Form;

/// `config?arg=KEY[&arg=VALUE]`
pub(super) async fn config(
    State(node): State<Node>,
    Form(params): Form,
) -> Result<Response, ApiError> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| ApiError::client("an argument is not UTF-8"))
    };
    let args = params.args_some("key")?;
    let key = text(args[0])?;
    let value = args.get(1).map(|value| text(value)).transpose()?;
    let shown = key.clone();
    let value = blocking(move || match value {
        Some(value) => node.set_config(&key, &value),
        None => node.config(Some(&key)),
    })
    .await?;
    Ok(reply::json(&json!({ "Key": shown, "Value": value })))
}

/// `config/show`
pub(super) async fn show(State(node): State<Node>) -> Result<Response, ApiError> {
    Ok(reply::json(&blocking(move || node.config(None)).await?))
}
