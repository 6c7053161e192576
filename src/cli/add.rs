//! `cidfs add`: files, directories and standard input become blocks.
//!
//! Paths are handed to the node as they are: it reads them itself, so that both cores hash and
//! nothing is copied through a socket. Standard input is sent the way kubo's clients send files.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::api::add::{AddEvent, MODE_LOST};
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::upload::{is_standard_input, standard_input};
use crate::cli::{Global, print_json};
use crate::codec::unixfs::MODE_MASK;
use crate::unixfs::import::{Follow, Selection, content_len};

const EXAMPLES: &str = "Examples:
  cidfs add photo.jpg
  cidfs add -r photos                       a directory
  cidfs add -rQ photos                      print the last CID only
  tar c src | cidfs add --stdin-name=src.tar
  cidfs add --nocopy film.mkv               use the file where it lies
  cidfs add -n --profile=unixfs-v0-2015 f   only tell the CID, the way it used to be

With --nocopy, files over 2 MB are read but not copied; smaller ones are copied, since a reference
would cost more than it saves. Such a file must stay where it is, as it is: once it is changed, moved
or removed, reading what lies nowhere else is an error that names it, never wrong bytes. `cidfs store
ls-packs` lists these files, `cidfs store rm-pack` forgets one; nothing else does, `repo gc` neither.";

/// Import files and directories; print their CIDs
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(after_help = EXAMPLES)]
pub(crate) struct Add {
    /// Files or directories; standard input if there are none, or for `-`
    paths: Vec<PathBuf>,
    /// Add directories with what is in them
    #[arg(short, long)]
    recursive: bool,
    /// Print CIDs only
    #[arg(short, long)]
    quiet: bool,
    /// Print only the last CID
    #[arg(short = 'Q', long)]
    quieter: bool,
    /// Print nothing
    #[arg(long)]
    silent: bool,
    /// Show progress [default: on a terminal]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
    /// Only chunk and hash, write nothing
    #[arg(short = 'n', long)]
    only_hash: bool,
    /// Refer to files over 2 MB where they lie instead of copying them
    #[arg(long)]
    nocopy: bool,
    /// Put the files into a directory of their names
    #[arg(short, long = "wrap-with-directory", visible_alias = "wrap")]
    wrap: bool,
    /// Pin the result, so that it stays
    #[arg(long, require_equals = true)]
    pin: Option<bool>,
    /// Name of the pin
    #[arg(long, value_name = "NAME")]
    pin_name: Option<String>,
    /// Name of standard input in the wrapping directory
    #[arg(long, value_name = "NAME")]
    stdin_name: Option<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    metadata: MetadataOptions,
}

/// Which files are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Which files")]
struct Which {
    /// Take hidden files too
    #[arg(short = 'H', long)]
    hidden: bool,
    /// Leave out what matches (as in .gitignore); may be given several times
    #[arg(long, value_name = "RULE")]
    ignore: Vec<String>,
    /// Leave out what matches the rules in this file
    #[arg(long, value_name = "FILE")]
    ignore_rules_path: Option<PathBuf>,
    /// Follow symbolic links among the arguments
    #[arg(long)]
    dereference_args: bool,
    /// Follow all symbolic links
    #[arg(long)]
    dereference_symlinks: bool,
    /// Take empty directories [default: true]
    #[arg(short = 'E', long, require_equals = true)]
    empty_dirs: Option<bool>,
}

