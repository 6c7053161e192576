//! What the values of a configuration may be, beyond their types.
//!
//! Each is held to what will use it, so that a value that fails later is refused here, under its key.

use std::fmt::Display;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::api::add::unknown_profile;
use crate::block::HashFn;
use crate::exchange::swarm::{NETWORKS_MAX, SwarmError};
use crate::exchange::{Multiaddr, can_be_called, peer_of};
use crate::fuse::MountOptions;
use crate::node::config::{
    Config, ConfigError, ImportConfig, LogConfig, MountConfig, NetworkConfig, Preset, StoreConfig,
};
use crate::node::size::CacheMax;
use crate::unixfs::import::{Chunker, Profile};

/// Least cap: its packs are an eighth of it long, and one of them holds a few of the largest blocks.
const CACHE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Least length of a file that lies in the store as one: shorter ones are not looked for when they are
/// opened.
const ASSEMBLE_BYTES_MIN: u64 = 256 * 1024;

/// Least number of connections to peers.
const CONNECTIONS_MIN: u32 = 8;

/// Requests that can be served at once: each may take one of the 512 threads that may block, which fetching needs too.
const REQUESTS_MAX: usize = 256;

/// Most memory that can be given for fetching ahead: 256 readers at once, each with the longest window.
const FETCH_AHEAD_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Least rate in bytes a second: a long block takes two minutes with it.
const RATE_MIN: u64 = 16 * 1024;

/// What `log.level` takes.
const LEVELS: &str =
    "the levels are error, warn, info, debug, trace and off, as in \"info,cidfs::fuse=debug\"";

/// Checks all values.
///
/// # Errors
/// What is wrong with the first that is no use, by its key.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    store(&config.store)?;
    import(&config.import)?;
    mount(&config.mount)?;
    network(&config.network)?;
    log(&config.log)?;
    let can_be = (1..=REQUESTS_MAX).contains(&config.api.connections);
    demand("api.connections", can_be, "from 1 to 256 can be served at once")
}

fn store(store: &StoreConfig) -> Result<(), ConfigError> {
    let is_little =
        matches!(store.cache_max_bytes, CacheMax::Bytes(bytes) if bytes < CACHE_BYTES_MIN);
    demand("store.cache_max_bytes", !is_little, "at least 64MiB are needed")?;
    let is_long = store.assemble_min_bytes >= ASSEMBLE_BYTES_MIN;
    demand("store.assemble_min_bytes", is_long, "at least 256KiB are needed")
}

fn import(import: &ImportConfig) -> Result<(), ConfigError> {
    if Profile::by_name(&import.profile).is_none() {
        let error = unknown_profile(&import.profile).body();
        let hint = error.hint.map_or(String::new(), |hint| format!("; {hint}"));
        return Err(bad("import.profile", error.message + &hint));
    }
    if !import.chunker.is_empty() {
        import.chunker.parse::<Chunker>().map_err(|error| bad("import.chunker", error))?;
    }
    if !import.hash.is_empty() {
        HashFn::by_name(&import.hash).map_err(|error| bad("import.hash", error))?;
    }
    Ok(())
}

fn mount(mount: &MountConfig) -> Result<(), ConfigError> {
    demand("mount.ipfs", mount.ipfs.is_absolute(), "a mount point is an absolute path")?;
    let is_sane = mount.fetch_ahead_bytes <= FETCH_AHEAD_BYTES_MAX;
    demand("mount.fetch_ahead_bytes", is_sane, "at most 16GiB can be used")?;
    MountOptions::parse(&mount.options).map_err(|error| bad("mount.options", error)).map(drop)
}

fn network(network: &NetworkConfig) -> Result<(), ConfigError> {
    let is_short = network.site.len() <= NETWORKS_MAX;
    demand("network.site", is_short, "at most 64 networks can be named")?;
    let has_site = network.preset != Preset::Site || !network.site.is_empty();
    demand("network.preset", has_site, "\"site\" needs the networks in network.site")?;
    let rates = [("network.rate_up", network.rate_up), ("network.rate_down", network.rate_down)];
    for (key, rate) in rates {
        let is_slow = (1..RATE_MIN).contains(&rate);
        demand(key, !is_slow, "at least 16KiB are needed, or 0")?;
    }
    if let Some(address) = network.listen.iter().find(|address| !can_be_called(address)) {
        let forms = "as /ip4/0.0.0.0/tcp/4001, with /ws behind it, or /ip6/::/udp/4001/quic-v1";
        return Err(bad(
            "network.listen",
            format!("{address} cannot be listened at; addresses are {forms}"),
        ));
    }
    have_peers("network.peers", &network.peers)?;
    have_peers("network.bootstrap", &network.bootstrap)?;
    let is_enough = network.connections >= CONNECTIONS_MIN;
    demand("network.connections", is_enough, "at least 8 are needed")
}

