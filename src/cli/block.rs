//! `cidfs block`: single blocks.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::api::block::{BlockRemoved, BlockStat};
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::output::Output;
use crate::cli::upload::{file, is_standard_input, standard_input};
use crate::cli::{Global, print_lines};

/// Work with single blocks
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs block get bafkreig… | xxd
  cidfs block put data.bin
  cidfs block stat bafkreig…")]
pub(crate) enum Block {
    Get(Get),
    Put(Put),
    Stat(Stat),
    Rm(Rm),
}

impl Block {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Get(command) => command.run(client).await,
            Self::Put(command) => command.run(global, client).await,
            Self::Stat(command) => command.run(global, client).await,
            Self::Rm(command) => command.run(global, client).await,
        }
    }
}

/// Write the bytes of a block to standard output
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs block get bafkreig… > data.bin")]
pub(crate) struct Get {
    /// A CID, or a path below one
    path: OsString,
}

impl Get {
    async fn run(self, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("block/get").arg(&self.path)).await?;
        answer.copy_to(&mut Output::new(), |_| ()).await
    }
}

/// Store bytes as a block and print its CID
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs block put data.bin
  printf hello | cidfs block put
  cidfs block put --cid-codec=dag-cbor --mhtype=blake3 node.cbor")]
pub(crate) struct Put {
    /// Files; standard input if there are none
    paths: Vec<PathBuf>,
    /// How the bytes are to be read [default: raw]
    #[arg(long, value_name = "CODEC")]
    cid_codec: Option<String>,
    /// Hash function [default: sha2-256]
    #[arg(long, value_name = "NAME")]
    mhtype: Option<String>,
    /// Older word for the codec; v0 makes a CIDv0
    #[arg(short, long, conflicts_with = "cid_codec", value_name = "NAME")]
    format: Option<String>,
    /// Pin what is stored
    #[arg(long)]
    pin: bool,
}

impl Put {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = || {
            Call::new("block/put")
                .maybe("cid-codec", self.cid_codec.as_ref())
                .maybe("mhtype", self.mhtype.as_ref())
                .maybe("format", self.format.as_ref())
                .switch("pin", self.pin)
        };
        let calls = if is_standard_input(&self.paths) {
            vec![standard_input(call(), "")?]
        } else {
            self.paths.iter().map(|path| file(call(), path)).collect::<Result<_, _>>()?
        };
        for call in calls {
            print_lines(client.send(call).await?, global, |out, block: BlockStat| {
                Ok(out.line(block.key)?)
            })
            .await?;
        }
        Ok(())
    }
}

/// Print the CID and length of a block
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs block stat bafkreig…")]
pub(crate) struct Stat {
    /// A CID, or a path below one
    path: OsString,
}

impl Stat {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("block/stat").arg(&self.path)).await?;
        print_lines(answer, global, |out, block: BlockStat| {
            out.line(format!("Key: {}", block.key))?;
            Ok(out.line(format!("Size: {}", block.size))?)
        })
        .await
    }
}

/// Remove blocks that nothing pins
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs block rm bafkreig…")]
pub(crate) struct Rm {
    /// CIDs
    #[arg(required = true)]
    cids: Vec<OsString>,
    /// Pass over blocks that are not here
    #[arg(short, long)]
    force: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
}

impl Rm {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let call = Call::new("block/rm")
            .args(&self.cids)
            .switch("force", self.force)
            .switch("quiet", self.quiet);
        let mut stayed = false;
        print_lines(client.send(call).await?, global, |out, block: BlockRemoved| {
            if block.error.is_empty() {
                return Ok(out.line(format!("removed {}", block.hash))?);
            }
            stayed = true;
            tell(format_args!("cannot remove {}: {}", block.hash, block.error));
            Ok(())
        })
        .await?;
        if stayed { Err(Failure::new("some blocks not removed")) } else { Ok(()) }
    }
}
