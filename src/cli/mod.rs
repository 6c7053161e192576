//! The command line: kubo's words, options and output, for people and for scripts.
//!
//! Every command is a client of the control API, whether a daemon runs or not; what a command
//! means is decided there. Here are arguments, messages, progress, exit codes, and the only
//! places that read the environment.

mod add;
mod block;
mod bootstrap;
mod call;
mod client;
mod config;
mod daemon;
mod dag;
mod failure;
mod fetch;
mod get;
mod helper;
mod init;
mod log;
mod ls;
mod mount;
mod output;
mod part;
mod pin;
mod progress;
mod read;
mod repo;
mod stats;
mod status;
mod store;
mod swarm;
mod unpack;
mod upload;
mod visible;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::api::request::parse_duration;
use crate::cli::call::{Answer, Call, parse};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::sys::memory;

/// IPFS as ordinary files.
#[derive(Debug, Parser)]
#[command(name = "cidfs", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cidfs init                         make a repository
  cidfs add -r photos                import a directory, print its CIDs
  cidfs mount /ipfs ~/ipfs           show /ipfs there
  ls ~/ipfs/<cid>                    and use it like any directory
  cidfs umount ~/ipfs";

/// How much later than `--timeout` a command gives up by itself: the node says more of what was waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
struct Global {
    /// The repository [default: `$CIDFS_PATH`, `$XDG_DATA_HOME/cidfs` or ~/.local/share/cidfs]
    #[arg(long, global = true, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// Use only what is on this machine
    #[arg(long, global = true)]
    offline: bool,
    /// Give up after this time (30s, 5m)
    #[arg(long, global = true, value_name = "TIME")]
    timeout: Option<String>,
    /// Write CIDv1 in this base (base32, base36, base58btc, …)
    #[arg(long, global = true, value_name = "BASE")]
    cid_base: Option<String>,
    /// Print JSON, as the control API sends it
    #[arg(long, global = true)]
    json: bool,
}

impl Global {
    /// Returns when a node that was given `--timeout` should have answered long since.
    fn deadline(&self) -> Option<Instant> {
        // The node says what is wrong with a time that is none.
        let timeout = parse_duration(self.timeout.as_ref()?).ok()?;
        Some(Instant::now() + timeout + ANSWER_GRACE)
    }
}

