//! Transports, protocols and limits of a node.

use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{SwarmBuilder, autonat, dcutr, identify, mdns, memory_connection_limits, noise, ping};
use libp2p::{relay, upnp};

use super::gate::Gate;
use super::probe::Probes;
use super::reachability::Reachability;
use super::transport::{private, public, resolver, wide};
use super::{SwarmError, SwarmOptions, muxer, tls};
use crate::exchange::bitswap::{self, Client, Shelf};
use crate::store::BlockStore;

/// What nodes of the network call their version of the protocols (spec 06 §2).
const PROTOCOL_VERSION: &str = "ipfs/0.1.0";
/// How long a connection on which nothing is open is kept.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// Connections to one peer: two that call each other at the same time, and one more.
pub(super) const CONNECTIONS_PER_PEER: u32 = 3;
/// One of so many connections is left for peers that this node calls.
const CALLED_PART: u32 = 8;
/// Connections that are being made at one time, each way.
pub(super) const PENDING_MAX: u32 = 128;
/// Share of this machine's memory that the process may have taken when a connection is made.
const MEMORY_SHARE_MAX: f64 = 0.5;

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) memory: memory_connection_limits::Behaviour,
    gate: Gate,
    pub(super) bitswap: bitswap::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) probes: Probes,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    relay: relay::client::Behaviour,
    hole_punching: Toggle<dcutr::Behaviour>,
    reachability: Toggle<Reachability>,
    reachability_of_others: Toggle<autonat::v2::server::Behaviour>,
    port_mapping: Toggle<upnp::tokio::Behaviour>,
}

pub(super) async fn build(
    options: &SwarmOptions,
    client: Client,
    store: Arc<dyn BlockStore>,
) -> Result<libp2p::Swarm<Behaviour>, SwarmError> {
    let security = (tls::Upgrade::new, noise::Config::new);
    let (names, name_options) = resolver();
    let builder = SwarmBuilder::with_existing_identity(options.key.clone()).with_tokio();
    let behaviour = |key: &Keypair, relay| behaviour(key, relay, options, client, store);
    let idle = |config: libp2p::swarm::Config| {
        config.with_idle_connection_timeout(IDLE_MAX).with_smart_dial()
    };
    if let Some(network) = options.private {
        return Ok(builder
            .with_other_transport(|key| private(key, network).map_err(Into::into))
            .map_err(failed)?
            .with_dns_config(names, name_options)
            .with_relay_client(noise::Config::new, muxer::Upgrade::default)
            .map_err(failed)?
            .with_behaviour(behaviour)
            .map_err(failed)?
            .with_swarm_config(idle)
            .build());
    }
    Ok(builder
        .with_quic_config(wide)
        .with_other_transport(public)
        .map_err(failed)?
        .with_dns_config(names, name_options)
        .with_websocket(security, muxer::Upgrade::default)
        .await
        .map_err(failed)?
        .with_relay_client(security, muxer::Upgrade::default)
        .map_err(failed)?
        .with_behaviour(behaviour)
        .map_err(failed)?
        .with_swarm_config(idle)
        .build())
}

fn failed(error: impl std::fmt::Display) -> SwarmError {
    SwarmError::Build(error.to_string())
}

fn behaviour(
    key: &Keypair,
    relay: relay::client::Behaviour,
    options: &SwarmOptions,
    client: Client,
    store: Arc<dyn BlockStore>,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let own = key.public().to_peer_id();
    let max = options.connections_max;
    let limits = ConnectionLimits::default()
        .with_max_established(Some(max))
        .with_max_established_incoming(Some(max - max / CALLED_PART))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX));
    let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), key.public())
        .with_agent_version(options.agent.clone());
    let mdns =
        options.finds_near.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), own));
    let punches = options.hole_punching;
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE_MAX),
        gate: Gate::new(options.reach.clone(), max as usize),
        bitswap: bitswap::Behaviour::new(
            client,
            Shelf::new(store, options.shared.clone()),
            options.serve,
            options.rates,
        ),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        probes: Probes::default(),
        mdns: mdns.transpose()?.into(),
        relay,
        hole_punching: punches.then(|| dcutr::Behaviour::new(own)).into(),
        reachability: punches.then(Reachability::new).into(),
        reachability_of_others: punches.then(autonat::v2::server::Behaviour::default).into(),
        port_mapping: options.port_mapping.then(upnp::tokio::Behaviour::default).into(),
    })
}
