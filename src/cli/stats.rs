//! `cidfs ping` and `cidfs stats`: how fast others answer, and how much passes.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::api::ping::PingResult;
use crate::api::stats::Bandwidth;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::human_size;
use crate::cli::repo;
use crate::cli::swarm;
use crate::cli::{Global, print_lines};

/// Measure how long a peer takes for an answer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs ping 12D3KooW…
  cidfs ping -n 3 /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…

A peer that is not connected is called first, if an address of it is given or known.")]
pub(crate) struct Ping {
    /// Its id, or an address that ends with it
    peer: OsString,
    /// How often, once a second, at most 1000 times [default: 10]
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<i64>,
}

impl Ping {
    /// Prints each answer as it comes.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("ping").arg(&self.peer).maybe("count", self.count.as_ref());
        print_lines(client.send(call).await?, global, |out, ping: PingResult| {
            Ok(out.line(match (ping.success, ping.time) {
                (true, time) => format!("Pong received: time={}", millis(time)),
                (false, _) => ping.text,
            })?)
        })
        .await
    }
}

/// Writes nanoseconds as milliseconds with two digits behind the point.
fn millis(nanos: u64) -> String {
    let hundredths = nanos.saturating_add(5_000) / 10_000;
    format!("{}.{:02} ms", hundredths / 100, hundredths % 100)
}

/// See how much passes, and how much there is
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs stats bw
  cidfs stats bitswap
  cidfs stats repo")]
pub(crate) enum Stats {
    Bw(Bw),
    Bitswap(swarm::Stat),
    Repo(repo::Stat),
}

impl Stats {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Bw(command) => command.run(global, client).await,
            Self::Bitswap(command) => command.run(global, client).await,
            Self::Repo(command) => command.run(global, client).await,
        }
    }
}

/// Show how many bytes of blocks passed between this node and others, and pass in a second
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs stats bw
  cidfs stats bw --peer=12D3KooW…
  cidfs stats bw --poll -i 5s")]
pub(crate) struct Bw {
    /// Only between this node and that peer, while it is connected
    #[arg(short, long, value_name = "PEER")]
    peer: Option<String>,
    /// Go on until interrupted
    #[arg(long)]
    poll: bool,
    /// With --poll: how often [default: 1s]
    #[arg(short, long, value_name = "TIME", requires = "poll")]
    interval: Option<String>,
}

impl Bw {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("stats/bw")
            .maybe("peer", self.peer.as_ref())
            .switch("poll", self.poll)
            .maybe("interval", self.interval.as_ref());
        let mut is_first = true;
        print_lines(client.send(call).await?, global, |out, bandwidth: Bandwidth| {
            let (came, sent) = (human_size(bandwidth.total_in), human_size(bandwidth.total_out));
            let (comes, goes) = (per_second(bandwidth.rate_in), per_second(bandwidth.rate_out));
            if !self.poll {
                out.line("Bandwidth")?;
                out.line(format!("TotalIn: {came}"))?;
                out.line(format!("TotalOut: {sent}"))?;
                out.line(format!("RateIn: {comes}"))?;
                return Ok(out.line(format!("RateOut: {goes}"))?);
            }
            if std::mem::take(&mut is_first) {
                out.line(row(["Total Up", "Total Down", "Rate Up", "Rate Down"]))?;
            }
            Ok(out.line(row([&sent, &came, &goes, &comes]))?)
        })
        .await
    }
}

fn row(cells: [&str; 4]) -> String {
    let [one, two, three, four] = cells;
    format!("{one:<12}{two:<12}{three:<12}{four}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
fn per_second(bytes: f64) -> String {
    format!("{}/s", human_size(bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_are_not_nothing() {
        let check = |nanos, text: &str| assert_eq!(millis(nanos), text);
        check(0, "0.00 ms");
        check(123_456, "0.12 ms");
        check(12_345_678, "12.35 ms");
        check(u64::MAX, "18446744073709.55 ms");
    }
}
