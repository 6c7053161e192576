//! `cidfs pin`: what is kept.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::api::pin::PinOutput;
use crate::api::pin::listing::PinEntry;
use crate::api::pin::verify::PinVerified;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;
use crate::cli::{Global, print_json, print_lines};

/// Say what is kept
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs pin add bafybeig…
  cidfs pin add --name=thesis bafybeig…
  cidfs pin ls --type=recursive --names
  cidfs pin rm bafybeig…")]
pub(crate) enum Pin {
    Add(Add),
    Rm(Rm),
    Ls(Ls),
    Update(Update),
    Verify(Verify),
}

impl Pin {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Add(command) => command.run(global, client).await,
            Self::Rm(command) => command.run(global, client).await,
            Self::Ls(command) => command.run(global, client).await,
            Self::Update(command) => command.run(global, client).await,
            Self::Verify(command) => command.run(global, client).await,
        }
    }
}

/// Keep what these paths lead to
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs pin add bafybeig…
  cidfs pin add -r=false bafybeig…      that block alone")]
pub(crate) struct Add {
    /// CIDs, or paths below them
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Keep everything below too [default: true]
    #[arg(short, long, require_equals = true)]
    recursive: Option<bool>,
    /// Name of the pin
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Show progress [default: on a terminal]
    #[arg(long, require_equals = true, num_args = 0..=1, default_missing_value = "true")]
    progress: Option<bool>,
}

impl Add {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let recursive = self.recursive.unwrap_or(true);
        let wanted = Progress::is_wanted(self.progress);
        let bar = Progress::arrivals(wanted);
        let call = Call::new("pin/add")
            .args(&self.paths)
            .option("recursive", recursive)
            .maybe("name", self.name.as_ref())
            .switch("progress", wanted);
        let how = if recursive { "recursively" } else { "directly" };
        print_lines(client.send(call).await?, global, |out, pinned: PinOutput| {
            if let Some(count) = pinned.progress {
                bar.set_arrivals(count, pinned.arrivals.unwrap_or_default());
            }
            for cid in pinned.pins.into_iter().flatten() {
                bar.above(|| out.line(format!("pinned {cid} {how}")))?;
            }
            Ok(())
        })
        .await
    }
}

/// Keep no longer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs pin rm bafybeig…")]
pub(crate) struct Rm {
    /// CIDs, or paths below them
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Remove recursive pins [default: true]
    #[arg(short, long, require_equals = true)]
    recursive: Option<bool>,
}

impl Rm {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let recursive = self.recursive.as_ref();
        let call = Call::new("pin/rm").args(&self.paths).maybe("recursive", recursive);
        print_lines(client.send(call).await?, global, |out, unpinned: PinOutput| {
            for cid in unpinned.pins.into_iter().flatten() {
                out.line(format!("unpinned {cid}"))?;
            }
            Ok(())
        })
        .await
    }
}

/// List what is kept
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs pin ls
  cidfs pin ls --type=recursive -q
  cidfs pin ls bafybeig…/docs           is it kept, and by which pin?")]
pub(crate) struct Ls {
    /// Only these: CIDs, or paths below them
    paths: Vec<OsString>,
    /// direct, indirect, recursive or all [default: all]
    #[arg(short, long, value_name = "TYPE")]
    r#type: Option<String>,
    /// Print CIDs only
    #[arg(short, long)]
    quiet: bool,
    /// Only pins whose name holds this text
    #[arg(short, long, value_name = "TEXT")]
    name: Option<String>,
    /// Print names
    #[arg(long)]
    names: bool,
    /// Print pins as they are found (always so without --json)
    #[arg(short, long)]
    stream: bool,
}

impl Ls {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("pin/ls")
            .args(&self.paths)
            .maybe("type", self.r#type.as_ref())
            .maybe("name", self.name.as_ref())
            .switch("names", self.names);
        if global.json {
            return print_json(client, call.switch("stream", self.stream)).await;
        }
        let answer = client.send(call.option("stream", true)).await?;
        print_lines(answer, global, |out, pin: PinEntry| {
            let line = match (self.quiet, pin.name.is_empty()) {
                (true, _) => pin.cid,
                (false, true) => format!("{} {}", pin.cid, pin.r#type),
                (false, false) => format!("{} {} {}", pin.cid, pin.r#type, pin.name),
            };
            Ok(out.line(line)?)
        })
        .await
    }
}

/// Keep another version instead
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs pin update OLD NEW
  cidfs pin update --unpin=false OLD NEW    keep both")]
pub(crate) struct Update {
    /// What is pinned recursively now
    from: OsString,
    /// What is to be pinned
    to: OsString,
    /// Remove the old pin [default: true]
    #[arg(long, require_equals = true)]
    unpin: Option<bool>,
}

impl Update {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("pin/update").arg(&self.from).arg(&self.to);
        let call = call.maybe("unpin", self.unpin.as_ref());
        print_lines(client.send(call).await?, global, |out, updated: PinOutput| {
            if let Some([from, to]) = updated.pins.as_deref() {
                out.line(format!("updated {from} to {to}"))?;
            }
            Ok(())
        })
        .await
    }
}

/// Read and check everything below recursive pins
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs pin verify --verbose")]
pub(crate) struct Verify {
    /// Print whole pins too
    #[arg(long)]
    verbose: bool,
    /// Print CIDs of broken pins only
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

impl Verify {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("pin/verify").switch("verbose", self.verbose);
        let mut broken = 0;
        print_lines(client.send(call).await?, global, |out, pin: PinVerified| {
            if pin.ok {
                return Ok(out.line(format!("{} ok", pin.cid))?);
            }
            broken += 1;
            if self.quiet {
                return Ok(out.line(pin.cid)?);
            }
            out.line(format!("{} broken", pin.cid))?;
            for node in pin.bad_nodes {
                out.line(format!("  {}: {}", node.cid, node.err))?;
            }
            Ok(())
        })
        .await?;
        if broken == 0 { Ok(()) } else { Err(Failure::new(format!("{broken} pins are broken"))) }
    }
}