/// How files become blocks.
#[derive(Debug, Args)]
#[command(next_help_heading = "How files become blocks")]
struct Shape {
    /// A set of choices by name: unixfs-v1-2025 or unixfs-v0-2015 [default: import.profile]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// size-BYTES, rabin-MIN-AVG-MAX or buzhash
    #[arg(short = 's', long, value_name = "CHUNKER")]
    chunker: Option<String>,
    /// Use the trickle layout
    #[arg(short, long)]
    trickle: bool,
    /// Leaves as raw blocks
    #[arg(long, require_equals = true)]
    raw_leaves: Option<bool>,
    /// CID version, 0 or 1
    #[arg(long, value_name = "VERSION")]
    cid_version: Option<u8>,
    /// Hash function
    #[arg(long, value_name = "NAME")]
    hash: Option<String>,
    /// Put small blocks into their CID
    #[arg(long)]
    inline: bool,
    /// Longest block put into its CID, in bytes [default: 32]
    #[arg(long, value_name = "BYTES")]
    inline_limit: Option<usize>,
    /// Most links in a node of a file
    #[arg(long, value_name = "N")]
    max_file_links: Option<usize>,
    /// Most entries in a directory before it is sharded
    #[arg(long, value_name = "N")]
    max_directory_links: Option<usize>,
    /// Most links in a node of a sharded directory
    #[arg(long, value_name = "N")]
    max_hamt_fanout: Option<usize>,
}

/// Permissions and times.
#[derive(Debug, Args)]
#[command(next_help_heading = "Permissions and times")]
struct MetadataOptions {
    /// Keep permissions (but 0000, which is not stored, as with other IPFS tools)
    #[arg(long)]
    preserve_mode: bool,
    /// Keep modification times
    #[arg(long)]
    preserve_mtime: bool,
    /// Store these permissions (octal, as 644 or 0644, up to 7777; 0 stores none)
    #[arg(long, value_name = "MODE", value_parser = octal_mode)]
    mode: Option<u32>,
    /// Store this modification time (seconds since 1970)
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    mtime: Option<i64>,
    /// Its nanoseconds
    #[arg(long, value_name = "NANOSECONDS")]
    mtime_nsecs: Option<u32>,
}

impl Add {
    /// Adds, and prints what became of each file.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = self.source(self.options())?;
        if self.metadata.mode == Some(0) {
            tell(format_args!("Warning: --mode=0: {MODE_LOST}"));
        }
        if global.json {
            return print_json(client, call).await.map_err(unfinished);
        }
        let shows_progress =
            !(self.quiet || self.quieter || self.silent) || self.progress.is_some();
        let wanted = if shows_progress { self.progress } else { Some(false) };
        let call = call.switch("progress", Progress::is_wanted(wanted));
        let progress = Progress::start(wanted, None);
        if Progress::is_wanted(wanted) {
            self.measure(&progress);
        }
        let answer = client.send(call).await?;
        let mut printer = Printer::new(self, progress);
        answer.lines(|event| printer.event(event)).await.map_err(unfinished)?;
        printer.finish()
    }

    fn options(&self) -> Call {
        let Self { which, shape, metadata, .. } = self;
        let call = Call::new("add")
            .switch("recursive", self.recursive)
            .switch("only-hash", self.only_hash)
            .switch("warnings", true)
            .switch("nocopy", self.nocopy)
            .switch("wrap-with-directory", self.wrap)
            .maybe("pin", self.pin.as_ref())
            .maybe("pin-name", self.pin_name.as_ref())
            .switch("hidden", which.hidden)
            .switch("dereference-args", which.dereference_args)
            .switch("dereference-symlinks", which.dereference_symlinks)
            .maybe("empty-dirs", which.empty_dirs.as_ref())
            .maybe("profile", shape.profile.as_ref())
            .maybe("chunker", shape.chunker.as_ref())
            .switch("trickle", shape.trickle)
            .maybe("raw-leaves", shape.raw_leaves.as_ref())
            .maybe("cid-version", shape.cid_version.as_ref())
            .maybe("hash", shape.hash.as_ref())
            .switch("inline", shape.inline)
            .maybe("inline-limit", shape.inline_limit.as_ref())
            .maybe("max-file-links", shape.max_file_links.as_ref())
            .maybe("max-directory-links", shape.max_directory_links.as_ref())
            .maybe("max-hamt-fanout", shape.max_hamt_fanout.as_ref())
            .switch("preserve-mode", metadata.preserve_mode)
            .switch("preserve-mtime", metadata.preserve_mtime)
            .maybe("mode", metadata.mode.map(|mode| format!("0{mode:o}")).as_ref())
            .maybe("mtime", metadata.mtime.as_ref())
            .maybe("mtime-nsecs", metadata.mtime_nsecs.as_ref());
        which.ignore.iter().fold(call, |call, rule| call.path("ignore", Path::new(rule)))
    }

    /// Adds what is to be read: paths, absolute because the node has another working directory.
    fn source(&self, mut call: Call) -> Result<Call, Failure> {
        if is_standard_input(&self.paths) {
            if self.nocopy {
                return Err(Failure::usage(
                    "--nocopy refers to files where they lie, and standard input lies nowhere",
                ));
            }
            return standard_input(call, self.stdin_name.as_deref().unwrap_or_default());
        }
        if self.paths.iter().any(|path| path.as_os_str() == "-") {
            return Err(Failure::usage("standard input (-) cannot be mixed with files"));
        }
        if let Some(rules) = &self.which.ignore_rules_path {
            call = call.path("ignore-rules-path", &std::path::absolute(rules)?);
        }
        for path in &self.paths {
            call = call.path("path", &std::path::absolute(path)?);
        }
        Ok(call)
    }

    /// Finds out meanwhile how many bytes will be read. What stands in the way is reported by the
    /// import itself.
    fn measure(&self, progress: &Progress) {
        if is_standard_input(&self.paths) {
            return;
        }
        let selection = Selection {
            hidden: self.which.hidden,
            ignore: self.which.ignore.clone(),
            ignore_rules: self.which.ignore_rules_path.clone(),
            follow: match (self.which.dereference_symlinks, self.which.dereference_args) {
                (true, _) => Follow::Always,
                (false, true) => Follow::Arguments,
                (false, false) => Follow::Never,
            },
        };
        let (paths, total) = (self.paths.clone(), progress.total());
        tokio::task::spawn_blocking(move || {
            if let Ok(len) = content_len(&paths, &selection) {
                total.set(len);
            }
        });
    }
}

