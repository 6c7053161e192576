//! `cidfs ls`: names, CIDs and sizes in columns.

use std::ffi::OsString;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::api::ls::{LsLink, LsOutput, types};
use crate::api::stat::posix_mode;
use crate::api::time;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Columns, Output};
use crate::cli::read::mode_text;
use crate::cli::{Global, print_json};

/// List directories
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs ls bafybeig…
  cidfs ls -l /ipfs/bafybeig…/docs
  cidfs ls --size=false --resolve-type=false bafybeig…   names only, from the directory alone")]
pub(crate) struct Ls {
    /// Directories: CIDs, or paths below one
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Print a line of headings
    #[arg(short = 'v', long)]
    headers: bool,
    /// Print permissions and times
    #[arg(short, long)]
    long: bool,
    /// Print sizes [default: true]
    #[arg(long, require_equals = true)]
    size: Option<bool>,
    /// Look up what each entry is [default: true]
    #[arg(long, require_equals = true)]
    resolve_type: Option<bool>,
    /// Print names as they come, without aligning them
    #[arg(short, long)]
    stream: bool,
}

impl Ls {
    /// Prints the listing.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("ls")
            .args(&self.paths)
            .maybe("size", self.size.as_ref())
            .maybe("resolve-type", self.resolve_type.as_ref());
        if global.json {
            return print_json(client, call.switch("stream", self.stream)).await;
        }
        let answer = client.send(call.option("stream", true).option("batches", true)).await?;
        let mut printer = Printer::new(self);
        let result = answer.lines(|output| printer.output(output)).await;
        // What was listed before an error is shown, then the error.
        let finished = printer.finish();
        result.and(finished)
    }
}

struct Printer<'a> {
    ls: &'a Ls,
    out: Output,
    columns: Columns,
    last_object: Option<String>,
    now: i64,
}

impl<'a> Printer<'a> {
    fn new(ls: &'a Ls) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        Self { ls, out: Output::new(), columns: Columns::default(), last_object: None, now }
    }

    fn output(&mut self, output: LsOutput) -> Result<(), Failure> {
        for object in output.objects {
            if self.last_object.as_ref() != Some(&object.hash) {
                self.heading(&object.hash)?;
                self.last_object = Some(object.hash);
            }
            for link in object.links {
                let cells = self.cells(&link);
                self.columns.row(&mut self.out, cells)?;
            }
            if self.ls.stream {
                self.columns.finish(&mut self.out)?;
            }
        }
        Ok(())
    }

    fn heading(&mut self, object: &str) -> Result<(), Failure> {
        self.columns.finish(&mut self.out)?;
        if self.ls.paths.len() > 1 {
            if self.last_object.is_some() {
                self.out.line("")?;
            }
            self.out.line(format!("{object}:"))?;
        }
        if self.ls.headers {
            let words: &[&str] = match (self.ls.long, self.shows_size()) {
                (true, true) => &["Mode", "Hash", "Size", "ModTime", "Name"],
                (true, false) => &["Mode", "Hash", "ModTime", "Name"],
                (false, true) => &["Hash", "Size", "Name"],
                (false, false) => &["Hash", "Name"],
            };
            let cells = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            self.columns.row(&mut self.out, cells)?;
        }
        Ok(())
    }

    fn shows_size(&self) -> bool {
        self.ls.size.unwrap_or(true)
    }

    fn cells(&self, link: &LsLink) -> Vec<Vec<u8>> {
        let is_directory = matches!(link.r#type, types::DIRECTORY | types::SHARDED);
        let size = match link.r#type {
            types::UNKNOWN if self.looks() => "?".to_owned(),
            types::DIRECTORY | types::SHARDED => "-".to_owned(),
            _ => link.size.to_string(),
        };
        let mut name = link.name.bytes();
        if is_directory {
            name.push(b'/');
        }
        let mut cells = Vec::new();
        if self.ls.long {
            cells.push(mode(link).into_bytes());
        }
        cells.push(link.hash.clone().into_bytes());
        if self.shows_size() {
            cells.push(size.into_bytes());
        }
        if self.ls.long {
            let time = link.mtime.map_or_else(|| "-".to_owned(), |at| time::short(at, self.now));
            cells.push(time.into_bytes());
        }
        cells.push(name);
        cells
    }

    fn looks(&self) -> bool {
        self.ls.resolve_type.unwrap_or(true) || self.shows_size()
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.columns.finish(&mut self.out)?;
        Ok(self.out.flush()?)
    }
}

fn mode(link: &LsLink) -> String {
    let kind = match link.r#type {
        types::DIRECTORY | types::SHARDED => "directory",
        types::SYMLINK => "symlink",
        _ => "file",
    };
    link.mode.map_or_else(|| "-".to_owned(), |mode| mode_text(kind, posix_mode(mode)))
}
