//! `cidfs bootstrap`: where this node begins to look for others.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::api::bootstrap::BootstrapOutput;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::{Failure, tell};
use crate::cli::{Global, print_lines};

/// Show or change the peers with which this node begins to look for others
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bootstrap
  cidfs bootstrap add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
  cidfs bootstrap rm --all
  cidfs bootstrap add --default

The list is `network.bootstrap` of the configuration. Change it only if you know whom you trust
to lead to others; what is in a block is proved in any case.")]
pub(crate) struct Bootstrap {
    #[command(subcommand)]
    action: Option<Action>,
}

/// What is done with the list.
#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Add(Add),
    Rm(Rm),
}

impl Bootstrap {
    /// Shows the list, or changes it.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let (call, begin) = match self.action {
            None | Some(Action::List(List {})) => return show("", list(), global, client).await,
            Some(Action::Add(add)) => {
                let call = Call::new("bootstrap/add").args(&add.peers);
                (call.switch("default", add.default), "added ")
            }
            Some(Action::Rm(rm)) => {
                let call = Call::new("bootstrap/rm").args(&rm.peers);
                (call.switch("all", rm.all), "removed ")
            }
        };
        show(begin, call, global, client).await?;
        if client.is_daemon() {
            tell("The running daemon uses the new list after its next start.");
        }
        Ok(())
    }
}

fn list() -> Call {
    Call::new("bootstrap/list")
}

async fn show(begin: &str, call: Call, global: &Global, client: &Client) -> Result<(), Failure> {
    print_lines(client.send(call).await?, global, |out, answer: BootstrapOutput| {
        for peer in answer.peers {
            out.line(format!("{begin}{peer}"))?;
        }
        Ok(())
    })
    .await
}

/// List them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bootstrap list")]
struct List {}

/// Add peers to the list; those that are new are printed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bootstrap add /dnsaddr/example.org/p2p/12D3KooW…
  cidfs bootstrap add --default             those that cidfs comes with")]
struct Add {
    /// Their addresses, each with /p2p/ and the peer's id at its end
    #[arg(required_unless_present = "default", conflicts_with = "default")]
    peers: Vec<OsString>,
    /// Add the peers that cidfs comes with
    #[arg(long)]
    default: bool,
}

/// Remove peers from the list
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bootstrap rm /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
  cidfs bootstrap rm 12D3KooW…              all its addresses
  cidfs bootstrap rm --all")]
struct Rm {
    /// Their addresses, or their ids
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    peers: Vec<OsString>,
    /// Remove all of them
    #[arg(long)]
    all: bool,
}
