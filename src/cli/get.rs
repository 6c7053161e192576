//! `cidfs get`: a file or tree written to this machine's disk.
//!
//! The node sends an archive, which is kept as it is or unpacked.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::sync::mpsc;

use crate::cli::call::{Answer, Call};
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::output::Stdout;
use crate::cli::part::{Existing, Part, own_umask};
use crate::cli::progress::Progress;
use crate::cli::unpack::{refuse_any, refuse_special, unpack};

/// Pieces of the archive under way to the disk.
const PIECES_MAX: usize = 8;
/// Permissions of an archive, before the umask.
const ARCHIVE_MODE: u32 = 0o666;
/// Where an archive goes that is not to be kept.
const STANDARD_OUTPUT: &str = "-";

/// Copy files and directories to this machine's disk
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs get bafybeig…/photos             into ./photos
  cidfs get bafybeig… -o backup          into ./backup
  cidfs get -a bafybeig… -o backup.tar   as an archive

A file that exists is replaced; a directory is added to, and its files of other names stay.
A symbolic link, FIFO, socket or device is never replaced, and with -a nothing is.
`-o DIR/` puts what comes into DIR, which may be a symbolic link to a directory; `-a -o -` writes
the archive to standard output. Names that no file can have (`..`, `a/b`) are left out, as `ls` leaves
them out; the rest is copied, and the command fails, so that -a keeps no file (`-a -o -` writes the rest). What the tree stores no permissions for obeys the umask.")]
pub(crate) struct Get {
    /// What to copy: a CID, or a path below one
    path: OsString,
    /// Where to write it [default: the last name of the path]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Write a tar archive
    #[arg(short, long)]
    archive: bool,
    /// Show progress [default: on a terminal]
    #[arg(short, long, require_equals = true)]
    progress: Option<bool>,
}

impl Get {
    /// Copies.
    pub(crate) async fn run(&self, client: &Client) -> Result<(), Failure> {
        let call = Call::new("get").arg(&self.path).option("archive", self.archive);
        let umask = own_umask();
        let call = call.option("umask", umask);
        if self.archive {
            return self.get_archive(client, call, ARCHIVE_MODE & !umask).await;
        }
        let target = self.target(self.name()?);
        let name = target.file_name().unwrap_or(OsStr::new("x")).as_bytes().to_vec();
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            return Err(Failure::new(format!("there is no directory {}", folder.display())));
        }
        refuse_special(&target).map_err(Failure::new)?;
        let answer = client.send(call.path("name", Path::new(OsStr::from_bytes(&name)))).await?;
        tell(format_args!("Saving file(s) to {}", target.display()));
        self.unpack(answer, folder).await
    }

    /// Returns the last name of the path.
    fn name(&self) -> Result<PathBuf, Failure> {
        let mut names = Vec::new();
        for name in self.path.as_bytes().split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => drop(names.pop()),
                _ => names.push(name),
            }
        }
        let name = names.last().ok_or_else(|| Failure::usage("the path names nothing"))?;
        Ok(OsStr::from_bytes(name).into())
    }

    /// Returns where something of that name goes: into a directory that exists, or where it is to.
    fn target(&self, name: PathBuf) -> PathBuf {
        match &self.output {
            None => name,
            Some(output) if output.file_name().is_none() || ends_with_slash(output) => {
                output.join(name)
            }
            Some(output) => output.clone(),
        }
    }

    async fn get_archive(&self, client: &Client, call: Call, mode: u32) -> Result<(), Failure> {
        if self.output.as_deref() == Some(Path::new(STANDARD_OUTPUT)) {
            return client.send(call).await?.copy_to(&mut Stdout, |_| ()).await;
        }
        let target = self.target(with_tar(&self.name()?));
        refuse_any(&target).map_err(Failure::new)?;
        let about = |error: io::Error| Failure::from(error).about(target.display());
        let answer = client.send(call).await?;
        let mut part = Part::begin(&target, None).map_err(about)?;
        tell(format_args!("Saving archive to {}", target.display()));
        let progress = Progress::start(self.progress, None);
        let copied = answer.copy_to(&mut part.file, |len| progress.add(len)).await;
        copied.map_err(|failure| failure.about(target.display()))?;
        part.finish(mode, None, Existing::Keep).map_err(about)
    }

    async fn unpack(&self, mut answer: Answer, folder: PathBuf) -> Result<(), Failure> {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let unpacking = tokio::task::spawn_blocking(move || unpack(receiver, &folder));
        let progress = Progress::start(self.progress, None);
        let sent = loop {
            match answer.piece().await {
                Ok(Some(piece)) => {
                    progress.add(piece.len());
                    if sender.send(Ok(piece)).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(failure) => {
                    // The archive must not look complete; the failure itself is told below. If
                    // the unpacker has stopped already, there is nobody to tell.
                    let _stopped = sender.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
                    break Err(failure);
                }
            }
        };
        drop(sender);
        let unpacked = unpacking.await.map_err(Failure::new)?;
        sent.and(unpacked.map_err(Failure::new))
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

fn with_tar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tar");
    name.into()
}
