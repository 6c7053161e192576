//! `cidfs status` and `cidfs version`.

use std::io::Write as _;

use clap::Args;
use serde_json::json;

use crate::api::mount::{NetworkStatus, Status as NodeStatus};
use crate::cli::Global;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, counted, human_size};
use crate::cli::print_lines;

/// Show the node at a glance
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs status
  cidfs status --json | jq .Mounts")]
pub(crate) struct Status {}

impl Status {
    /// Prints it.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("status")).await?;
        let is_daemon = client.is_daemon();
        print_lines(answer, global, |out, status: NodeStatus| {
            let daemon = if is_daemon {
                format!("running (process {}, cidfs {})", status.pid, status.version)
            } else {
                "not running".to_owned()
            };
            out.line(format!("Daemon:     {daemon}"))?;
            out.line(format!("Repository: {}", status.repo.repo_path))?;
            let size = human_size(status.repo.repo_size);
            out.line(format!("Stored:     {} blocks, {size}", status.repo.num_objects))?;
            out.line(format!("Pins:       {}", status.pins))?;
            if is_daemon {
                let held = human_size(status.memory_bytes);
                let nodes = human_size(status.node_cache_bytes_max);
                let ahead = human_size(status.fetch_ahead_bytes_max);
                out.line(format!(
                    "Memory:     {held} (at most {nodes} for decoded nodes, {ahead} for fetching ahead)"
                ))?;
            }
            if let Some(network) = status.network {
                for line in network_lines(&network) {
                    out.line(line)?;
                }
            } else if is_daemon {
                out.line("Network:    off (network.preset)")?;
            }
            out.line(format!("Mounts:     {}", status.mounts.len()))?;
            for mount in status.mounts {
                let mut line = format!("  {} on {}", mount.source, mount.dir.display());
                if !mount.options.is_empty() {
                    line = format!("{line} ({})", mount.options);
                }
                out.line(line)?;
            }
            Ok(())
        })
        .await
    }
}

/// Says what passes between this node and others.
fn network_lines(network: &NetworkStatus) -> Vec<String> {
    let (came, sent) = (human_size(network.data_received), human_size(network.data_sent));
    let (comes, goes) = (human_size(network.rate_in), human_size(network.rate_out));
    let millis = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let mut lines = vec![format!(
        "Network:    {}, {} wanted, {came} received, {sent} sent",
        counted(network.peers, "peer"),
        counted(network.wanted, "block")
    )];
    let mut now = format!("  now       {comes}/s in, {goes}/s out");
    if let (Some(shortest), Some(longest)) = (network.latency_min_us, network.latency_max_us) {
        now = format!("{now}, latency {} to {}", millis(shortest), millis(longest));
    }
    lines.push(now);
    let (store, peers) = (network.blocks_from_store, network.blocks_from_peers);
    lines.push(format!("  blocks    {store} from the store, {peers} from peers"));
    for giver in &network.givers {
        let size = human_size(giver.bytes);
        let blocks = counted(giver.blocks, "block");
        lines.push(format!("            {} gave {blocks}, {size}", giver.peer));
    }
    lines
}

/// Print the version
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs version
  cidfs version -n")]
pub(crate) struct Version {
    /// Print the number only
    #[arg(short, long)]
    number: bool,
}

impl Version {
    /// Prints it; this needs no repository.
    pub(crate) fn run(&self, global: &Global) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        let mut out = Output::new();
        if global.json {
            out.line(json!({ "Version": version }).to_string())?;
        } else {
            let words = if self.number { "" } else { "cidfs version " };
            out.line(format!("{words}{version}"))?;
        }
        Ok(out.flush()?)
    }
}
