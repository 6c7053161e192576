//! `cidfs id`, `cidfs swarm` and `cidfs bitswap`: this node among others.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::api::swarm as api;
use crate::cli::call::Call;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::human_size;
use crate::cli::{Global, print_lines};

/// Show who this node is and where others can call it, or what a peer says of itself
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs id
  cidfs id --json | jq -r .Addresses[]
  cidfs id 12D3KooW…")]
pub(crate) struct Id {
    /// The id of a peer, or an address that ends with it; it is called if it is not connected
    peer: Option<OsString>,
}

impl Id {
    /// Prints it.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("id").args(self.peer.as_slice())).await?;
        print_lines(answer, global, |out, id: api::Id| {
            out.line(format!("Peer id: {}", id.id))?;
            out.line(format!("Agent:   {}", id.agent_version))?;
            for address in id.addresses {
                out.line(address)?;
            }
            for protocol in id.protocols {
                out.line(format!("Speaks:  {protocol}"))?;
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
  cidfs swarm connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
  cidfs swarm limits")]
pub(crate) enum Swarm {
    Peers(Peers),
    Connect(Connect),
    Disconnect(Disconnect),
    Addrs(Addrs),
    #[command(subcommand)]
    Peering(Peering),
    Limits(Limits),
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
            Self::Peering(command) => command.run(global, client).await,
            Self::Limits(command) => command.run(global, client).await,
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
                    line = format!("{line} {latency} {way} {}", peer.agent);
                }
                out.line(line)?;
            }
            Ok(())
        })
        .await
    }
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

/// Stay connected to peers, until the daemon stops (`network.peers` is for good)
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  cidfs swarm peering add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
  cidfs swarm peering ls
  cidfs swarm peering rm 12D3KooW…")]
pub(crate) enum Peering {
    Add(PeeringAdd),
    Ls(PeeringLs),
    Rm(PeeringRm),
}

/// Stay connected to these peers too
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm peering add /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…")]
pub(crate) struct PeeringAdd {
    /// Their addresses, each with /p2p/ and the peer's id at its end
    #[arg(required = true)]
    addresses: Vec<OsString>,
}

/// List the peers that this node stays connected to
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm peering ls")]
pub(crate) struct PeeringLs {}

/// Do not call these peers again; a connection that there is stays
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm peering rm 12D3KooW…")]
pub(crate) struct PeeringRm {
    /// Their ids, or addresses that end with them
    #[arg(required = true)]
    peers: Vec<OsString>,
}

impl Peering {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let (call, done) = match self {
            Self::Add(add) => (Call::new("swarm/peering/add").args(&add.addresses), "add"),
            Self::Rm(rm) => (Call::new("swarm/peering/rm").args(&rm.peers), "rm"),
            Self::Ls(PeeringLs {}) => return kept(global, client).await,
        };
        print_lines(client.send(call).await?, global, |out, peer: api::PeeringChange| {
            Ok(out.line(format!("{done} {} {}", peer.id, peer.status))?)
        })
        .await
    }
}

async fn kept(global: &Global, client: &Client) -> Result<(), Failure> {
    let answer = client.send(Call::new("swarm/peering/ls")).await?;
    print_lines(answer, global, |out, kept: api::Peerings| {
        for peer in kept.peers {
            out.line(peer.id)?;
            for address in peer.addrs {
                out.line(format!("        {address}"))?;
            }
        }
        Ok(())
    })
    .await
}

/// Show the bounds of this node among others, and what is used of them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cidfs swarm limits
  cidfs swarm limits --json | jq '.Limits[] | select(.Used == .Limit)'

`network.connections` sets the number of connections; the others are fixed.")]
pub(crate) struct Limits {}

impl Limits {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("swarm/limits")).await?;
        print_lines(answer, global, |out, limits: api::Limits| {
            for limit in limits.limits {
                let is_bytes = limit.name.starts_with("bytes");
                let shown =
                    |count: u64| if is_bytes { human_size(count) } else { count.to_string() };
                let (used, max) = (shown(limit.used), shown(limit.limit));
                out.line(format!("{:<24}{used:>7} of {max}", limit.name))?;
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
            Self::Stat(command) => command.run(global, client).await,
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

impl Stat {
    /// Prints it.
    pub(crate) async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let answer = client.send(Call::new("bitswap/stat")).await?;
        print_lines(answer, global, |out, stat: api::BitswapStat| {
            let twice = human_size(stat.dup_data_received);
            let (came, sent) = (human_size(stat.data_received), human_size(stat.data_sent));
            out.line(format!("blocks received: {} ({came})", stat.blocks_received))?;
            out.line(format!("came twice or too late: {} ({twice})", stat.dup_blks_received))?;
            out.line(format!("blocks sent: {} ({sent})", stat.blocks_sent))?;
            out.line(format!("wantlist [{} keys]", stat.wantlist.len()))?;
            Ok(out.line(format!("partners [{}]", stat.peers.len()))?)
        })
        .await
    }
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
