//! How a command ends when it does not succeed: a sentence, a hint, an exit code.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::api::error::{ApiError, ErrorBody};
use crate::cli::visible::visible;
use crate::node::NodeError;

/// The command failed.
const FAILED: u8 = 1;
/// The command line is wrong (clap uses the same code).
const USAGE: u8 = 2;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), hint: None, code: FAILED }
    }

    /// The command line asks for what cannot be.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: USAGE, ..Self::new(message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the object concerned in front of the sentence.
    #[must_use]
    pub(crate) fn about(mut self, what: impl Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Tells the person and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::SUCCESS;
        }
        tell(format_args!("Error: {}", self.message));
        if let Some(hint) = &self.hint {
            tell(format_args!("Hint: {hint}"));
        }
        ExitCode::from(self.code)
    }

    /// The reader of our output went away (`cidfs cat X | head`): nobody is left to tell, and
    /// nothing went wrong.
    fn closed_pipe() -> Self {
        Self::new("")
    }

    /// Makes a reader that went away a failure after all, because the work is not done without it.
    pub(crate) fn or_unfinished(self, sentence: &str) -> Self {
        if self.message.is_empty() { Self::new(sentence) } else { self }
    }
}

/// Writes a line for the person to standard error. A standard error that takes nothing (a reader
/// that went away, a full disk) changes nothing about how the command ends. Line ends in it are those of a
/// sentence of several lines.
pub(crate) fn tell(line: impl Display) {
    let line = line.to_string();
    let line = line.split('\n').map(visible).collect::<Vec<_>>().join("\n");
    let _nobody_left_to_tell = writeln!(io::stderr(), "{line}");
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::closed_pipe();
        }
        Self::new(error)
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self { message: body.message, hint: body.hint, code: FAILED }
    }
}

/// A wrong value on the command line, in the words of the control API.
pub(crate) fn told(error: ApiError) -> Failure {
    Failure { code: USAGE, ..Failure::from(error) }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        error.body().into()
    }
}
