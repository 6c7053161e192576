//! `cidfs cat`, `stat` and `resolve`: one object at a time.

use std::ffi::OsString;

use clap::Args;

use crate::api::resolve::Resolved;
use crate::api::stat::FileStat;
use crate::api::time;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, human_size};
use crate::cli::progress::Progress;
use crate::cli::{Global, print_json, print_lines};

/// Write the content of files to standard output
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs cat bafybeig…/readme.md
  cidfs cat /ipfs/bafybeig…/video --offset=1000000 --length=4096 | xxd")]
pub(crate) struct Cat {
    /// What to read: a CID, or a path below one
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Skip this many bytes
    #[arg(short, long, value_name = "BYTES")]
    offset: Option<u64>,
    /// Write at most this many bytes
    #[arg(short, long, value_name = "BYTES")]
    length: Option<u64>,
    /// Show progress [default: no]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
}

impl Cat {
    /// Copies the content.
    pub(crate) async fn run(&self, client: &Client) -> Result<(), Failure> {
        let call = Call::new("cat")
            .args(&self.paths)
            .maybe("offset", self.offset.as_ref())
            .maybe("length", self.length.as_ref());
        let answer = client.send(call).await?;
        let progress = Progress::start(Some(self.progress == Some(true)), answer.content_len());
        answer.copy_to(&mut Output::new(), |len| progress.add(len)).await
    }
}

/// Show what a file or directory is
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs stat bafybeig…/readme.md
  cidfs stat --format='<hash> <type>' bafybeig…
  cidfs stat --with-local --json bafybeig…")]
pub(crate) struct Stat {
    /// A CID, or a path below one
    path: OsString,
    /// Print these fields: <hash> <size> <cumulsize> <type> <childs> <mode> <mode-octal>
    /// <mtime> <mtime-secs> <mtime-nsecs>
    #[arg(long, conflicts_with_all = ["hash", "size"])]
    format: Option<String>,
    /// Print the CID only
    #[arg(long, conflicts_with = "size")]
    hash: bool,
    /// Print the size of the whole DAG only
    #[arg(long)]
    size: bool,
    /// Count how much of it is on this machine
    #[arg(long)]
    with_local: bool,
}

const STAT_FORMAT: &str = "<hash>
Size: <size>
CumulativeSize: <cumulsize>
ChildBlocks: <childs>
Type: <type>
Mode: <mode> (<mode-octal>)
Mtime: <mtime>";

impl Stat {
    /// Prints the facts.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("stat").arg(&self.path).switch("with-local", self.with_local);
        if global.json {
            return print_json(client, call).await;
        }
        let format = match (self.hash, self.size) {
            (true, _) => "<hash>",
            (_, true) => "<cumulsize>",
            _ => self.format.as_deref().unwrap_or(STAT_FORMAT),
        };
        print_lines(client.send(call).await?, global, |out, stat: FileStat| {
            out.line(fill(format, &stat))?;
            if let (true, Some(local)) = (self.with_local, stat.size_local) {
                out.line(local_line(local, stat.cumulative_size))?;
            }
            Ok(())
        })
        .await
    }
}

fn fill(format: &str, stat: &FileStat) -> String {
    let not_set = || "not set".to_owned();
    let (mode, octal) = match stat.mode_bits() {
        Some(bits) => (mode_text(&stat.r#type, bits), format!("{bits:04o}")),
        None => (not_set(), not_set()),
    };
    let nsecs = stat.mtime_nsecs.unwrap_or_default();
    format
        .replace("<hash>", &stat.hash)
        .replace("<size>", &stat.size.to_string())
        .replace("<cumulsize>", &stat.cumulative_size.to_string())
        .replace("<childs>", &stat.blocks.to_string())
        .replace("<type>", &stat.r#type)
        .replace("<mode>", &mode)
        .replace("<mode-octal>", &octal)
        .replace("<mtime>", &stat.mtime.map_or_else(not_set, time::long))
        .replace("<mtime-secs>", &stat.mtime.map_or_else(not_set, |secs| secs.to_string()))
        .replace("<mtime-nsecs>", &stat.mtime.map_or_else(not_set, |_| nsecs.to_string()))
}

/// Writes permissions as `ls -l` does.
pub(crate) fn mode_text(kind: &str, bits: u32) -> String {
    let mut text = String::from(match kind {
        "directory" => "d",
        "symlink" => "l",
        _ => "-",
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let has = |bit: u32| bits >> shift & bit != 0;
        text.push(if has(4) { 'r' } else { '-' });
        text.push(if has(2) { 'w' } else { '-' });
        text.push(match (bits & special != 0, has(1)) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "two decimals of a percentage need no more")]
fn local_line(local: u64, total: u64) -> String {
    let percent = if total == 0 { 100.0 } else { 100.0 * local as f64 / total as f64 };
    format!("Local: {} of {} ({percent:.2}%)", human_size(local), human_size(total))
}

/// Print the CID that a path leads to
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs resolve /ipfs/bafybeig…/docs/readme.md")]
pub(crate) struct Resolve {
    /// A path
    path: OsString,
    /// Resolve until the result is an /ipfs path (always so; kept for scripts)
    #[arg(short, long)]
    recursive: bool,
}

impl Resolve {
    /// Prints the path of the result.
    pub(crate) async fn run(&self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("resolve").arg(&self.path).option("recursive", true);
        print_lines(client.send(call).await?, global, |out, resolved: Resolved| {
            Ok(out.line(resolved.path)?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_ls_does() {
        let check = |kind, bits, text: &str| assert_eq!(mode_text(kind, bits), text);
        check("file", 0o644, "-rw-r--r--");
        check("directory", 0o755, "drwxr-xr-x");
        check("symlink", 0o777, "lrwxrwxrwx");
        check("file", 0o4755, "-rwsr-xr-x");
        check("file", 0o4644, "-rwSr--r--");
        check("directory", 0o1777, "drwxrwxrwt");
        check("file", 0, "----------");
    }
}
