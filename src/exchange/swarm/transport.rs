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
use libp2p::tcp::tokio::TcpStream;
use libp2p::{PeerId, noise, quic, tcp};
use socket2::SockRef;

use super::{muxer, security, tls};

/// Bytes under way on one QUIC stream, and on a connection: 1 Gbit/s over 100 ms, twice.
const QUIC_STREAM_BYTES: u32 = 25 * 1024 * 1024;
const QUIC_CONNECTION_BYTES: u32 = 2 * QUIC_STREAM_BYTES;

/// Bytes that wait in the system's socket to be sent: there a short answer cannot go past a long one any more.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

fn sockets()
-> impl libp2p::Transport<Output = TcpStream, Error = io::Error, ListenerUpgrade: Send, Dial: Send>
+ Send
+ Unpin {
    tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)).map(|stream, _| {
        let held = SockRef::from(&stream.0).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        if let Err(error) = held {
            tracing::debug!(%error, "a connection may have much unsent");
        }
        stream
    })
}

/// Returns TCP as the network speaks it.
pub(super) fn public(
    own: &Keypair,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn std::error::Error + Send + Sync>> {
    let security = security::Upgrade::new(tls::Upgrade::new(own)?, noise::Config::new(own)?);
    Ok(sockets().upgrade(Version::V1Lazy).authenticate(security).multiplex(muxer::Upgrade).boxed())
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
    Ok(sockets()
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use libp2p::core::Endpoint;
    use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};

    use super::*;

    #[tokio::test]
    async fn little_waits_unsent_in_a_socket() {
        let mut listening = sockets();
        listening.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let mut next = async || poll_fn(|cx| Pin::new(&mut listening).poll(cx)).await;
        let address = next().await.into_new_address().unwrap();
        let how = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let calling = sockets().dial(address, how).unwrap();
        let coming = async {
            let TransportEvent::Incoming { upgrade, .. } = next().await else { panic!("no call") };
            upgrade.await
        };
        let (called, came) = tokio::join!(calling, coming);
        for stream in [called.unwrap(), came.unwrap()] {
            let most = SockRef::from(&stream.0).tcp_notsent_lowat().unwrap();
            assert_eq!(most, UNSENT_BYTES_MAX);
        }
    }
}