/// Reads permissions as chmod(1) does. The control API takes digits without a leading zero as decimal, as
/// kubo's does.
fn octal_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal = digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= MODE_MASK);
    mode.ok_or_else(|| "permissions are octal, from 0 to 7777, as 0644".to_owned())
}

/// An import ends when nobody reads what it prints.
fn unfinished(failure: Failure) -> Failure {
    failure.or_unfinished("standard output was closed before everything was added")
}

struct Printer<'a> {
    add: &'a Add,
    out: Output,
    progress: Progress,
    /// Bytes of the files that are finished.
    done: u64,
    /// The file under way and its bytes so far.
    under_way: Option<(Vec<u8>, u64)>,
    last_hash: Option<String>,
}

impl<'a> Printer<'a> {
    fn new(add: &'a Add, progress: Progress) -> Self {
        Self { add, out: Output::new(), progress, done: 0, under_way: None, last_hash: None }
    }

    fn event(&mut self, event: AddEvent) -> Result<(), Failure> {
        let name = event.name.bytes();
        if let Some(warning) = event.warning {
            let name = String::from_utf8_lossy(&name);
            self.progress.above(|| tell(format_args!("Warning: {name}: {warning}")));
            return Ok(());
        }
        let Some(hash) = event.hash else {
            self.count(name, event.bytes.unwrap_or_default());
            return Ok(());
        };
        if !self.add.silent && !self.add.quieter {
            let mut line = hash.clone().into_bytes();
            if !self.add.quiet {
                line = [b"added ", &line[..], b" ", &name].concat();
            }
            let Self { out, progress, .. } = self;
            progress.above(|| out.line(line).and_then(|()| out.flush()))?;
        }
        self.last_hash = Some(hash);
        Ok(())
    }

    fn count(&mut self, name: Vec<u8>, bytes: u64) {
        match &mut self.under_way {
            Some((last, so_far)) if *last == name && *so_far <= bytes => *so_far = bytes,
            last => {
                self.done += last.take().map_or(0, |(_, bytes)| bytes);
                *last = Some((name, bytes));
            }
        }
        self.progress.set(self.done + bytes);
    }

    fn finish(mut self) -> Result<(), Failure> {
        if self.add.quieter
            && let Some(hash) = &self.last_hash
        {
            self.out.line(hash)?;
        }
        Ok(self.out.flush()?)
    }
}
