//! `cidfs get`: a file or tree written to this machine's disk.
//!
//! The node sends an archive, which is kept as it is or unpacked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::sync::mpsc;

use crate::cli::call::{Answer, Call};
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::progress::Progress;
use crate::cli::unpack::{refuse_special, unpack};

/// Pieces of the archive under way to the disk.
const PIECES_MAX: usize = 8;

/// Copy files and directories to this machine's disk
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs get bafybeig…/photos             into ./photos
  cidfs get bafybeig… -o backup          into ./backup
  cidfs get -a bafybeig… -o backup.tar   as an archive

A file that exists is replaced; a directory is added to, and its files of other names stay.
A symbolic link, FIFO, socket or device is never replaced, and with -a nothing is.
`-o DIR/` puts what comes into DIR, which may be a symbolic link to a directory.")]
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
        let target = self.target()?;
        let call = Call::new("get").arg(&self.path).option("archive", self.archive);
        if self.archive {
            let target = self.output.clone().unwrap_or_else(|| with_tar(&target));
            return self.save_archive(client.send(call).await?, &target).await;
        }
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

    /// Returns where the root goes: into a directory that exists, or to that name.
    fn target(&self) -> Result<PathBuf, Failure> {
        let names = self.path.as_bytes().split(|&byte| byte == b'/');
        let name = names.rev().find(|name| !matches!(*name, b"" | b"." | b".."));
        let name = name.ok_or_else(|| Failure::usage("the path names nothing"))?;
        let name = Path::new(OsStr::from_bytes(name));
        match &self.output {
            None => Ok(name.to_owned()),
            Some(output) if output.file_name().is_none() || ends_with_slash(output) => {
                Ok(output.join(name))
            }
            Some(output) => Ok(output.clone()),
        }
    }

    async fn save_archive(&self, answer: Answer, target: &Path) -> Result<(), Failure> {
        let about = |error: io::Error| Failure::from(error).about(target.display());
        let mut file = File::create_new(target).map_err(about)?;
        tell(format_args!("Saving archive to {}", target.display()));
        let progress = Progress::start(self.progress, None);
        let copied = answer.copy_to(&mut file, |len| progress.add(len)).await;
        if copied.is_err() {
            // Half an archive would be taken for a whole one.
            std::fs::remove_file(target).map_err(about)?;
        }
        copied?;
        file.flush().map_err(about)
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
