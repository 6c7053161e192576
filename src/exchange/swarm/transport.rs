//! The ways to peers: TCP, QUIC and WebSocket, each also over a relay; in a private network TCP alone.

use std::io;

use hickory_resolver::system_conf::read_system_conf;
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::dns::{ResolverConfig, ResolverOpts};
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, noise, quic, tcp};

use super::muxer;

/// Bytes under way on one QUIC stream, and on a connection: 1 Gbit/s over 100 ms, twice.
const QUIC_STREAM_BYTES: u32 = 25 * 1024 * 1024;
const QUIC_CONNECTION_BYTES: u32 = 2 * QUIC_STREAM_BYTES;

pub(super) fn tcp_config() -> tcp::Config {
    tcp::Config::default().nodelay(true)
}

pub(super) fn wide(mut config: quic::Config) -> quic::Config {
    config.max_stream_data = QUIC_STREAM_BYTES;
    config.max_connection_data = QUIC_CONNECTION_BYTES;
    config
}

/// Returns TCP as who has the key of the network speaks it (spec 06 §7).
pub(super) fn private(
    own: &Keypair,
    network: PreSharedKey,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let noise = noise::Config::new(own).map_err(io::Error::other)?;
    let among_us = move |socket, _| PnetConfig::new(network).handshake(socket);
    Ok(tcp::tokio::Transport::new(tcp_config())
        .and_then(among_us)
        .upgrade(Version::V1)
        .authenticate(noise)
        .multiplex(muxer::Upgrade)
        .boxed())
}

/// Returns how names of hosts are found: as this machine does, and not at all where it does not say how.
pub(super) fn resolver() -> (ResolverConfig, ResolverOpts) {
    read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "no names of hosts can be found: /etc/resolv.conf cannot be used");
        (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
    })
}
