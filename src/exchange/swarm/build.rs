//! Transports, protocols and limits of a node.

use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{SwarmBuilder, identify, mdns, noise, ping, quic, tcp};

use super::gate::Gate;
use super::{Reach, SwarmError, SwarmOptions, muxer, tls};
use crate::exchange::bitswap::{self, Client};
use crate::store::BlockStore;

/// What nodes of the network call their version of the protocols (spec 06 §2).
const PROTOCOL_VERSION: &str = "ipfs/0.1.0";
/// How long a connection on which nothing is open is kept.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Bytes under way on one QUIC stream, and on a connection: 1 Gbit/s over 100 ms, twice.
const QUIC_STREAM_BYTES: u32 = 25 * 1024 * 1024;
const QUIC_CONNECTION_BYTES: u32 = 2 * QUIC_STREAM_BYTES;
/// Connections to one peer: two that call each other at the same time, and one more.
const CONNECTIONS_PER_PEER: u32 = 3;
/// Connections that are being made at one time, each way.
const PENDING_MAX: u32 = 128;

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    gate: Gate,
    pub(super) bitswap: bitswap::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
}

pub(super) async fn build(
    options: &SwarmOptions,
    client: Client,
    store: Arc<dyn BlockStore>,
) -> Result<libp2p::Swarm<Behaviour>, SwarmError> {
    let security = (tls::Upgrade::new, noise::Config::new);
    let builder = SwarmBuilder::with_existing_identity(options.key.clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), security, muxer::Upgrade::default)
        .map_err(failed)?
        .with_quic_config(wide)
        .with_dns()
        .map_err(failed)?
        .with_websocket(security, muxer::Upgrade::default)
        .await
        .map_err(failed)?;
    let behaviour = |key: &Keypair| behaviour(key, options, client, store);
    let swarm = builder.with_behaviour(behaviour).map_err(failed)?;
    let idle = |config: libp2p::swarm::Config| {
        config.with_idle_connection_timeout(IDLE_MAX).with_smart_dial()
    };
    Ok(swarm.with_swarm_config(idle).build())
}

fn failed(error: impl std::fmt::Display) -> SwarmError {
    SwarmError::Build(error.to_string())
}

fn wide(mut config: quic::Config) -> quic::Config {
    config.max_stream_data = QUIC_STREAM_BYTES;
    config.max_connection_data = QUIC_CONNECTION_BYTES;
    config
}

fn behaviour(
    key: &Keypair,
    options: &SwarmOptions,
    client: Client,
    store: Arc<dyn BlockStore>,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let limits = ConnectionLimits::default()
        .with_max_established(Some(options.connections_max))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX));
    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), key.public())
        .with_agent_version(options.agent.clone());
    let mdns = (options.reach == Reach::Lan)
        .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), key.public().to_peer_id()));
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        gate: Gate(options.reach),
        bitswap: bitswap::Behaviour::new(client, store, options.serve),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        mdns: mdns.transpose()?.into(),
    })
}
