//! Where the log goes: standard error, as much as the configuration or `CIDFS_LOG` says.

use std::fmt::Write as _;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

use crate::cli::failure::Failure;
use crate::cli::visible::Visible;
use crate::node::config::LogConfig;

/// What a command that is no daemon logs: its failure is told anyway.
const COMMAND_LEVEL: &str = "error";

/// Starts the log of this process; a daemon gives its configuration.
///
/// # Errors
/// When the filter is malformed.
pub(crate) fn start(config: Option<&LogConfig>, json: bool) -> Result<(), Failure> {
    let environment = std::env::var("CIDFS_LOG").ok().filter(|filter| !filter.is_empty());
    let (filter, origin) = match (&environment, config) {
        (Some(filter), _) => (filter.as_str(), "CIDFS_LOG"),
        (None, Some(config)) => (config.level.as_str(), "log.level"),
        (None, None) => (COMMAND_LEVEL, "the log"),
    };
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(format!("{origin}: \"{filter}\": {error}")))?;
    // To report a failed write the library would print, which panics where nothing can be written:
    // a full disk must not end what only wanted to log.
    let log = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let log = log.with_writer(io::stderr);
    if json || config.is_some_and(|config| config.json) {
        log.json().init();
    } else {
        let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
        log.with_ansi(is_terminal).fmt_fields(visible_fields()).init();
    }
    Ok(())
}

/// Writes the fields of an event so that it stays on its line, whatever a name holds.
fn visible_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let write = debug_fn(|writer, field, value| {
        let mut writer = Visible(writer);
        match field.name() {
            "message" => write!(writer, "{value:?}"),
            name => write!(writer, "{name}={value:?}"),
        }
    });
    write.delimited(" ")
}