fn have_peers(key: &str, addresses: &[Multiaddr]) -> Result<(), ConfigError> {
    match addresses.iter().find(|address| peer_of(address).is_none()) {
        Some(address) => Err(bad(key, SwarmError::NoPeerId(address.clone()))),
        None => Ok(()),
    }
}

fn log(log: &LogConfig) -> Result<(), ConfigError> {
    let bad = |reason: String| bad("log.level", format!("{reason}; {LEVELS}"));
    // Conditions on spans may hold commas; whoever writes them knows more than this does.
    let words = log.level.split(',').filter(|_| !log.level.contains('['));
    if let Some(word) = words.map(str::trim).find(|word| !says_a_level(word)) {
        return Err(bad(format!("\"{word}\" is no level")));
    }
    EnvFilter::try_new(&log.level)
        .map_err(|error| bad(format!("\"{}\": {error}", log.level)))
        .map(drop)
}

/// A word that is no level would be taken for the name of a module, and everything else be silent.
fn says_a_level(word: &str) -> bool {
    match word.split_once('=') {
        Some((_, level)) => level.parse::<LevelFilter>().is_ok(),
        None => word.contains("::") || word.parse::<LevelFilter>().is_ok(),
    }
}

fn demand(key: &str, is_met: bool, reason: &str) -> Result<(), ConfigError> {
    if is_met { Ok(()) } else { Err(bad(key, reason)) }
}

fn bad(key: &str, reason: impl Display) -> ConfigError {
    ConfigError::BadValue { key: key.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(text: &str, words: Option<&str>) {
        let told = Config::parse(text, Path::new("config.toml")).map_err(|error| error.to_string());
        match words {
            None => assert!(told.is_ok(), "{text}: {told:?}"),
            Some(words) => assert!(told.as_ref().unwrap_err().contains(words), "{text}: {told:?}"),
        }
    }

    #[test]
    fn a_level_is_one_that_says_something() {
        let level = |level: &str, words| check(&format!("[log]\nlevel = \"{level}\""), words);
        for good in ["error", "off", "DEBUG", "info,cidfs::fuse=debug", "cidfs=trace", "info, a::b"]
        {
            level(good, None);
        }
        level("loud", Some("\"log.level\": \"loud\" is no level; the levels are error, warn"));
        level("info,cidfs", Some("\"cidfs\" is no level"));
        level("info,\u{e9}", Some("is no level"));
        level("info,cidfs=loud", Some("\"log.level\": \"cidfs=loud\" is no level"));
        level("cidfs[x{y=1}]=debug", None);
        level(
            "cidfs[x{y=1,z=2}]=debug",
            Some("\"log.level\": \"cidfs[x{y=1,z=2}]=debug\": invalid"),
        );
    }

    #[test]
    fn imports_and_mounts_are_checked_before_they_begin() {
        check("[import]\nprofile = \"x\"", Some("\"import.profile\": there is no import profile"));
        check("[import]\nchunker = \"x\"", Some("\"import.chunker\": "));
        check("[import]\nhash = \"md5\"", Some("\"import.hash\": unknown hash function"));
        check("[import]\nchunker = \"buzhash\"\nhash = \"blake3\"", None);
        check("[mount]\noptions = \"frob\"", Some("\"mount.options\": unknown mount option"));
        let words = "\"mount.options\": the mount option \"timeout=xx\" takes a time";
        check("[mount]\noptions = \"allow_other,timeout=xx\"", Some(words));
        check("[mount]\noptions = \"allow_other,timeout=30s\"", None);
        let words = "\"mount.fetch_ahead_bytes\": at most 16GiB can be used";
        check("[mount]\nfetch_ahead_bytes = \"99999TiB\"", Some(words));
        check("[mount]\nfetch_ahead_bytes = \"16GiB\"", None);
    }
}
