//! `cidfs config`: read and change `config.toml`.

use clap::Args;
use serde_json::Value as Json;

use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::{Global, print_json, print_lines};

/// Show or change the configuration
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs config show
  cidfs config mount.ipfs
  cidfs config mount.ipfs /srv/ipfs

The file config.toml in the repository explains every key.")]
pub(crate) struct Config {
    /// The key, or `show` for all of them
    key: String,
    /// The new value
    value: Option<String>,
}

impl Config {
    /// Prints or changes.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        if self.key == "show" {
            if let Some(value) = &self.value {
                return Err(Failure::usage(format!(
                    "`config show` takes no value (\"{value}\"); `config KEY VALUE` sets one"
                )));
            }
            let call = Call::new("config/show");
            if global.json {
                return print_json(client, call).await;
            }
            return print_lines(client.send(call).await?, global, |out, all: Json| {
                for line in flat("", &all) {
                    out.line(line)?;
                }
                Ok(())
            })
            .await;
        }
        let call = Call::new("config").arg(&self.key);
        if let Some(value) = &self.value {
            client.send(call.arg(value)).await?;
            if client.is_daemon() {
                tell("The running daemon uses the new value after its next start.");
            }
            return Ok(());
        }
        print_lines(client.send(call).await?, global, |out, entry: Json| {
            for line in flat("", &entry["Value"]) {
                out.line(line)?;
            }
            Ok(())
        })
        .await
    }
}

/// Writes a section as lines of `key = value`, and a single value as it is.
fn flat(prefix: &str, value: &Json) -> Vec<String> {
    let Json::Object(section) = value else {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return vec![if prefix.is_empty() { text } else { format!("{prefix} = {value}") }];
    };
    let dot = if prefix.is_empty() { "" } else { "." };
    let below = |(name, value): (&String, &Json)| flat(&format!("{prefix}{dot}{name}"), value);
    section.iter().flat_map(below).collect()
}
