//! What the configuration and the repository say of other nodes: whom to talk to, the key of a private
//! network, and where peers were reached before.

use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{NetworkConfig, Preset};
use super::files::replace;
use super::{NodeError, agent};
use crate::exchange::swarm::{KnownPeer, Reach, SwarmOptions};
use crate::exchange::{Keypair, Network, PreSharedKey, Rates};
use crate::store::Repository;
use crate::sys::files;

/// The key of a private network, as kubo keeps it (spec 06 §7).
const PRIVATE_KEY_NAME: &str = "swarm.key";
/// Where peers were reached.
const PEERS_NAME: &str = "peers.json";
/// Of the files that may be open, connections are this part, …
const FILES_SHARE: u64 = 4;
/// … and so many in any case, the least that `network.connections` may say.
const CONNECTIONS_MIN: u32 = 8;
/// How often that is written down: what a crash forgets.
const REMEMBER_EVERY: Duration = Duration::from_mins(10);

/// A peer as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    id: String,
    addresses: Vec<String>,
}

/// Returns how the node of the repository at `repo` takes part, `None` when it talks to nobody.
///
/// # Errors
/// When there is a key of a private network and it cannot be used: without it the node would talk to others.
pub(super) fn options(
    repo: &Path,
    key: &Keypair,
    config: &NetworkConfig,
) -> Result<Option<SwarmOptions>, NodeError> {
    let (reach, looks_around) = match config.preset {
        Preset::Offline => return Ok(None),
        Preset::PeersOnly => (Reach::World, false),
        Preset::Lan => (Reach::Near(Vec::new()), true),
        Preset::Site => (Reach::Near(config.site.clone()), true),
        Preset::Public => (Reach::World, true),
    };
    let is_public = config.preset == Preset::Public;
    let private = private_key(repo)?;
    // Who is in the wide network has no key of a private one.
    let is_wide = is_public && private.is_none();
    let bootstrap = if is_wide { config.bootstrap.clone() } else { Vec::new() };
    Ok(Some(SwarmOptions {
        key: key.clone(),
        listen: config.listen.clone(),
        peers: config.peers.clone(),
        reach,
        private,
        finds_near: looks_around,
        others: looks_around.then_some(bootstrap),
        known: known(repo),
        hole_punching: config.hole_punching.is_on(is_public),
        port_mapping: config.port_mapping.is_on(is_public),
        serve: config.serve.into(),
        shared: None,
        rates: Rates {
            up: NonZeroU64::new(config.rate_up),
            down: NonZeroU64::new(config.rate_down),
        },
        agent: agent(),
        connections_max: connections_within(config.connections, files::open_max()),
    }))
}

/// Returns how many connections there may be beside all else that takes descriptors: calls that are being answered, the
/// store, the API. A bound that is not known takes none away.
fn connections_within(wanted: u32, open_max: nix::Result<u64>) -> u32 {
    let most = open_max.map_or(wanted, |max| u32::try_from(max / FILES_SHARE).unwrap_or(wanted));
    let fitting = wanted.min(most.max(CONNECTIONS_MIN));
    if fitting < wanted {
        tracing::warn!(
            wanted,
            fitting,
            "fewer connections than network.connections says: few files may be open"
        );
    }
    fitting
}

fn private_key(repo: &Path) -> Result<Option<PreSharedKey>, NodeError> {
    let path = repo.join(PRIVATE_KEY_NAME);
    let failed = |source| NodeError::Io { path: path.clone(), source };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let key = text.parse().map_err(|error| {
        let words = format!("no key of a private network: {error}");
        failed(io::Error::new(io::ErrorKind::InvalidData, words))
    })?;
    Ok(Some(key))
}

/// Returns where peers were reached; what cannot be read is found anew.
fn known(repo: &Path) -> Vec<KnownPeer> {
    let path = repo.join(PEERS_NAME);
    let parse =
        |bytes: Vec<u8>| serde_json::from_slice::<Vec<Written>>(&bytes).map_err(io::Error::from);
    let written = std::fs::read(&path).and_then(parse).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path = %path.display(), %error, "it is not known any more where peers were reached");
        }
        Vec::new()
    });
    let peer = |peer: Written| {
        let addresses = peer.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        Some(KnownPeer { id: peer.id.parse().ok()?, addresses })
    };
    written.into_iter().filter_map(peer).collect()
}

