//! `cidfs store`: archives of others, and plain files, that are used where they lie.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;

use crate::api::store::{PackAdded, PackEvent, PackRemoved, PackStat};
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::output::{Columns, Output, human_size};
use crate::cli::progress::Progress;
use crate::cli::{Global, print_json, print_lines};

/// Use archives (CAR) where they lie, without copying them
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs store add-pack /data/wikipedia.car
  cidfs store ls-packs
  cidfs store rm-pack /data/wikipedia.car

An archive is only read. It may be removed or changed at any time: its blocks are then missing here,
never wrong. To keep content whatever becomes of the file, use `cidfs dag import`.")]
pub(crate) enum Store {
    AddPack(AddPack),
    LsPacks(LsPacks),
    RmPack(RmPack),
}

impl Store {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::AddPack(command) => command.run(global, client).await,
            Self::LsPacks(command) => command.run(global, client).await,
            Self::RmPack(command) => command.run(global, client).await,
        }
    }
}

/// Use archives from now on: hash each of their blocks once and remember where they lie
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs store add-pack /data/wikipedia.car
  cidfs store add-pack /data/cars               every *.car in that directory

An archive that is used already is not read again unless it was changed. Its roots are not pinned,
and need not be: what is in it is never collected.")]
pub(crate) struct AddPack {
    /// CAR files of version 1 or 2, or directories of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Show progress [default: on a terminal]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
}

impl AddPack {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let shows_progress = self.progress.unwrap_or(!global.json && Progress::is_wanted(None));
        let call = Call::new("store/add-pack").switch("progress", shows_progress);
        let call = with_paths(call, &self.paths)?;
        let bar = Progress::start(Some(shows_progress), None);
        print_lines(client.send(call).await?, global, |out, event: PackEvent| {
            if let Some(progress) = event.progress {
                bar.total().set(progress.total);
                bar.set(progress.bytes);
            }
            if let Some(error) = event.error {
                bar.above(|| tell(error));
            }
            event.added.map_or(Ok(()), |added| bar.above(|| print_added(out, &added)))
        })
        .await
    }
}

fn print_added(out: &mut Output, added: &PackAdded) -> Result<(), Failure> {
    let PackStat { path, num_blocks, block_bytes, .. } = &added.pack;
    out.line(format!("using {path}: {num_blocks} blocks ({})", human_size(*block_bytes)))?;
    if added.refused > 0 {
        let (count, first) = (added.refused, &added.first_refused);
        tell(format_args!("{path}: {count} sections were left out; {first}"));
    }
    Ok(())
}

/// List the files in use: archives, and files added with `add --nocopy`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs store ls-packs
  cidfs store ls-packs --quiet")]
pub(crate) struct LsPacks {
    /// Print paths only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Packs {
    packs: Vec<PackStat>,
}

impl LsPacks {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("store/ls-packs");
        if global.json {
            return print_json(client, call).await;
        }
        let Packs { packs } = client.send(call).await?.json().await?;
        let mut out = Output::new();
        let mut columns = Columns::default();
        for pack in packs {
            let cells = if self.quiet { vec![pack.path] } else { cells_of(pack) };
            let cells = cells.into_iter().map(String::into_bytes).collect();
            columns.row(&mut out, cells)?;
        }
        Ok(columns.finish(&mut out)?)
    }
}

fn cells_of(pack: PackStat) -> Vec<String> {
    let (blocks, size) = (format!("{} blocks", pack.num_blocks), human_size(pack.block_bytes));
    let problem = match &*pack.problem {
        "" => String::new(),
        problem => format!(" (out of use: it {problem}; add it again, or remove it)"),
    };
    vec![pack.kind, blocks, size, pack.path + &problem]
}

/// Use archives, or files added with `add --nocopy`, no longer; the files are left alone
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs store rm-pack /data/wikipedia.car
  cidfs store rm-pack film.mkv                  what was added with `cidfs add --nocopy`

Blocks that are stored nowhere else are missing here from then on, pinned or not.")]
pub(crate) struct RmPack {
    /// The files, which may be gone by now
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl RmPack {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = with_paths(Call::new("store/rm-pack"), &self.paths)?;
        print_lines(client.send(call).await?, global, |out, removed: PackRemoved| {
            Ok(out.line(format!("no longer using {}", removed.path))?)
        })
        .await
    }
}

/// Adds paths as they are from here; the daemon may run in another directory.
fn with_paths(call: Call, paths: &[PathBuf]) -> Result<Call, Failure> {
    paths.iter().try_fold(call, |call, path| Ok(call.path("path", &std::path::absolute(path)?)))
}
