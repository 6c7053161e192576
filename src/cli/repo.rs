//! `cidfs repo`: the store as a whole.

use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::api::repo::{RepoStat, Swept, VerifyProgress};
use crate::cli::call::Call;
use crate::cli::client::{Client, daemon};
use crate::cli::failure::{Failure, tell};
use crate::cli::output::{Output, human_size};
use crate::cli::{Global, print_lines};
use crate::node;

/// Look at the repository, check it, repair it
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs repo stat --human
  cidfs repo gc --dry-run
  cidfs repo verify
  cidfs repo rebuild")]
pub(crate) enum Repo {
    Stat(Stat),
    Gc(Gc),
    Verify(Verify),
    Version(Version),
    Rebuild(Rebuild),
}

impl Repo {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Stat(command) => command.run(global, client).await,
            Self::Gc(command) => command.run(global, client).await,
            Self::Verify(command) => command.run(global, client).await,
            Self::Version(command) => command.run(global, client).await,
            Self::Rebuild(_) => unreachable!("this was run without a client"),
        }
    }
}

/// Print how much is stored
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs repo stat
  cidfs repo stat --size-only --human")]
pub(crate) struct Stat {
    /// Print sizes only
    #[arg(short, long)]
    size_only: bool,
    /// Print sizes for people (1.2 GB)
    #[arg(short = 'H', long)]
    human: bool,
}

impl Stat {
    /// Prints it.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("repo/stat")).await?;
        print_lines(answer, global, |out, stat: RepoStat| {
            let size = |bytes| if self.human { human_size(bytes) } else { bytes.to_string() };
            if !self.size_only {
                out.line(format!("NumObjects: {}", stat.num_objects))?;
            }
            out.line(format!("RepoSize:   {}", size(stat.repo_size)))?;
            out.line(format!("StorageMax: {}", size(stat.storage_max)))?;
            if !self.size_only {
                out.line(format!("RepoPath:   {}", stat.repo_path))?;
                out.line(format!("Version:    {}", stat.version))?;
            }
            Ok(())
        })
        .await
    }
}

/// Remove everything that is not pinned
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs repo gc --dry-run      say what would go
  cidfs repo gc

What is being added, pinned or read meanwhile stays. Without this, what is not pinned stays as a
cache until store.cache_max_bytes is reached.")]
pub(crate) struct Gc {
    /// Remove nothing, say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Gc {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("repo/gc").switch("dry-run", self.dry_run);
        let bar = crate::cli::progress::Progress::count(None, "blocks removed");
        let verb = if self.dry_run { "would remove" } else { "removed" };
        print_lines(client.send(call).await?, global, |out, swept: Swept| {
            bar.set(swept.blocks);
            if !swept.done {
                return Ok(());
            }
            let (blocks, bytes) = (swept.blocks, human_size(swept.bytes));
            let left = human_size(swept.disk_bytes);
            let line = format!("{verb} {blocks} blocks ({bytes}); the store takes {left} of disk");
            Ok(bar.above(|| out.line(line))?)
        })
        .await
    }
}

/// Read every block and check it against its CID
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs repo verify
  cidfs repo verify --repair

A damaged block is never served. Add or import its content again and it is whole; --repair asks
other nodes for it, until none came for a minute. What was lost with a whole file counts as damaged
too; a file that was set aside (*.broken-N) and is named here can be deleted when nobody misses what
was in it.")]
pub(crate) struct Verify {
    /// Fetch damaged blocks again
    #[arg(long)]
    repair: bool,
}

impl Verify {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("repo/verify").switch("repair", self.repair);
        let answer = client.send(call).await?;
        let bar = crate::cli::progress::Progress::count(None, "blocks processed");
        print_lines(answer, global, |out, event: VerifyProgress| {
            bar.set(event.progress);
            if event.msg.is_empty() {
                return Ok(());
            }
            Ok(bar.above(|| out.line(event.msg))?)
        })
        .await
    }
}

/// Print the version of the repository's format
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs repo version")]
pub(crate) struct Version {
    /// Print the number only
    #[arg(short, long)]
    quiet: bool,
}

impl Version {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("repo/version")).await?;
        print_lines(answer, global, |out, version: Json| {
            let number = version["Version"].as_str().unwrap_or_default();
            let words = if self.quiet { "" } else { "cidfs repo version " };
            Ok(out.line(format!("{words}{number}"))?)
        })
        .await
    }
}

/// Make all indexes anew from the stored blocks
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs repo rebuild

Nobody may use the repository meanwhile. Damaged packs are set aside, never deleted.")]
pub(crate) struct Rebuild {}

impl Rebuild {
    /// Rebuilds; the node cannot, because nobody may have the repository open.
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let repo = global.repository()?;
        if daemon(&repo).await?.is_some() {
            let error = format!("a daemon is using the repository {}", repo.display());
            return Err(
                Failure::new(error).hint("stop it first, for instance with `cidfs shutdown`")
            );
        }
        let bar = crate::cli::progress::Progress::count(None, "blocks read");
        let rebuild = tokio::task::spawn_blocking(move || {
            node::rebuild(&repo, &mut |done| {
                bar.set(done.blocks);
                ControlFlow::Continue(())
            })
        });
        let report = rebuild.await.map_err(Failure::new)??;
        let mut out = Output::new();
        let set_aside: Vec<String> =
            report.set_aside.iter().map(|path| path.display().to_string()).collect();
        if global.json {
            let damaged: Vec<&str> =
                report.damaged.iter().map(|damage| damage.place.as_str()).collect();
            let summary = json!({
                "Packs": report.packs, "Blocks": report.blocks, "Bytes": report.bytes,
                "Damaged": damaged, "SetAside": set_aside,
            });
            out.line(summary.to_string())?;
        } else {
            let (packs, blocks) = (report.packs, report.blocks);
            let bytes = human_size(report.bytes);
            out.line(format!("rebuilt {packs} packs with {blocks} blocks ({bytes})"))?;
            for damage in &report.damaged {
                let cid = damage.cid.map(|cid| cid.to_string()).unwrap_or_default();
                out.line(format!("damaged: {} {cid}", damage.place))?;
            }
        }
        std::io::Write::flush(&mut out)?;
        for path in &set_aside {
            tell(format_args!("set aside: {path}"));
        }
        Ok(())
    }
}
