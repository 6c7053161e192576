//! `cidfs fetch`: everything below a path is brought here.

use std::ffi::OsString;

use clap::Args;

use crate::api::fetch::{Arrivals, FetchOutput};
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{counted, human_rate, human_size};
use crate::cli::progress::Progress;
use crate::cli::{Global, print_lines};

/// Bring everything below a path here, without pinning it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs fetch bafybeig…
  cidfs fetch --timeout=10m /ipfs/bafybeig…/videos
  cidfs fetch --json bafybeig… | jq .ReceivedBytes

What was fetched is cache: `cidfs pin add` keeps it. An interrupted fetch goes on where it was.")]
pub(crate) struct Fetch {
    /// A CID, or a path below one
    path: OsString,
    /// Print nothing
    #[arg(short, long, conflicts_with = "progress")]
    quiet: bool,
    /// Show progress [default: on a terminal]
    #[arg(long, require_equals = true, num_args = 0..=1, default_missing_value = "true")]
    progress: Option<bool>,
}

impl Fetch {
    /// Waits until all is here.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let wanted = !self.quiet && Progress::is_wanted(self.progress);
        let bar = Progress::arrivals(wanted);
        let call = Call::new("fetch").arg(&self.path).switch("progress", wanted);
        print_lines(client.send(call).await?, global, |out, fetched: FetchOutput| {
            bar.set_arrivals(fetched.blocks, fetched.arrivals);
            if fetched.cid.is_some() && !self.quiet {
                bar.above(|| out.line(summary(&fetched)))?;
            }
            Ok(())
        })
        .await
    }
}

/// Says what came, and how fast.
fn summary(fetched: &FetchOutput) -> String {
    let FetchOutput { blocks, bytes, seconds, .. } = *fetched;
    let cid = fetched.cid.as_deref().unwrap_or_default();
    let Arrivals { received_blocks, received_bytes, peers } = fetched.arrivals;
    let all = format!("{}, {}", counted(blocks, "block"), human_size(bytes));
    if received_blocks == 0 {
        return format!("{cid} is here: {all}");
    }
    let (size, rate) = (human_size(received_bytes), human_rate(received_bytes, seconds));
    let (received, from) = (counted(received_blocks, "block"), counted(peers, "peer"));
    let came = format!("{received}, {size}, came from {from}");
    format!("{cid} is here: {all}; {came} in {seconds:.1} s, {rate}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_came_and_how_fast() {
        let here = FetchOutput {
            cid: Some("bafy".to_owned()),
            blocks: 12,
            bytes: 3_000_000,
            seconds: 2.0,
            arrivals: Arrivals::default(),
        };
        assert_eq!(summary(&here), "bafy is here: 12 blocks, 3.0 MB");
        let arrivals = Arrivals { received_blocks: 10, received_bytes: 2_500_000, peers: 1 };
        let came = "; 10 blocks, 2.5 MB, came from 1 peer in 2.0 s, 1.2 MB/s";
        let fetched = FetchOutput { arrivals, ..here };
        assert_eq!(summary(&fetched), format!("bafy is here: 12 blocks, 3.0 MB{came}"));
        let nothing_at_all = FetchOutput { seconds: 0.0, ..fetched };
        assert!(summary(&nothing_at_all).ends_with("2.5 GB/s"), "no infinite rate");
    }
}