/// Waits for work that a daemon may not answer.
async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(deadline) = deadline else { return work.await };
    timeout_at(deadline, work).await.unwrap_or_else(|_late| {
        Err(Failure::new("context deadline exceeded: the time given by --timeout has passed").hint(
            "the daemon did not say so itself; is it stopped, or does it have too much to do?",
        ))
    })
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Add(Box<add::Add>),
    Cat(read::Cat),
    Ls(ls::Ls),
    Get(get::Get),
    Stat(read::Stat),
    Resolve(read::Resolve),
    Fetch(fetch::Fetch),
    #[command(subcommand)]
    Pin(pin::Pin),
    #[command(subcommand)]
    Dag(dag::Dag),
    #[command(subcommand)]
    Block(block::Block),
    Refs(dag::Refs),
    #[command(subcommand)]
    Repo(repo::Repo),
    #[command(subcommand)]
    Store(store::Store),
    Id(swarm::Id),
    #[command(subcommand)]
    Swarm(swarm::Swarm),
    #[command(subcommand)]
    Bitswap(swarm::Bitswap),
    Bootstrap(bootstrap::Bootstrap),
    Ping(stats::Ping),
    #[command(subcommand)]
    Stats(stats::Stats),
    Config(config::Config),
    Daemon(daemon::Daemon),
    Mount(mount::Mount),
    Umount(mount::Umount),
    Status(status::Status),
    Shutdown(daemon::Shutdown),
    Version(status::Version),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    memory::bound_heaps();
    let arguments = match helper::arguments(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(failure) => return failure.report(),
    };
    let cli = match parse_arguments(arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    if let Err(error) = survive_file_limits(&runtime) {
        return Failure::from(error).report();
    }
    let result = runtime.block_on(cli.command.run(cli.global));
    // Threads that still read standard input or a slow disk must not keep the process.
    runtime.shutdown_background();
    result.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Makes a file that may not grow any more (`ulimit -f`) an error of the write, as a full disk is, and not the
/// end of this process.
fn survive_file_limits(runtime: &Runtime) -> io::Result<()> {
    let _runtime = runtime.enter();
    // The handler stays; nobody has to hear of it.
    signal(SignalKind::from_raw(Signal::SIGXFSZ as i32)).map(drop)
}

/// Parses the command line; help, or what is wrong with it, is told here.
fn parse_arguments(arguments: Vec<OsString>) -> Result<Cli, ExitCode> {
    let matches = switches_take_values(Cli::command()).try_get_matches_from(arguments);
    let cli = matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    cli.map_err(|error| report(&error))
}

fn report(error: &clap::Error) -> ExitCode {
    match error.print().and_then(|()| io::stdout().flush()) {
        // Help that could not be written was all that was asked for.
        Err(failed) if !error.use_stderr() => Failure::from(failed).report(),
        _ => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

/// Every switch may be written `--switch=true` or `--switch=false`, as those of kubo.
fn switches_take_values(command: clap::Command) -> clap::Command {
    let value = |arg: clap::Arg| {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(clap::value_parser!(bool))
            .value_name("BOOL")
            .hide_possible_values(true)
    };
    let switch = |arg: clap::Arg| match arg.get_action() {
        ArgAction::SetTrue => {
            value(arg).action(ArgAction::Set).default_value("false").hide_default_value(true)
        }
        ArgAction::Set if arg.is_require_equals_set() => value(arg),
        _ => arg,
    };
    command.mut_args(switch).mut_subcommands(switches_take_values)
}

impl Command {
    async fn run(self, global: Global) -> Result<(), Failure> {
        match self {
            Self::Init(command) => command.run(&global),
            Self::Daemon(command) => command.run(&global).await,
            Self::Mount(command) => command.run(&global).await,
            Self::Version(command) => command.run(&global),
            Self::Repo(repo::Repo::Rebuild(command)) => command.run(&global).await,
            other => {
                log::start(None, false)?;
                let deadline = global.deadline();
                let client = within(deadline, Client::open(&global)).await?;
                // A repository that this process has open is closed in any case, and keeps to the time itself.
                let deadline = deadline.filter(|_| client.is_daemon());
                let result = within(deadline, other.ask(&global, &client)).await;
                // The command's own failure is the one to tell, but the repository is closed.
                let closed = client.close().await;
                result.and(closed)
            }
        }
    }

    async fn ask(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Add(command) => command.run(global, client).await,
            Self::Cat(command) => command.run(client).await,
            Self::Ls(command) => command.run(global, client).await,
            Self::Get(command) => command.run(client).await,
            Self::Stat(command) => command.run(global, client).await,
            Self::Resolve(command) => command.run(global, client).await,
            Self::Fetch(command) => command.run(global, client).await,
            Self::Pin(command) => command.run(global, client).await,
            Self::Dag(command) => command.run(global, client).await,
            Self::Block(command) => command.run(global, client).await,
            Self::Refs(command) => command.run(global, client).await,
            Self::Repo(command) => command.run(global, client).await,
            Self::Store(command) => command.run(global, client).await,
            Self::Id(command) => command.run(global, client).await,
            Self::Swarm(command) => command.run(global, client).await,
            Self::Bitswap(command) => command.run(global, client).await,
            Self::Bootstrap(command) => command.run(global, client).await,
            Self::Ping(command) => command.run(global, client).await,
            Self::Stats(command) => command.run(global, client).await,
            Self::Config(command) => command.run(global, client).await,
            Self::Umount(command) => command.run(client).await,
            Self::Status(command) => command.run(global, client).await,
            Self::Shutdown(command) => command.run(global, client).await,
            Self::Init(_) | Self::Daemon(_) | Self::Mount(_) | Self::Version(_) => {
                unreachable!("these were run without a client")
            }
        }
    }
}

impl Global {
    /// Returns the directory of the repository.
    fn repository(&self) -> Result<PathBuf, Failure> {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(repo) = self.repo.clone().or_else(|| from("CIDFS_PATH").map(PathBuf::from)) {
            return Ok(std::path::absolute(repo)?);
        }
        // One that is relative counts as none (XDG Base Directory Specification).
        let data = from("XDG_DATA_HOME").map(PathBuf::from).filter(|data| data.is_absolute());
        let repo = match (data, from("HOME")) {
            (Some(data), _) => data.join("cidfs"),
            (None, Some(home)) => PathBuf::from(home).join(".local/share/cidfs"),
            // A system service has no home.
            (None, None) => PathBuf::from("/var/lib/cidfs"),
        };
        Ok(std::path::absolute(repo)?)
    }
}

/// Sends a call and prints its JSON as it comes.
async fn print_json(client: &Client, call: Call) -> Result<(), Failure> {
    client.send(call).await?.copy_to(&mut Output::new(), |_| ()).await
}

/// Prints each JSON value of a stream for people, as `each` does, or as it is for scripts; nothing is held back
/// while the next one is waited for.
async fn print_lines<T: serde::de::DeserializeOwned>(
    answer: Answer,
    global: &Global,
    mut each: impl FnMut(&mut Output, T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut out = Output::new();
    // What `each` learns about success counts for scripts too.
    let mut muted = Output::muted();
    let printed = answer.raw_lines(|line| {
        let Some(line) = line else { return Ok(out.flush()?) };
        if global.json {
            out.line(line)?;
            return each(&mut muted, parse(line)?);
        }
        each(&mut out, parse(line)?)
    });
    let result = printed.await;
    result.and(out.flush().map_err(Failure::from))
}
