//! `cidfs get`: a file or tree written to this machine's disk.
//!
//! The node sends an archive; it is unpacked below the directory of the target and nowhere else,
//! whatever names the archive holds.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use clap::Args;
use tokio::sync::mpsc;

use crate::cli::call::{Answer, Call};
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::progress::Progress;

/// Pieces of the archive under way to the disk.
const PIECES_MAX: usize = 8;

/// Set-user-id and set-group-id: what is copied belongs to the person who copies it, and a
/// stranger's program is not to run with that person's rights.
const POWER_BITS: u32 = 0o6000;

/// Copy files and directories to this machine's disk
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs get bafybeig…/photos             into ./photos
  cidfs get bafybeig… -o backup          into ./backup
  cidfs get -a bafybeig… -o backup.tar   as an archive")]
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

fn unpack(receiver: mpsc::Receiver<io::Result<Bytes>>, folder: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(Pieces { receiver, piece: Bytes::new() });
    archive.set_preserve_permissions(true);
    archive.set_mask(POWER_BITS);
    archive.set_preserve_mtime(true);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            directories.push(Directory::make(folder, &entry.path()?, entry.header())?);
        } else if !entry.unpack_in(folder)? {
            return Err(outside(&entry.path()?));
        }
    }
    directories.iter().rev().try_for_each(Directory::finish)
}

/// A directory gets its permissions and time when everything is in it: they may forbid writing,
/// and writing changes the time.
struct Directory {
    path: PathBuf,
    mode: u32,
    mtime: u64,
}

impl Directory {
    fn make(folder: &Path, name: &Path, header: &tar::Header) -> io::Result<Self> {
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(outside(name));
        }
        let path = folder.join(name);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&path) => {}
            made => made.map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?,
        }
        Ok(Self { path, mode: header.mode()?, mtime: header.mtime()? })
    }

    fn finish(&self) -> io::Result<()> {
        let directory = File::open(&self.path)?;
        directory.set_permissions(Permissions::from_mode(self.mode & 0o7777 & !POWER_BITS))?;
        directory.set_modified(UNIX_EPOCH + Duration::from_secs(self.mtime))
    }
}

/// Tells whether `path` itself is a directory: a symbolic link to one could lead anywhere.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn outside(name: &Path) -> io::Error {
    io::Error::other(format!("the archive holds {}, which leads out of it", name.display()))
}

/// The archive as it comes, for a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}
