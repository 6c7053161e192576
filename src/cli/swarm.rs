//! `cidfs id`, `cidfs swarm` and `cidfs bitswap`: this node among others.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::api::swarm as api;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::human_size;
use crate::cli::{Global, print_lines};

/// Show who this node is, and where others can call it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs id
  cidfs id --json | jq -r .Addresses[]")]
pub(crate) struct Id {}

impl Id {
    /// Prints it.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("id")).await?;
        print_lines(answer, global, |out, id: api::Id| {
            out.line(format!("Peer id: {}", id.id))?;
            out.line(format!("Agent:   {}", id.agent_version))?;
            for address in id.addresses {
                out.line(address)?;
            }
            Ok(())
        })
        .await
    }
}

/// See and change to whom this node is connected
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs swarm peers
  cidfs swarm connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…")]
pub(crate) enum Swarm {
    Peers(Peers),
    Connect(Connect),
    Disconnect(Disconnect),
    Addrs(Addrs),
}

impl Swarm {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Peers(command) => command.run(global, client).await,
            Self::Connect(command) => {
                strings("swarm/connect", &command.addresses, global, client).await
            }
            Self::Disconnect(command) => {
                strings("swarm/disconnect", &command.peers, global, client).await
            }
            Self::Addrs(command) => command.run(global, client).await,
        }
    }
}

/// List the peers that are connected
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm peers
  cidfs swarm peers -v")]
pub(crate) struct Peers {
    /// Also print what they call themselves, their latency, and who called whom
    #[arg(short, long)]
    verbose: bool,
}

impl Peers {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("swarm/peers")).await?;
        print_lines(answer, global, |out, found: api::Peers| {
            for peer in found.peers {
                // An address may end with the id already.
                let end = format!("/p2p/{}", peer.peer);
                let mut line = format!("{}{end}", peer.addr.trim_end_matches(&end));
                if self.verbose {
                    let way = if peer.direction == 2 { "outbound" } else { "inbound" };
                    let latency = if peer.latency.is_empty() { "?" } else { &peer.latency };
                    line = format!("{line} {latency} {way} {}", printable(&peer.agent));
                }
                out.line(line)?;
            }
            Ok(())
        })
        .await
    }
}

/// What a stranger calls itself must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// Connect to peers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
  cidfs swarm connect /dns4/example.org/udp/4001/quic-v1/p2p/12D3KooW…")]
pub(crate) struct Connect {
    /// Their addresses
    #[arg(required = true)]
    addresses: Vec<OsString>,
}

/// End the connections to peers, and do not keep them any more
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm disconnect 12D3KooW…")]
pub(crate) struct Disconnect {
    /// Their ids, or addresses that end with them
    #[arg(required = true)]
    peers: Vec<OsString>,
}

async fn strings(
    command: &'static str,
    args: &[OsString],
    global: &Global,
    client: &Client,
) -> Result<(), Failure> {
    let answer = client.send(Call::new(command).args(args)).await?;
    print_lines(answer, global, |out, answer: api::Strings| {
        for line in answer.strings {
            out.line(line)?;
        }
        Ok(())
    })
    .await
}

/// List the addresses of this node, or of the peers that are connected
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm addrs local")]
pub(crate) struct Addrs {
    #[command(subcommand)]
    whose: Option<Whose>,
}

/// Whose addresses are listed.
#[derive(Debug, Subcommand)]
enum Whose {
    /// Where others can call this node
    Local,
    /// The same, as kubo calls it
    Listen,
}

impl Addrs {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        if self.whose.is_some() {
            return strings("swarm/addrs/local", &[], global, client).await;
        }
        let answer = client.send(Call::new("swarm/addrs")).await?;
        print_lines(answer, global, |out, found: api::Addrs| {
            for (peer, addresses) in found.addrs {
                out.line(format!("{peer} ({})", addresses.len()))?;
                for address in addresses {
                    out.line(format!("        {address}"))?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// See what is exchanged with peers
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs bitswap stat
  cidfs bitswap wantlist
  cidfs bitswap ledger 12D3KooW…")]
pub(crate) enum Bitswap {
    Stat(Stat),
    Wantlist(Wantlist),
    Ledger(Ledger),
}

impl Bitswap {
    /// Runs the command.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        match self {
            Self::Stat(_) => stat(global, client).await,
            Self::Wantlist(_) => wantlist(global, client).await,
            Self::Ledger(command) => command.run(global, client).await,
        }
    }
}

/// Show what came since the daemon started, and what is wanted
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bitswap stat")]
pub(crate) struct Stat {}

async fn stat(global: &Global, client: &Client) -> Result<(), Failure> {
    let answer = client.send(Call::new("bitswap/stat")).await?;
    print_lines(answer, global, |out, stat: api::BitswapStat| {
        let (came, twice) = (human_size(stat.data_received), human_size(stat.dup_data_received));
        out.line(format!("blocks received: {} ({came})", stat.blocks_received))?;
        out.line(format!("came twice or too late: {} ({twice})", stat.dup_blks_received))?;
        out.line(format!("sent to connected peers: {}", human_size(stat.data_sent)))?;
        out.line(format!("wantlist [{} keys]", stat.wantlist.len()))?;
        Ok(out.line(format!("partners [{}]", stat.peers.len()))?)
    })
    .await
}

/// List the blocks that are wanted of peers
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bitswap wantlist")]
pub(crate) struct Wantlist {}

async fn wantlist(global: &Global, client: &Client) -> Result<(), Failure> {
    let answer = client.send(Call::new("bitswap/wantlist")).await?;
    print_lines(answer, global, |out, wanted: api::Wantlist| {
        for key in wanted.keys {
            out.line(key.cid)?;
        }
        Ok(())
    })
    .await
}

/// Show what passed between this node and a peer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs bitswap ledger 12D3KooW…")]
pub(crate) struct Ledger {
    /// Its id
    peer: OsString,
}

impl Ledger {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("bitswap/ledger").arg(&self.peer)).await?;
        print_lines(answer, global, |out, ledger: api::LedgerStat| {
            out.line(format!("Ledger for {}", ledger.peer))?;
            out.line(format!("Debt ratio:     {:.6}", ledger.value))?;
            out.line(format!("Bytes sent:     {}", ledger.sent))?;
            out.line(format!("Bytes received: {}", ledger.recv))?;
            Ok(out.line(format!("Wants:          {}", ledger.wants))?)
        })
        .await
    }
}