/// Writes down where peers were reached, if the node talks to any.
pub(super) async fn remember(network: &Network, repository: &Arc<Repository>) {
    let Some(swarm) = network.swarm() else { return };
    // One that has stopped knows nobody any more.
    let Ok(peers) = swarm.known().await else { return };
    let written = |peer: KnownPeer| Written {
        id: peer.id.to_string(),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
    };
    let written: Vec<_> = peers.into_iter().map(written).collect();
    let repository = Arc::clone(repository);
    match tokio::task::spawn_blocking(move || write_down(&repository, &written)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot write where peers were reached"),
        Err(error) => tracing::error!(%error, "writing where peers were reached failed"),
    }
}

fn write_down(repository: &Repository, peers: &[Written]) -> Result<(), NodeError> {
    repository.check_place()?;
    let path = repository.path().join(PEERS_NAME);
    let text = serde_json::to_vec_pretty(peers).map_err(io::Error::other);
    let replaced = text.and_then(|text| replace(&path, &text, 0o600));
    replaced.map_err(|source| NodeError::Io { path, source })
}

/// Does so now and then, as long as somebody else has the network.
pub(super) async fn keep_remembering(network: Weak<Network>, repository: Weak<Repository>) {
    loop {
        tokio::time::sleep(REMEMBER_EVERY).await;
        let (Some(network), Some(repository)) = (network.upgrade(), repository.upgrade()) else {
            return;
        };
        remember(&network, &repository).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::Config;

    fn options_of(repo: &Path, text: &str) -> Result<Option<SwarmOptions>, NodeError> {
        let config = Config::parse(text, Path::new("config.toml")).unwrap();
        options(repo, &Keypair::generate_ed25519(), &config.network)
    }

    #[test]
    fn connections_leave_files_for_others() {
        for (open_max, connections) in [(Ok(1 << 20), 256), (Ok(256), 64), (Ok(20), 8)] {
            assert_eq!(connections_within(256, open_max), connections, "{open_max:?}");
        }
        assert_eq!(connections_within(256, Err(nix::errno::Errno::EPERM)), 256);
        assert_eq!(connections_within(16, Ok(256)), 16);
    }

    #[test]
    fn a_preset_says_how_far_a_node_reaches() {
        let repo = tempfile::tempdir().unwrap();
        let of = |text: &str| options_of(repo.path(), &format!("[network]\n{text}")).unwrap();
        assert!(of("preset = \"offline\"").is_none());
        let is_on = |options: &SwarmOptions| (options.hole_punching, options.port_mapping);
        let named = of("preset = \"peers-only\"\nhole_punching = \"on\"").unwrap();
        assert!(named.others.is_none() && is_on(&named) == (true, false));
        let lan = of("preset = \"lan\"\nsite = [\"192.0.2.0/24\"]").unwrap();
        assert_eq!((&lan.reach, is_on(&lan)), (&Reach::Near(Vec::new()), (false, false)));
        assert_eq!(lan.others, Some(Vec::new()));
        let site = of("preset = \"site\"\nsite = [\"192.0.2.0/24\"]").unwrap();
        assert_eq!(site.reach, Reach::Near(vec!["192.0.2.0/24".parse().unwrap()]));
        let public = of("port_mapping = \"off\"").unwrap();
        assert!(public.finds_near && public.reach == Reach::World);
        assert_eq!(is_on(&public), (true, false), "it is the default");
        assert_eq!(public.others.map(|others| others.len()), Some(7));
    }

    #[test]
    fn a_key_of_a_private_network_is_used_or_nothing_starts() {
        let repo = tempfile::tempdir().unwrap();
        let path = repo.path().join(PRIVATE_KEY_NAME);
        let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "0a".repeat(32));
        std::fs::write(&path, text).unwrap();
        let options = options_of(repo.path(), "").unwrap().unwrap();
        assert_eq!(options.private, Some(PreSharedKey::new([10; 32])));
        assert_eq!(options.others, Some(Vec::new()));
        std::fs::write(&path, "no key").unwrap();
        let error = options_of(repo.path(), "").unwrap_err().to_string();
        assert!(error.contains("swarm.key") && error.contains("private network"), "{error}");
    }

    #[test]
    fn what_was_written_down_is_known_again_and_damage_is_not() {
        let repo = tempfile::tempdir().unwrap();
        assert!(known(repo.path()).is_empty());
        let id = Keypair::generate_ed25519().public().to_peer_id();
        let text = format!(
            r#"[{{"id": "{id}", "addresses": ["/ip4/127.0.0.1/tcp/1", "?"]}}, {{"id": "?", "addresses": []}}]"#
        );
        std::fs::write(repo.path().join(PEERS_NAME), text).unwrap();
        let addresses = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        assert_eq!(known(repo.path()), [KnownPeer { id, addresses }]);
        std::fs::write(repo.path().join(PEERS_NAME), "[{").unwrap();
        assert!(known(repo.path()).is_empty());
    }
}
