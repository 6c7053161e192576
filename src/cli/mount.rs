//! `cidfs mount` and `cidfs umount`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use crate::api::control::MountInfo;
use crate::api::mount::Status;
use crate::cli::Global;
use crate::cli::call::Call;
use crate::cli::client::{Client, daemon};
use crate::cli::daemon::{Daemon, start_in_background, stop};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Show /ipfs, or what is below a path, as a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs mount                            in the foreground, as config.toml says
  cidfs mount /ipfs ~/ipfs               returns when it is there; starts a daemon if none runs
  cidfs mount /ipfs/bafybeig… /srv/site -o allow_other,noexec
  mount -t cidfs -o offline /ipfs /mnt   the same through mount(8)

Options after -o: allow_other, listpins, nonempty, noexec, offline, hard, timeout=60s, uid=N, gid=N,
umask=M, fmask=M, dmask=M, fsname=NAME, small_files (faster for trees of small files),
setpins (setfattr -n user.ipfs.pin -v recursive FILE pins it), walkahead=BLOCKS and nofetch=NAME:NAME
(what is fetched ahead of find or tar, and for whom not).")]
pub(crate) struct Mount {
    /// /ipfs, or a path below it
    #[arg(requires = "dir")]
    source: Option<OsString>,
    /// An empty directory
    dir: Option<PathBuf>,
    /// Options, separated by commas
    #[arg(short, long, value_name = "OPTIONS", requires = "source")]
    options: Vec<String>,
}

impl Mount {
    /// Mounts.
    pub(crate) async fn run(&self, global: &Global) -> Result<(), Failure> {
        let (Some(source), Some(dir)) = (&self.source, &self.dir) else {
            return Daemon::with_mounts().run(global).await;
        };
        let repo = global.repository()?;
        let is_ours = daemon(&repo).await?.is_none() && start_in_background(global).await?;
        let client = Client::open(global).await?;
        let call = Call::new("mount")
            .arg(source)
            .path("path", &std::path::absolute(dir)?)
            .option("options", self.options.join(","));
        let answer = client.send(call).await;
        if answer.is_err() && is_ours && !has_mounts(&client).await? {
            // A daemon that was started for this mount is not left behind without it, unless
            // another command has found it meanwhile.
            stop(global, &client).await?;
        }
        let answer = answer?;
        let mut out = Output::new();
        if global.json {
            return answer.copy_to(&mut out, |_| ()).await;
        }
        let mount: MountInfo = answer.json().await?;
        out.line(format!("{} mounted at: {}", mount.source, mount.dir.display()))?;
        Ok(out.flush()?)
    }
}

async fn has_mounts(client: &Client) -> Result<bool, Failure> {
    let status: Status = client.send(Call::new("status")).await?.json().await?;
    Ok(!status.mounts.is_empty())
}

/// Take a mount down
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs umount ~/ipfs")]
pub(crate) struct Umount {
    /// The mount point
    dir: PathBuf,
}

impl Umount {
    /// Takes it down.
    pub(crate) async fn run(&self, client: &Client) -> Result<(), Failure> {
        let dir = std::path::absolute(&self.dir)?;
        client.send(Call::new("umount").path("path", &dir)).await.map(drop)
    }
}
