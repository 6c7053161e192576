//! Failures as kubo's clients read them: a status, a sentence, a code, and (ours) a hint.
//!
//! Every error of a lower layer becomes one sentence here; what a person can do about it is the
//! hint. No layer below knows of HTTP.

use std::error::Error;
use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::api::reply;

/// The body of a failure (spec 09 §1), with a hint that kubo's clients pass over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ErrorBody {
    /// What happened, one sentence without a full stop.
    pub message: String,
    /// 0 normal, 1 the client's fault, 4 forbidden.
    pub code: u8,
    /// Always `error`.
    pub r#type: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: u8,
    message: String,
    hint: Option<String>,
}

impl ApiError {
    /// Something went wrong in carrying out the command (500).
    pub fn failed(message: impl Display) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: 0,
            message: message.to_string(),
            hint: None,
        }
    }

    /// The request itself is wrong (400).
    pub fn client(message: impl Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: 1, ..Self::failed(message) }
    }

    /// The caller may not ask for this (403).
    pub fn forbidden(message: impl Display) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: 4, ..Self::failed(message) }
    }

    /// There is no such command (404).
    pub fn unknown_command(path: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: 1,
            ..Self::failed(format!("there is no command {path}"))
        }
    }

    /// The client's `timeout=` has passed.
    pub fn timed_out() -> Self {
        Self::failed("context deadline exceeded: the time given by --timeout has passed")
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the object concerned in front of the sentence.
    #[must_use]
    pub fn about(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Returns the sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the body that tells of it.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            message: self.message.clone(),
            code: self.code,
            r#type: "error".to_owned(),
            hint: self.hint.clone(),
        }
    }
}

/// Returns what is below the words that libraries wrap around an error, which often leave it out.
pub(crate) fn root_cause<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = reply::json(&self.body());
        *response.status_mut() = self.status;
        response
    }
}
