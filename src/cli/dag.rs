//! `cidfs dag` and `cidfs refs`: nodes, links, archives.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::api::car::CarImported;
use crate::api::dag::DagStats;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::upload::{is_standard_input, standard_input};
use crate::cli::{Global, print_json, print_lines};

/// Work with DAGs of any codec
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs dag export bafybeig… > backup.car
  cidfs dag import backup.car
  cidfs dag get bafybeig…
  cidfs dag stat bafybeig…")]
pub(crate) enum Dag {
    Get(Get),
    Resolve(Resolve),
    Stat(Stat),
    Import(Import),
    Export(Export),
}

impl Dag {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Get(command) => command.run(client).await,
            Self::Resolve(command) => command.run(global, client).await,
            Self::Stat(command) => command.run(global, client).await,
            Self::Import(command) => command.run(global, client).await,
            Self::Export(command) => command.run(client).await,
        }
    }
}

/// Print a node, or a value inside one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs dag get bafybeig…
  cidfs dag get bafyreig…/users/0/name
  cidfs dag get --output-codec=dag-cbor bafyreig… | xxd")]
pub(crate) struct Get {
    /// A CID, or a path below one
    path: OsString,
    /// How to write it [default: dag-json]
    #[arg(long, value_name = "CODEC")]
    output_codec: Option<String>,
}

impl Get {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let call = Call::new("dag/get").arg(&self.path);
        let call = call.maybe("output-codec", self.output_codec.as_ref());
        let mut out = Output::new();
        client.send(call).await?.copy_to(&mut out, |_| ()).await?;
        if std::io::stdout().is_terminal() {
            out.line("")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Print the block that a path leads to, and what remains of the path inside it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs dag resolve bafyreig…/users/0")]
pub(crate) struct Resolve {
    /// A path
    path: OsString,
}

impl Resolve {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("dag/resolve").arg(&self.path)).await?;
        print_lines(answer, global, |out, resolved: serde_json::Value| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let (cid, rest) = (text(&resolved["Cid"]["/"]), text(&resolved["RemPath"]));
            Ok(out.line(if rest.is_empty() { cid } else { format!("{cid}/{rest}") })?)
        })
        .await
    }
}

/// Count the blocks and bytes of DAGs
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs dag stat bafybeig…
  cidfs dag stat OLD NEW        how much do they share?")]
pub(crate) struct Stat {
    /// CIDs, or paths below them
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Stat {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("dag/stat").args(&self.paths)).await?;
        print_lines(answer, global, |out, stats: DagStats| {
            let width = stats.dags.first().map_or(0, |dag| dag.cid.len());
            out.line(format!("\n{:width$}\t{:15}\tSize", "CID", "Blocks"))?;
            for dag in &stats.dags {
                out.line(format!("{}\t{:<15}\t{}", dag.cid, dag.num_blocks, dag.size))?;
            }
            out.line("\nSummary")?;
            let human = crate::cli::output::human_size;
            out.line(format!("Total Size: {} ({})", stats.total_size, human(stats.total_size)))?;
            out.line(format!("Unique Blocks: {}", stats.unique_blocks))?;
            out.line(format!("Shared Size: {} ({})", stats.shared_size, human(stats.shared_size)))?;
            Ok(out.line(format!("Ratio: {:.6}", stats.ratio))?)
        })
        .await
    }
}

/// Store the blocks of archives (CAR) and pin their roots
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs dag import backup.car
  curl -sL https://example.org/data.car | cidfs dag import --stats")]
pub(crate) struct Import {
    /// CAR files; standard input if there are none, or for `-`
    paths: Vec<PathBuf>,
    /// Pin the roots that the archives name [default: true]
    #[arg(long, require_equals = true)]
    pin_roots: Option<bool>,
    /// Print nothing
    #[arg(long)]
    silent: bool,
    /// Print how much was stored
    #[arg(long)]
    stats: bool,
    /// Show progress [default: on a terminal]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
}

impl Import {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let wanted = Progress::is_wanted(self.progress);
        let bar = Progress::start(Some(wanted), None);
        let call = Call::new("dag/import").switch("stats", self.stats).switch("progress", wanted);
        let mut call = call.maybe("pin-roots", self.pin_roots.as_ref());
        if is_standard_input(&self.paths) {
            call = standard_input(call, "")?;
        } else {
            for path in &self.paths {
                call = call.path("path", &std::path::absolute(path)?);
            }
        }
        let mut unpinned = None;
        print_lines(client.send(call).await?, global, |out, event: CarImported| {
            if let Some(bytes) = event.progress {
                bar.set(bytes);
            }
            if let Some(root) = event.root {
                let cid = root.cid.cid;
                if !root.pin_error_msg.is_empty() {
                    let message = format!("pinning root \"{cid}\" FAILED: {}", root.pin_error_msg);
                    tell(&message);
                    unpinned = Some(message);
                } else if !self.silent {
                    bar.above(|| out.line(format!("Pinned root\t{cid}\tsuccess")))?;
                }
            }
            if let Some(stats) = event.stats.filter(|_| !self.silent) {
                let (blocks, bytes) = (stats.block_count, stats.block_bytes_count);
                out.line(format!("Imported {blocks} blocks ({bytes} bytes)"))?;
            }
            Ok(())
        })
        .await?;
        unpinned.map_or(Ok(()), |message| {
            Err(Failure::new(message).hint("its blocks are stored; --pin-roots=false leaves it so"))
        })
    }
}

/// Write DAGs as an archive (CAR)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs dag export bafybeig… > backup.car
  cidfs dag export bafybeig… bafybeih… > both.car")]
pub(crate) struct Export {
    /// CIDs, or paths below them: the roots of the archive
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Show progress [default: on a terminal]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
}

impl Export {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage("an archive is no text for a terminal; send it to a file"));
        }
        let answer = client.send(Call::new("dag/export").args(&self.paths)).await?;
        let progress = Progress::start(self.progress, None);
        answer.copy_to(&mut Output::new(), |len| progress.add(len)).await
    }
}

/// List the links of nodes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs refs bafybeig…
  cidfs refs -r --unique bafybeig…
  cidfs refs --format='<linkname> <dst>' bafybeig…")]
pub(crate) struct Refs {
    /// CIDs, or paths below them
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// List the links of what is linked too
    #[arg(short, long)]
    recursive: bool,
    /// Print each CID once
    #[arg(short, long)]
    unique: bool,
    /// Print both ends of each link
    #[arg(short, long, conflicts_with = "format")]
    edges: bool,
    /// Print these fields: <src> <dst> <linkname> [default: <dst>]
    #[arg(long)]
    format: Option<String>,
    /// Go no deeper
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
}

impl Refs {
    /// Prints the links.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("refs")
            .args(&self.paths)
            .switch("recursive", self.recursive)
            .switch("unique", self.unique)
            .switch("edges", self.edges)
            .maybe("format", self.format.as_ref())
            .maybe("max-depth", self.max_depth.as_ref());
        if global.json {
            return print_json(client, call).await;
        }
        print_lines(client.send(call).await?, global, |out, link: serde_json::Value| {
            Ok(out.line(link["Ref"].as_str().unwrap_or_default())?)
        })
        .await
    }
}
